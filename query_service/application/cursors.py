"""Opaque cursors: where a list goes on, and the position it is as of, so that pages neither skip nor repeat.

A cursor belongs to one list with its filters (fingerprint) and one incarnation of the log, but to no generation of the
read model: generations agree on positions and keys. Pure.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

import msgspec
from msgspec import Meta

from shared_kernel.errors import Rejection

CURSOR_LENGTH_MAX = 2_000  # the longest key is an address or a ledger name; chosen with room
FINGERPRINT_LENGTH = 16  # hexadecimal digits: tells lists apart, guards nothing

Position = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
KeyText = Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=300)]


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """After which row the next page begins. `position`: what the first page was as of; rows after it are left out."""

    fingerprint: str
    incarnation: str
    position: Position
    text: KeyText = ""
    number: Natural = 0
    ordinal: Natural = 0


_decode = msgspec.json.Decoder(Cursor).decode
_encode = msgspec.json.Encoder().encode


def fingerprint(*query: str | int | None) -> str:
    """Equal exactly for the same list with the same filters."""
    return hashlib.sha256(_encode(query)).hexdigest()[:FINGERPRINT_LENGTH]


def write_cursor(cursor: Cursor) -> str:
    """The text for `next_cursor`."""
    return urlsafe_b64encode(_encode(cursor)).rstrip(b"=").decode()


def read_cursor(text: str, of: str) -> Cursor:
    """The cursor of the list with the fingerprint `of`; Rejection `invalid_cursor` for anything else."""
    try:
        if len(text) > CURSOR_LENGTH_MAX:
            raise ValueError("too long")
        cursor = _decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError) as error:
        raise Rejection("invalid_cursor", path="cursor") from error
    if cursor.fingerprint != of:
        raise Rejection("invalid_cursor", detail="The cursor is one of another list or other filters", path="cursor")
    return cursor
