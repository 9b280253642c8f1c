"""What every read must answer, from the plainest possible fold of the log (`plain_books`): loops over all rows, no index, no running
totals, no code of the read side.

A moment is a prefix of the log (`position`) and, for what has an effective time, an instant (`effective`): None, all counts.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.words import format_time
from tests.support.plain_books import COLUMNS, plain_books

Row = dict[str, Any]
POSTS = ("posted", "captured")


class Moment(NamedTuple):
    """As of what."""

    position: int
    effective: datetime | None = None


class PlainReads:
    """One ledger's reads."""

    def __init__(self, events: Sequence[RecordedEvent]) -> None:
        self.events = {event.position: event for event in events}
        self.head = len(events)
        rows = plain_books(events)
        self.tables: dict[str, list[Row]] = {
            table: [dict(zip(COLUMNS[table].split(", "), row, strict=True)) for row in rows[table]] for table in COLUMNS
        }
        self.tables["entries"].sort(key=lambda row: (row["position"], row["entry_index"]))

    def position_at(self, time: datetime) -> int:
        """The last position recorded by then."""
        return max((p for p, event in self.events.items() if event.recorded_at <= time), default=0)

    def as_of(self, moment: Moment) -> Row:
        """The stamp of an answer."""
        return {
            "position": moment.position,
            "recorded_at": format_time(self.events[moment.position].recorded_at),
        }

    def versions(self, table: str, key: str, moment: Moment) -> dict[str, Row]:
        """Of each subject the last version of the prefix."""
        found: dict[str, Row] = {}
        for row in sorted(self.tables[table], key=lambda row: int(row["position"])):
            if row["position"] <= moment.position:
                found[row[key]] = row
        return found

    def account(self, row: Row) -> Row:
        """As the API shows it."""
        shown = {
            "address": row["address"],
            "normal_balance": row["normal_balance"],
            "status": row["status"],
            "limits": row["limits"],
            "metadata": row["metadata"],
            "on_first_use": row["on_first_use"],
            "opened_at": format_time(row["opened_at"]),
            "position": row["position"],
        }
        return shown if row["frozen"] is None else shown | {"frozen": row["frozen"]}

    def transaction(self, row: Row) -> Row:
        """As the API shows it; fields with nothing in them are left out there."""
        optional = {
            "posted": row["posted_entries"],
            "held": row["held_entries"],
            "expires_at": row["expires_at"] and format_time(row["expires_at"]),
            "reverses": row["reverses"],
            "reversed_by": row["reversed_by"],
            "forced": row["is_forced"] or None,
        }
        return {name: value for name, value in optional.items() if value is not None} | {
            "id": row["transaction_id"],
            "status": row["status"],
            "entries": row["entries"],
            "reference": row["reference"],
            "effective_at": format_time(row["effective_at"]),
            "description": row["description"],
            "metadata": row["metadata"],
            "position": row["created_position"],
            "recorded_at": format_time(row["created_at"]),
            "changed_position": row["position"],
            "changed_at": format_time(row["recorded_at"]),
            "actor": row["actor"],
            "correlation_id": row["correlation_id"],
        }

    def transactions(
        self,
        moment: Moment,
        fits: Callable[[Row], bool] = lambda _: True,
        *,
        sort: str = "position",
        newest: bool = True,
    ) -> list[Row]:
        """Those that fit, in order."""
        found = [
            row
            for row in self.versions("transactions", "transaction_id", moment).values()
            if fits(row) and (moment.effective is None or row["effective_at"] <= moment.effective)
        ]
        key = "created_position" if sort == "position" else "effective_at"
        found.sort(key=lambda row: (row[key], row["created_position"]), reverse=newest)
        return [self.transaction(row) for row in found]

    def accounts(self, moment: Moment, fits: Callable[[Row], bool] = lambda _: True) -> list[Row]:
        """Those that fit, by address."""
        found = self.versions("accounts", "address", moment)
        return [self.account(found[address]) for address in sorted(found) if fits(found[address])]

    def moves(self, moment: Moment, address: str | None = None, asset: str | None = None) -> list[Row]:
        """The entries that count."""
        return [
            row
            for row in self.tables["entries"]
            if row["position"] <= moment.position
            and (address is None or row["address"] == address)
            and (asset is None or row["asset"] == asset)
            and (moment.effective is None or (row["kind"] in POSTS and row["effective_at"] <= moment.effective))
        ]

    def side(self, address: str) -> str:
        """The normal side of an account."""
        return next(str(row["normal_balance"]) for row in self.tables["accounts"] if row["address"] == address)

    def balances(self, moment: Moment, address: str) -> dict[str, Row]:
        """Of one account, by asset."""
        by_asset = defaultdict(list)
        for row in self.moves(moment, address):
            by_asset[row["asset"]].append(row)
        return {
            asset: balance(totals(rows), self.side(address), is_effective=moment.effective is not None)
            for asset, rows in by_asset.items()
        }

    def sums(self, moment: Moment, segments: int, fits: Callable[[str], bool] = lambda _: True) -> list[Row]:
        """By group, asset and normal side."""
        groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for row in self.moves(moment):
            if fits(row["address"]):
                group = ":".join(row["address"].split(":")[:segments])
                groups[group, row["asset"], self.side(row["address"])].append(row)
        return [
            {
                "group": group,
                "asset": asset,
                "normal_balance": side,
                "accounts": len({row["address"] for row in rows}),
                **balance(totals(rows), side, is_effective=moment.effective is not None),
            }
            for (group, asset, side), rows in sorted(groups.items())
        ]

    def trial_balance(self, moment: Moment) -> dict[str, Row]:
        """By asset, of all accounts."""
        return {
            row["asset"]: {name: row[name] for name in ("debits", "credits", "accounts")}
            | {"difference": row["debits"] - row["credits"]}
            for row in self.trial_groups(moment, 0)
        }

    def trial_groups(self, moment: Moment, segments: int, fits: Callable[[str], bool] = lambda _: True) -> list[Row]:
        """By group and asset."""
        found: dict[tuple[str, str], Row] = {}
        for row in self.sums(moment, segments, fits):
            name = row["group"], row["asset"]
            before = found.get(name, {"debits": 0, "credits": 0, "accounts": 0})
            found[name] = {
                "group": row["group"],
                "asset": row["asset"],
                "debits": before["debits"] + row["posted_debits"],
                "credits": before["credits"] + row["posted_credits"],
                "accounts": before["accounts"] + row["accounts"],
            }
        return [found[name] for name in sorted(found)]

    def entries(self, moment: Moment, address: str, asset: str | None, *, newest: bool) -> list[Row]:
        """Of one account; by effective time what was posted, in that order."""
        running: dict[str, list[Row]] = defaultdict(list)
        found = []
        counted = {(row["position"], row["entry_index"]) for row in self.moves(moment, address)}
        for row in self.moves(Moment(moment.position), address):
            running[row["asset"]].append(row)
            if (row["position"], row["entry_index"]) in counted and asset in (None, row["asset"]):
                shown = {
                    "position": row["position"],
                    "entry_index": row["entry_index"],
                    "kind": row["kind"],
                    "transaction": row["transaction_id"],
                    "direction": row["direction"],
                    "amount": row["amount"],
                    "asset": row["asset"],
                    "effective_at": format_time(row["effective_at"]),
                    "recorded_at": format_time(row["recorded_at"]),
                    "balance": balance(totals(running[row["asset"]]), self.side(address), is_effective=False),
                }
                found.append(shown)
        if moment.effective is not None:
            found.sort(key=lambda row: (row["effective_at"], row["position"], row["entry_index"]))
        return found[::-1] if newest else found

    def statement(
        self, moment: Moment, address: str, asset: str, *, axis: str, between: tuple[datetime | None, datetime | None]
    ) -> Row:
        """The whole of it, from a time until before another."""
        begin, end = between
        time = "recorded_at" if axis == "recorded" else "effective_at"
        rows = [row for row in self.moves(moment, address, asset) if row["kind"] in POSTS]
        if axis == "effective":
            rows.sort(key=lambda row: (row["effective_at"], row["position"], row["entry_index"]))
        before = [row for row in rows if begin is not None and row[time] < begin]
        within = [row for row in rows if (begin is None or row[time] >= begin) and (end is None or row[time] < end)]
        side = self.side(address)
        lines = []
        for number, row in enumerate(within, start=1):
            lines.append(
                {
                    "position": row["position"],
                    "transaction": row["transaction_id"],
                    "direction": row["direction"],
                    "amount": row["amount"],
                    "balance": posted(before + within[:number], side),
                }
            )
        debits, credits_ = totals(within)[:2]
        return {
            "opening": posted(before, side),
            "closing": posted(before + within, side),
            "debits": debits,
            "credits": credits_,
            "data": lines,
        }

    def changes(self, early: int, late: int, until: datetime | None) -> list[Row]:
        """Accounts and assets whose posted balance differs; their entries by effective time where that bounds them."""
        found = []
        pairs = sorted({(row["address"], row["asset"]) for row in self.moves(Moment(late))})
        for address, asset in pairs:
            sides = []
            for position in (early, late):
                rows = [
                    row
                    for row in self.moves(Moment(position), address, asset)
                    if row["kind"] in POSTS and (until is None or row["effective_at"] < until)
                ]
                sides.append((totals(rows)[:2], posted(rows, self.side(address)), rows))
            (before, opening, _), (after, closing, rows) = sides
            if until is not None:
                rows.sort(key=lambda row: row["effective_at"])
            if before != after:
                found.append(
                    {
                        "account": address,
                        "asset": asset,
                        "opening": opening,
                        "closing": closing,
                        "change": closing - opening,
                        "debits": after[0] - before[0],
                        "credits": after[1] - before[1],
                        "positions": [row["position"] for row in rows if row["position"] > early],
                    }
                )
        return found


def totals(rows: Sequence[Row]) -> tuple[int, int, int, int]:
    """Posted debits and credits, pending debits and credits, counted one by one."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        kind, side = row["kind"], row["direction"]
        if kind in POSTS:
            sums["posted", side] += row["amount"]
        if kind in ("posted", "held"):
            sums["pending", side] += row["amount"]
        if kind == "released":
            sums["pending", side] -= row["amount"]
    return (
        sums["posted", "debit"],
        sums["posted", "credit"],
        sums["pending", "debit"],
        sums["pending", "credit"],
    )


def posted(rows: Sequence[Row], side: str) -> int:
    """The posted balance, normal side positive."""
    debits, credits_ = totals(rows)[:2]
    return debits - credits_ if side == "debit" else credits_ - debits


def balance(of: tuple[int, int, int, int], side: str, *, is_effective: bool) -> Row:
    """As the API shows it."""
    debits, credits_, all_debits, all_credits = of
    sign = 1 if side == "debit" else -1
    shown = {"posted": sign * (debits - credits_), "posted_debits": debits, "posted_credits": credits_}
    if is_effective:
        return shown
    held_debits, held_credits = all_debits - debits, all_credits - credits_
    leaving = held_credits if side == "debit" else held_debits
    return shown | {
        "pending": sign * (all_debits - all_credits),
        "available": shown["posted"] - leaving,
        "pending_debits": all_debits,
        "pending_credits": all_credits,
    }
