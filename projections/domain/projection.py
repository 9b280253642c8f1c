"""What a projection is: a name, a version, its tables, and a pure function from an event and totals to rows.

The worker supplies the state that an event touches and writes the rows; a projection never reads, never writes, and
never knows whether an event came from Kafka or from the log.
"""

from collections.abc import Callable, Mapping

import msgspec

from shared_kernel import events
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Event, Metadata

Value = str | int | bool | None
Row = tuple[Value, ...]
"""Values in the order of a table's columns; times as RFC 3339 text (the driver takes three times as long for datetimes)."""
Key = tuple[str, ...]
"""What a running state belongs to; the first part is always the ledger."""
Totals = tuple[int, ...]
State = Mapping[Key, Totals]


class Read(msgspec.Struct, frozen=True):
    """An event in its newest form beside what the log recorded."""

    recorded: RecordedEvent
    event: Event
    metadata: Metadata


class Change(msgspec.Struct, frozen=True):
    """What one event does to a read model: rows to add, by table, and the state after it."""

    rows: dict[str, list[Row]]
    totals: dict[Key, Totals]


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """One read model. A change of its rows or tables raises `version`: the next generation is then built from the log.

    `tables` maps each table to its columns, in the order of its rows. `keys` names the state that `project` will look up;
    an absent key begins as `zero`. Both raise for an event they cannot take, and that ledger then waits.
    """

    name: str
    version: int
    tables: Mapping[str, tuple[str, ...]]
    zero: Totals
    keys: Callable[[Read], list[Key]]
    project: Callable[[Read, State], Change]


def read(recorded: RecordedEvent) -> Read:
    """The event decoded. UnknownEventType or msgspec.DecodeError where this version cannot read it."""
    return Read(
        recorded,
        events.decode(recorded.type, recorded.data),
        events.decode_metadata(recorded.metadata),
    )
