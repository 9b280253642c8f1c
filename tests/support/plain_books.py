"""The `books` read model by the plainest possible fold: JSON of the standard library, one event at a time, all in dicts.

Shares no code with the projection. Rows come as the tables would give them, sorted, amounts as int.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from shared_kernel.event_log.types import RecordedEvent

Rows = dict[str, list[tuple[Any, ...]]]
# In the order of the columns of a table; JSON columns are compared as values.
COLUMNS: Mapping[str, str] = {
    "ledgers": "ledger, position, status, opened_at, recorded_at, accounts, defaults, records_refusals, time_zone, metadata",
    "accounts": "ledger, address, position, opened_position, opened_at, recorded_at, normal_balance, status, frozen,"
    " on_first_use, limits, metadata",
    "transactions": "ledger, transaction_id, position, created_position, created_at, recorded_at, status, effective_at,"
    " held_effective_at, expires_at, reference, description, entries, posted_entries, held_entries, metadata, asset, amount,"
    " reverses, reversed_by, is_forced, actor, correlation_id",
    "other_amounts": "ledger, asset, amount, created_position",
    "entries": "ledger, address, asset, position, entry_index, kind, direction, amount, transaction_id, recorded_at,"
    " effective_at, posted_debits, posted_credits, pending_debits, pending_credits",
    "unsettled": "ledger, transaction_id, position, created_position, status, due_at, until_position",
    "scheduled_accounts": "ledger, address, created_position",
    "refusals": "ledger, position, recorded_at, code, command, transaction_id, accounts, fields, asked, judged_at, actor,"
    " correlation_id, key",
    "transaction_labels": "ledger, key, value, created_position, position",
    "account_labels": "ledger, key, value, address, position",
}
JSON_COLUMNS = {
    *("defaults", "metadata", "limits", "entries", "posted_entries", "held_entries", "reversed_by", "fields", "asked"),
}
_JSON_IN_REFUSALS = {"accounts"}


def plain_books(events: Iterable[RecordedEvent]) -> Rows:
    """What the tables must hold after these events, given in order within each ledger."""
    books = _Books()
    for event in events:
        books.apply(event)
    rows = books.rows | {"unsettled": [tuple(row.values()) for row in books.unsettled.values()]}
    return {table: sorted(found, key=repr) for table, found in rows.items()}


class _Books:
    def __init__(self) -> None:
        self.rows: Rows = {table: [] for table in COLUMNS}
        self.ledgers: dict[str, dict[str, Any]] = {}
        self.accounts: dict[tuple[str, str], dict[str, Any]] = {}
        self.transactions: dict[tuple[str, str], dict[str, Any]] = {}
        self.unsettled: dict[tuple[str, str], dict[str, Any]] = {}
        self.sums: dict[tuple[str, str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def apply(self, event: RecordedEvent) -> None:
        self.event, self.said, self.asked = event, json.loads(event.data), json.loads(event.metadata)
        getattr(self, "on_" + event.type.removesuffix(".v1"))()

    # Ledgers

    def on_LedgerOpened(self) -> None:  # noqa: N802
        said, at = self.said, self.event.recorded_at
        defaults = [
            {
                "pattern": d["pattern"],
                "normal_balance": d.get("normal_balance", "credit"),
                "limits": d.get("limits", {}),
            }
            for d in said.get("defaults", [])
        ]
        self.ledgers[self.event.ledger] = {
            "ledger": self.event.ledger,
            "position": self.event.position,
            "status": "open",
            "opened_at": at,
            "recorded_at": at,
            "accounts": said["accounts"],
            "defaults": defaults,
            "records_refusals": said.get("records_refusals", True),
            "time_zone": said.get("time_zone") or "UTC",
            "metadata": said.get("metadata", {}),
        }
        self._version("ledgers", self.ledgers[self.event.ledger])

    def on_LedgerArchived(self) -> None:  # noqa: N802
        self._version("ledgers", self.ledgers[self.event.ledger], status="archived")

    def on_LedgerReopened(self) -> None:  # noqa: N802
        self._version("ledgers", self.ledgers[self.event.ledger], status="open")

    def on_LedgerMetadataChanged(self) -> None:  # noqa: N802
        ledger = self.ledgers[self.event.ledger]
        self._version("ledgers", ledger, metadata=self._patched(ledger["metadata"])[0])

    # Accounts

    def on_AccountOpened(self) -> None:  # noqa: N802
        said, event = self.said, self.event
        account = self.accounts[event.ledger, said["address"]] = {
            "ledger": event.ledger,
            "address": said["address"],
            "position": event.position,
            "opened_position": event.position,
            "opened_at": event.recorded_at,
            "recorded_at": event.recorded_at,
            "normal_balance": said["normal_balance"],
            "status": "open",
            "frozen": None,
            "on_first_use": said.get("on_first_use", False),
            "limits": said.get("limits", {}),
            "metadata": said.get("metadata", {}),
        }
        self._version("accounts", account)
        self._label("account_labels", said["address"], account["metadata"])

    def on_LimitsSet(self) -> None:  # noqa: N802
        self._version("accounts", self._account(), limits=self.said["limits"])

    def on_AccountFrozen(self) -> None:  # noqa: N802
        self._version("accounts", self._account(), status="frozen", frozen=self.said["scope"])

    def on_AccountUnfrozen(self) -> None:  # noqa: N802
        self._version("accounts", self._account(), status="open", frozen=None)

    def on_AccountClosed(self) -> None:  # noqa: N802
        self._version("accounts", self._account(), status="closed", frozen=None)

    def on_AccountReopened(self) -> None:  # noqa: N802
        self._version("accounts", self._account(), status="open", frozen=None)

    def on_AccountMetadataChanged(self) -> None:  # noqa: N802
        metadata, added = self._patched(self._account()["metadata"])
        self._version("accounts", self._account(), metadata=metadata)
        self._label("account_labels", self.said["address"], added)

    # Transactions

    def on_TransactionPosted(self) -> None:  # noqa: N802
        said = self.said
        if said.get("scheduled"):
            transaction = self._transaction()
            effective = self._given("effective_at") or transaction["effective_at"]
            self._version("transactions", transaction, status="posted", effective_at=effective)
            self._settle()
        else:
            self._bear("posted", self._given("effective_at") or self.event.recorded_at)
        self._move([("posted", entry) for entry in said["entries"]])
        if "reverses" in said:
            original = self.transactions[self.event.ledger, said["reverses"]]
            by = [*(original["reversed_by"] or []), said["transaction"]]
            self._version("transactions", original, reversed_by=by)

    def on_TransactionHeld(self) -> None:  # noqa: N802
        given = self._given("effective_at")
        self._bear("pending", given or self.event.recorded_at)
        transaction = self._transaction()
        self.rows["transactions"].pop()
        held = {"held_entries": transaction["entries"], "posted_entries": [], "held_effective_at": given}
        self._version("transactions", transaction, **held, expires_at=self._given("expires_at"))
        self._unsettle(self._given("expires_at"))
        self._move([("held", entry) for entry in self.said["entries"]])

    def on_HoldPosted(self) -> None:  # noqa: N802
        said, transaction = self.said, self._transaction()
        is_final = said.get("is_final", True)
        released = said.get("released", [])
        effective = self._given("effective_at") or transaction["held_effective_at"] or self.event.recorded_at
        self._version(
            "transactions",
            transaction,
            status="posted" if is_final else "pending",
            effective_at=effective,
            posted_entries=_added(transaction["posted_entries"], said["entries"], 1),
            held_entries=_added(transaction["held_entries"], said["entries"] + released, -1),
        )
        if is_final:
            self._settle()
        self._move([("captured", entry) for entry in said["entries"]] + [("released", entry) for entry in released])

    def on_HoldVoided(self) -> None:  # noqa: N802
        self._release("voided")

    def on_HoldExpired(self) -> None:  # noqa: N802
        self._release("expired")

    def on_TransactionScheduled(self) -> None:  # noqa: N802
        due = self._given("effective_at")
        self._bear("scheduled", due)
        accounts = {entry["account"] for entry in self.said["entries"]}
        self.rows["scheduled_accounts"] += [(self.event.ledger, each, self.event.position) for each in accounts]
        self._unsettle(due)

    def on_ScheduledCancelled(self) -> None:  # noqa: N802
        self._version("transactions", self._transaction(), status="cancelled")
        self._settle()

    def on_ScheduledRefused(self) -> None:  # noqa: N802
        self._version("transactions", self._transaction(), status="refused")
        self._settle()
        self._refuse("post_scheduled", transaction=self.said["transaction"], asked=None)

    def on_TransactionMetadataChanged(self) -> None:  # noqa: N802
        transaction = self._transaction()
        metadata, added = self._patched(transaction["metadata"])
        self._version("transactions", transaction, metadata=metadata)
        self._label("transaction_labels", transaction["created_position"], added)

    def on_CommandRefused(self) -> None:  # noqa: N802
        self._refuse(self.said["command"], transaction=None, asked=self.said["asked"])

    # What they share

    def _account(self) -> dict[str, Any]:
        return self.accounts[self.event.ledger, self.said["address"]]

    def _transaction(self) -> dict[str, Any]:
        return self.transactions[self.event.ledger, self.said["transaction"]]

    def _version(self, table: str, subject: dict[str, Any], **changes: Any) -> None:
        subject.update(changes, position=self.event.position, recorded_at=self.event.recorded_at)
        self.rows[table].append(tuple(subject.values()))

    def _bear(self, status: str, effective_at: Any) -> None:
        said, event = self.said, self.event
        assets = list(dict.fromkeys(entry["asset"] for entry in said["entries"]))
        debits = {
            asset: sum(e["amount"] for e in said["entries"] if e["asset"] == asset and e["direction"] == "debit")
            for asset in assets
        }
        transaction = self.transactions[event.ledger, said["transaction"]] = {
            "ledger": event.ledger,
            "transaction_id": said["transaction"],
            "position": event.position,
            "created_position": event.position,
            "created_at": event.recorded_at,
            "recorded_at": event.recorded_at,
            "status": status,
            "effective_at": effective_at,
            "held_effective_at": None,
            "expires_at": None,
            "reference": said.get("reference"),
            "description": said.get("description"),
            "entries": [_shown(entry) for entry in said["entries"]],
            "posted_entries": None,
            "held_entries": None,
            "metadata": said.get("metadata", {}),
            "asset": assets[0] if assets else "",
            "amount": debits[assets[0]] if assets else 0,
            "reverses": said.get("reverses"),
            "reversed_by": None,
            "is_forced": said.get("forced", False),
            "actor": self.asked["actor"],
            "correlation_id": self.asked["correlation_id"],
        }
        self._version("transactions", transaction)
        self.rows["other_amounts"] += [(event.ledger, asset, debits[asset], event.position) for asset in assets[1:]]
        self._label("transaction_labels", event.position, transaction["metadata"])

    def _release(self, status: str) -> None:
        transaction = self._transaction()
        held = _added(transaction["held_entries"], self.said["released"], -1)
        self._version(
            "transactions", transaction, status="posted" if transaction["posted_entries"] else status, held_entries=held
        )
        self._settle()
        self._move([("released", entry) for entry in self.said["released"]])

    def _move(self, moves: list[tuple[str, dict[str, Any]]]) -> None:
        transaction = self._transaction()
        for index, (kind, entry) in enumerate(moves):
            where = (self.event.ledger, entry["account"], entry["asset"])
            sums = self.sums[where]
            posts = {"posted": (1, 1), "held": (0, 1), "released": (0, -1), "captured": (1, 0)}[kind]
            sums["posted " + entry["direction"]] += posts[0] * entry["amount"]
            sums["pending " + entry["direction"]] += posts[1] * entry["amount"]
            totals = [sums[of] for of in ("posted debit", "posted credit", "pending debit", "pending credit")]
            what = (kind, entry["direction"], entry["amount"], self.said["transaction"])
            times = (self.event.recorded_at, transaction["effective_at"])
            self.rows["entries"].append((*where, self.event.position, index, *what, *times, *totals))

    def _unsettle(self, due_at: Any) -> None:
        transaction = self._transaction()
        self.unsettled[self.event.ledger, self.said["transaction"]] = {
            "ledger": self.event.ledger,
            "transaction_id": self.said["transaction"],
            "position": self.event.position,
            "created_position": self.event.position,
            "status": transaction["status"],
            "due_at": due_at,
            "until_position": None,
        }

    def _settle(self) -> None:
        self.unsettled[self.event.ledger, self.said["transaction"]]["until_position"] = self.event.position

    def _refuse(self, command: str, *, transaction: str | None, asked: Any) -> None:
        said, event = self.said, self.event
        about = (said["code"], command, transaction, said.get("accounts", []), said["fields"], asked)
        judged_at = said.get("judged_at", event.position - 1)
        who = (self.asked["actor"], self.asked["correlation_id"], self.asked.get("key"))
        self.rows["refusals"].append((event.ledger, event.position, event.recorded_at, *about, judged_at, *who))

    def _label(self, table: str, subject: Any, metadata: dict[str, str]) -> None:
        event = self.event
        self.rows[table] += [(event.ledger, key, value, subject, event.position) for key, value in metadata.items()]

    def _patched(self, metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        changes = self.said["changes"]
        after = {k: v for k, v in (metadata | changes).items() if v is not None}
        return after, {k: v for k, v in after.items() if metadata.get(k) != v}

    def _given(self, name: str) -> datetime | None:
        text = self.said.get(name)
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def read_books(connection: psycopg.Connection[Any], schema: str) -> Rows:
    """What the tables do hold."""
    found = {}
    for table, columns in COLUMNS.items():
        rows = connection.execute(f"select {columns} from {schema}.{table}".encode()).fetchall()
        found[table] = sorted((comparable(table, row) for row in rows), key=repr)
    return found


def comparable(table: str, row: Iterable[Any]) -> tuple[Any, ...]:
    """A row of the tables, or of a projection, in the oracle's types."""
    json_columns = JSON_COLUMNS | (_JSON_IN_REFUSALS if table == "refusals" else set())
    return tuple(
        _value(value, is_json=name in json_columns, is_time=name.endswith("_at") and name != "judged_at")
        for name, value in zip(COLUMNS[table].split(", "), row, strict=True)
    )


def read_log(connection: psycopg.Connection[Any]) -> list[RecordedEvent]:
    """All events of all ledgers."""
    rows = connection.execute(
        "select ledger, position, type, data, metadata, recorded_at from daybook.events order by ledger, position"
    )
    return [
        RecordedEvent(
            ledger=row[0],
            position=row[1],
            type=row[2],
            data=row[3],
            metadata=row[4],
            recorded_at=row[5].astimezone(UTC),
        )
        for row in rows
    ]


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("account", "direction", "amount", "asset")}


def _added(entries: list[dict[str, Any]], more: list[dict[str, Any]], sign: int) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    for factor, part in ((1, entries), (sign, more)):
        for entry in part:
            sums[entry["account"], entry["direction"], entry["asset"]] += factor * entry["amount"]
    return [
        {"account": account, "direction": direction, "amount": amount, "asset": asset}
        for (account, direction, asset), amount in sums.items()
        if amount
    ]


def _value(value: Any, *, is_json: bool, is_time: bool) -> Any:
    if is_json and value is not None:
        return json.loads(value)
    if is_time and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(value, Decimal):
        return int(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else value
