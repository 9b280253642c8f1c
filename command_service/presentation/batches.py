"""Reads batches: up to 1,000 commands of any kind, to one ledger or across several.

In a batch of independent commands a malformed one is its own 400; in an atomic one it is the whole batch's. Knows no rule.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Protocol, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from command_service.domain.commands import COMMAND_TYPES, SYSTEM_COMMANDS, Command, Key, OpenLedger
from command_service.presentation.requests import KEY_LENGTH_MAX, at
from shared_kernel.errors import Rejection
from shared_kernel.json_text import decode, invalid, rejection_of
from shared_kernel.words import LedgerName

BATCH_COMMANDS_MAX = 1_000  # design §8

ELEMENT_TYPES: dict[str, type[Command]] = {
    name: kind for name, kind in COMMAND_TYPES.items() if kind is not OpenLedger and kind not in SYSTEM_COMMANDS
}
"""What an element of a batch may ask for. A ledger is opened alone: until it is, there is nothing that a batch could be of."""


class _Element(Protocol):
    @property
    def data(self) -> Command: ...

    @property
    def key(self) -> str | UnsetType: ...


def _element(name: str, kind: type[Command], prefix: str, *fields: Any) -> Any:
    return msgspec.defstruct(
        f"{prefix}{kind.__name__}Element",
        [*fields, ("data", kind), ("key", Key | UnsetType, UNSET)],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        tag_field="type",
        tag=name,
        namespace={"__doc__": f"One command of a batch. {kind.__doc__}"},
    )


_Elements: Any = Union[tuple(_element(name, kind, "") for name, kind in ELEMENT_TYPES.items())]  # noqa: UP007 made at run time
_ElementsAcross: Any = Union[  # noqa: UP007
    tuple(_element(name, kind, "Ledger", ("ledger", LedgerName)) for name, kind in ELEMENT_TYPES.items())
]
IsAtomic = Annotated[
    bool,
    Meta(description="true: all or nothing, at consecutive positions; false (default): each stands or falls alone"),
]


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that are decided in their order, each with its own key and its own result."""

    commands: Annotated[list[_Elements], Meta(min_length=1, max_length=BATCH_COMMANDS_MAX)]
    atomic: IsAtomic | UnsetType = UNSET


class BatchAcross(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands to several ledgers, in their order, each with its own key: all or nothing."""

    commands: Annotated[list[_ElementsAcross], Meta(min_length=1, max_length=BATCH_COMMANDS_MAX)]


class _Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch whose elements are looked at one by one, so that a malformed one does not take the others with it."""

    commands: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=BATCH_COMMANDS_MAX)]
    atomic: IsAtomic | UnsetType = UNSET


class Asked(NamedTuple):
    """A well-formed command of a batch, its key, and its ledger where it names one."""

    command: Command
    key: str
    ledger: str | None = None


class AskedBatch(NamedTuple):
    """The commands in their order. A Rejection stands for a malformed one; an atomic batch has none."""

    commands: Sequence[Asked | Rejection]
    is_atomic: bool


_BATCH = msgspec.json.Decoder(Batch)
_ACROSS = msgspec.json.Decoder(BatchAcross)
_FRAME = msgspec.json.Decoder(_Frame)
_ELEMENT: msgspec.json.Decoder[_Element] = msgspec.json.Decoder(_Elements)


def read_batch(body: bytes, key: str | None) -> AskedBatch:
    """The commands of a batch in their order; a malformed one is its own Rejection, its path from the body's root.

    `key`: the request's own; element i without a key then gets `<key>/<i>`. Raises Rejection for what concerns the batch as
    a whole: its frame, `key_missing` where neither the request nor an element has a key, and all faults of an atomic one.
    """
    _check_length(key)
    try:
        batch: Batch | _Frame = decode(body, _BATCH, is_shape_whole=True)
    except Rejection:  # some element, or the frame: looked at one by one
        batch = decode(body, _FRAME)
    asked = [_read_element(element, index, key) for index, element in enumerate(batch.commands)]
    return AskedBatch(_well_formed(asked), True) if batch.atomic else AskedBatch(asked, False)


def read_batch_across(body: bytes, key: str | None) -> list[Asked]:
    """The commands of an atomic batch across ledgers. Raises Rejection for whatever is malformed."""
    _check_length(key)
    batch = decode(body, _ACROSS, is_shape_whole=True)
    asked = [_read_element(element, index, key) for index, element in enumerate(batch.commands)]
    return _well_formed(asked)


def _check_length(key: str | None) -> None:
    if key is not None and len(key) > KEY_LENGTH_MAX - len(f"/{BATCH_COMMANDS_MAX - 1}"):
        raise invalid("Idempotency-Key", "The key is too long for a batch")


def _well_formed(asked: list[Asked | Rejection]) -> list[Asked]:
    """Raises the first fault."""
    for one in asked:
        if isinstance(one, Rejection):
            raise one
    return [one for one in asked if isinstance(one, Asked)]


def _read_element(given: "_Element | msgspec.Raw", index: int, key: str | None) -> Asked | Rejection:
    root = f"$.commands[{index}]"
    if not isinstance(given, msgspec.Raw):
        element = given
    else:
        try:
            element = _ELEMENT.decode(given)
        except msgspec.ValidationError as error:
            return rejection_of(error, root)
        except msgspec.DecodeError as error:  # what passing over an element does not look at: half a surrogate pair
            return invalid(root, str(error))
    own = element.key or (None if key is None else f"{key}/{index}")
    if own is None:
        raise Rejection("key_missing", path=f"{root}.key")
    try:
        element.data.check()
    except Rejection as rejection:
        return at(f"{root}.data", rejection)
    return Asked(element.data, own, getattr(element, "ledger", None))
