"""What the read side answers: the shapes of design §8, and the pure functions that make them from rows.

Times are text with microseconds, amounts integers. Rows that are stored as JSON text are read into their shape here, so that
the API shows what it declares and nothing else.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, TypedDict

import msgspec
from msgspec import Meta

from query_service.application.query_handler import Stamp, Standstill
from query_service.application.questions import (
    AccountRow,
    BalanceRow,
    EntryRow,
    EventRow,
    LedgerRow,
    TransactionRow,
    TrialRow,
)
from shared_kernel.words import Direction, NormalBalance, format_time

Time = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC, microseconds",
        extra_json_schema={"format": "date-time"},
        examples=["2026-11-24T09:30:00.000000Z"],
    ),
]
Units = Annotated[int, Meta(description="Smallest units of the asset", examples=[70000])]
Position = Annotated[int, Meta(description="The number of an event in its ledger's log", examples=[17])]
NextCursor = Annotated[
    str | None, Meta(description="Give it as `cursor` for the next page of the same list; null: this is the last page")
]
IsComplete = Annotated[
    bool, Meta(description="False where the read model stands still before an event: `incomplete` says since when")
]


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The last event that the answer knows."""

    position: Position
    recorded_at: Time


class Incomplete(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer is not complete: `waiting` goes on by itself, `parked` needs the operator.

    `position`: the first event that is missing.
    """

    state: Literal["waiting", "parked"]
    since: Time
    position: Position


class Limit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bounds on an account's balance in one asset, normal side positive."""

    minimum: Units | None = None
    maximum: Units | None = None


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """Terms of accounts that their first use opens."""

    pattern: str
    normal_balance: NormalBalance = "credit"
    limits: dict[str, Limit] = {}


class Ledger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ledger and how far its read model is."""

    ledger: str
    accounts: Literal["explicit", "on-first-use"]
    defaults: list[Defaults]
    records_refusals: bool
    metadata: dict[str, str]
    opened_at: Time
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account. `position`: of the event that last changed its terms."""

    address: str
    normal_balance: NormalBalance
    status: Literal["open", "frozen", "closed"]
    limits: dict[str, Limit]
    metadata: dict[str, str]
    on_first_use: bool
    opened_at: Time
    position: Position


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """The balances of an account in one asset, normal side positive, and the four raw totals.

    posted: posted entries only · pending: posted and held · available: posted less what holds may take away.
    """

    posted: Units
    pending: Units
    available: Units
    posted_debits: Units
    posted_credits: Units
    pending_debits: Units
    pending_credits: Units


class AccountEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of an account. `balance`: just after it, in its asset. `entry_index`: from 0 in its transaction."""

    position: Position
    entry_index: int
    transaction: str
    direction: Direction
    amount: Units
    asset: str
    effective_at: Time
    recorded_at: Time
    balance: Balance


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One debit or credit of one account."""

    account: str
    direction: Direction
    amount: Units
    asset: str


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction: for each asset debits equal credits."""

    id: str
    status: Literal["posted"]
    entries: list[Entry]
    reference: str | None
    effective_at: Time
    description: str | None
    metadata: dict[str, str]
    position: Position
    recorded_at: Time
    actor: str
    correlation_id: str


class TrialTotal(msgspec.Struct, frozen=True, kw_only=True):
    """All posted entries in one asset. `difference`: debits less credits, 0 in every sound ledger."""

    debits: Units
    credits: Units
    difference: Units
    accounts: Annotated[int, Meta(description="Accounts with an entry in the asset")]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands in the log: the canonical line, byte for byte."""

    ledger: str
    position: Position
    type: str
    recorded_at: Time
    metadata: msgspec.Raw
    data: msgspec.Raw


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """Ledgers by name. Each has a position of its own, so the list as a whole is as of none."""

    data: list[Ledger]
    next_cursor: NextCursor
    as_of: None
    complete: IsComplete


class LedgerAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One ledger."""

    ledger: Ledger
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class AccountList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Accounts by address."""

    data: list[Account]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class AccountAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One account."""

    account: Account
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class BalancesAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The balances of one account by asset; an asset without entries is not there."""

    account: str
    balances: dict[str, Balance]
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class EntryList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Entries of one account with its running balances."""

    data: list[AccountEntry]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class TransactionList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Transactions by position."""

    data: list[Transaction]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class TransactionAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One transaction."""

    transaction: Transaction
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class TrialBalanceAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Debits and credits of the whole ledger by asset."""

    assets: dict[str, TrialTotal]
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Events of the log by position. Read from the log itself, so always complete."""

    data: list[Event]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One event."""

    event: Event
    as_of: AsOf
    complete: IsComplete


_read_limits = msgspec.json.Decoder(dict[str, Limit]).decode
_read_defaults = msgspec.json.Decoder(list[Defaults]).decode
_read_metadata = msgspec.json.Decoder(dict[str, str]).decode
_read_entries = msgspec.json.Decoder(list[Entry]).decode


def as_of(stamp: Stamp) -> AsOf:
    """The stamp of an answered question."""
    if stamp.position is None or stamp.recorded_at is None:
        raise ValueError("not answered")
    return AsOf(position=stamp.position, recorded_at=format_time(stamp.recorded_at))


class Stamped(TypedDict):
    """What every answer from the read model says of itself."""

    as_of: AsOf
    complete: bool
    incomplete: Incomplete | None


def stamped(stamp: Stamp) -> Stamped:
    """The three fields of an answered question."""
    held = incomplete(stamp.standstill)
    return Stamped(as_of=as_of(stamp), complete=held is None, incomplete=held)


def incomplete(standstill: Standstill | None) -> Incomplete | None:
    """What keeps an answer from being complete."""
    if standstill is None:
        return None
    return Incomplete(state=standstill.state, since=format_time(standstill.since), position=standstill.position)


def ledger(row: LedgerRow) -> Ledger:
    """A ledger as the API shows it."""
    standstill = None if row.state is None else Standstill(row.state, _known(row.since), row.stuck_position or 0)
    return Ledger(
        ledger=row.ledger,
        accounts=row.accounts,
        defaults=_read_defaults(row.defaults),
        records_refusals=row.records_refusals,
        metadata=_read_metadata(row.metadata),
        opened_at=format_time(row.opened_at),
        as_of=AsOf(position=row.position, recorded_at=format_time(row.recorded_at)),
        complete=standstill is None,
        incomplete=incomplete(standstill),
    )


def account(row: AccountRow) -> Account:
    """An account as the API shows it."""
    return Account(
        address=row.address,
        normal_balance=row.normal_balance,
        status=row.status,
        limits=_read_limits(row.limits),
        metadata=_read_metadata(row.metadata),
        on_first_use=row.on_first_use,
        opened_at=format_time(row.opened_at),
        position=row.position,
    )


def balances(rows: Sequence[BalanceRow]) -> dict[str, Balance]:
    """By asset."""
    return {row.asset: balance(row) for row in rows if row.asset is not None}


def balance(totals: BalanceRow | EntryRow) -> Balance:
    """The signed balances from the raw totals (design §2): the normal side is positive."""
    posted = totals.posted_credits - totals.posted_debits
    held = totals.pending_credits - totals.pending_debits
    leaving = totals.pending_debits
    if totals.normal_balance == "debit":
        posted, held, leaving = -posted, -held, totals.pending_credits
    return Balance(
        posted=posted,
        pending=posted + held,
        available=posted - leaving,
        posted_debits=totals.posted_debits,
        posted_credits=totals.posted_credits,
        pending_debits=totals.pending_debits,
        pending_credits=totals.pending_credits,
    )


def account_entry(row: EntryRow) -> AccountEntry:
    """An entry of an account with the balance after it. Rows without a position are no entries."""
    return AccountEntry(
        position=row.position or 0,
        entry_index=row.entry_index,
        transaction=row.transaction_id,
        direction=row.direction,
        amount=row.amount,
        asset=row.asset,
        effective_at=format_time(row.effective_at),
        recorded_at=format_time(row.recorded_at),
        balance=balance(row),
    )


def transaction(row: TransactionRow) -> Transaction:
    """A transaction as the API shows it."""
    return Transaction(
        id=row.transaction_id,
        status=row.status,
        entries=_read_entries(row.entries),
        reference=row.reference,
        effective_at=format_time(row.effective_at),
        description=row.description,
        metadata=_read_metadata(row.metadata),
        position=row.position,
        recorded_at=format_time(row.recorded_at),
        actor=row.actor,
        correlation_id=row.correlation_id,
    )


def trial_balance(rows: Sequence[TrialRow]) -> dict[str, TrialTotal]:
    """By asset."""
    return {
        row.asset: TrialTotal(
            debits=row.debits, credits=row.credits, difference=row.debits - row.credits, accounts=row.accounts
        )
        for row in rows
    }


def event(ledger_name: str, row: EventRow) -> Event:
    """An event as it stands in the log."""
    return Event(
        ledger=ledger_name,
        position=row.position,
        type=row.type,
        recorded_at=format_time(row.recorded_at),
        metadata=msgspec.Raw(row.metadata),
        data=msgspec.Raw(row.data),
    )


def _known(time: datetime | None) -> datetime:
    if time is None:
        raise ValueError("a standstill without a time")
    return time
