"""A checker that replays one ledger's log and asks the oracle, at every position, whether it was right to write that there.

Each accepted command must be allowed by the full state at its position, each refusal must follow from the state that it was
judged on (design §4). Beside the oracle's own books it keeps plain sums of the entries. Clocks are not judged: the log does
not hold what the clock said where a command came in.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.oracle import decide, open_books
from tests.support.oracle_books import OTHER_SIDE, Asked, Books, Json, Refused, sums
from tests.support.oracle_http import contains

Row = tuple[int, str, str, str, datetime]  # position, type, data, metadata, recorded_at
EARLY = Asked(datetime(1970, 1, 1, tzinfo=UTC), "", timedelta(days=1_000_000))  # nothing is too late, nothing is over
LATE = Asked(datetime(9000, 1, 1, tzinfo=UTC), "", timedelta(0))  # everything has come due


class LogOracle:
    """`books` and `findings` after replaying; `totals` by (account, asset, "posted" or "held", direction)."""

    def __init__(self) -> None:
        self.books = Books("")
        self.findings: list[str] = []
        self.totals: Counter[tuple[str, str, str, str]] = Counter()
        self.keys: dict[tuple[bool, str, str], int] = {}
        self.types: list[str] = []
        self._openings: list[str] = []
        self._waiting: dict[int, list[tuple[int, Json, datetime]]] = defaultdict(list)

    def replay(self, rows: Iterable[Row]) -> "LogOracle":
        """Goes on with these rows, in order. What is wrong is added to `findings`."""
        rows = list(rows)
        for position, kind, data, _, recorded_at in rows:
            if kind == "CommandRefused.v1":
                said = json.loads(data)
                self._waiting[said.get("judged_at", position - 1)].append((position, said, recorded_at))
        for position, kind, data, metadata, _ in rows:
            for refused_at, said, recorded_at in self._waiting.pop(position - 1, ()):
                self._check_refusal(refused_at, said, recorded_at)
            self._take(position, kind.removesuffix(".v1"), json.loads(data), json.loads(metadata))
        for judged_at, waiting in self._waiting.items():
            self.findings += [f"{at}: refused on the state at {judged_at}" for at, _, _ in waiting if at <= judged_at]
        return self

    def _take(self, position: int, kind: str, said: Json, metadata: Json) -> None:
        self.types.append(kind)
        if position != len(self.types):
            self.findings.append(f"{position}: follows {len(self.types) - 1}")
        if "key" in metadata:
            key = (metadata.get("system", False), metadata["actor"], metadata["key"])
            if key in self.keys:
                self.findings.append(f"{position}: key {key} stands at {self.keys[key]} already")
            self.keys[key] = position
        if kind == "LedgerOpened":
            self.books = open_books(said)
        elif kind == "CommandRefused":
            self.books.record()
        elif kind == "AccountOpened" and said.get("on_first_use", False):
            self._openings.append(said["address"])
            return  # the transaction that follows opens it
        else:
            self._check(position, kind, said)
        self._openings = []
        if self.books.head != position:
            self.findings.append(f"{position}: the oracle stands at {self.books.head}")
            self.books.head = position

    def _check(self, position: int, kind: str, said: Json) -> None:
        known = set(self.books.accounts)
        command, body, asked = self._command(kind, said)
        before = dict(self.books.transactions[body["transaction"]].held) if kind.startswith("Hold") else {}
        try:
            told = decide(self.books, command, body, asked)
        except Refused as refused:
            if kind == "ScheduledRefused" and refused.code == said["code"]:
                self.books.transactions[said["transaction"]].status = "refused"
                self.books.record()
            else:
                self.findings.append(f"{position}: {kind} {said} although {refused.code} {refused.fields}")
            return
        if kind == "ScheduledRefused":
            self.findings.append(f"{position}: {said} was refused although it was allowed")
        if kind == "LimitsSet" and said.get("breached", []) != (breached := told["account"]["breached"]):
            self.findings.append(f"{position}: breached are {breached}, not {said.get('breached')}")
        opened = [address for address in self.books.accounts if address not in known]
        if command != "open_account" and opened != self._openings:
            self.findings.append(f"{position}: opened are {opened}, not {self._openings}")
        if kind in ("TransactionPosted", "TransactionHeld"):
            self.findings += [f"{position}: marks of {wrong}" for wrong in self._marks(said)]
        self._add(position, kind, said, before)

    def _command(self, kind: str, said: Json) -> tuple[str, Json, Asked]:
        """The command that leads to this event."""
        match kind:
            case "TransactionPosted" if "reverses" in said:
                named = [entry | {"direction": OTHER_SIDE[entry["direction"]]} for entry in said["entries"]]
                turned = {"id": said["transaction"], "transaction": said["reverses"], "entries": named}
                return "reverse_transaction", said | turned | {"force": said.get("forced", False)}, EARLY
            case "TransactionPosted" | "ScheduledRefused" if said.get("scheduled", kind == "ScheduledRefused"):
                return "post_scheduled", {"transaction": said["transaction"]}, LATE
            case "TransactionPosted" | "TransactionHeld" | "TransactionScheduled":
                status = {"TransactionPosted": "posted", "TransactionHeld": "pending"}.get(kind, "scheduled")
                return "post_transaction", said | {"id": said["transaction"], "status": status}, EARLY
            case "HoldPosted":
                return "post_hold", said | {"keep_remainder": not said.get("is_final", True)}, EARLY
            case "LedgerMetadataChanged" | "AccountMetadataChanged" | "TransactionMetadataChanged":
                about = kind.removesuffix("MetadataChanged").lower()
                return f"patch_{about}_metadata", said | {"metadata": said["changes"]}, EARLY
        return _COMMAND_OF[kind], said, LATE

    def _marks(self, said: Json) -> list[Json]:
        """Entries whose `draws` or `fills` is not what the limits at this position make of it."""
        wrong = []
        for entry in said["entries"]:
            account = self.books.accounts[entry["account"]]
            adds = entry["direction"] == account.normal
            draws = not adds and account.bound(entry["asset"], "minimum") is not None
            fills = adds and account.bound(entry["asset"], "maximum") is not None
            if (entry.get("draws", False), entry.get("fills", False)) != (draws, fills):
                wrong.append(entry)
        return wrong

    def _add(self, position: int, kind: str, said: Json, before: dict[Any, int]) -> None:
        """Plain sums of entries, and whether each asset's debits equal its credits."""
        for name, sign_held in (("entries", 1 if kind == "TransactionHeld" else -1), ("released", -1)):
            if kind in ("TransactionScheduled", "ScheduledRefused"):
                return
            amounts = sums(said.get(name, ()))
            difference: Counter[str] = Counter()
            for (address, direction, asset), amount in amounts.items():
                difference[asset] += amount if direction == "debit" else -amount
                if kind != "TransactionPosted":
                    self.totals[address, asset, "held", direction] += sign_held * amount
                if name == "entries" and kind != "TransactionHeld":
                    self.totals[address, asset, "posted", direction] += amount
            if any(difference.values()):
                self.findings.append(f"{position}: debits less credits are {dict(difference)}")
            if kind.startswith("Hold") and any(amount > before.get(place, 0) for place, amount in amounts.items()):
                self.findings.append(f"{position}: more ended than was held of {said['transaction']}")
        for address in {entry["account"] for name in ("entries", "released") for entry in said.get(name, ())}:
            for asset, amounts_of in self.books.accounts[address].totals.items():
                for (what, direction), amount in amounts_of.items():
                    if self.totals[address, asset, what, direction] != amount:
                        self.findings.append(f"{position}: {what} {direction}s of {address} {asset} are not {amount}")

    def _check_refusal(self, position: int, said: Json, recorded_at: datetime) -> None:
        """The state on which it was judged does refuse it, and with these words."""
        if said.get("after_commands"):
            return  # of an atomic batch: judged on what earlier commands of it would have done
        kind, asked = said["command"], dict(said["asked"])
        try:
            decide(self.books, kind, asked, Asked(recorded_at, "new"))
        except Refused as refused:
            if refused.code != said["code"] or not contains(refused.fields, said["fields"]):
                self.findings.append(
                    f"{position}: {said['code']} {said['fields']}, not {refused.code} {refused.fields}"
                )
        else:
            self.findings.append(f"{position}: {said} was refused although it was allowed")


_COMMAND_OF = {
    "AccountOpened": "open_account",
    "LimitsSet": "set_limits",
    "AccountFrozen": "freeze_account",
    "AccountUnfrozen": "unfreeze_account",
    "AccountClosed": "close_account",
    "AccountReopened": "reopen_account",
    "LedgerArchived": "archive_ledger",
    "LedgerReopened": "reopen_ledger",
    "HoldVoided": "void_hold",
    "HoldExpired": "expire_hold",
    "ScheduledCancelled": "cancel_scheduled",
}
