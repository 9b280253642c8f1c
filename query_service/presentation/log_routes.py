"""The event log for auditors: as pages of JSON, as NDJSON in one go, or as server-sent events that follow it. One address, three
media types: what the client accepts decides.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIResponse, Operation, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import HeaderParameter, QueryParameter

from query_service.application import answers, shaping
from query_service.application.cursors import Cursor, write_cursor
from query_service.application.log_reader import LogFilter, LogReader, Piece
from query_service.application.pages import LIMIT_DEFAULT, POSITION_MAX, Page
from query_service.application.query_handler import Asked, NotModified, Stamp
from query_service.presentation import log_examples
from query_service.presentation.parameters import (
    POSITION_HEADER,
    AccountFilter,
    CursorText,
    FromPosition,
    Limit,
    OrderBy,
    PositionPath,
    Reading,
    TagFilter,
    ToPosition,
    auditor,
    preferred,
)
from query_service.presentation.responses import POSITIONED, VARY, answered, headers, on_not_modified
from query_service.presentation.streams import Pieces, StreamedAnswer, Streams
from shared_kernel import tags
from shared_kernel.errors import Rejection
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from shared_kernel.words import format_time, is_address

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"
MEDIA_TYPES: Final = (JSON, NDJSON, EVENT_STREAM)
TYPES_MAX: Final = 20  # chosen: nearly all types there are
IDLE_MS: Final = 15_000  # chosen: proxies give up a silent connection after a minute or so
RETRY_MS: Final = 1_000
FOLLOWED_SECONDS_MAX: Final = 900  # chosen: so often is a follower's token looked at again, when it comes back
_NO_NUL = r"^[^\x00]*$"

TypesFilter = Annotated[
    str | None,
    QueryParameter(
        name="type",
        required=False,
        pattern=_NO_NUL,
        max_length=1_000,
        examples=[Example(value="TransactionPosted.v1,HoldPosted.v1")],
        description="Only these types, separated by commas: TransactionPosted.v1,HoldPosted.v1",
    ),
]
ActorFilter = Annotated[
    str | None,
    QueryParameter(
        name="actor",
        required=False,
        pattern=_NO_NUL,
        max_length=300,
        examples=[Example(value="local-writer")],
        description="Only what this token subject asked for, and `clock` for what Daybook did by itself",
    ),
]
CorrelationFilter = Annotated[
    str | None,
    QueryParameter(
        name="correlation_id",
        required=False,
        pattern=_NO_NUL,
        max_length=300,
        examples=[Example(value="4bf92f35")],
        description="Only events of the request with this X-Correlation-Id or X-Request-Id",
    ),
]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        required=False,
        examples=[Example(value="17-0199d5a2-0f3c-7b1d-9a54-2c8e6d7f1a03")],
        description="For `text/event-stream`: go on after this event. Browsers send it by themselves",
    ),
]


class Negotiated(Operation):
    """Describes the two media types that the answer may have besides JSON."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            for media_type, text in log_examples.STREAMED.items():
                answer.content[media_type] = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, description=text))


class Log(Controller):
    """One ledger's events, from the log itself."""

    path = "/v1/ledgers/{ledger:str}/events"
    tags = ("log",)
    dependencies = {"asked": Provide(auditor, sync_to_thread=False)}  # noqa: RUF012
    response_headers = POSITIONED
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012

    @get(
        "/",
        summary="Events by position, tag, account, type, caller and request",
        description=log_examples.EVENTS,
        operation_class=Negotiated,
    )
    async def events(
        self,
        *,
        log: NamedDependency[LogReader],
        streams: NamedDependency[Streams],
        request: Reading,
        asked: NamedDependency[Asked],
        from_position: FromPosition = 1,
        to_position: ToPosition = None,
        tag: TagFilter = None,
        account: AccountFilter = None,
        type: TypesFilter = None,  # noqa: A002 - the parameter's name in the API
        actor: ActorFilter = None,
        correlation_id: CorrelationFilter = None,
        order: OrderBy = "oldest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
        last_event_id: LastEventId = None,
    ) -> Response[answers.EventList]:
        """The canonical lines: a page of them, all of them, or all of them and those that follow."""
        wanted = LogFilter(
            from_position=from_position,
            to_position=POSITION_MAX if to_position is None else to_position,
            tags=_tags(tag, account),
            types=_types(type),
            actor=actor,
            correlation_id=correlation_id,
        )
        # Whoever has read everything asks for what comes next: one position beyond the head.
        asked = asked._replace(position=max(asked.position or 0, from_position - 1) or None)
        media_type = preferred(request.headers.get("accept"), MEDIA_TYPES)
        if media_type != JSON:
            _refuse_page_parameters(request, media_type)
            streams.require_room()
            if media_type == NDJSON:
                return await _ndjson(log, streams, asked._replace(at_position=to_position), wanted)
            return await _followed(log, streams, asked, wanted, last_event_id)
        asked = asked._replace(at_position=to_position)
        page = Page.of_list("events", asked.ledger, order, *wanted.query(), limit=limit, cursor=cursor)
        piece = await log.page(
            asked._replace(cursor=page.cursor),
            wanted,
            after=page.after(order).position,
            order=order,
            events_max=page.limit,
        )
        answer = answers.EventList(
            data=[_shown(event) for event in piece.events],
            next_cursor=_next_cursor(page, piece),
            as_of=shaping.as_of(piece.stamp),
            complete=True,
        )
        return answered(answer, piece.stamp, asked)

    @get("/{position:str}", summary="One event", description=log_examples.EVENT)
    async def event(
        self, *, log: NamedDependency[LogReader], asked: NamedDependency[Asked], position: PositionPath
    ) -> Response[answers.EventAnswer]:
        """By its position."""
        number = int(position) if position.isascii() and position.isdigit() and len(position) < 19 else 0
        event, stamp = await log.event(asked, number)
        answer = answers.EventAnswer(event=_shown(event), as_of=shaping.as_of(stamp), complete=True)
        return answered(answer, stamp, asked)


LOG_ROUTES = (Log,)


async def _ndjson(log: LogReader, streams: Streams, asked: Asked, wanted: LogFilter) -> StreamedAnswer:
    asked = asked._replace(variant="-ndjson")
    pieces = log.pieces(asked, wanted)
    first = await anext(pieces)

    async def lines() -> Pieces:
        async for piece in begun(first, pieces):
            if piece.events:
                yield "".join(f"{canonical_line(event)}\n" for event in piece.events).encode()

    return StreamedAnswer(lines(), streams, media_type=NDJSON, headers=headers(first.stamp, asked))


async def _followed(
    log: LogReader, streams: Streams, asked: Asked, wanted: LogFilter, last_event_id: str | None
) -> StreamedAnswer:
    after, incarnation = _resumed(last_event_id)
    # An event that the log does not hold cannot be gone on after.
    asked = asked._replace(position=max(after, asked.position or 0) or None, known=frozenset())
    pieces = log.follow(asked, wanted, after=after, idle_ms=IDLE_MS)
    first = await anext(pieces)
    if incarnation and incarnation != first.stamp.incarnation:
        raise Rejection(
            "invalid_cursor", detail="The event is from before the database was restored", path="Last-Event-ID"
        )

    async def messages() -> Pieces:
        now = asyncio.get_running_loop().time
        ends_at = now() + FOLLOWED_SECONDS_MAX
        yield f"retry: {RETRY_MS}\n\n".encode()
        async for piece in begun(first, pieces):
            yield "".join(_message(event, piece.stamp) for event in piece.events).encode() or b": nothing new\n\n"
            if now() >= ends_at:
                return

    return StreamedAnswer(
        messages(),
        streams,
        media_type=EVENT_STREAM,
        headers={
            POSITION_HEADER: str(first.stamp.position),
            "Cache-Control": "no-store",
            "Vary": VARY,
            "X-Accel-Buffering": "no",
        },
        is_endless=True,
    )


async def begun(first: Piece, others: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """The piece that was read before the answer could begin, and the others; closes them when it is closed."""
    async with aclosing(others):
        yield first
        async for piece in others:
            yield piece


def _message(event: RecordedEvent, stamp: Stamp) -> str:
    """One server-sent event (HTML Living Standard §9.2). A canonical line holds no line end."""
    return f"id: {event.position}-{stamp.incarnation}\nevent: {event.type}\ndata: {canonical_line(event)}\n\n"


def _shown(event: RecordedEvent) -> answers.Event:
    return answers.Event(
        ledger=event.ledger,
        position=event.position,
        type=event.type,
        recorded_at=format_time(event.recorded_at),
        metadata=msgspec.Raw(event.metadata),
        data=msgspec.Raw(event.data),
    )


def _next_cursor(page: Page, piece: Piece) -> str | None:
    if piece.next_position is None:
        return None
    return write_cursor(
        Cursor(
            fingerprint=page.of,
            incarnation=piece.stamp.incarnation,
            position=piece.stamp.position or 1,
            number=piece.next_position,
        )
    )


def _refuse_page_parameters(request: Reading, media_type: str) -> None:
    for name in ("order", "limit", "cursor"):
        if name in request.query_params:
            raise Rejection("invalid_request", detail=f"{media_type} has no pages: oldest first, to the end", path=name)


def _tags(tag: str | None, account: str | None) -> tuple[str, ...]:
    if account is not None and not is_address(account):
        raise Rejection("invalid_request", detail="Not an address", path="account")
    given = (tag, None if account is None else tags.account_tag(account))
    return tuple(dict.fromkeys(each for each in given if each is not None))


def _types(text: str | None) -> tuple[str, ...]:
    types = () if text is None else tuple(dict.fromkeys(text.split(",")))
    if len(types) > TYPES_MAX or "" in types:
        raise Rejection("invalid_request", detail=f"1 to {TYPES_MAX} types, separated by commas", path="type")
    return types


def _resumed(last_event_id: str | None) -> tuple[int, str]:
    """Position and incarnation of the event that was received last: 0 and no text for none. A bare position is taken too."""
    if not last_event_id:
        return 0, ""
    position, _, incarnation = last_event_id.partition("-")
    if not (position.isascii() and position.isdigit() and len(position) < 19):
        raise Rejection("invalid_request", detail="Not the id of an event of this stream", path="Last-Event-ID")
    return int(position), incarnation
