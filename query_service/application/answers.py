"""What the read side answers: the shapes of design §8, and so the schemas of the API's description.

Times are text with microseconds, amounts integers. `shaping.py` makes these from rows.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from query_service.application.questions import AccountStatus, EntryKind, FrozenScope, TransactionStatus
from shared_kernel.words import Direction, NormalBalance

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
    bool,
    Meta(description="False where the read model lacks an event that the answer needs: `incomplete` says since when"),
]


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The last event that the answer knows."""

    position: Position
    recorded_at: Time


class Incomplete(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer is not complete: `waiting` goes on by itself, `parked` needs the operator; `skipped`: an operator had an event
    left out, and the ledger is to be repaired.

    `position`: the first event that is missing.
    """

    state: Literal["waiting", "parked", "skipped"]
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
    """A ledger and how far its read model is. `archived`: it takes no commands. `time_zone`: what counts as a day in it."""

    ledger: str
    status: Literal["open", "archived"]
    accounts: Literal["explicit", "on-first-use"]
    defaults: list[Defaults]
    records_refusals: bool
    time_zone: str
    metadata: dict[str, str]
    opened_at: Time
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class Balance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The balances of an account in one asset, normal side positive, and the four raw totals.

    posted: posted entries only · pending: posted and held · available: posted less what holds may take away. By effective time
    there is posted only: what is held counts for no day yet.
    """

    posted: Units
    pending: Units | None = None
    available: Units | None = None
    posted_debits: Units
    posted_credits: Units
    pending_debits: Units | None = None
    pending_credits: Units | None = None


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account. `frozen`: which entries a frozen one takes no more. `position`: of the event that last changed its terms or metadata.

    `balances`: by asset, where a list was asked for them.
    """

    address: str
    normal_balance: NormalBalance
    status: AccountStatus
    frozen: FrozenScope | None = None
    limits: dict[str, Limit]
    metadata: dict[str, str]
    on_first_use: bool
    opened_at: Time
    position: Position
    balances: dict[str, Balance] | None = None


class AccountEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What moved on an account. `balance`: just after it in the order of the log, in its asset. `entry_index`: from 0 in its event.

    kind: posted · held (a hold was placed) · captured (of a hold, posted now) · released (of a hold, no longer held).
    """

    position: Position
    entry_index: int
    kind: EntryKind
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


class Transaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transaction: for each asset debits equal credits. `position` and `recorded_at`: of its birth; `changed_…`: of its last change.

    `posted` and `held`: of what was ever held, what has been posted so far and what still is held. `expires_at`: when a hold
    ends. `reverses`: the transaction whose entries these turn round; `reversed_by`: those that turn these round. `forced`: by an
    admin, whatever the limits said.
    """

    id: str
    status: TransactionStatus
    entries: list[Entry]
    posted: list[Entry] | None = None
    held: list[Entry] | None = None
    reference: str | None
    effective_at: Time
    expires_at: Time | None = None
    description: str | None
    metadata: dict[str, str]
    reverses: str | None = None
    reversed_by: list[str] = []
    forced: bool = False
    position: Position
    recorded_at: Time
    changed_position: Position
    changed_at: Time
    actor: str
    correlation_id: str


class TrialTotal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All posted entries in one asset. `difference`: debits less credits of all accounts, 0 in every sound ledger; not there where
    the trial balance is of some accounts, which need not balance.
    """

    debits: Units
    credits: Units
    difference: Units | None = None
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
