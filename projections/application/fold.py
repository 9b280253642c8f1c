"""Folds a batch of events into rows in memory, ledger by ledger; what a projection cannot take ends its ledger's run there.

Keeps the last rows of busy subjects in a bounded cache, so that each is read once. The cache is right only while nobody else
moves its ledgers: whoever learns otherwise clears it.
"""

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePath

import msgspec

from projections.application.ports import Fault
from projections.domain.projection import Key, Projection, Read, Row, Rows, Table, read
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import UnknownEventType, decode_metadata
from shared_kernel.words import format_time

Runs = Mapping[str, Sequence[RecordedEvent]]
"""For each ledger the events to apply next: consecutive, beginning just after its position."""
Known = dict[Key, Row | None]
"""Last rows by key, as far as a table keeps them; None: there is none."""

_PASSING = (UnknownEventType, Contention, Unavailable, OSError, MemoryError)
LARGE_SHARE = 16  # chosen: a row of a large table counts as this many others


Skips = Mapping[str, Collection[int]]
"""For each ledger the positions of events that are passed without being projected."""


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a batch: rows by table, how far each ledger came (and when that was recorded), faults by ledger, and the
    events (ledger, position) that were left out.
    """

    rows: Rows
    reached: dict[str, tuple[int, datetime]]
    faults: dict[str, Fault]
    skipped: list[tuple[str, int]]
    known: Known


class RowCache:
    """Last rows by key, the least recently folded dropped first. `rows_max` bounds each of its two halves.

    Complete: it began with an empty read model and forgot nothing since, so that what it does not know is not there.
    """

    def __init__(self, tables: Mapping[str, Table], rows_max: int) -> None:
        self._halves: dict[str, tuple[Known, Known]] = {}
        self._complete: set[str] = set()
        self._bounds = {
            name: max(rows_max // LARGE_SHARE, 1) if table.is_large else rows_max
            for name, table in tables.items()
            if table.key
        }
        self.clear()

    def find(self, key: Key) -> Row | None:
        """The last row, or None where there is none; KeyError where nothing is known."""
        name = str(key[0])
        young, old = self._halves[name]
        if key in young:
            return young[key]
        if key in old or name not in self._complete:
            return old[key]
        return None

    def keep(self, known: Mapping[Key, Row | None], *, is_more: bool = False) -> None:
        """Remembers what was folded. `is_more`: of the same batch as the last time, of which nothing is forgotten meanwhile."""
        for name, (young, old) in self._halves.items():
            if not is_more and len(young) > self._bounds[name]:
                self._halves[name] = ({}, young)
                if old:
                    self._complete.discard(name)
        halves = {name: young for name, (young, _) in self._halves.items()}
        for key, row in known.items():
            halves[key[0]][key] = row  # type: ignore[index]

    def clear(self, *, is_complete: bool = False) -> None:
        """Forgets everything. `is_complete`: the read model is empty, and nobody else writes it."""
        self._halves = {name: ({}, {}) for name in self._bounds}
        self._complete = set(self._bounds) if is_complete else set()


class _State(dict[Key, Row | None]):
    """What a batch has met: from the cache, or missing and taken for absent until it is fetched."""

    def __init__(self, cache: RowCache, fetched: Known) -> None:
        super().__init__(fetched)
        self._find = cache.find
        self.missing: list[Key] = []

    def __missing__(self, key: Key) -> Row | None:
        try:
            row = self._find(key)
        except KeyError:
            self.missing.append(key)
            row = None
        self[key] = row
        return row


def fold(
    projection: Projection,
    runs: Runs,
    *,
    cache: RowCache,
    load: Callable[[Sequence[Key]], Mapping[Key, Row]],
    skips: Skips,
) -> Folded:
    """The rows of all runs, with as few reads (`load`) as there are steps from one missing row to the next. Changes nothing.

    What is not known is taken for absent; only where a read proves that wrong is the batch folded once more.
    """
    decoded, unread = _decoded(runs, skips)
    fetched: Known = {}
    while True:
        state = _State(cache, fetched)
        folded = _folded(projection, decoded, state)
        missing = [key for key in state.missing if key not in fetched]
        found = load(missing) if missing else {}
        fetched.update(dict.fromkeys(missing))
        fetched.update(found)
        if not found:
            for ledger, fault in unread.items():
                folded.faults.setdefault(ledger, fault)  # one in projecting stands before it
            return folded


def parts(runs: Runs, events_max: int) -> Iterator[dict[str, Sequence[RecordedEvent]]]:
    """The runs in the same order, so many events at once."""
    part: dict[str, Sequence[RecordedEvent]] = {}
    room = events_max
    for ledger, run in runs.items():
        begin = 0
        while begin < len(run):
            part[ledger] = run[begin : begin + room]
            begin += len(part[ledger])
            room -= len(part[ledger])
            if not room:
                yield part
                part, room = {}, events_max
    if part:
        yield part


def _decoded(runs: Runs, skips: Skips) -> tuple[dict[str, list[Read | RecordedEvent]], dict[str, Fault]]:
    """What each ledger's events say, up to its first unreadable one. An event to leave out stands there as it was recorded."""
    faults: dict[str, Fault] = {}
    decoded: dict[str, list[Read | RecordedEvent]] = {}
    last_at, last_text = None, ""
    for ledger, run in runs.items():
        reads = decoded[ledger] = []
        left_out = skips.get(ledger, ())
        for event in run:
            if left_out and event.position in left_out:
                reads.append(event)
                continue
            if event.recorded_at != last_at:  # the events of one append have one time, and writing it is not cheap
                last_at, last_text = event.recorded_at, format_time(event.recorded_at)
            try:
                reads.append(read(event, last_text))
            except Exception as error:  # whatever nobody can read, its ledger stands still for
                faults[ledger] = fault_of(event, error)
                break
    return decoded, faults


def _folded(projection: Projection, decoded: Mapping[str, Iterable[Read | RecordedEvent]], state: _State) -> Folded:
    project, tables = projection.project, projection.tables
    keys = {
        name: ((name,), slice(table.key), slice(None if table.kept is None else -table.kept, None))
        for name, table in tables.items()
        if table.key
    }
    rows: Rows = {name: [] for name in tables}
    reached: dict[str, tuple[int, datetime]] = {}
    faults: dict[str, Fault] = {}
    skipped: list[tuple[str, int]] = []
    for ledger, reads in decoded.items():
        last = None
        for each in reads:
            if isinstance(each, RecordedEvent):
                skipped.append((ledger, each.position))
                last = each
                continue
            try:
                added = project(each, state)
            except Exception as error:  # whatever a projection cannot take, its ledger stands still for
                faults[ledger] = fault_of(each.recorded, error)
                break
            for name, more in added.items():
                rows[name] += more
                if name in keys:
                    of_table, subject, kept = keys[name]
                    for row in more:
                        state[of_table + row[subject]] = row[kept]
            last = each.recorded
        if last is not None:
            reached[ledger] = (last.position, last.recorded_at)
    for name, table in tables.items():
        if table.is_replaced:
            rows[name] = last_of_each(table, rows[name])
    return Folded(rows=rows, reached=reached, faults=faults, skipped=skipped, known=state)


def last_of_each(table: Table, rows: Iterable[Row]) -> list[Row]:
    """Of a replaced table's rows, the last of each subject."""
    return list({row[: table.key]: row for row in rows}.values())


def fault_of(event: RecordedEvent, error: Exception) -> Fault:
    """Why this event cannot be applied, without a word of what it says: only codes, types and places in the code.

    Final, unless a neighbour was at fault, or this software is older than the event: then it may go on later by itself.
    """
    if isinstance(error, DaybookError):
        parts = [error.code, *(f"{name}={value}" for name, value in error.fields.items())]
        text = " ".join(parts)
    else:
        text = f"{event.type} cannot be applied{_place(error)}"
    return Fault(
        ledger=event.ledger,
        position=event.position,
        event_type=event.type,
        error_class=type(error).__name__,
        error=text,
        trace_id=_trace_id(event),
        is_final=not isinstance(error, _PASSING),
    )


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _trace_id(event: RecordedEvent) -> str | None:
    try:
        trace = decode_metadata(event.metadata).trace
    except msgspec.MsgspecError:  # then that is the fault, or a part of it
        return None
    return None if trace is None else trace.split("-")[1]
