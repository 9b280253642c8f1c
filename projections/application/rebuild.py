"""Builds a generation from the log as fast as it goes: reading, folding and writing overlap, each in a thread of its own.

It is the only writer of what it builds; positions are written with the rows, so that whoever comes after a crash goes on from there.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from projections.application.fold import Folded, RowCache, Runs, fold, last_of_each, parts
from projections.application.ports import Batch, Log, Move, ReadModel, TooManyParked
from projections.domain.projection import Key, Projection, Row, Rows
from shared_kernel.errors import Contention
from shared_kernel.event_log.types import RecordedEvent

BATCHES_IN_HAND = 3  # of a process: one is read while one is folded while one is written
REPEATED_SHARE_MAX = 20  # a crash repeats no more than one event in so many ...
BATCH_EVENTS_MIN = 20  # ... but of builds that take a second in all: chosen, smaller batches cost more than they save
PART_EVENTS_MAX = 100  # measured: what so few events become stays in a processor's cache until it is lines
THROTTLED_BATCHES = 4  # chosen: batches a second of a throttled build, so that it neither bursts nor crawls


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How much at once, how fast at most, and how many ledgers may be parked on the way."""

    batch_events_max: int
    batch_bytes_max: int
    ledgers_max: int
    rows_max: int
    parked_max: int
    part_events_max: int = PART_EVENTS_MAX
    events_per_second_max: int | None = None

    def no_faster(self, events_per_second_max: int) -> "Speed":
        """The same, throttled."""
        return msgspec.structs.replace(self, events_per_second_max=events_per_second_max)

    def bounded_for(self, events: int, *, processes: int) -> "Speed":
        """The same, in batches so small that what so many processes have in hand at a crash is a twentieth of all at most."""
        events_max = max(events // (REPEATED_SHARE_MAX * BATCHES_IN_HAND * processes), BATCH_EVENTS_MIN)
        return msgspec.structs.replace(self, batch_events_max=min(self.batch_events_max, events_max))


class Progress:
    """How far a job is, told by whoever works and read by whoever reports. `rate`: events a second since it began here."""

    def __init__(self) -> None:
        self.begin(done=0, total=0)

    def begin(self, *, done: int, total: int) -> None:
        """So much is done before, of so much."""
        self.done = done
        self.total = total
        self.rate: float | None = None
        self._began = time.monotonic()
        self._began_with = done

    def add(self, events: int) -> None:
        """So many more are done."""
        self.done += events
        elapsed_s = time.monotonic() - self._began
        if elapsed_s > 0:
            self.rate = (self.done - self._began_with) / elapsed_s


class Rebuild:
    """One build, or the ledgers of it that `is_mine` names."""

    def __init__(
        self,
        projection: Projection,
        *,
        log: Log,
        model: ReadModel,
        looking: ReadModel,
        make_keys: Callable[[], None],
        leaves_out: bool = True,
        is_mine: Callable[[str], bool],
        speed: Speed,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._projection = projection
        self._log = log
        self._model = model
        self._looking = looking  # of another connection: rows are looked up while others are written
        self._make_keys = make_keys
        self._leaves_out = leaves_out
        self._skips: Mapping[str, Collection[int]] = {}
        self._is_mine = is_mine
        self._speed = speed
        self._progress = progress
        self._stop = stop
        self._cache = RowCache(projection.tables, speed.rows_max)
        self._positions: dict[str, int] = {}
        self._standing: set[str] = set()
        self._parked = 0
        self._has_keys = False
        self._writing: Future[bool] | None = None

    def run(self) -> None:
        """Everything that is in the log is applied, up to a last batch, or `stop` is set. Contention: somebody else writes it.

        TooManyParked: so many ledgers cannot go on that it is not their fault.
        """
        self._positions = self._model.positions()
        self._cache.clear(is_complete=not any(map(self._is_mine, self._positions)))
        standing = self._model.standing()
        self._standing = {each.ledger for each in standing}
        self._parked = sum(each.is_parked for each in standing)
        with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
            while not self._stop.is_set():
                behind = {
                    lag.ledger: lag.head
                    for lag in self._looking.lags()
                    if self._is_mine(lag.ledger) and lag.ledger not in self._standing
                }
                if not behind:
                    return
                left = sum(head - self._positions.get(ledger, 0) for ledger, head in behind.items())
                self._pass(behind, reader, writer)
                if left <= self._speed.batch_events_max:
                    return

    def fold_to(self, positions: Mapping[str, int]) -> dict[str, int]:
        """These ledgers are at these positions, and no further; answers where they are: before it, what cannot be applied."""
        self._positions = self._model.positions()
        self._cache.clear(is_complete=not self._positions)
        with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
            self._pass(positions, reader, writer)
        return {ledger: self._positions.get(ledger, 0) for ledger in positions}

    def _pass(self, heads: Mapping[str, int], reader: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        """All ledgers up to these heads. What operators skipped is left out here too, unless it is what shall be mended."""
        self._skips = self._model.skips() if self._leaves_out else {}
        batches = _Reading(self._log, heads, dict(self._positions), self._speed, self._standing)
        began, passed = time.monotonic(), 0
        reading = reader.submit(batches.next)
        while (runs := reading.result()) and not self._stop.is_set():
            reading = reader.submit(batches.next)
            passed += sum(map(len, runs.values()))
            self._write(runs, writer)
            if self._speed.events_per_second_max is not None:
                self._stop.wait(passed / self._speed.events_per_second_max - (time.monotonic() - began))
        reading.cancel()
        self._settle()

    def _write(self, runs: Mapping[str, Sequence[RecordedEvent]], writer: ThreadPoolExecutor) -> None:
        folded, lines = self._fold(runs)
        moves = [
            Move(ledger=ledger, previous=self._positions.get(ledger, 0), position=position, recorded_at=recorded_at)
            for ledger, (position, recorded_at) in sorted(folded.reached.items())
        ]
        self._standing.update(folded.faults)
        self._settle()
        final = [fault for fault in folded.faults.values() if fault.is_final]
        passing = [fault for fault in folded.faults.values() if not fault.is_final]
        room = self._speed.parked_max + 1 - self._parked  # what is beyond it would only fill the disk
        faults = final[: max(room, 0)] + passing
        batch = Batch(moves=moves, rows=folded.rows, faults=faults, skipped=folded.skipped, lines=lines)
        self._writing = writer.submit(self._model.write, batch)
        self._parked += len(final)
        if self._parked > self._speed.parked_max:
            self._settle()
            raise TooManyParked("too_many_parked", count=self._parked, limit=self._speed.parked_max)
        for move in moves:
            self._positions[move.ledger] = move.position
        self._progress.add(sum(move.position - move.previous for move in moves))

    def _fold(self, runs: Runs) -> tuple[Folded, dict[str, bytes]]:
        """The outcome of the batch, folded in parts; rows that are only added are lines already."""
        tables = self._projection.tables
        rows: Rows = {name: [] for name, table in tables.items() if table.is_replaced}
        lines: dict[str, list[bytes]] = {name: [] for name in tables if name not in rows}
        whole = Folded(rows=rows, reached={}, faults={}, skipped=[], known={})
        for number, part in enumerate(parts(runs, self._speed.part_events_max)):
            for ledger in whole.faults:
                part.pop(ledger, None)
            folded = fold(self._projection, part, cache=self._cache, load=self._load, skips=self._skips)
            self._cache.keep(folded.known, is_more=number > 0)
            for name, added in folded.rows.items():
                if name in rows:
                    rows[name] = last_of_each(tables[name], [*rows[name], *added])
                elif added:
                    lines[name].append(self._model.lines(added))
            whole.reached.update(folded.reached)
            whole.faults.update(folded.faults)
            whole.skipped.extend(folded.skipped)
        return whole, {name: b"".join(texts) for name, texts in lines.items() if texts}

    def _load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Rows that memory does not know, which by now must be written and found by a key."""
        self._settle()
        if not self._has_keys:
            self._make_keys()
            self._has_keys = True
        return self._looking.last_rows(keys)

    def _settle(self) -> None:
        """What was being written is written."""
        writing, self._writing = self._writing, None
        if writing is not None and not writing.result():
            raise Contention("lost_race")


class _Reading:
    """Batches from the log, ledger by ledger: few at a time, so that their rows stay at hand."""

    def __init__(
        self, log: Log, heads: Mapping[str, int], after: dict[str, int], speed: Speed, standing: set[str]
    ) -> None:
        self._log = log
        self._heads = heads
        self._after = after
        self._speed = speed
        self._standing = standing
        self._events_max = speed.batch_events_max
        if speed.events_per_second_max is not None:
            self._events_max = max(min(self._events_max, speed.events_per_second_max // THROTTLED_BATCHES), 1)
        self._left = list(heads)

    def next(self) -> dict[str, list[RecordedEvent]]:
        """The next batch; empty: there is none."""
        while self._left:
            asked: dict[str, int] = {}
            expected = 0
            for ledger in self._left[: self._speed.ledgers_max]:
                asked[ledger] = self._after.get(ledger, 0)
                expected += self._heads[ledger] - asked[ledger]
                if expected >= self._events_max:
                    break
            runs: dict[str, list[RecordedEvent]] = {}
            events = self._log.read(asked, events_max=self._events_max, bytes_max=self._speed.batch_bytes_max)
            for event in events:
                if event.position <= self._heads[event.ledger] and event.ledger not in self._standing:
                    runs.setdefault(event.ledger, []).append(event)
                    self._after[event.ledger] = event.position
            self._left = [
                ledger
                for ledger in self._left
                if self._after.get(ledger, 0) < self._heads[ledger] and ledger not in self._standing
            ]
            if runs:
                return runs
            if not events:
                self._left = [ledger for ledger in self._left if ledger not in asked]
        return {}
