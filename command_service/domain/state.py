"""What a decision knows of a ledger: its terms, and per account terms and, where limits make them matter, totals.

States are complete as of one position and immutable: `evolve_…` gives the next one. An account without limits has no
totals here (None): no rule of the books looks at them, so a hot account costs what a cold one does (ADR 0001).
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from shared_kernel.events import AccountOpened, Entry, Event, LedgerOpened, Limit, TransactionPosted
from shared_kernel.words import NormalBalance

FOLD_VERSION = 1
"""Raised whenever the fold below, or the form of Account, changes: older snapshots are then ignored."""


class Totals(msgspec.Struct, frozen=True):
    """The raw totals of one account and asset, smallest units, never negative."""

    posted_debits: int = 0
    posted_credits: int = 0


NO_TOTALS = Totals()
UNLIMITED = Limit()


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One account. `is_open` is false for an address that nobody opened yet; its totals are then known: none.

    `totals` by asset; None means not tracked (no limits) or not loaded (limits: `is_complete` is false).
    """

    address: str
    is_open: bool = False
    normal_balance: NormalBalance = "credit"
    limits: Mapping[str, Limit] = {}
    totals: Mapping[str, Totals] | None = None

    @property
    def is_complete(self) -> bool:
        """True if everything that a rule may ask of this account is known."""
        return self.totals is not None or not self.limits

    def limit(self, asset: str) -> Limit:
        """The bounds for an asset; unbounded where nothing is set."""
        return self.limits.get(asset, UNLIMITED)

    def balance(self, asset: str) -> int:
        """Posted balance, the account's normal side positive."""
        totals = (self.totals or {}).get(asset, NO_TOTALS)
        difference = totals.posted_debits - totals.posted_credits
        return difference if self.normal_balance == "debit" else -difference


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of a ledger, as it was opened."""

    opened: LedgerOpened


def evolve_terms(terms: Terms | None, event: Event) -> Terms | None:
    """The ledger's terms after an event."""
    return Terms(opened=event) if isinstance(event, LedgerOpened) else terms


def evolve_account(account: Account, event: Event) -> Account:
    """The account after an event that bears its tag. Other events leave it as it is."""
    return evolve_accounts({account.address: account}.get, event).get(account.address, account)


def evolve_accounts(find: Callable[[str], Account | None], event: Event) -> dict[str, Account]:
    """Every account that the event touches, as it is after it. What `find` does not know is left out."""
    match event:
        case TransactionPosted():
            entries: dict[str, list[Entry]] = {}
            for entry in event.entries:
                entries.setdefault(entry.account, []).append(entry)
            return {
                address: _with_entries(account, own)
                for address, own in entries.items()
                if (account := find(address)) is not None
            }
        case AccountOpened() if find(event.address) is not None:
            opened = Account(
                address=event.address,
                is_open=True,
                normal_balance=event.normal_balance,
                limits=event.limits,
                totals={} if event.limits else None,  # nothing can stand before the opening
            )
            return {event.address: opened}
    return {}


def _with_entries(account: Account, entries: Iterable[Entry]) -> Account:
    if account.totals is None:
        return account
    totals = dict(account.totals)
    for entry in entries:
        before = totals.get(entry.asset, NO_TOTALS)
        if entry.direction == "debit":
            totals[entry.asset] = Totals(before.posted_debits + entry.amount, before.posted_credits)
        else:
            totals[entry.asset] = Totals(before.posted_debits, before.posted_credits + entry.amount)
    return Account(
        address=account.address,
        is_open=account.is_open,
        normal_balance=account.normal_balance,
        limits=account.limits,
        totals=totals,
    )
