"""The event log read set-wise: many ledgers in one statement, bounded in events and bytes."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Generic, TypeVar, cast

from projections.infrastructure.postgres import STATEMENTS, Database
from shared_kernel.event_log import binary
from shared_kernel.event_log.types import RecordedEvent

T = TypeVar("T")


class PostgresLog:
    """The log, from the primary: a replica may lack what was committed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def incarnation(self) -> str:
        """The log's incarnation as text."""
        with self._database.session() as session:
            [(incarnation,)] = session.execute(STATEMENTS["incarnation"]).fetchall()
        return str(incarnation)

    def read(self, after: Mapping[str, int], *, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """Events after the given positions, in order within each ledger; every ledger has its share of the batch."""
        if not after:
            return []
        parameters = (
            binary.text_array(list(after)),
            binary.int8_array(list(after.values())),
            binary.int8(max(events_max // len(after), 1)),
            binary.int8(events_max),
            binary.int8(bytes_max),
        )
        with self._database.session():
            result = self._database.wire.ask("events_after_each", parameters)
        value = cast("Callable[[int, int], bytes]", result.get_value)  # no column holds a null
        text, time = _Once[str](bytes.decode), _Once[datetime](binary.read_time)  # most of a batch have these in common
        return [
            RecordedEvent(
                ledger=text[value(row, 0)],
                position=int.from_bytes(value(row, 1)),
                type=text[value(row, 2)],
                data=value(row, 3).decode(),
                metadata=value(row, 4).decode(),
                recorded_at=time[value(row, 5)],
            )
            for row in range(result.ntuples)
        ]


class _Once(dict[bytes, T], Generic[T]):
    """What each value reads as: read once."""

    def __init__(self, read: Callable[[bytes], T]) -> None:
        self._read = read

    def __missing__(self, value: bytes) -> T:
        found = self[value] = self._read(value)
        return found
