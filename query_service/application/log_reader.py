"""Reads the event log in pieces: a page for a list, one piece after another for streams and exports, and then what follows.

Every piece is one bounded statement, so that a reader, however slow, holds one piece and no connection while it does
something else. It knows no SQL and no HTTP; what a ledger's log holds never changes, so pieces agree with each other.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from query_service.application.log_questions import LOG, TAGGED_LOG, LogRow
from query_service.application.pages import POSITION_MAX
from query_service.application.query_handler import Arrival, Asked, QueryHandler, Stamp, Value
from query_service.application.questions import Order
from shared_kernel.errors import Corruption, Rejection
from shared_kernel.event_log.types import RecordedEvent

SCAN_EVENTS_MAX = 10_000  # chosen: about 50 ms of looking where the filter reads each event's metadata
PAGE_BYTES_MAX = 8_000_000  # chosen: a page of ordinary events is a tenth of it
PIECE_EVENTS_MAX = 500
PIECE_BYTES_MAX = 256 * 1024  # chosen: what one slow reader may hold
FOLLOW_EVERY_MS = 20  # chosen: at most 50 looks a second for each that follows a ledger


class LogFilter(NamedTuple):
    """Which events of a ledger. All of `tags` (two at most), one of `types`; None and empty: all."""

    from_position: int = 1
    to_position: int = POSITION_MAX
    tags: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    actor: str | None = None
    correlation_id: str | None = None

    @property
    def is_sparse(self) -> bool:
        """True if a row that is looked at may not fit."""
        return bool(self.types or self.actor is not None or self.correlation_id is not None or len(self.tags) > 1)

    def query(self) -> tuple[str | int | None, ...]:
        """Names the list, for its cursors."""
        return (
            self.from_position,
            self.to_position,
            *self.tags,
            "types",
            *self.types,
            "who",
            self.actor,
            self.correlation_id,
        )


class Piece(NamedTuple):
    """Some events in order. `next_position`: after which to go on, None where the range was looked through."""

    events: Sequence[RecordedEvent]
    next_position: int | None
    stamp: Stamp


class Announcements(Protocol):
    """Tells when a ledger's log has grown. A hint: the log decides."""

    def expect(self, ledger: str) -> AbstractContextManager[Arrival]:
        """From here on an append to the ledger wakes the arrival."""
        ...


class LogReader:
    """Reads any ledger's log, with at most `reads_max` statements of streams at once, so that queries are not held up."""

    def __init__(
        self,
        handler: QueryHandler,
        announcements: Announcements,
        *,
        primary: QueryHandler,
        reads_max: int,
        poll_ms: int,
    ) -> None:
        self._handler = handler
        self._primary = primary
        self._announcements = announcements
        self._reads = asyncio.Semaphore(reads_max)
        self._poll_ms = poll_ms

    async def page(
        self,
        asked: Asked,
        wanted: LogFilter,
        *,
        after: int,
        order: Order = "oldest",
        events_max: int,
        bytes_max: int = PAGE_BYTES_MAX,
        is_following: bool = False,
    ) -> Piece:
        """The next events that fit, `events_max` at most. There may be fewer, or none, and still more to come: a filter is
        looked through SCAN_EVENTS_MAX events at a time. `is_following`: what was announced must be there. Errors as
        `QueryHandler.ask`.
        """
        rows_max = events_max + 1  # one more tells whether there is another page
        parameters: dict[str, Value] = {
            "from_position": wanted.from_position,
            "to_position": wanted.to_position,
            "after_position": after,
            "types": list(wanted.types) or None,
            "actor": wanted.actor,
            "correlation_id": wanted.correlation_id,
            "limit": rows_max,
            "scan_max": SCAN_EVENTS_MAX if wanted.is_sparse else rows_max,
            "bytes_max": bytes_max,
        }
        if wanted.tags:
            parameters["tag"], *others = wanted.tags
            parameters["other_tag"] = others[0] if others else None
        handler = self._primary if is_following else self._handler
        snapshot = await handler.ask((TAGGED_LOG if wanted.tags else LOG)[order], asked, **parameters)
        rows = [row for row in snapshot.rows if row.position is not None]
        shown = rows[:events_max]
        return Piece(
            [_event(asked.ledger or "", row) for row in shown],
            _next(snapshot.rows, rows, shown, bytes_max),
            snapshot.stamp,
        )

    async def event(self, asked: Asked, position: int) -> tuple[RecordedEvent, Stamp]:
        """The event at a position, and the stamp of an answer that this position names. Rejection `event_not_found`."""
        # Without the versions that the client has: they are of the event, and a stamp alone would be of the head.
        piece = await self.page(
            asked._replace(known=frozenset()),
            LogFilter(from_position=position, to_position=position),
            after=0,
            events_max=1,
        )
        if not piece.events:
            raise Rejection("event_not_found", position=position)
        event = piece.events[0]
        return event, piece.stamp._replace(position=position, recorded_at=event.recorded_at, is_fixed=True)

    async def pieces(self, asked: Asked, wanted: LogFilter) -> AsyncGenerator[Piece, None]:
        """All that fits, oldest first, up to the head of the first look: its position is what the whole is as of."""
        piece = await self._read(asked, wanted, 0)
        stamp = piece.stamp
        wanted = wanted._replace(to_position=min(wanted.to_position, stamp.position or 0))
        # The position with every piece: one that was read where the log is shorter would pass for the end.
        asked = Asked(ledger=asked.ledger, position=stamp.position)
        while True:
            yield piece
            if piece.next_position is None:
                return
            piece = await self._read(asked, wanted, piece.next_position)
            _require_same_log(stamp, piece.stamp)

    async def follow(self, asked: Asked, wanted: LogFilter, *, after: int, idle_ms: int) -> AsyncGenerator[Piece, None]:
        """All that fits and stands after `after`, oldest first, then what is appended, for as long as somebody asks for more.

        The first piece comes at once. One without events comes where there was nothing new for `idle_ms`, and where a sparse
        filter takes long.
        """
        ledger = asked.ledger or ""
        now = asyncio.get_running_loop().time
        first: Stamp | None = None
        with self._announcements.expect(ledger) as arrival:
            quiet_since = now()
            while True:
                piece = await self._read(asked, wanted, after, is_following=True)
                is_first = first is None
                first = first or piece.stamp
                _require_same_log(first, piece.stamp)
                asked = Asked(ledger=ledger)
                after = piece.next_position or max(after, min(piece.stamp.head or 0, wanted.to_position))
                is_idle = (now() - quiet_since) * 1000 >= idle_ms
                if piece.events or piece.next_position or is_idle or is_first:
                    yield piece
                    quiet_since = now()
                if piece.next_position is None:
                    if after >= wanted.to_position:
                        return
                    await arrival.wait(min(self._poll_ms, idle_ms))
                    # What a busy ledger appends in the meantime comes in the same piece.
                    await asyncio.sleep(FOLLOW_EVERY_MS / 1000)

    async def _read(self, asked: Asked, wanted: LogFilter, after: int, *, is_following: bool = False) -> Piece:
        async with self._reads:
            return await self.page(
                asked,
                wanted,
                after=after,
                events_max=PIECE_EVENTS_MAX,
                bytes_max=PIECE_BYTES_MAX,
                is_following=is_following,
            )


def _next(found: Sequence[LogRow], rows: Sequence[LogRow], shown: Sequence[LogRow], bytes_max: int) -> int | None:
    """After which position the next look begins: the last one shown where the look was cut short, else the last one looked at."""
    if len(rows) > len(shown) or _bytes(shown) >= bytes_max:
        return shown[-1].position
    return found[0].scanned or None if found else None


def _bytes(rows: Sequence[LogRow]) -> int:
    return sum(len(row.data.encode()) + len(row.metadata.encode()) for row in rows)


def _event(ledger: str, row: LogRow) -> RecordedEvent:
    return RecordedEvent(
        ledger=ledger,
        position=row.position or 0,
        type=row.type,
        data=row.data,
        metadata=row.metadata,
        recorded_at=row.recorded_at,
    )


def _require_same_log(first: Stamp, now: Stamp) -> None:
    """A stream whose log was restored in between would be half of each."""
    if first.incarnation != now.incarnation:
        raise Corruption("incarnation_changed")
