"""The `books` read model: ledgers, accounts and refusals here, transactions and their entries in `books_transactions`.

Pure: the same events give the same rows, whatever the batches. Columns are those of `infrastructure/books.sql`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from projections.domain import books_transactions
from projections.domain.books_transactions import EntryRow, OtherAmountRow, TransactionRow, UnsettledRow
from projections.domain.labels import LabelRow, labels_of, patched
from projections.domain.projection import Projection, Read, Row, Rows, State, Table
from shared_kernel.errors import Corruption
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
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

_json = msgspec.json.Encoder().encode


class LedgerRow(NamedTuple):
    """A version of a ledger."""

    ledger: str
    position: int
    status: str
    opened_at: str
    recorded_at: str
    accounts: str
    defaults: str
    records_refusals: bool
    time_zone: str
    metadata: str


class AccountRow(NamedTuple):
    """A version of an account."""

    ledger: str
    address: str
    position: int
    opened_position: int
    opened_at: str
    recorded_at: str
    normal_balance: str
    status: str
    frozen: str | None
    on_first_use: bool
    limits: str
    metadata: str


class RefusalRow(NamedTuple):
    """A command, or a scheduled transaction, that the rules turned down."""

    ledger: str
    position: int
    recorded_at: str
    code: str
    command: str
    transaction_id: str | None
    accounts: str
    fields: str
    asked: str | None
    judged_at: int
    actor: str
    correlation_id: str
    key: str | None


def project(read: Read, state: State) -> Rows:
    """The rows that the event adds. ValueError: a time nobody can read. Corruption: a change of what was never made."""
    return _FOLDS[type(read.event)](read, state)


def _ledger_opened(read: Read, state: State) -> Rows:
    event: LedgerOpened = read.event  # type: ignore[assignment]
    at = read.at
    defaults = [{"pattern": d.pattern, "normal_balance": d.normal_balance, "limits": d.limits} for d in event.defaults]
    row = LedgerRow(
        ledger=read.recorded.ledger,
        position=read.recorded.position,
        status="open",
        opened_at=at,
        recorded_at=at,
        accounts=event.accounts,
        defaults=_text(defaults),
        records_refusals=event.records_refusals,
        time_zone=event.time_zone or "UTC",
        metadata=_text(event.metadata),
    )
    return {"ledgers": [row]}


def _ledger_changed(read: Read, state: State) -> Rows:
    row = LedgerRow._make(_found(read, state, ("ledgers", read.recorded.ledger)))
    match read.event:
        case LedgerArchived():
            row = row._replace(status="archived")
        case LedgerReopened():
            row = row._replace(status="open")
        case LedgerMetadataChanged(changes=changes):
            row = row._replace(metadata=patched(row.metadata, changes)[0])
    recorded = read.recorded
    return {"ledgers": [row._replace(position=recorded.position, recorded_at=read.at)]}


def _account_opened(read: Read, state: State) -> Rows:
    event: AccountOpened = read.event  # type: ignore[assignment]
    recorded = read.recorded
    at = read.at
    row = AccountRow(
        ledger=recorded.ledger,
        address=event.address,
        position=recorded.position,
        opened_position=recorded.position,
        opened_at=at,
        recorded_at=at,
        normal_balance=event.normal_balance,
        status="open",
        frozen=None,
        on_first_use=event.on_first_use,
        limits=_text(event.limits),
        metadata=_text(event.metadata),
    )
    rows: Rows = {"accounts": [row]}
    if event.metadata:
        rows["account_labels"] = labels_of(recorded, event.address, event.metadata)
    return rows


def _account_changed(read: Read, state: State) -> Rows:
    event: Any = read.event
    recorded = read.recorded
    row = AccountRow._make(_found(read, state, ("accounts", recorded.ledger, event.address)))
    labels: list[Row] = []
    match event:
        case LimitsSet():
            row = row._replace(limits=_text(event.limits))
        case AccountFrozen():
            row = row._replace(status="frozen", frozen=event.scope)
        case AccountUnfrozen() | AccountReopened():
            row = row._replace(status="open", frozen=None)
        case AccountClosed():
            row = row._replace(status="closed", frozen=None)
        case AccountMetadataChanged():
            metadata, added = patched(row.metadata, event.changes)
            row = row._replace(metadata=metadata)
            labels = labels_of(recorded, event.address, added)
    row = row._replace(position=recorded.position, recorded_at=read.at)
    return {"accounts": [row], "account_labels": labels}


def _refused(read: Read, state: State) -> Rows:
    event: CommandRefused = read.event  # type: ignore[assignment]
    position = read.recorded.position
    row = RefusalRow(
        ledger=read.recorded.ledger,
        position=position,
        recorded_at=read.at,
        code=event.code,
        command=event.command,
        transaction_id=None,
        accounts=_text(event.accounts),
        fields=_text(event.fields),
        asked=bytes(event.asked).decode(),
        judged_at=position - 1 if event.judged_at is None else event.judged_at,
        actor=read.metadata.actor,
        correlation_id=read.metadata.correlation_id,
        key=read.metadata.key,
    )
    return {"refusals": [row]}


def _scheduled_refused(read: Read, state: State) -> Rows:
    event: ScheduledRefused = read.event  # type: ignore[assignment]
    row = RefusalRow(
        ledger=read.recorded.ledger,
        position=read.recorded.position,
        recorded_at=read.at,
        code=event.code,
        command="post_scheduled",
        transaction_id=event.transaction,
        accounts=_text(event.accounts),
        fields=_text(event.fields),
        asked=None,
        judged_at=read.recorded.position - 1,
        actor=read.metadata.actor,
        correlation_id=read.metadata.correlation_id,
        key=read.metadata.key,
    )
    rows = books_transactions.ended(read, state, status="refused")
    rows["refusals"] = [row]
    return rows


def _found(read: Read, state: State, key: tuple[str, ...]) -> Row:
    row = state[key]
    if row is None:
        raise Corruption("event_without_subject", table=key[0], type=read.recorded.type)
    return row


def _text(value: object) -> str:
    return _json(value).decode()


_FOLDS: Final[Mapping[type, Callable[[Read, State], Rows]]] = {
    TransactionPosted: books_transactions.posted,
    CommandRefused: _refused,
    AccountOpened: _account_opened,
    TransactionHeld: books_transactions.held,
    HoldPosted: books_transactions.captured,
    HoldVoided: books_transactions.released,
    HoldExpired: books_transactions.released,
    TransactionScheduled: books_transactions.scheduled,
    ScheduledCancelled: lambda read, state: books_transactions.ended(read, state, status="cancelled"),
    ScheduledRefused: _scheduled_refused,
    TransactionMetadataChanged: books_transactions.metadata_changed,
    LimitsSet: _account_changed,
    AccountFrozen: _account_changed,
    AccountUnfrozen: _account_changed,
    AccountClosed: _account_changed,
    AccountReopened: _account_changed,
    AccountMetadataChanged: _account_changed,
    LedgerOpened: _ledger_opened,
    LedgerArchived: _ledger_changed,
    LedgerReopened: _ledger_changed,
    LedgerMetadataChanged: _ledger_changed,
}
BOOKS: Final = Projection(
    name="books",
    version=2,
    tables={
        "ledgers": Table(columns=LedgerRow._fields, key=1),
        "accounts": Table(columns=AccountRow._fields, key=2),
        "transactions": Table(columns=TransactionRow._fields, key=2, is_large=True),
        "other_amounts": Table(columns=OtherAmountRow._fields, position="created_position"),
        "entries": Table(columns=EntryRow._fields, key=3, order=("position", "entry_index"), kept=4),
        "unsettled": Table(columns=UnsettledRow._fields, key=2, is_replaced=True, until="until_position"),
        "scheduled_accounts": Table(columns=("ledger", "address", "created_position"), position="created_position"),
        "refusals": Table(columns=RefusalRow._fields),
        "transaction_labels": Table(columns=LabelRow._fields),
        "account_labels": Table(columns=("ledger", "key", "value", "address", "position")),
    },
    project=project,
)
