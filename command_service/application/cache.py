"""What one worker knows of one ledger between batches: terms, accounts and transactions, complete as of one position (`seen`).

Bounded. Any doubt (an exception, a gap, too far behind) throws it away whole; Postgres is the truth.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from command_service.domain.books import Books
from command_service.domain.state import (
    Account,
    Terms,
    Transaction,
    evolve_accounts,
    evolve_terms,
    evolve_transactions,
)
from shared_kernel.errors import Corruption
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Event, decode

ACCOUNTS_MAX = 100_000  # chosen: about 60 MB at one asset an account
TRANSACTIONS_MAX = (
    20_000  # chosen: holds placed here and whatever was asked for lately; about 20 MB at two entries each
)
SNAPSHOT_EVERY = 500  # chosen: a cold account folds at most about this many events


class LedgerCache:
    """States as of `seen`; `seen` is None while nothing is known."""

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Knows nothing any more."""
        self.seen: int | None = None
        self.terms: Terms | None = None
        self.accounts: dict[str, Account] = {}
        self.transactions: dict[str, Transaction] = {}
        self._unsaved: dict[str, int] = {}
        self._due: list[str] = []

    def follow(self, tail: Sequence[RecordedEvent], *, upto: int) -> None:
        """Folds what others appended, so that everything here is as of `upto`.

        Corruption `tail_incomplete` where the events are not exactly those after `seen` up to `upto`: gap-free positions make
        this check free, and a wrong fold here is the one fault that no fence can catch (executor.md, section 5).
        """
        seen = self.seen or 0
        if seen + len(tail) != upto or (tail and (tail[0].position != seen + 1 or tail[-1].position != upto)):
            raise Corruption("tail_incomplete", seen=seen, events=len(tail), upto=upto)
        self.seen = seen
        for recorded in tail:
            self.fold(decode(recorded.type, recorded.data), recorded.recorded_at)

    def fold(self, event: Event, recorded_at: datetime | None = None) -> None:
        """Brings terms and whatever is known past the event after `seen`. `recorded_at`: where the log has told it."""
        self.seen = position = (self.seen or 0) + 1
        self.terms = evolve_terms(self.terms, event)
        for address, account in evolve_accounts(self.accounts.get, event, position).items():
            self.accounts[address] = account
            if account.totals is not None:
                self._count(address, 1)
        if self.transactions:
            self.transactions.update(evolve_transactions(self.transactions.get, event, recorded_at))

    def books(self, *, is_certain: bool = False, after: Books | None = None) -> Books:
        """These states under an overlay, for one batch (`is_certain`: as `Books` has it).

        `after`: what the batch ahead makes of these states, as if all of it were in the log already.
        """
        return Books(
            terms=self.terms if after is None else after.terms_now,
            accounts=self.accounts,
            transactions=self.transactions,
            position=(self.seen or 0) if after is None else after.position,
            is_certain=is_certain,
            after=after,
        )

    def adopt(self, books: Books) -> None:
        """Takes over what a batch made of exactly this state, now that all of it is in the log: the same as folding it again."""
        self.terms = books.terms_now
        self.accounts.update(books.changed)
        self.transactions.update(books.changed_transactions)
        changed, unsaved = books.changed, self._unsaved
        for address, folds in books.folds.items():  # as `_count`, which as a call would cost twice as much
            if changed[address].totals is not None:
                before = unsaved.get(address, 0)
                unsaved[address] = before + folds
                if before < SNAPSHOT_EVERY <= before + folds:
                    self._due.append(address)

    def put(self, account: Account, *, folded: int) -> None:
        """Knows an account as of `seen`, folded from that many events after its snapshot."""
        self.accounts[account.address] = account
        self._unsaved.pop(account.address, None)
        if account.totals is not None:
            self._count(account.address, folded)

    def take_unsaved(self) -> list[Account]:
        """Accounts whose snapshot is due, each given once."""
        due, self._due = self._due, []
        for address in due:
            self._unsaved[address] = 0
        found = [self.accounts[address] for address in due if address in self.accounts]
        return [account for account in found if account.totals is not None]  # terms alone would be no whole state

    def shrink(self, keep: Iterable[str]) -> None:
        """Forgets the longest known accounts and transactions beyond the bounds, never accounts in `keep`."""
        if len(self.transactions) > TRANSACTIONS_MAX:
            for transaction in list(self.transactions)[: len(self.transactions) - TRANSACTIONS_MAX * 9 // 10]:
                del self.transactions[transaction]
        excess = len(self.accounts) - ACCOUNTS_MAX
        if excess <= 0:
            return
        kept = set(keep)
        for address in [known for known in self.accounts if known not in kept][: excess + ACCOUNTS_MAX // 10]:
            del self.accounts[address]
            self._unsaved.pop(address, None)

    def _count(self, address: str, folded: int) -> None:
        """So many events more than its snapshot holds."""
        before = self._unsaved.get(address, 0)
        after = self._unsaved[address] = before + folded
        if before < SNAPSHOT_EVERY <= after:
            self._due.append(address)
