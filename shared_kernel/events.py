"""What happened: the events of the log, their bytes and their canonical line.

Wire names are fixed here and never derived from Python. A released version keeps its bytes for ever (tests/golden);
a new version gets a new struct and an upcaster. Their tags are in `tags.py`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared_kernel.errors import Corruption
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.words import Direction, NormalBalance, format_time

FreezeScope = Literal["all", "debits", "credits"]


class Limit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Bounds on one account and asset, in smallest units, normal side positive; an absent bound is no bound.

    The minimum bounds what is available, the maximum what is posted and all that may still come in.
    """

    minimum: int | None = None
    maximum: int | None = None


class AccountDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Terms that an account gets on first use if its address fits the pattern. The first fitting pattern counts."""

    pattern: str
    normal_balance: NormalBalance = "credit"
    limits: dict[str, Limit] = {}


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One debit or credit of one account.

    `draws`: a minimum made this entry matter (it takes from a limited balance). `fills`: a maximum did. Both as the decision found them.
    """

    account: str
    direction: Direction
    amount: int
    asset: str
    draws: bool = False
    fills: bool = False


class LedgerOpened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ledger was opened: always position 1. `accounts`: "explicit" (must be opened) or "on-first-use".

    `time_zone`: an IANA name, for what counts as a day in this ledger; absent means UTC. It never changes.
    """

    ledger: str
    accounts: str
    defaults: list[AccountDefaults] = []
    records_refusals: bool = True
    metadata: dict[str, str] = {}
    time_zone: str | None = None


class LedgerArchived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ledger is read-only: nothing but the end of holds, and its reopening, is taken."""

    ledger: str


class LedgerReopened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The archived ledger takes commands again."""

    ledger: str


class LedgerMetadataChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metadata of the ledger: each named key has this value from now on, or (null) is gone."""

    ledger: str
    changes: dict[str, str | None]


class AccountOpened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account was opened, by a command of its own or by the first transaction that names it."""

    address: str
    normal_balance: NormalBalance
    limits: dict[str, Limit] = {}
    metadata: dict[str, str] = {}
    on_first_use: bool = False


class LimitsSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """These are the account's limits from now on, all of them. `breached`: assets whose balance was beyond the new limit already."""

    address: str
    limits: dict[str, Limit]
    breached: list[str] = []


class AccountFrozen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Nothing of this scope is posted to the account or held on it from now on."""

    address: str
    scope: FreezeScope


class AccountUnfrozen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The account is open again in both directions."""

    address: str


class AccountClosed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The account is closed: zero balances in every asset, and no holds."""

    address: str


class AccountReopened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The closed account is open again, under the terms it had."""

    address: str


class AccountMetadataChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metadata of an account: each named key has this value from now on, or (null) is gone."""

    address: str
    changes: dict[str, str | None]


class Known(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Totals of one account and asset as a decision knew them, its own effect included. Smallest units, never negative.

    `pending_…` count posted and held entries, as in every balance. `normal_balance`: the account's, so that the answer can sign them.
    """

    normal_balance: NormalBalance = "credit"
    posted_debits: int = 0
    posted_credits: int = 0
    pending_debits: int = 0
    pending_credits: int = 0


class TransactionPosted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transaction was posted. An absent `effective_at` is the recorded time. For each asset debits equal credits.

    `reverses`: the transaction whose entries these turn round, wholly or in part. `forced`: by an admin, whatever the limits said.
    `scheduled`: a scheduled transaction of this id has come due. `known`: totals by account and asset, where they were asked for.
    """

    transaction: str
    entries: list[Entry]
    reference: str | None = None
    description: str | None = None
    effective_at: str | None = None
    metadata: dict[str, str] = {}
    reverses: str | None = None
    forced: bool = False
    scheduled: bool = False
    known: dict[str, dict[str, Known]] = {}


class TransactionHeld(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transaction is pending: its amounts are held until it is posted, voided or expired. Fields as in TransactionPosted."""

    transaction: str
    entries: list[Entry]
    expires_at: str | None = None
    reference: str | None = None
    description: str | None = None
    effective_at: str | None = None
    metadata: dict[str, str] = {}
    known: dict[str, dict[str, Known]] = {}


class HoldPosted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part or all of a pending transaction was posted.

    `entries` moved from held to posted, for each asset debits equal credits; `released` are held no more and were not posted.
    Without `released` and with something left, the rest stays held. An absent `effective_at` is the hold's, else the recorded time.
    """

    transaction: str
    entries: list[Entry]
    released: list[Entry] = []
    is_final: bool = True
    effective_at: str | None = None
    known: dict[str, dict[str, Known]] = {}


class HoldVoided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pending transaction was called off; what was still held is released.

    `is_partly_posted`: some of it had been posted before, so that its status is posted.
    """

    transaction: str
    released: list[Entry]
    is_partly_posted: bool = False


class HoldExpired(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pending transaction ran out of time; what was still held is released. `is_partly_posted` as in HoldVoided."""

    transaction: str
    released: list[Entry]
    is_partly_posted: bool = False


class TransactionScheduled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transaction is to be posted at `effective_at`, if the rules allow it then. Nothing is held; entries bear no marks."""

    transaction: str
    entries: list[Entry]
    effective_at: str
    reference: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}


class ScheduledCancelled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A scheduled transaction was called off before its time."""

    transaction: str


class ScheduledRefused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A scheduled transaction came due, and the rules turned it down: its end. Fields as in CommandRefused."""

    transaction: str
    code: str
    fields: dict[str, str | int | bool | None]
    accounts: list[str] = []


class TransactionMetadataChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metadata of a transaction: each named key has this value from now on, or (null) is gone."""

    transaction: str
    changes: dict[str, str | None]


class CommandRefused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules turned a command down.

    `asked` is what the client sent (canonical JSON). `accounts` are those the refusal looked at. Without `judged_at` it was
    judged on the state just before its own position, else on the state at that position. `after_commands`: besides, it was judged
    after so many earlier commands of its atomic batch, whatever their ledgers, of which then nothing was recorded.
    """

    command: str
    code: str
    fields: dict[str, str | int | bool | None]
    asked: msgspec.Raw
    accounts: list[str] = []
    judged_at: int | None = None
    after_commands: int = 0


Event = (
    LedgerOpened
    | LedgerArchived
    | LedgerReopened
    | LedgerMetadataChanged
    | AccountOpened
    | LimitsSet
    | AccountFrozen
    | AccountUnfrozen
    | AccountClosed
    | AccountReopened
    | AccountMetadataChanged
    | TransactionPosted
    | TransactionHeld
    | HoldPosted
    | HoldVoided
    | HoldExpired
    | TransactionScheduled
    | ScheduledCancelled
    | ScheduledRefused
    | TransactionMetadataChanged
    | CommandRefused
)


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked, and how to find the rest of the story.

    `actor`: token subject. `key` and `fingerprint` stand only on the one event that answers a command. `trace`: W3C traceparent.
    `system`: Daybook itself asked (the clock); `actor` is then the process, and its keys are apart from every caller's.
    """

    actor: str
    correlation_id: str
    causation_id: str | None = None
    trace: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    system: bool = False


TYPES: dict[str, type[Event]] = {
    "LedgerOpened.v1": LedgerOpened,
    "LedgerArchived.v1": LedgerArchived,
    "LedgerReopened.v1": LedgerReopened,
    "LedgerMetadataChanged.v1": LedgerMetadataChanged,
    "AccountOpened.v1": AccountOpened,
    "LimitsSet.v1": LimitsSet,
    "AccountFrozen.v1": AccountFrozen,
    "AccountUnfrozen.v1": AccountUnfrozen,
    "AccountClosed.v1": AccountClosed,
    "AccountReopened.v1": AccountReopened,
    "AccountMetadataChanged.v1": AccountMetadataChanged,
    "TransactionPosted.v1": TransactionPosted,
    "TransactionHeld.v1": TransactionHeld,
    "HoldPosted.v1": HoldPosted,
    "HoldVoided.v1": HoldVoided,
    "HoldExpired.v1": HoldExpired,
    "TransactionScheduled.v1": TransactionScheduled,
    "ScheduledCancelled.v1": ScheduledCancelled,
    "ScheduledRefused.v1": ScheduledRefused,
    "TransactionMetadataChanged.v1": TransactionMetadataChanged,
    "CommandRefused.v1": CommandRefused,
}
"""Wire name to struct, newest versions only; older names stand in UPCASTERS."""

UPCASTERS: dict[str, Callable[[str], Event]] = {}
"""Older wire name to a function from its data text to the newest struct. Nothing is ever rewritten in the log."""

TYPE_NAMES: dict[type, str] = {struct: name for name, struct in TYPES.items()}
_DECODERS: dict[str, Callable[[str], Event]] = {
    **{name: msgspec.json.Decoder(struct).decode for name, struct in TYPES.items()},
    **UPCASTERS,
}
_ENCODER = msgspec.json.Encoder()
_decode_metadata = msgspec.json.Decoder(Metadata).decode


class UnknownEventType(Corruption):
    """The log holds an event that this version of the software does not know."""


def encode(value: Event | Metadata) -> str:
    """JSON text without spaces, fields in declared order, defaults left out: these bytes are the record."""
    return _ENCODER.encode(value).decode()


def decode(type_name: str, data: str) -> Event:
    """The newest form of a recorded event. UnknownEventType where this software is older than the event."""
    decoder = _DECODERS.get(type_name)
    if decoder is None:
        raise UnknownEventType("unknown_event_type", event_type=type_name)
    return decoder(data)


def decode_metadata(metadata: str) -> Metadata:
    """Reads an event's metadata text."""
    return _decode_metadata(metadata)


def canonical_line(event: RecordedEvent) -> str:
    """The event as one line of JSON: fixed order, no spaces, data and metadata byte for byte.

    Exports, imports, Kafka messages and later proofs are made of exactly this.
    """
    return (
        f'{{"ledger":"{event.ledger}","position":{event.position},"type":"{event.type}",'
        f'"recorded_at":"{format_time(event.recorded_at)}","metadata":{event.metadata},"data":{event.data}}}'
    )


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    ledger: str
    position: Annotated[int, Meta(ge=1)]
    type: str
    recorded_at: datetime
    metadata: msgspec.Raw
    data: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode


def parse_line(line: bytes | str) -> RecordedEvent:
    """Reads a canonical line back; the texts of data and metadata come out byte for byte."""
    read = _decode_line(line)
    return RecordedEvent(
        ledger=read.ledger,
        position=read.position,
        type=read.type,
        data=bytes(read.data).decode(),
        metadata=bytes(read.metadata).decode(),
        recorded_at=read.recorded_at,
    )
