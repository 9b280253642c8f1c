"""What happened: the events of the log, their bytes, their tags, and their canonical line.

Wire names are fixed here and never derived from Python. A released version keeps its bytes for ever (tests/golden);
a new version gets a new struct and an upcaster. Tags are a pure function of type, data and metadata (design §4).
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from shared_kernel.errors import Corruption
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.words import Direction, NormalBalance, format_time

LEDGER_TERMS = "ledger-terms"


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
    """A ledger was opened: always position 1. `accounts`: "explicit" (must be opened) or "on-first-use"."""

    ledger: str
    accounts: str
    defaults: list[AccountDefaults] = []
    records_refusals: bool = True
    metadata: dict[str, str] = {}


class AccountOpened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account was opened, by a command of its own or by the first transaction that names it."""

    address: str
    normal_balance: NormalBalance
    limits: dict[str, Limit] = {}
    metadata: dict[str, str] = {}
    on_first_use: bool = False


class TransactionPosted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transaction was posted. An absent `effective_at` is the recorded time. For each asset debits equal credits."""

    transaction: str
    entries: list[Entry]
    reference: str | None = None
    description: str | None = None
    effective_at: str | None = None
    metadata: dict[str, str] = {}


class CommandRefused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules turned a command down.

    `asked` is what the client sent (canonical JSON). `accounts` are those the refusal looked at. Without `judged_at` it was
    judged on the state just before its own position, else on the state at that position.
    """

    command: str
    code: str
    fields: dict[str, str | int | bool | None]
    asked: msgspec.Raw
    accounts: list[str] = []
    judged_at: int | None = None


Event = LedgerOpened | AccountOpened | TransactionPosted | CommandRefused


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked, and how to find the rest of the story.

    `actor`: token subject. `key` and `fingerprint` stand only on the one event that answers a command. `trace`: W3C traceparent.
    """

    actor: str
    correlation_id: str
    causation_id: str | None = None
    trace: str | None = None
    key: str | None = None
    fingerprint: str | None = None


TYPES: dict[str, type[Event]] = {
    "LedgerOpened.v1": LedgerOpened,
    "AccountOpened.v1": AccountOpened,
    "TransactionPosted.v1": TransactionPosted,
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
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch  # RFC 3986
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
        raise UnknownEventType("unknown_event_type", type=type_name)
    return decoder(data)


def decode_metadata(metadata: str) -> Metadata:
    """Reads an event's metadata text."""
    return _decode_metadata(metadata)


def tags(event: Event, metadata: Metadata) -> list[str]:
    """The tags an event bears, without repeats, in a fixed order."""
    found: list[str] = []
    match event:
        case TransactionPosted():
            # Lists, not generators: this runs for every posted transaction.
            found += dict.fromkeys([f"account:{entry.account}" for entry in event.entries])
            found += dict.fromkeys([f"draws:{e.account}:{e.asset}" for e in event.entries if e.draws])
            found += dict.fromkeys([f"fills:{e.account}:{e.asset}" for e in event.entries if e.fills])
            found.append(transaction_tag(event.transaction))
            if event.reference is not None:
                found.append(reference_tag(event.reference))
        case AccountOpened():
            found += (f"account:{event.address}", terms_tag(event.address))
        case LedgerOpened():
            found.append(LEDGER_TERMS)
        case CommandRefused():
            found += dict.fromkeys(f"refused:{address}" for address in event.accounts)
    if metadata.key is not None:
        found.append(key_tag(metadata.actor, metadata.key))
    return found


def account_tag(address: str) -> str:
    """Everything about an account."""
    return f"account:{address}"


def terms_tag(address: str) -> str:
    """What an account may do: opened, limits and the like."""
    return f"terms:{address}"


def draws_tag(address: str, asset: str) -> str:
    """What takes from an account's limited balance."""
    return f"draws:{address}:{asset}"


def fills_tag(address: str, asset: str) -> str:
    """What adds to an account's limited balance."""
    return f"fills:{address}:{asset}"


def transaction_tag(transaction: str) -> str:
    """A transaction's birth and everything that later becomes of it."""
    return f"transaction:{_escaped(transaction)}"


def reference_tag(reference: str) -> str:
    """The transaction that took a reference."""
    return f"reference:{_escaped(reference)}"


def key_tag(subject: str, key: str) -> str:
    """The event that answered a caller's command. Percent-encoded parts, so that no two pairs share a tag."""
    return f"key:{_escaped(subject)}:{_escaped(key)}"


def _escaped(text: str) -> str:
    """Percent-encoded but for unreserved characters. Most ids need nothing, and finding that out is seven times cheaper."""
    return text if _UNRESERVED(text) else quote(text, safe="")


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
