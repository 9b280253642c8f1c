"""The books as a decision sees them, and a record of what it looked at.

A decision asks `Books` for exactly what it needs. Each question notes its fence (what must not have changed when the events
are appended, ADR 0001) and its read (which earlier command of the same batch it depends on, so that both stand or fall
together). Questions give values and change nothing, so a decision stays a pure function of books, command and context.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from command_service.domain.state import (
    Account,
    Terms,
    Transaction,
    evolve_accounts,
    evolve_terms,
    evolve_transaction,
    evolve_transactions,
)
from shared_kernel import tags
from shared_kernel.errors import Rejection
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    LimitsSet,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)


class Need(NamedTuple):
    """Something that has to be loaded, by address or by transaction id.

    `account`: terms, and totals where limits make them matter; `in_full`: an account's totals and last position whatever its
    limits; `metadata`: the keys of its metadata; `transaction`: a transaction's state; `original`: that, and the accounts of its
    entries; `recorded_at`: its state with the time that the log gave it.
    """

    kind: Literal["account", "in_full", "metadata", "transaction", "original", "recorded_at"]
    name: str


class NotLoaded(LookupError):
    """A decision asked for something that the executor did not load. Once it is there, the decision is asked again."""

    def __init__(self, *needs: Need) -> None:
        super().__init__(*needs)
        self.needs = frozenset(needs)


class NotSettled(LookupError):
    """A decision asked for a position that hangs on what becomes of earlier commands of its batch: ask in the next one."""


class Books:
    """One ledger during one batch: the cached state, and over it what the batch's own decisions have changed so far.

    `position`: what the state is complete as of. `is_certain`: the batch stands or falls as one, under the head's lock, so that
    the positions of its events are known before it is appended. `after`: the batch ahead of this one, whose changes count as done.
    """

    def __init__(
        self,
        *,
        terms: Terms | None,
        accounts: Mapping[str, Account],
        transactions: Mapping[str, Transaction] | None = None,
        position: int = 0,
        is_certain: bool = False,
        after: "Books | None" = None,
    ) -> None:
        self._base = accounts
        self._base_transactions = {} if transactions is None else transactions
        self._base_position = position
        self._is_certain = is_certain
        self._ahead: Mapping[str, Account] = {} if after is None else after.changed
        self._ahead_transactions: Mapping[str, Transaction] = {} if after is None else after.changed_transactions
        self._posted_here: dict[str, TransactionPosted] = {}
        self.terms_now = terms
        self.position = position
        """Of the last event, the batch's own included."""
        self.changed: dict[str, Account] = {}
        self.changed_transactions: dict[str, Transaction] = {}
        self.folds: dict[str, int] = {}
        """How many of the batch's events each changed account has seen."""
        self.begin()

    def begin(self) -> None:
        """Forgets what was looked at: the next command's decision starts."""
        self.fresh: dict[str, None] = {}
        """Tags that must not have been appended since the state's position, in the order of the questions."""
        self.unique: dict[str, tuple[str, str, str]] = {}
        """Tags that must not exist at all, each with the Rejection it otherwise means: code, name of the field, value."""
        self.reads: set[str] = set()
        """Resources looked at, for grouping within the batch."""
        self.judged: str | None = None
        """The account whose balance was looked at last: a refusal that follows is about it."""

    # Questions ------------------------------------------------------------------------------------------------

    def terms(self) -> Terms | None:
        """The ledger's terms, None if it is not open."""
        self._note(tags.LEDGER_TERMS)
        return self.terms_now

    def account(self, address: str) -> Account:
        """The account's terms (its totals through the questions below). Absent is an answer, not an error."""
        self._note(f"terms:{address}")
        return self._get(address)

    def expect(self, addresses: Iterable[str]) -> None:
        """Nothing, if all these accounts are loaded; else NotLoaded names all that are not, so that one load brings them."""
        missing = [address for address in addresses if not self._is_loaded(address)]
        if missing:
            raise NotLoaded(*(Need("account", address) for address in missing))

    def balance_to_draw(self, address: str, asset: str) -> int:
        """What is available, which a minimum is judged on. Draws by others must not come between; credits may."""
        self.fresh[f"draws:{address}:{asset}"] = None
        return self._judge(address, asset).available(asset)

    def balance_to_fill(self, address: str, asset: str) -> int:
        """What a maximum is judged on. What fills by others must not come between; draws may."""
        self.fresh[f"fills:{address}:{asset}"] = None
        return self._judge(address, asset).filled(asset)

    def account_in_full(self, address: str) -> Account:
        """The account with its totals, limited or not. Nothing at all about it must come between."""
        account = self.account(address)
        if account.totals is None:
            raise NotLoaded(Need("in_full", address))
        self.fresh[tags.account_tag(address)] = None
        self.reads.update([_balance_resource(address, asset) for asset in account.totals])
        self.judged = address
        return account

    def balances_of(self, address: str, asset: str) -> Account:
        """The account, for any balance of one asset. As above, but independent of other assets."""
        account = self.account(address)
        if account.totals is None:
            raise NotLoaded(Need("in_full", address))
        self.fresh[tags.account_tag(address)] = None
        return self._judge(address, asset)

    def last_position(self, address: str) -> int:
        """Position of the last event about the account, 0 if there is none. NotSettled after a change in this batch."""
        account = self.account_in_full(address)
        if address in self.changed and not self._is_certain:
            raise NotSettled(address)
        return account.last_position or 0

    def head(self) -> int:
        """The last position of the ledger: only under its lock, for no fence watches it. NotSettled after a change in this batch."""
        if self.position > self._base_position and not self._is_certain:
            raise NotSettled("head")
        return self.position

    def transaction(self, transaction: str) -> Transaction:
        """The transaction's state. Nothing must become of it between. Absent is an answer, not an error."""
        self._note(tags.transaction_tag(transaction))
        known = self._find_transaction(transaction)
        if known is None:
            raise NotLoaded(Need("transaction", transaction))
        return known

    def recorded_at(self, transaction: Transaction) -> datetime | None:
        """When the log took the transaction's (last) posting. None: in this very batch, so at the asker's own time."""
        if transaction.recorded_at is None and not self._is_written_here(transaction.transaction):
            raise NotLoaded(Need("recorded_at", transaction.transaction))
        return transaction.recorded_at

    def account_metadata_keys(self, address: str) -> frozenset[str]:
        """The keys of the account's metadata. Patches by others must not come between."""
        self._note(tags.metadata_tag(address))
        keys = self.account(address).metadata_keys
        if keys is None:
            raise NotLoaded(Need("metadata", address))
        return keys

    def watch_ledger_metadata(self) -> None:
        """Patches of the ledger's metadata by others must not come between (the keys stand in the terms)."""
        self._note(tags.LEDGER_METADATA)

    def watch_balance(self, address: str, asset: str) -> None:
        """An answer tells this balance: it depends on what the batch did to it before, and on nobody else."""
        self.reads.add(_balance_resource(address, asset))

    def confirm_refusal(self) -> None:
        """A refusal that is an event of its own: nothing at all about the account it was judged on must come between."""
        if self.judged is not None:
            self.fresh[tags.account_tag(self.judged)] = None

    def claim_transaction(self, transaction: str) -> None:
        """This id must be new in the ledger."""
        tag = tags.transaction_tag(transaction)
        self.unique[tag] = ("transaction_exists", "transaction", transaction)
        self.reads.add(tag)

    def claim_reference(self, reference: str) -> None:
        """This reference must be new in the ledger."""
        tag = tags.reference_tag(reference)
        self.unique[tag] = ("reference_taken", "reference", reference)
        self.reads.add(tag)

    # Changes --------------------------------------------------------------------------------------------------

    def apply(self, decided: Iterable[Event]) -> set[str]:
        """Lets the next decisions of the batch see these events. Gives the resources they wrote."""
        writes: set[str] = set()
        folds = self.folds
        for event in decided:
            self.position += 1
            touched = evolve_accounts(self._find, event, self.position)
            self.changed.update(touched)
            for address in touched:
                folds[address] = folds.get(address, 0) + 1
            if type(event) is TransactionPosted:
                self._post(event)
            else:
                self.terms_now = evolve_terms(self.terms_now, event)
                if isinstance(event, TransactionHeld | TransactionScheduled):
                    born = evolve_transaction(Transaction(transaction=event.transaction), event, None)
                    self.changed_transactions[event.transaction] = born
                else:
                    self.changed_transactions.update(evolve_transactions(self._find_transaction, event, None))
            writes.update(_written(event))
            for entry in moved(event):
                # What nobody tracks, nobody reads.
                after = touched.get(entry.account)
                if after is not None and after.totals is not None:
                    writes.add(f"balance:{entry.account}:{entry.asset}")
        return writes

    def as_of(self, position: int) -> None:
        """The cached state is complete as of this position. Nothing changes once something was decided on it."""
        if self.position == self._base_position:
            self.position = self._base_position = position

    def pass_over(self, events: int) -> None:
        """So many events without any effect on the books (refusals) come next in the log."""
        self.position += events

    def _post(self, event: TransactionPosted) -> None:
        # Few transactions are ever asked for again, and hardly one in its own batch: their states are made when somebody asks.
        if event.reverses is not None or event.scheduled or self._transaction_before(event.transaction) is not None:
            self.changed_transactions.update(evolve_transactions(self._find_transaction, event, None))
        if event.transaction not in self.changed_transactions:
            self._posted_here[event.transaction] = event

    def _note(self, tag: str) -> None:
        self.fresh[tag] = None
        self.reads.add(tag)

    def _judge(self, address: str, asset: str) -> Account:
        self.reads.add(f"balance:{address}:{asset}")
        self.judged = address
        return self._get(address)

    def _get(self, address: str) -> Account:
        account = self.changed.get(address) or self._ahead.get(address) or self._base.get(address)
        if account is None or (account.totals is None and account.limits):
            raise NotLoaded(Need("account", address))
        return account

    def _find(self, address: str) -> Account | None:
        return self.changed.get(address) or self._ahead.get(address) or self._base.get(address)

    def _is_loaded(self, address: str) -> bool:
        account = self._find(address)
        return account is not None and account.is_complete

    def _find_transaction(self, transaction: str) -> Transaction | None:
        known = self.changed_transactions.get(transaction) or self._transaction_before(transaction)
        posted = self._posted_here.get(transaction)
        if known is None and posted is not None:
            return evolve_transaction(Transaction(transaction=transaction), posted, None)
        return known

    def _transaction_before(self, transaction: str) -> Transaction | None:
        return self._ahead_transactions.get(transaction) or self._base_transactions.get(transaction)

    def _is_written_here(self, transaction: str) -> bool:
        if transaction in self._posted_here:
            return True
        before = self._transaction_before(transaction)
        after = self.changed_transactions.get(transaction)
        return after is not None and (before is None or before.posted != after.posted)


def _balance_resource(address: str, asset: str) -> str:
    return f"balance:{address}:{asset}"


def taken(code: str, name: str, value: str) -> Rejection:
    """The 409 that a claim means whose tag stands in the log already."""
    return Rejection(code, **{name: value})


def moved(event: Event) -> Iterable[Entry]:
    """The entries by which the event changes totals."""
    if type(event) is TransactionPosted or type(event) is TransactionHeld:  # a union of types is slower to look through
        return event.entries
    if isinstance(event, HoldPosted):
        return [*event.entries, *event.released]
    return event.released if isinstance(event, HoldVoided | HoldExpired) else ()


def _written(event: Event) -> list[str]:  # noqa: PLR0911 a flat ladder, one event a line
    """The resources, other than balances, that later commands of the batch may read."""
    match event:
        case TransactionPosted() | TransactionHeld() | TransactionScheduled():
            found = [tags.transaction_tag(event.transaction)]
            if isinstance(event, TransactionPosted) and event.reverses is not None:
                found.append(tags.transaction_tag(event.reverses))
            if event.reference is not None:
                found.append(tags.reference_tag(event.reference))
            return found
        case HoldPosted() | HoldVoided() | HoldExpired():
            return [tags.transaction_tag(event.transaction)]
        case ScheduledCancelled() | ScheduledRefused() | TransactionMetadataChanged():
            return [tags.transaction_tag(event.transaction)]
        case AccountOpened():
            return [tags.terms_tag(event.address), tags.metadata_tag(event.address)]
        case LimitsSet() | AccountFrozen() | AccountUnfrozen() | AccountClosed() | AccountReopened():
            return [tags.terms_tag(event.address)]
        case AccountMetadataChanged():
            return [tags.metadata_tag(event.address)]
        case LedgerOpened() | LedgerArchived() | LedgerReopened():
            return [tags.LEDGER_TERMS]
        case LedgerMetadataChanged():
            return [tags.LEDGER_METADATA]
    return []
