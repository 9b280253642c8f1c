"""The `books` read model by the plainest possible fold: JSON of the standard library, one event at a time, all in one dict.

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
    "ledgers": "ledger, position, recorded_at, accounts, defaults, records_refusals, metadata",
    "accounts": "ledger, address, position, opened_at, normal_balance, status, on_first_use, limits, metadata",
    "transactions": "ledger, transaction_id, position, status, recorded_at, effective_at, reference, description, entries,"
    " metadata, actor, correlation_id",
    "entries": "ledger, address, asset, position, entry_index, direction, amount, transaction_id, recorded_at, effective_at,"
    " posted_debits, posted_credits, pending_debits, pending_credits",
}
JSON_COLUMNS = {"defaults", "metadata", "limits", "entries"}


def plain_books(events: Iterable[RecordedEvent]) -> Rows:
    """What the tables must hold after these events, given in order within each ledger."""
    rows: Rows = {table: [] for table in COLUMNS}
    sums: dict[tuple[str, str, str], dict[str, int]] = defaultdict(lambda: {"debit": 0, "credit": 0})
    for event in events:
        said, asked = json.loads(event.data), json.loads(event.metadata)
        at = event.recorded_at
        if event.type == "LedgerOpened.v1":
            patterns = [
                {
                    "pattern": d["pattern"],
                    "normal_balance": d.get("normal_balance", "credit"),
                    "limits": d.get("limits", {}),
                }
                for d in said.get("defaults", [])
            ]
            records = said.get("records_refusals", True)
            row = (event.ledger, event.position, at, said["accounts"], patterns, records, said.get("metadata", {}))
            rows["ledgers"].append(row)
        elif event.type == "AccountOpened.v1":
            terms = (said["normal_balance"], "open", said.get("on_first_use", False), said.get("limits", {}))
            rows["accounts"].append(
                (event.ledger, said["address"], event.position, at, *terms, said.get("metadata", {}))
            )
        elif event.type == "TransactionPosted.v1":
            given = said.get("effective_at")
            effective = at if given is None else datetime.fromisoformat(given).astimezone(UTC)
            shown = []
            for index, entry in enumerate(said["entries"]):
                where = (event.ledger, entry["account"], entry["asset"])
                sums[where][entry["direction"]] += entry["amount"]
                totals = (sums[where]["debit"], sums[where]["credit"], 0, 0)
                what = (entry["direction"], entry["amount"], said["transaction"], at, effective)
                rows["entries"].append((*where, event.position, index, *what, *totals))
                shown.append({name: entry[name] for name in ("account", "direction", "amount", "asset")})
            texts = (said.get("reference"), said.get("description"), shown, said.get("metadata", {}))
            who = (asked["actor"], asked["correlation_id"])
            rows["transactions"].append(
                (event.ledger, said["transaction"], event.position, "posted", at, effective, *texts, *who)
            )
    return {table: sorted(found, key=repr) for table, found in rows.items()}


def read_books(connection: psycopg.Connection[Any], schema: str) -> Rows:
    """What the tables do hold."""
    found = {}
    for table, columns in COLUMNS.items():
        rows = connection.execute(f"select {columns} from {schema}.{table}".encode()).fetchall()
        found[table] = sorted((comparable(table, row) for row in rows), key=repr)
    return found


def comparable(table: str, row: Iterable[Any]) -> tuple[Any, ...]:
    """A row of the tables, or of a projection, in the oracle's types."""
    return tuple(_value(name, value) for name, value in zip(COLUMNS[table].split(", "), row, strict=True))


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


def _value(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS:
        return json.loads(value)
    if name.endswith("_at") and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(value, Decimal):
        return int(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else value
