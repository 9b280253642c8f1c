"""From the bytes of a request to commands and their contexts; what is malformed becomes a problem with its JSON path.

Everything that can be said without a state is said here, before any command reaches the executor. Never decides a rule
of the books.
"""

import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.commands import TYPE_OF_COMMAND, Command, Key, OpenAccount, OpenLedger, PostTransaction
from shared_kernel.errors import Rejection
from shared_kernel.json_text import decode, invalid, rejection_of

BATCH_COMMANDS_MAX = 1_000  # design §8
KEY_LENGTH_MAX = 200
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


class PostTransactionElement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="post_transaction"
):
    """A transaction to post, as one of a batch."""

    data: PostTransaction
    key: Key | UnsetType = UNSET


class OpenAccountElement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="open_account"
):
    """An account to open, as one of a batch."""

    data: OpenAccount
    key: Key | UnsetType = UNSET


Element = PostTransactionElement | OpenAccountElement
Atomic = Annotated[bool, Meta(description="Only false is offered yet: each command stands or falls alone")]


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that are decided in their order, each with its own key and its own result."""

    commands: Annotated[list[Element], Meta(min_length=1, max_length=BATCH_COMMANDS_MAX)]
    atomic: Atomic | UnsetType = UNSET


class _Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch whose elements are looked at one by one, so that a malformed one does not take the others with it."""

    commands: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=BATCH_COMMANDS_MAX)]
    atomic: Atomic | UnsetType = UNSET


class Caller(NamedTuple):
    """Who asks, and what the request says about itself."""

    actor: str
    correlation_id: str
    trace: str | None
    now: datetime
    effective_at_max: datetime


class Asked(NamedTuple):
    """A well-formed command of a batch and its key."""

    command: PostTransaction | OpenAccount
    key: str


CommandT = TypeVar("CommandT", OpenLedger, OpenAccount, PostTransaction)


def reader(kind: type[CommandT]) -> Callable[[bytes], CommandT]:
    """A function from a body to a well-formed command of this kind; it raises Rejection with the JSON path."""
    decoder = msgspec.json.Decoder(kind)

    def read(body: bytes) -> CommandT:
        command = decode(body, decoder)
        command.check()
        return command

    return read


read_open_ledger = reader(OpenLedger)
read_open_account = reader(OpenAccount)
read_post_transaction = reader(PostTransaction)
_BATCH = msgspec.json.Decoder(Batch)
_FRAME = msgspec.json.Decoder(_Frame)
_ELEMENT: msgspec.json.Decoder[Element] = msgspec.json.Decoder(Element)


def read_batch(body: bytes, key: str | None) -> list[Asked | Rejection]:
    """The commands of a batch in their order; a malformed one is its own Rejection, its path from the body's root.

    `key`: the request's own; element i without a key then gets `<key>/<i>`. Raises Rejection for what concerns the batch as
    a whole: its frame, `atomic`, and `key_missing` where neither the request nor an element has a key.
    """
    if key is not None and len(key) > KEY_LENGTH_MAX - len(f"/{BATCH_COMMANDS_MAX - 1}"):
        raise invalid("Idempotency-Key", "The key is too long for a batch")
    try:
        batch: Batch | _Frame = decode(body, _BATCH)
    except Rejection:  # some element, or the frame: looked at one by one
        batch = decode(body, _FRAME)
    if batch.atomic:
        raise invalid("$.atomic", "Atomic batches are not offered yet")
    return [_read_element(element, index, key) for index, element in enumerate(batch.commands)]


def read_key(text: str | None, path: str = "Idempotency-Key") -> str | None:
    """The request's own idempotency key, None where it has none. `path` says where it stood, should it be malformed."""
    if text is not None and not _KEY.fullmatch(text):
        raise invalid(path, "A key is 1 to 200 visible ASCII characters")
    return text


def context(command: Command, *, ledger: str, key: str | None, caller: Caller) -> Context:
    """What stays the same however often the command has to be decided. A key is made where the client sent none."""
    asked = canonical(command)
    return Context(
        ledger=ledger,
        actor=caller.actor,
        key=key or new_id(caller.now),
        correlation_id=caller.correlation_id,
        now=caller.now,
        effective_at_max=caller.effective_at_max,
        transaction_id=new_id(caller.now),
        fingerprint=fingerprint(ledger, TYPE_OF_COMMAND[type(command)], asked),
        asked=asked,
        trace=caller.trace,
    )


def new_id(now: datetime) -> str:
    """A UUIDv7 (RFC 9562 §5.7) as text: the time in milliseconds, then 74 random bits. Ids of one millisecond are unordered."""
    chance = random.getrandbits(74)
    head = int(now.timestamp() * 1000) << 16 | 0x7000 | chance >> 62
    tail = 1 << 63 | chance & (1 << 62) - 1
    text = f"{head:016x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _read_element(element: Element | msgspec.Raw, index: int, key: str | None) -> Asked | Rejection:
    root = f"$.commands[{index}]"
    if isinstance(element, msgspec.Raw):
        try:
            element = _ELEMENT.decode(element)
        except msgspec.ValidationError as error:
            return rejection_of(error, root)
        except (
            msgspec.DecodeError
        ) as error:  # what passing over an element does not look at, such as half a surrogate pair
            return invalid(root, str(error))
    own = element.key or (None if key is None else f"{key}/{index}")
    if own is None:
        raise Rejection("key_missing", path=f"{root}.key")
    try:
        element.data.check()
    except Rejection as rejection:
        path = str(rejection.fields.get("path", "$"))
        return Rejection(rejection.code, **{**rejection.fields, "path": f"{root}.data{path[1:]}"})
    return Asked(element.data, own)
