"""The books as the oracle keeps them: one ledger in dictionaries and integers, its words, and the sums its rules look at.

Shares no code with `command_service`. The rules themselves stand in `oracle.py`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
Place = tuple[str, str, str]  # account, direction, asset
OTHER_SIDE = {"debit": "credit", "credit": "debit"}
METADATA_MAX = 50


class Refused(Exception):
    """The books say no (422): put on record, without effect."""

    def __init__(self, code: str, **fields: Any) -> None:
        super().__init__(code)
        self.code, self.fields = code, fields


class Rejected(Refused):
    """It cannot be taken as it stands (404, 409): not put on record."""


@dataclass
class Asked:
    """What a decision may know beside the command: the time, the latest effective time taken, the id of what is new."""

    now: datetime
    new_id: str
    ahead: timedelta = timedelta(days=366)


@dataclass
class Account:
    """`totals` by asset: posted and held amounts by direction. `last_position`: of the last event that named it."""

    normal: str
    limits: dict[str, Json] = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    status: str = "open"
    scope: str | None = None  # of a frozen one
    totals: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)

    def total(self, kind: str, direction: str, asset: str) -> int:
        """What is "posted" or "held" in one direction."""
        return self.totals.get(asset, {}).get((kind, direction), 0)

    def add(self, kind: str, direction: str, asset: str, amount: int) -> None:
        """Changes one total."""
        sums = self.totals.setdefault(asset, {})
        sums[kind, direction] = sums.get((kind, direction), 0) + amount

    def posted(self, asset: str) -> int:
        """Posted entries only, the normal side positive."""
        return self.total("posted", self.normal, asset) - self.total("posted", OTHER_SIDE[self.normal], asset)

    def pending(self, asset: str) -> int:
        """Posted and held entries."""
        held = self.total("held", self.normal, asset) - self.total("held", OTHER_SIDE[self.normal], asset)
        return self.posted(asset) + held

    def available(self, asset: str) -> int:
        """Posted less what holds may take away: what a minimum bounds."""
        return self.posted(asset) - self.total("held", OTHER_SIDE[self.normal], asset)

    def filled(self, asset: str) -> int:
        """Posted and what holds may bring: what a maximum bounds."""
        return self.posted(asset) + self.total("held", self.normal, asset)

    def balances(self, asset: str) -> Json:
        """As the answers show them."""
        sums = {f"posted_{side}s": self.total("posted", side, asset) for side in ("debit", "credit")}
        both = {f"pending_{side}s": sums[f"posted_{side}s"] + self.total("held", side, asset) for side in OTHER_SIDE}
        named = {"posted": self.posted(asset), "pending": self.pending(asset), "available": self.available(asset)}
        return named | sums | both

    def bound(self, asset: str, name: str) -> int | None:
        """The minimum or maximum; None: none."""
        value = self.limits.get(asset, {}).get(name)
        return None if value is None else int(value)


@dataclass
class Transaction:
    """`held`, `posted` and `reversed` by place, smallest units. `was_held`: it began as a hold."""

    id: str
    status: str
    entries: list[Json]
    effective_at: str | None = None
    expires_at: str | None = None
    reference: str | None = None
    description: str | None = None
    metadata: Json = field(default_factory=dict)
    reverses: str | None = None
    was_held: bool = False
    held: dict[Place, int] = field(default_factory=dict)
    posted: dict[Place, int] = field(default_factory=dict)
    reversed: dict[Place, int] = field(default_factory=dict)


@dataclass
class Books:
    """One ledger. `head` counts its events; `touched` has the last position of every account that an event named."""

    name: str
    accounts_mode: str = "on-first-use"
    defaults: list[Json] = field(default_factory=list)
    records_refusals: bool = True
    metadata: Json = field(default_factory=dict)
    is_archived: bool = False
    head: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)

    def record(self, *accounts: str) -> int:
        """One more event, about these accounts; gives its position."""
        self.head += 1
        self.touched.update(dict.fromkeys(accounts, self.head))
        return self.head


def check_limits(accounts: dict[str, Account], new: Transaction) -> None:
    """No limit is passed by what worsens it: a posting counts by its net change, a hold by its gross parts."""
    gross: dict[tuple[str, str, str], int] = {}  # account, asset, "in" or "out"
    for entry in new.entries:
        way = "in" if entry["direction"] == accounts[entry["account"]].normal else "out"
        place = (entry["account"], entry["asset"], way)
        gross[place] = gross.get(place, 0) + entry["amount"]
    for entry in new.entries:
        address, asset = entry["account"], entry["asset"]
        account = accounts[address]
        takes = gross.get((address, asset, "out"), 0)
        brings = gross.get((address, asset, "in"), 0)
        if new.status != "pending":
            takes, brings = takes - brings, brings - takes
        is_out = entry["direction"] != account.normal
        minimum, maximum = account.bound(asset, "minimum"), account.bound(asset, "maximum")
        if is_out and minimum is not None and takes > 0 and account.available(asset) - takes < minimum:
            found = account.available(asset)
            missing = minimum - (found - takes)
            raise Refused(
                "insufficient_funds", account=address, asset=asset, available=found, limit=minimum, missing=missing
            )
        if not is_out and maximum is not None and brings > 0 and account.filled(asset) + brings > maximum:
            missing = account.filled(asset) + brings - maximum
            raise Refused("limit_exceeded", account=address, asset=asset, limit=maximum, missing=missing)


def check_conditions(books: Books, conditions: list[Json]) -> None:
    """All hold, or the first that does not is told with what was found."""
    for index, condition in enumerate(conditions):
        if "head" in condition:
            if books.head != condition["head"]:
                raise Refused("condition_failed", condition=index, found=books.head)
            continue
        address = condition["account"]
        if "last_position" in condition:
            if books.touched.get(address, 0) != condition["last_position"]:
                raise Refused("condition_failed", condition=index, account=address, found=books.touched.get(address, 0))
            continue
        found = getattr(books.accounts.get(address) or Account("credit"), condition["balance"])(condition["asset"])
        for name in ("gte", "lte", "eq"):
            bound = int(condition.get(name, found))
            if (name != "lte" and found < bound) or (name != "gte" and found > bound):
                raise Refused("condition_failed", condition=index, account=address, found=found)


# Words ------------------------------------------------------------------------------------------------------


def place_of(entry: Json) -> Place:
    """Where an entry stands."""
    return entry["account"], entry["direction"], entry["asset"]


def sums(entries: Iterable[Json]) -> dict[Place, int]:
    """Amounts by place, in the order of the entries."""
    found: dict[Place, int] = {}
    for entry in entries:
        found[place_of(entry)] = found.get(place_of(entry), 0) + int(entry["amount"])
    return found


def entries_of(amounts: dict[Place, int]) -> list[Json]:
    """Entries that add up to these amounts."""
    names = ("account", "direction", "asset")
    return [dict(zip(names, place, strict=True)) | {"amount": amount} for place, amount in amounts.items() if amount]


def stated(limits: Json) -> Json:
    """Limits as integers, absent bounds absent."""
    found = {}
    for asset, limit in limits.items():
        bounds = {name: int(value) for name, value in limit.items() if value is not None}
        if bounds:
            found[asset] = bounds
    return found


def patched(metadata: Json, changes: Json) -> Json:
    """Metadata after a patch: null removes."""
    after = {name: value for name, value in (metadata | changes).items() if value is not None}
    if len(after) > METADATA_MAX:
        raise Refused("metadata_too_large")
    return after


def fits(pattern: str, address: str) -> bool:
    """A star is one segment, two at the end are the rest."""
    parts = {"*": "[^:]+", "**": ".+"}
    return (
        re.fullmatch(":".join(parts.get(part) or re.escape(part) for part in pattern.split(":")), address) is not None
    )


def moment(text: str) -> datetime:
    """A time of a request."""
    return datetime.fromisoformat(text).astimezone(UTC)
