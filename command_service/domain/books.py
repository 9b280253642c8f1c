"""The books as a decision sees them, and a record of what it looked at.

A decision asks `Books` for exactly what it needs. Each question notes its fence (what must not have changed when the events
are appended, ADR 0001) and its read (which earlier command of the same batch it depends on, so that both stand or fall
together). Questions give values and change nothing, so a decision stays a pure function of books, command and context.
"""

from collections.abc import Iterable, Mapping

from command_service.domain.state import Account, Terms, evolve_accounts, evolve_terms
from shared_kernel import tags
from shared_kernel.events import AccountOpened, Event, LedgerOpened, TransactionPosted


class NotLoaded(LookupError):
    """A decision asked for an account that the executor did not load. Carries the address."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class Books:
    """One ledger during one batch: the cached state, and over it what the batch's own decisions have changed so far."""

    def __init__(self, *, terms: Terms | None, accounts: Mapping[str, Account]) -> None:
        self._base_terms = terms
        self._base = accounts
        self.terms_now = terms
        self.changed: dict[str, Account] = {}
        self.folds: dict[str, int] = {}
        """How many of the batch's events each changed account has seen."""
        self.begin()

    def begin(self) -> None:
        """Forgets what was looked at: the next command's decision starts."""
        self.fresh: dict[str, None] = {}
        """Tags that must not have been appended since the state's position, in the order of the questions."""
        self.unique: dict[str, None] = {}
        """Tags that must not exist at all."""
        self.reads: set[str] = set()
        """Resources looked at, for grouping within the batch."""

    def terms(self) -> Terms | None:
        """The ledger's terms, None if it is not open."""
        self._note(tags.LEDGER_TERMS)
        return self.terms_now

    def account(self, address: str) -> Account:
        """The account's terms (its totals through the questions below). Not open is an answer, not an error."""
        self._note(tags.terms_tag(address))
        return self._get(address)

    def balance_to_draw(self, address: str, asset: str) -> int:
        """Balance that a minimum is judged on. Draws by others must not come between; credits may."""
        self.fresh[tags.draws_tag(address, asset)] = None
        return self._balance(address, asset)

    def balance_to_fill(self, address: str, asset: str) -> int:
        """Balance that a maximum is judged on. What fills by others must not come between; draws may."""
        self.fresh[tags.fills_tag(address, asset)] = None
        return self._balance(address, asset)

    def claim_transaction(self, transaction: str) -> None:
        """This id must be new in the ledger."""
        self._claim(tags.transaction_tag(transaction))

    def claim_reference(self, reference: str) -> None:
        """This reference must be new in the ledger."""
        self._claim(tags.reference_tag(reference))

    def apply(self, decided: Iterable[Event]) -> set[str]:
        """Lets the next decisions of the batch see these events. Gives the resources they wrote."""
        writes: set[str] = set()
        for event in decided:
            self.terms_now = evolve_terms(self.terms_now, event)
            for address, account in evolve_accounts(self._get, event).items():
                self.changed[address] = account
                self.folds[address] = self.folds.get(address, 0) + 1
            match event:
                case TransactionPosted():
                    for entry in event.entries:
                        if self.changed[entry.account].limits:
                            writes.add(_balance_resource(entry.account, entry.asset))
                    writes.add(tags.transaction_tag(event.transaction))
                    if event.reference is not None:
                        writes.add(tags.reference_tag(event.reference))
                case AccountOpened():
                    writes.add(tags.terms_tag(event.address))
                case LedgerOpened():
                    writes.add(tags.LEDGER_TERMS)
        return writes

    def _note(self, tag: str) -> None:
        self.fresh[tag] = None
        self.reads.add(tag)

    def _claim(self, tag: str) -> None:
        self.unique[tag] = None
        self.reads.add(tag)

    def _balance(self, address: str, asset: str) -> int:
        self.reads.add(_balance_resource(address, asset))
        return self._get(address).balance(asset)

    def _get(self, address: str) -> Account:
        account = self.changed.get(address) or self._base.get(address)
        if account is None or not account.is_complete:
            raise NotLoaded(address)
        return account


def _balance_resource(address: str, asset: str) -> str:
    return f"balance:{address}:{asset}"
