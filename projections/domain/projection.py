"""What a projection is: a name, a version, its tables, and a pure function from an event and what is known to rows.

The worker supplies the rows that an event asks after and writes those it adds; a projection never reads, never writes, and
never knows whether an event came from Kafka or from the log.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from shared_kernel import events
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Event, Metadata
from shared_kernel.words import format_time, parse_time

Value = str | int | bool | None
Row = tuple[Value, ...]
"""Values in the order of a table's columns; times as `format_time` writes them, so that their order is that of the text."""
Rows = dict[str, list[Row]]
"""Rows by table."""
Key = tuple[Value, ...]
"""A table, and the values of its key columns; the first of these is always the ledger."""


class State(Protocol):
    """What stands in the tables just before the event: by key, the last row (what the table keeps of it), or None."""

    def __getitem__(self, key: Key, /) -> Row | None: ...


class Read(msgspec.Struct, frozen=True):
    """An event in its newest form beside what the log recorded; `at` is the recorded time as text."""

    recorded: RecordedEvent
    event: Event
    metadata: Metadata
    at: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of a projection.

    The first `key` columns (texts and times) name a subject, whose last row, by the columns of `order`, the state knows; 0: nobody
    asks. `kept`: how many of the last columns the state has, None for the whole row. `is_replaced`: a new row takes the place of
    the subject's old one; otherwise rows are only added. `is_large`: of such rows few are remembered.

    `position`: the column with the position that a row was added at; `until`: of a replaced table, the column with the position
    at which its row was replaced, once. By these two any two builds can be compared as of a position that both have reached.
    """

    columns: tuple[str, ...]
    key: int = 0
    order: tuple[str, ...] = ("position",)
    position: str = "position"
    until: str | None = None
    kept: int | None = None
    is_replaced: bool = False
    is_large: bool = False


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """One read model. A change of its rows or tables raises `version`: the next generation is then built from the log.

    `schema` is the SQL that makes the tables, in a schema of their own; `keys` makes their primary keys, by which the worker looks up
    last rows, and `indexes` what else readers need. Apart, so that a build can come to make them late: all at once, they cost a fifth.
    `project` gives the rows that an event adds, by table. It raises for an event it cannot take, and that ledger then waits.
    It may be called more than once for an event: what it finds missing in the state is fetched, and then it is asked again.
    """

    name: str
    version: int
    schema: str = ""
    keys: str = ""
    indexes: str = ""
    tables: Mapping[str, Table]
    project: Callable[[Read, State], Rows]


def read(recorded: RecordedEvent, at: str) -> Read:
    """The event decoded. UnknownEventType or msgspec.DecodeError where this version cannot read it."""
    return Read(
        recorded,
        events.decode(recorded.type, recorded.data),
        events.decode_metadata(recorded.metadata),
        at,
    )


def time_text(text: str) -> str:
    """A time that a client gave, as `format_time` writes it, which most are already. ValueError where it is none."""
    if len(text) == 27 and text[4] == text[7] == "-" and text[10] == "T" and text[19] == "." and text[26] == "Z":
        datetime.fromisoformat(text)
        return text
    return format_time(parse_time(text))
