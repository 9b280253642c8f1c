"""The log of one ledger behind the `eventsourcing` library's DCB interface: synchronous, for import, checks and tools.

It calls the same SQL function as the fast client, so that the library's own conformance suite judges the log that serves.
Any type, UTF-8 data and tags; general conditions. The order of tags stands in the metadata, for reading back.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import msgspec
import psycopg
from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBReadResponse,
    DCBRecorder,
    DCBSequencedEvent,
    DCBSubscription,
)
from eventsourcing.persistence import IntegrityError, ProgrammingError
from psycopg.types.json import Jsonb

from shared_kernel.errors import DaybookError
from shared_kernel.event_log import calls
from shared_kernel.event_log.errors import LogUnavailable, OutcomeUnknown, from_sqlstate
from shared_kernel.event_log.types import Appended, Decision, NewEvent, RecordedEvent, Tail
from shared_kernel.postgres import connect, conninfo

PAGE_EVENTS_MAX: Final = 500
# Chosen: the net under LISTEN, and so the longest that a stopped subscription still blocks.
POLL_S: Final = 0.5
# Chosen: it waits for no answer that anybody waits for, and takes in whole logs.
STATEMENT_MS_MAX: Final = 120_000
LOCK_MS_MAX: Final = 10_000
_NO_TAIL: Final = Tail(events_max=0, bytes_max=0)

_Row = tuple[Any, ...]


class _KeptTags(msgspec.Struct):
    tags: list[str] | None = None


class PostgresLedgerRecorder(DCBRecorder):
    """One ledger's log. Safe to share between threads; calls take turns on one connection. Close it when done."""

    def __init__(self, url: str, ledger: str) -> None:
        self.url = url
        self.ledger = ledger
        self._turn = threading.Lock()
        self._connection: psycopg.Connection[_Row] | None = None
        self._incarnation: UUID | None = None

    def create(self) -> None:
        """The ledger exists, empty, without a LedgerOpened event. Needs the owner's rights: for tests and checks."""
        self._execute(calls.CREATE_HEAD, [self.ledger], is_write=True)

    def append(self, events: Sequence[DCBEvent], condition: DCBAppendCondition | None = None) -> int:
        """The events are in the log; answers the last one's position.

        Raises `IntegrityError` if an event matches the condition, `ProgrammingError` if there are no events.
        """
        if not events:
            raise ProgrammingError("an append needs at least one event")
        new = [
            NewEvent(
                type=event.type,
                data=event.data.decode(),
                metadata=msgspec.json.encode(_KeptTags(event.tags)).decode(),
                tags=event.tags,
            )
            for event in events
        ]
        appended, failed = self._append([Decision(group=0, events=new, fences=())], None, _NO_TAIL, condition)
        if failed:
            raise IntegrityError(condition)
        return appended.head

    def append_decisions(self, decisions: Sequence[Decision], *, seen: int | None, tail: Tail) -> Appended:
        """As `LogConnection.append`: the decisions of every group whose fences all hold are in the log, committed."""
        return self._append(decisions, seen, tail, None)[0]

    def read(
        self, query: DCBQuery | None = None, *, after: int | None = None, limit: int | None = None
    ) -> "LedgerReadResponse":
        """The matching events after `after`, read page by page, as of the head at the first look."""
        return LedgerReadResponse(self, query, after or 0, limit)

    def subscribe(self, query: DCBQuery | None = None, *, after: int | None = None) -> "LedgerSubscription":
        """The matching events after `after`, and then the new ones as they come."""
        return LedgerSubscription(self, query, after)

    def read_page(self, query: DCBQuery | None, after: int, events_max: int) -> tuple[int, list[DCBSequencedEvent]]:
        """The head, and the first `events_max` matching events after `after`, as of one moment."""
        rows = self._execute(calls.READ_MATCHING, [self.ledger, Jsonb(_items(query)), after, events_max])
        found = [row for row in rows if row[1] is not None]
        tags = {row[1]: kept for row in found if (kept := _kept_tags(row[4])) is not None}
        lacking = [row[1] for row in found if row[1] not in tags]
        if lacking:
            tags |= {row[0]: row[1] for row in self._execute(calls.READ_TAGS, [self.ledger, lacking])}
        events = [
            DCBSequencedEvent(
                event=DCBEvent(type=type_, data=data.encode(), tags=tags.get(position, [])), position=position
            )
            for _, position, type_, data, _ in found
        ]
        return (rows[0][0] if rows else 0), events

    def close(self) -> None:
        """The connection is closed; the next call would open another."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(
        self, decisions: Sequence[Decision], seen: int | None, tail: Tail, condition: DCBAppendCondition | None
    ) -> tuple[Appended, Sequence[int]]:
        flat = calls.flatten(decisions)
        conditions = None
        if condition is not None:
            items = _items(condition.fail_if_events_match)
            conditions = Jsonb([{"group": 0, "after": condition.after or 0, "items": items}])
        row = self._execute(
            calls.APPEND,
            [
                self._expected_incarnation(), self.ledger, seen, tail.events_max, tail.bytes_max,
                flat.fence_groups, flat.fence_tags, flat.fence_afters,
                flat.event_groups, flat.event_types, flat.event_data, flat.event_metadata,
                flat.tag_events, flat.tags, conditions, None, None,
            ],
            is_write=True,
        )[0]  # fmt: skip
        appended = Appended(
            is_behind=row[0],
            base=row[1],
            head=row[2],
            recorded_at=row[3].astimezone(UTC),
            failed=flat.failed(row[4] or ()),
            tail=[
                RecordedEvent(
                    ledger=self.ledger,
                    position=position,
                    type=type_,
                    data=data,
                    metadata=metadata,
                    recorded_at=recorded_at.astimezone(UTC),
                )
                for position, type_, data, metadata, recorded_at in zip(
                    *(column or () for column in row[5:10]), strict=True
                )
            ],
        )
        if appended.head > appended.base:
            # A statement of its own: NOTIFY inside an append would serialise the commits of the whole server.
            self._execute(calls.NOTIFY, [calls.APPENDED_CHANNEL, [self.ledger]])
        return appended, row[10] or ()

    def _expected_incarnation(self) -> UUID:
        if self._incarnation is None:
            self._incarnation = self._execute(calls.READ_INCARNATION, [])[0][0]
        return self._incarnation

    def _execute(self, statement: str, parameters: Sequence[object], *, is_write: bool = False) -> list[_Row]:
        with self._turn:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(conninfo(self.url, statement_ms=STATEMENT_MS_MAX, lock_ms=LOCK_MS_MAX))
                cursor = psycopg.RawCursor(self._connection)
                return cursor.execute(statement.encode(), parameters).fetchall()
            except psycopg.Error as error:
                raise self._translated(error, is_write=is_write) from None

    def _translated(self, error: psycopg.Error, *, is_write: bool) -> DaybookError:
        if self._connection is None:
            return LogUnavailable("connect_failed")
        if not self._connection.closed:  # without a state the driver refused it before it was sent
            return from_sqlstate(error.sqlstate or "22000")
        self._connection.close()
        return OutcomeUnknown("connection_lost") if is_write else LogUnavailable("connection_lost")


class LedgerReadResponse(DCBReadResponse):
    """Matching events up to the head of the first look. Positions have no gaps and rows never change: pages agree."""

    def __init__(self, recorder: PostgresLedgerRecorder, query: DCBQuery | None, after: int, limit: int | None) -> None:
        self._recorder = recorder
        self._query = query
        self._limit = limit
        first = PAGE_EVENTS_MAX if limit is None else min(limit, PAGE_EVENTS_MAX)
        head, page = recorder.read_page(query, after, first)
        self._log_head = head
        self._last: int | None = None
        self._events = self._pages(page, first)

    @property
    def head(self) -> int | None:
        """Without a limit the ledger's head, with one the position of the last event read; None where there is none."""
        if self._limit is None:
            return self._log_head or None
        return self._last

    def __next__(self) -> DCBSequencedEvent:
        event = next(self._events)
        self._last = event.position
        return event

    def _pages(self, page: list[DCBSequencedEvent], asked: int) -> Iterator[DCBSequencedEvent]:
        left = self._limit
        while True:
            for event in page:
                if event.position > self._log_head:
                    return
                yield event
            if left is not None:
                left -= len(page)
            if len(page) < asked or left == 0:
                return
            asked = PAGE_EVENTS_MAX if left is None else min(left, PAGE_EVENTS_MAX)
            _, page = self._recorder.read_page(self._query, page[-1].position, asked)


class LedgerSubscription(DCBSubscription[PostgresLedgerRecorder]):
    """Blocks for the next matching event. It listens before it looks: an append between the two still wakes it."""

    def __init__(self, recorder: PostgresLedgerRecorder, query: DCBQuery | None, after: int | None) -> None:
        super().__init__(recorder=recorder, query=query, after=after)
        self._page: list[DCBSequencedEvent] = []
        self._waiting = threading.Lock()
        self._listener = connect(conninfo(recorder.url))
        self._listener.execute(f"listen {calls.APPENDED_CHANNEL}".encode())

    def __next__(self) -> DCBSequencedEvent:
        while not self._has_been_stopped:
            if not self._page:
                _, page = self._recorder.read_page(self._query, self._last_position, PAGE_EVENTS_MAX)
                self._page = page[::-1]
            if self._page:
                event = self._page.pop()
                self._last_position = event.position
                return event
            self._wait()
        raise StopIteration

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        with self._waiting:
            self._listener.close()

    def _wait(self) -> None:
        with self._waiting:
            if self._has_been_stopped:
                return
            for notice in self._listener.notifies(timeout=POLL_S):
                if notice.payload == self._recorder.ledger or self._has_been_stopped:
                    return


def _items(query: DCBQuery | None) -> list[dict[str, list[str]]]:
    return [{"types": item.types, "tags": item.tags} for item in (query.items if query is not None else ())]


def _kept_tags(metadata: str) -> list[str] | None:
    try:
        return msgspec.json.decode(metadata, type=_KeptTags).tags
    except msgspec.DecodeError:
        return None
