"""How an answer goes out: with its position, its version, and how long it may be kept.

What a position names never changes as long as this generation of the read model lives: it may be kept by whoever asked, for a
bounded time, since an operator may repair or rebuild. Everything else is to be asked again, which an ETag makes cheap.
"""

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

from litestar import Request, Response
from litestar.datastructures import ResponseHeader, State
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from query_service.application.answers import AsOf
from query_service.application.query_handler import Asked, NotModified, Stamp
from query_service.presentation.parameters import POSITION_HEADER
from shared_kernel.security import Principal

FIXED_SECONDS = 3_600  # chosen: a repaired or rebuilt read model is seen by all after an hour at the latest
VARY = "Accept, Authorization, Prefer"

POSITIONED = (
    ResponseHeader(
        name=POSITION_HEADER,
        documentation_only=True,
        description="The position that the answer is as of: give it with the next query, and it is no older",
        required=True,
    ),
    ResponseHeader(
        name="ETag",
        documentation_only=True,
        description="Names this answer: position, generation of the read model, incarnation of the log. Give it as"
        " `If-None-Match`, and while nothing has changed you get 304 without a body",
        required=True,
    ),
    ResponseHeader(
        name="Cache-Control",
        documentation_only=True,
        description=f"`private, max-age={FIXED_SECONDS}, immutable` for a complete answer that a position names, else"
        " `private, no-cache`",
        required=True,
    ),
)


VERSIONED = (
    ResponseHeader(
        name="ETag",
        documentation_only=True,
        description="Names this answer, made of what names that of each ledger. Give it as `If-None-Match`, and while nothing has"
        " changed in any of them you get 304 without a body",
        required=True,
    ),
    ResponseHeader(
        name="Cache-Control", documentation_only=True, description="Always `private, no-cache`", required=True
    ),
)


class _AsOf(Protocol):
    @property
    def as_of(self) -> AsOf: ...


AnswerT = TypeVar("AnswerT", bound=_AsOf)
ManyT = TypeVar("ManyT")


class NoneModified(Exception):
    """Nothing has changed in any of several ledgers since the version that the client named."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.version = version


def answered(answer: AnswerT, stamp: Stamp, asked: Asked) -> Response[AnswerT]:
    """The answer, with the headers that say what it is as of. NotModified where the client has it."""
    return Response(answer, headers=headers(stamp, asked))


def headers(stamp: Stamp, asked: Asked) -> dict[str, str]:
    """The headers of every answer about one ledger. NotModified where the client has it."""
    if asked.has(asked.version(stamp)):
        raise NotModified(stamp, asked)
    return _headers(stamp, asked)


def on_not_modified(_: Request[Principal, object, State], unchanged: NotModified) -> Response[None]:
    """304: the client has the answer."""
    return Response(None, status_code=HTTP_304_NOT_MODIFIED, headers=_headers(unchanged.stamp, unchanged.asked))


def version_of_all(versions: Iterable[str]) -> str:
    """Names an answer about several ledgers by the versions of what it says of each."""
    return hashlib.sha256("\n".join(versions).encode()).hexdigest()


def answered_of_all(answer: ManyT, version: str, asked: Asked) -> Response[ManyT]:
    """An answer about several ledgers. NoneModified where the client has it."""
    require_modified(version, asked)
    return Response(answer, headers=_headers_of_all(version))


def require_modified(version: str, asked: Asked) -> None:
    """NoneModified where the client has this version of an answer about several ledgers."""
    if asked.has(version):
        raise NoneModified(version)


def on_none_modified(_: Request[Principal, object, State], unchanged: NoneModified) -> Response[None]:
    """304: the client has the answer."""
    return Response(None, status_code=HTTP_304_NOT_MODIFIED, headers=_headers_of_all(unchanged.version))


def _headers(stamp: Stamp, asked: Asked) -> dict[str, str]:
    is_kept = stamp.is_fixed and stamp.holds_up is None  # what an event was left out of is repaired one day
    keeping = f"private, max-age={FIXED_SECONDS}, immutable" if is_kept else "private, no-cache"
    return {
        POSITION_HEADER: str(stamp.position),
        "ETag": f'"{asked.version(stamp)}"',
        "Cache-Control": keeping,
        "Vary": VARY,
    }


def _headers_of_all(version: str) -> dict[str, str]:
    return {"ETag": f'"{version}"', "Cache-Control": "private, no-cache", "Vary": VARY}
