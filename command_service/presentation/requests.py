"""From the bytes of a request to commands and their contexts; what is malformed becomes a problem with its JSON path.

Everything that can be said without a state is said here, before any command reaches the executor. Never decides a rule
of the books. Batches stand in `batches.py`.
"""

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from msgspec import NODEFAULT, UNSET

from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.commands import (
    COMMAND_TYPES,
    SYSTEM_COMMANDS,
    TYPE_OF_COMMAND,
    Asking,
    ClientId,
    Command,
    OpenAccount,
    OpenLedger,
    PostTransaction,
)
from shared_kernel.errors import Rejection
from shared_kernel.json_text import decode, invalid, rejection_of
from shared_kernel.words import Address

KEY_LENGTH_MAX = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

PATH_FIELDS = {
    kind: field
    for kind in COMMAND_TYPES.values()
    for field in ("address", "transaction")
    if kind is not OpenAccount and kind not in SYSTEM_COMMANDS and field in kind.__struct_fields__
}
"""Commands whose subject stands in the path of their address, and under which name; their bodies must not repeat it."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and what the request says about itself."""

    actor: str
    correlation_id: str
    trace: str | None
    now: datetime
    effective_at_max: datetime


CommandT = TypeVar("CommandT", bound=Asking)


def reader(kind: type[CommandT]) -> Callable[[bytes], CommandT]:
    """A function from a body to a well-formed command of this kind; it raises Rejection with the JSON path."""
    decoder = msgspec.json.Decoder(kind)

    def read(body: bytes) -> CommandT:
        command = decode(body, decoder, is_shape_whole=True)
        command.check()
        return command

    return read


read_open_ledger = reader(OpenLedger)
read_open_account = reader(OpenAccount)
read_post_transaction = reader(PostTransaction)


def body_of_kind(kind: type[Command]) -> type[msgspec.Struct]:
    """The shape of the command's own body: all its fields but the one that stands in the path."""
    fields: list[Any] = [
        (field.name, field.type) if field.default is NODEFAULT else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(kind)
        if field.name != PATH_FIELDS.get(kind)
    ]
    return msgspec.defstruct(
        f"{kind.__name__}Body",
        fields,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": kind.__doc__},
    )


BODIES: dict[type[Command], type[msgspec.Struct]] = {
    kind: body_of_kind(kind)
    for kind in COMMAND_TYPES.values()
    if kind not in (OpenLedger, OpenAccount, PostTransaction, *SYSTEM_COMMANDS)
}
_BODY_DECODERS = {kind: msgspec.json.Decoder(body) for kind, body in BODIES.items()}
_SUBJECTS: dict[str, Any] = {"address": Address, "transaction": ClientId}


def read_change(kind: type[Command], body: bytes, subject: str | None) -> Command:
    """A well-formed command of a kind whose subject (an address, a transaction's id) stands in the path.

    No body at all is an empty object: some commands have nothing more to say.
    """
    given = decode(body or b"{}", _BODY_DECODERS[kind], is_shape_whole=True)
    fields = {name: value for name in given.__struct_fields__ if (value := getattr(given, name)) is not UNSET}
    field = PATH_FIELDS.get(kind)
    if field is not None:
        try:
            fields[field] = msgspec.convert(subject, _SUBJECTS[field])
        except msgspec.ValidationError as error:
            raise invalid(field, str(rejection_of(error).fields["detail"])) from None
    command = kind(**fields)
    command.check()
    return command


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
    milliseconds = (now - _EPOCH) // _MILLISECOND
    version, variant = 0x7 << 76, 0b10 << 62
    text = "%032x" % (milliseconds << 80 | version | (chance >> 62) << 64 | variant | chance & 0x3FFFFFFFFFFFFFFF)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def at(root: str, rejection: Rejection) -> Rejection:
    """The same rejection, its path from further out."""
    path = str(rejection.fields.get("path", "$"))
    return Rejection(rejection.code, **{**rejection.fields, "path": root + path.removeprefix("$")})
