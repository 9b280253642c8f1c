"""The `books` read model: ledgers, accounts, transactions, and entries with the totals just after them.

Pure: the same events give the same rows, whatever the batches. Columns are those of `infrastructure/books.sql`.
Refusals change no books and leave no rows here.
"""

from typing import Final

import msgspec

from projections.domain.projection import Change, Key, Projection, Read, Row, State, Totals
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountOpened, CommandRefused, LedgerOpened, Metadata, TransactionPosted
from shared_kernel.words import parse_time

ZERO: Final[Totals] = (0, 0, 0, 0)
"""Posted debits, posted credits, pending debits, pending credits; the last two stay zero until there are holds."""

_json = msgspec.json.Encoder().encode
_NO_METADATA = "{}"


def keys(read: Read) -> list[Key]:
    """The (ledger, address, asset) whose totals the event changes."""
    if type(read.event) is not TransactionPosted:
        return []
    ledger = read.recorded.ledger
    return [(ledger, entry.account, entry.asset) for entry in read.event.entries]


def project(read: Read, state: State) -> Change:
    """The rows that the event adds. `state` holds the totals of `keys(read)` just before it. ValueError: a time nobody can read."""
    match read.event:
        case TransactionPosted():
            return _transaction_posted(read.recorded, read.event, read.metadata, state)
        case AccountOpened():
            return Change({"accounts": [_account_opened(read.recorded, read.event)]}, {})
        case LedgerOpened():
            return Change({"ledgers": [_ledger_opened(read.recorded, read.event)]}, {})
        case CommandRefused():
            return Change({}, {})


def _transaction_posted(recorded: RecordedEvent, event: TransactionPosted, metadata: Metadata, state: State) -> Change:
    ledger, position, recorded_at = recorded.ledger, recorded.position, recorded.recorded_at.isoformat()
    transaction = event.transaction
    effective_at = recorded_at if event.effective_at is None else parse_time(event.effective_at).isoformat()
    totals: dict[Key, Totals] = {}
    answered: list[dict[str, str | int]] = []
    entries: list[Row] = []
    for index, entry in enumerate(event.entries):
        account, direction, amount, asset = entry.account, entry.direction, entry.amount, entry.asset
        key = (ledger, account, asset)
        debited, credited, held_debits, held_credits = totals[key] if key in totals else state[key]
        if direction == "debit":
            debited += amount
        else:
            credited += amount
        totals[key] = (debited, credited, held_debits, held_credits)
        entries.append(
            (
                ledger,
                account,
                asset,
                position,
                index,
                direction,
                amount,
                transaction,
                recorded_at,
                effective_at,
                debited,
                credited,
                held_debits,
                held_credits,
            )
        )
        answered.append({"account": account, "direction": direction, "amount": amount, "asset": asset})
    row: Row = (
        ledger,
        transaction,
        position,
        "posted",
        recorded_at,
        effective_at,
        event.reference,
        event.description,
        _json(answered).decode(),
        _json(event.metadata).decode() if event.metadata else _NO_METADATA,
        metadata.actor,
        metadata.correlation_id,
    )
    return Change({"entries": entries, "transactions": [row]}, totals)


def _account_opened(recorded: RecordedEvent, event: AccountOpened) -> Row:
    return (
        recorded.ledger,
        event.address,
        recorded.position,
        recorded.recorded_at.isoformat(),
        event.normal_balance,
        "open",
        event.on_first_use,
        _json(event.limits).decode(),
        _json(event.metadata).decode(),
    )


def _ledger_opened(recorded: RecordedEvent, event: LedgerOpened) -> Row:
    return (
        recorded.ledger,
        recorded.position,
        recorded.recorded_at.isoformat(),
        event.accounts,
        _json(
            [{"pattern": d.pattern, "normal_balance": d.normal_balance, "limits": d.limits} for d in event.defaults]
        ).decode(),
        event.records_refusals,
        _json(event.metadata).decode(),
    )


_WHERE = ("ledger", "address", "asset", "position", "entry_index")
_TOTALS = ("posted_debits", "posted_credits", "pending_debits", "pending_credits")
BOOKS: Final = Projection(
    name="books",
    version=1,
    tables={
        "ledgers": ("ledger", "position", "recorded_at", "accounts", "defaults", "records_refusals", "metadata"),
        "accounts": (
            *("ledger", "address", "position", "opened_at", "normal_balance", "status", "on_first_use"),
            *("limits", "metadata"),
        ),
        "transactions": (
            *("ledger", "transaction_id", "position", "status", "recorded_at", "effective_at", "reference"),
            *("description", "entries", "metadata", "actor", "correlation_id"),
        ),
        "entries": (*_WHERE, "direction", "amount", "transaction_id", "recorded_at", "effective_at", *_TOTALS),
    },
    zero=ZERO,
    keys=keys,
    project=project,
)
