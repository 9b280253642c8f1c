"""The books that `checking.py` keeps while it refolds a log: accounts with raw totals, transactions with what is left of them. Pure."""

import hashlib
from collections.abc import Iterable, Mapping

from shared_kernel import events
from shared_kernel.events import Entry, Limit
from shared_kernel.words import Direction, NormalBalance

_DIGEST_BYTES = 16  # chosen: no two of 10^12 names share one, by chance or by intent

Place = tuple[str, Direction, str]
"""Where amounts of a transaction stand: account, direction, asset."""


class Totals:
    """Raw totals of one account and asset, smallest units."""

    __slots__ = ("held_credits", "held_debits", "posted_credits", "posted_debits")

    def __init__(self) -> None:
        self.posted_debits = self.posted_credits = self.held_debits = self.held_credits = 0

    def post(self, direction: Direction, amount: int) -> None:
        """An entry of a posted transaction."""
        if direction == "debit":
            self.posted_debits += amount
        else:
            self.posted_credits += amount

    def hold(self, direction: Direction, amount: int) -> None:
        """An entry of a hold; a negative amount releases."""
        if direction == "debit":
            self.held_debits += amount
        else:
            self.held_credits += amount


class Account:
    """One account as the log has made it. `scope`: what is frozen of it."""

    __slots__ = ("limits", "normal_balance", "scope", "status", "totals")

    def __init__(self, normal_balance: NormalBalance, limits: Mapping[str, Limit]) -> None:
        self.normal_balance = normal_balance
        self.limits = limits
        self.status = "open"
        self.scope: str | None = None
        self.totals: dict[str, Totals] = {}

    def posted(self, asset: str) -> int:
        """Normal side positive."""
        totals = self.totals.get(asset)
        if totals is None:
            return 0
        difference = totals.posted_debits - totals.posted_credits
        return difference if self.normal_balance == "debit" else -difference

    def available(self, asset: str) -> int:
        """Posted less what holds may take away: what a minimum bounds."""
        totals = self.totals.get(asset)
        if totals is None:
            return 0
        return self.posted(asset) - (totals.held_credits if self.normal_balance == "debit" else totals.held_debits)

    def filled(self, asset: str) -> int:
        """Posted and what holds may bring: what a maximum bounds."""
        totals = self.totals.get(asset)
        if totals is None:
            return 0
        return self.posted(asset) + (totals.held_debits if self.normal_balance == "debit" else totals.held_credits)


class Transaction:
    """What later events may ask of a transaction. Amounts are kept only where they may be."""

    __slots__ = ("has_posted", "held", "posted", "scheduled", "status")

    def __init__(self, status: str) -> None:
        self.status = status
        self.held: dict[Place, int] = {}
        self.posted: dict[Place, int] = {}
        self.has_posted = False
        self.scheduled: events.TransactionScheduled | None = None


def digest_of(*name: str) -> bytes:
    """Stands for a name of any length, whatever its parts."""
    return hashlib.blake2b("\0".join(name).encode(), digest_size=_DIGEST_BYTES).digest()


def status_of(known: Transaction | None) -> str:
    """Empty for a transaction that nobody will ask of any more, or never knew."""
    return "" if known is None else known.status


def amounts(entries: Iterable[Entry]) -> dict[Place, int]:
    """What stands at each place."""
    found: dict[Place, int] = {}
    for entry in entries:
        place = (entry.account, entry.direction, entry.asset)
        found[place] = found.get(place, 0) + entry.amount
    return found


def less(these: Mapping[Place, int], those: Mapping[Place, int]) -> dict[Place, int]:
    """What is left at each place, places with nothing left out; negative where more was taken than there was."""
    left = {place: these.get(place, 0) - those.get(place, 0) for place in (*these, *those)}
    return {place: amount for place, amount in left.items() if amount}


def breached(account: Account) -> list[str]:
    """The assets, sorted, whose balances are beyond the account's limits."""
    return [
        asset
        for asset, limit in sorted(account.limits.items())
        if (limit.minimum is not None and account.available(asset) < limit.minimum)
        or (limit.maximum is not None and account.filled(asset) > limit.maximum)
    ]
