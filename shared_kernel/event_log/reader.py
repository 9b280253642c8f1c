"""Reading the log: statements and the one decoder of their rows, for processes that bring their own connection.

Relay, projectors, queries and the command line execute these each in their own way (sync or async); nothing here does
I/O. A session that reads much should start with `SESSION_OPTIONS`.
"""

from datetime import UTC, datetime
from typing import Final

from shared_kernel.event_log.statements import load_statements
from shared_kernel.event_log.types import RecordedEvent

EventRow = tuple[int, str, str, str, datetime]
"""position, type, data, metadata, recorded_at"""

_STATEMENTS: Final = load_statements("shared_kernel.event_log", "reader.sql")

INCARNATION: Final = _STATEMENTS["incarnation"]
"""One row: the log's incarnation (UUID)."""

HEADS: Final = _STATEMENTS["heads"]
"""Every ledger in byte order: (ledger, position, recorded_at)."""

HEAD: Final = _STATEMENTS["head"]
"""`ledger` → (position, recorded_at); no row: no such ledger."""

EVENTS_AFTER: Final = _STATEMENTS["events_after"]
"""`ledger`, `after`, `events_max` → event rows by position."""

TAGGED_EVENTS_AFTER: Final = _STATEMENTS["tagged_events_after"]
"""`ledger`, `tag`, `after`, `events_max` → event rows by position."""

EVENT_AT: Final = _STATEMENTS["event_at"]
"""`ledger`, `position` → at most one event row."""

POSITION_AS_OF: Final = _STATEMENTS["position_as_of"]
"""`ledger`, `at` → one row: the last position recorded at or before `at`; 0: none yet; null: no such ledger."""

SESSION_OPTIONS: Final = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"
"""libpq `options` for sessions that keep prepared statements on the log: their plans then never depend on statistics.

A statement planned while its table was empty would otherwise keep a sequential scan (measured: a factor of four).
"""


def recorded(ledger: str, row: EventRow) -> RecordedEvent:
    """The event of a row; its time in UTC, whatever the session's zone."""
    position, type_, data, metadata, recorded_at = row
    return RecordedEvent(
        ledger=ledger,
        position=position,
        type=type_,
        data=data,
        metadata=metadata,
        recorded_at=recorded_at.astimezone(UTC),
    )
