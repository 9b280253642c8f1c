"""Applies events to one generation of a read model: each once, in order, with its position, whatever the source sends.

Owns what is in memory: positions, the last rows of busy subjects, ledgers that stand still. The read model's own positions decide what is
applied; they are set by compare-and-set in the transaction of the rows. It must never leave out an event that no operator told it to.

A fault that passes (a deadlock, a time-out) is tried again, then its batch is split until the ledger that cannot go on is alone: that
one waits and goes on by itself, like one whose event this software is too old for. A fault that repeats itself parks its ledger (ADR 0015).
"""

import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from operator import ne

import msgspec
import structlog

from projections.application.figures import Figures
from projections.application.fold import Folded, RowCache, Runs, Skips, fault_of, fold
from projections.application.ports import Batch, Fault, Lag, Log, Move, ReadModel, Standing, TooManyParked, Unwritable
from projections.application.seldom import Seldom
from projections.domain.projection import Projection
from shared_kernel.errors import Contention, Corruption, DaybookError
from shared_kernel.event_log.types import RecordedEvent

AGED_LEDGERS_MAX = 1_000  # chosen: the ledgers most behind tell the lag in seconds


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much at once, and how patiently."""

    batch_events_max: int
    batch_bytes_max: int
    ledgers_max: int
    rows_max: int
    tries_max: int
    retry_ms: int
    retry_max_ms: int
    standing_ms: int
    parked_max: int


class Worker:
    """One writer of one generation. Another may write the same: compare-and-set lets one of them win each time."""

    def __init__(
        self,
        projection: Projection,
        *,
        model: ReadModel,
        log: Log,
        figures: Figures,
        bounds: Bounds,
        monotonic: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self._projection = projection
        self._model = model
        self._log = log
        self._figures = figures
        self._bounds = bounds
        self._monotonic = monotonic
        self._pause = pause
        self._positions: dict[str, int] = {}
        self._known = RowCache(projection.tables, bounds.rows_max)
        self._standing: dict[str, Standing] = {}
        self._due: dict[str, float] = {}
        self._asked: dict[str, datetime | None] = {}  # ledger -> the operator's wish that is seen to
        self._skips: Skips = {}
        self._met_at = 0.0
        self._seldom = Seldom(monotonic)
        self._behind: dict[str, int] = {}  # ledger -> where the log is known to reach
        self._watched: dict[str, int] = {}  # ledger -> its position at the last look, if that was behind
        self.is_healing = False
        """The last look found ledgers that no message brings to their heads."""
        self._logger = structlog.get_logger("daybook.projector").bind(projection=projection.name)

    def start(self) -> None:
        """Memory agrees with the read model; ledgers that stood still are tried at once (this code may be newer).

        Begun anew where nobody else has written meanwhile, as when partitions come, it keeps the rows that it knows.
        """
        positions = self._model.positions()
        if self._model.was_repaired() or positions != self._positions or not positions:
            self._known.clear(is_complete=not positions)
        self._positions = positions
        self._watched = {}
        self._due = {}
        self._meet_standing()
        self._due = dict.fromkeys(self._due, self._monotonic())

    def apply(self, events: Iterable[RecordedEvent]) -> None:
        """Every event that is new is applied, or its ledger stands still. Unavailable: start, and call again with the same.

        TooManyParked: likewise, once an operator has seen to it.
        """
        arrived: dict[str, dict[int, RecordedEvent]] = {}
        for event in events:
            by_position = arrived.setdefault(event.ledger, {})
            if event.position <= self._position(event.ledger) or event.position in by_position:
                self._figures.duplicates += 1
            elif event.ledger not in self._standing:  # what stands still takes all it missed from the log, later
                by_position[event.position] = event
        self._write(self._in_order({ledger: by_position for ledger, by_position in arrived.items() if by_position}))

    def check(self, *, is_live: bool) -> int:
        """Looks at all heads; answers by how many events it is behind, what stands still left out.

        When live, a ledger is healed from the log only if it has not moved since the last look: what is on its way through
        Kafka is left to it. While building, whatever is behind comes from the log. Corruption: a position beyond its head.
        """
        lags = self._model.lags()
        for lag in lags:
            if lag.position > lag.head:
                raise beyond_head(lag.ledger, position=lag.position, head=lag.head)
        self._meet_standing()
        watched = {lag.ledger: lag.position for lag in lags if lag.ledger not in self._standing}
        self._learn(watched)
        unmoved = [
            lag
            for lag in lags
            if lag.ledger in watched and (not is_live or self._watched.get(lag.ledger) == lag.position)
        ]
        self.is_healing = is_live and bool(unmoved)
        if self.is_healing:
            self._say_healing(unmoved)
        self._behind.update((lag.ledger, lag.head) for lag in unmoved)
        self._watched = watched
        self._figures.lag_events = sum(lag.head - lag.position for lag in lags)
        self._figures.lag_events_max = max((lag.head - lag.position for lag in lags), default=0)
        most_behind = heapq.nlargest(AGED_LEDGERS_MAX, lags, key=lambda lag: lag.head - lag.position)
        self._figures.lag_seconds = self._model.lag_s(most_behind) if most_behind else 0.0
        return sum(lag.head - lag.position for lag in lags if lag.ledger in watched)

    def catch_up(self) -> bool:
        """Takes one batch of what is behind, and what is due of what stands still, from the log. False: there was nothing."""
        now = self._monotonic()
        if now - self._met_at >= self._bounds.standing_ms / 1_000:
            self._meet_standing()
        due = [ledger for ledger, at in self._due.items() if at <= now][: self._bounds.ledgers_max]
        if due:
            self._retry(due)
        ledgers = list(self._behind)[: self._bounds.ledgers_max]
        if ledgers:
            runs = self._from_log(ledgers)
            self._write(runs)
            # The log answers in the order asked: what stands behind the last ledger with events may only have had no room.
            answered = ledgers[: ledgers.index(list(runs)[-1]) + 1] if runs else ledgers
            for ledger in answered:
                target = self._behind.pop(ledger, 0)
                if ledger in runs and self._position(ledger) < target and ledger not in self._standing:
                    self._behind[ledger] = target  # once more, after the others
        return bool(due or ledgers)

    def _say_healing(self, unmoved: Sequence[Lag]) -> None:
        self._figures.healed += len(unmoved)
        if self._seldom.is_due("healing"):  # without Kafka every look at the heads heals
            self._logger.warning("lost_messages_filled_from_log", ledgers=len(unmoved), ledger=unmoved[0].ledger)

    def _position(self, ledger: str) -> int:
        return self._positions.get(ledger, 0)

    def _learn(self, positions: Mapping[str, int]) -> None:
        """Takes over positions read from the read model. If there is news, somebody else wrote, and no row can be trusted."""
        if self._model.was_repaired() or any(
            self._position(ledger) != position for ledger, position in positions.items()
        ):
            self._known.clear()
            self._positions.update(positions)

    def _in_order(self, arrived: dict[str, dict[int, RecordedEvent]]) -> Runs:
        gaps = [
            ledger
            for ledger, by_position in arrived.items()
            if max(by_position) - self._position(ledger) != len(by_position)
        ]
        if gaps:
            self._figures.gaps += len(gaps)
            self._logger.warning("gap_filled_from_log", ledgers=len(gaps), ledger=gaps[0])
            for ledger, filling in self._from_log(gaps).items():
                arrived[ledger].update((event.position, event) for event in filling)
        runs: dict[str, list[RecordedEvent]] = {}
        for ledger, by_position in arrived.items():
            expected = self._position(ledger) + 1
            run = runs[ledger] = []
            while (event := by_position.get(expected)) is not None:
                run.append(event)
                expected += 1
            if expected <= max(by_position):  # a wider gap than one read of the log: the rest comes from there, too
                self._behind[ledger] = max(by_position)
        return runs

    def _from_log(self, ledgers: Sequence[str]) -> dict[str, list[RecordedEvent]]:
        runs: dict[str, list[RecordedEvent]] = {}
        after = {ledger: self._position(ledger) for ledger in ledgers}
        bounds = self._bounds
        events = self._log.read(after, events_max=bounds.batch_events_max, bytes_max=bounds.batch_bytes_max)
        for event in events:
            runs.setdefault(event.ledger, []).append(event)
        self._figures.from_log += len(events)
        return runs

    def _retry(self, ledgers: list[str]) -> None:
        held = {ledger: self._standing.pop(ledger) for ledger in ledgers}
        for ledger in ledgers:
            del self._due[ledger]
        try:
            self._learn(self._model.positions(ledgers))
            runs = self._from_log(ledgers)
            self._write(runs)
            if nothing := [ledger for ledger in ledgers if ledger not in runs]:
                self._model.release(nothing)
        except DaybookError:
            self._standing.update(held)
            self._due.update(dict.fromkeys(held, self._monotonic()))
            raise
        for ledger in ledgers:
            if ledger not in self._standing:
                self._behind[ledger] = self._position(ledger) + 1  # whatever it missed meanwhile
                self._logger.info("ledger_goes_on", ledger=ledger, position=self._position(ledger))
        self._count_standing()

    def _write(self, runs: Runs, *, tries_max: int | None = None) -> None:
        """Applies the runs in as many transactions as it takes. What cannot be applied stands still."""
        tries_max = tries_max or self._bounds.tries_max
        tries = 0
        while runs := {ledger: run for ledger, run in runs.items() if run}:
            tries += 1
            try:
                if self._write_once(runs):
                    return
            except (Unwritable, Contention) as error:
                if isinstance(error, Unwritable) or tries >= tries_max:
                    self._split(runs, error)
                    return
                delay_s = self._delay_s(tries)
                self._figures.retries += 1
                self._logger.warning(
                    "batch_tried_again", **error.fields, ledgers=len(runs), attempts=tries, wait_ms=int(delay_s * 1_000)
                )
                self._pause(delay_s)
            else:
                self._figures.lost_races += 1
                self._meet_standing()  # or an operator has parked one of them
                self._learn(self._model.positions(sorted(runs)))
                runs = {
                    ledger: self._after_position(run) for ledger, run in runs.items() if ledger not in self._standing
                }

    def _write_once(self, runs: Runs) -> bool:
        began = self._monotonic()
        is_written = False
        try:
            folded = self._fold(runs)
            if faulty := [ledger for ledger, fault in folded.faults.items() if fault.is_final]:
                # Once more, by nothing but what the read model and the log have now: memory may be what is wrong, or the copy that
                # came through Kafka, and an operator may have said a moment ago that the event is left out.
                self._known.clear()
                self._skips = self._model.skips()
                runs = {**runs, **self._as_recorded(faulty, runs)}
                folded = self._fold(runs)
            batch = self._batch(folded)
            is_written = self._model.write(batch)
        finally:
            if not is_written:  # an exception or a lost race: memory may be older, or newer, than the read model
                self._known.clear()
        if is_written:
            self._known.keep(folded.known)
            self._figures.batches += 1
            elapsed_s = self._monotonic() - began
            self._figures.batch_seconds += elapsed_s
            applied = sum(move.position - move.previous for move in batch.moves)
            elapsed_ms = round(elapsed_s * 1_000, 3)
            self._logger.info("batch_applied", ledgers=len(batch.moves), events=applied, elapsed_ms=elapsed_ms)
            self._written(batch)
        return is_written

    def _as_recorded(self, ledgers: Sequence[str], runs: Runs) -> Runs:
        """The runs of these ledgers as the log has them; empty for what one read has no room for, which comes from there later."""
        recorded = self._from_log(ledgers)
        for ledger in set(ledgers) - set(recorded):
            self._behind[ledger] = runs[ledger][-1].position
        spoiled = [ledger for ledger, run in recorded.items() if any(map(ne, run, runs[ledger]))]
        if spoiled:
            self._figures.healed += len(spoiled)
            self._logger.warning("messages_differ_from_log", ledgers=len(spoiled), ledger=spoiled[0])
        return {ledger: recorded.get(ledger, ()) for ledger in ledgers}

    def _fold(self, runs: Runs) -> Folded:
        return fold(self._projection, runs, cache=self._known, load=self._model.last_rows, skips=self._skips)

    def _batch(self, folded: Folded) -> Batch:
        moves = [
            Move(ledger=ledger, previous=self._position(ledger), position=position, recorded_at=recorded_at)
            for ledger, (position, recorded_at) in sorted(folded.reached.items())
        ]
        # One more than may be parked is enough to stop the projection: no fault of all ledgers at once fills the disk.
        room = self._bounds.parked_max + 1 - self._parked()
        final = [fault for fault in folded.faults.values() if fault.is_final][: max(room, 0)]
        passing = [fault for fault in folded.faults.values() if not fault.is_final]
        return Batch(moves=moves, rows=folded.rows, faults=final + passing, skipped=folded.skipped)

    def _written(self, batch: Batch) -> None:
        for move in batch.moves:
            self._positions[move.ledger] = move.position
            self._figures.applied += move.position - move.previous
        for ledger, position in batch.skipped:
            self._figures.skipped += 1
            self._logger.warning("event_left_out", ledger=ledger, position=position)
        if batch.faults:
            self._meet_faults(batch.faults)

    def _after_position(self, run: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        ledger, position = run[0].ledger, self._position(run[0].ledger)
        if (
            run[0].position > position + 1
        ):  # the read model went back (its server lost its last commits): the log has it all
            self._behind[ledger] = run[-1].position
            return ()
        return [event for event in run if event.position > position]

    def _split(self, runs: Runs, error: DaybookError) -> None:
        """Halves the batch until the one event that cannot be written is alone; all others are written."""
        if len(runs) > 1:
            ledgers = sorted(runs)
            middle = len(ledgers) // 2
            for half in (ledgers[:middle], ledgers[middle:]):
                self._write({ledger: runs[ledger] for ledger in half}, tries_max=1)
            return
        [(ledger, run)] = runs.items()
        if len(run) > 1:
            self._write({ledger: run[: len(run) // 2]}, tries_max=1)
            if ledger not in self._standing:
                self._write({ledger: self._after_position(run)}, tries_max=1)
            return
        self._stand_still(run[0], error)

    def _stand_still(self, event: RecordedEvent, error: DaybookError) -> None:
        """The event is alone, and the failure has cleared what memory may have had wrong: one that would park has its second try,
        as the log has it.
        """
        is_written = False
        if isinstance(error, Unwritable):
            with suppress(Unwritable):
                recorded = self._as_recorded([event.ledger], {event.ledger: [event]})
                is_written = self._write_once({event.ledger: recorded[event.ledger][:1]})
        if is_written:
            return
        batch = Batch(moves=[], rows={}, faults=[fault_of(event, error)])
        if self._model.write(batch):
            self._written(batch)
        else:  # somebody else was there first; what is left to do the next look finds
            self._learn(self._model.positions([event.ledger]))

    def _meet_faults(self, faults: Sequence[Fault]) -> None:
        self._figures.faults += len(faults)
        for fault in faults:
            if fault.is_final:
                self._logger.error("ledger_parked", **_told(fault))
        passing = [fault for fault in faults if not fault.is_final]
        if passing:  # one line, however many wait for the same thing
            self._logger.warning("ledgers_wait", ledgers=len(passing), **_told(passing[0]))
        self._meet_standing()

    def _meet_standing(self) -> None:
        """Learns from the read model which ledgers stand still, and what is left out. One that waits is tried again after its
        back-off, or at once if an operator asks. TooManyParked above the bound.
        """
        self._met_at = now = self._monotonic()
        standing = self._model.standing()
        self._skips = self._model.skips()
        self._standing = {each.ledger: each for each in standing}
        asked = {each.ledger: each.asked_at for each in standing}
        self._due = {
            each.ledger: now
            if self._asked.get(each.ledger) != each.asked_at
            else self._due.get(each.ledger, now + self._delay_s(each.attempts))
            for each in standing
            if not each.is_parked
        }
        self._asked = asked
        for ledger in self._standing:
            self._behind.pop(ledger, None)
        self._count_standing()
        if self._parked() > self._bounds.parked_max:
            raise TooManyParked("too_many_parked", count=self._parked(), limit=self._bounds.parked_max)

    def _count_standing(self) -> None:
        self._figures.parked = self._parked()
        self._figures.waiting = len(self._standing) - self._figures.parked

    def _parked(self) -> int:
        return sum(each.is_parked for each in self._standing.values())

    def _delay_s(self, attempts: int) -> float:
        """Exponential back-off, jittered by half, so that workers do not meet again."""
        longest = min(self._bounds.retry_ms << min(attempts - 1, 30), self._bounds.retry_max_ms)
        return longest / 1_000 * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def _told(fault: Fault) -> dict[str, str | int | None]:
    return {
        "ledger": fault.ledger,
        "position": fault.position,
        "event_type": fault.event_type,
        "error_class": fault.error_class,
        "error": fault.error,
        "trace_id": fault.trace_id,
    }


def beyond_head(ledger: str, *, position: int, head: int) -> Corruption:
    """The alert for a log that forgot: somebody restored the database and did not say so."""
    remedy = "the database went back: stop every process, run `daybook restored`, start again"
    return Corruption("position_beyond_head", ledger=ledger, position=position, head=head, detail=remedy)
