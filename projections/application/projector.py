"""The loop of a projector: builds its generation from the log if it must, then follows Kafka and heals from the log.

One thread. Whatever fails here is either waited out (a neighbour is down), set aside (one ledger, by the worker), a stop until an
operator has acted, or the end of the process (the log and the read model contradict each other).
"""

import random
import threading
import time
from collections.abc import Callable

import msgspec
import structlog

from projections.application.dead_letters import Postbox
from projections.application.figures import Figures
from projections.application.ports import (
    Controls,
    ForeignGeneration,
    Generation,
    Generations,
    Source,
    TooManyParked,
    Unusable,
    Wanted,
)
from projections.application.resting import Resting
from projections.application.silence import Silence
from projections.application.worker import Worker
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.types import RecordedEvent

PAUSED_WAIT_S = 1.0  # only how soon a stop is seen: the end of a pause wakes by itself


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and how long."""

    round_ms: int
    rest_ms_max: int = 0
    batch_events_max: int
    poll_ms: int
    heads_ms: int
    commit_ms: int
    silent_ms: int
    retry_ms: int
    retry_max_ms: int
    swap_behind_max: int


class Projector:
    """Feeds one generation of one projection until it is told to stop."""

    def __init__(
        self,
        projection: str,
        *,
        generations: Generations,
        worker_of: Callable[[Generation], Worker],
        source: Source,
        postbox: Postbox,
        controls: Controls,
        figures: Figures,
        pace: Pace,
        stop: threading.Event,
    ) -> None:
        self._projection = projection
        self._controls = controls
        self._generations = generations
        self._worker_of = worker_of
        self._source = source
        self._postbox = postbox
        self._figures = figures
        self._pace = pace
        self._resting = Resting(round_ms=pace.round_ms, rest_ms_max=pace.rest_ms_max)
        self._silence = Silence(silent_ms=pace.silent_ms)
        self._stop = stop
        self._arrived: list[RecordedEvent] = []
        self._looked_at = 0.0
        self._committed_at = 0.0
        self._forwarded_at = 0.0
        self._logger = structlog.get_logger("daybook.projector").bind(projection=projection)

    def run(self) -> None:
        """Returns after `stop` was set and the batch in hand is done. Corruption of the log ends it at once."""
        failures = 0
        at_work: tuple[Generation, Worker] | None = None
        seen: Wanted | None = None
        try:
            while not self._stop.is_set():
                try:
                    self._forward()
                    wanted = self._controls.wanted(self._projection)
                    self._figures.is_paused = wanted is not None and wanted.is_paused
                    if wanted is None or wanted.is_paused:
                        self._rest(at_work, is_known=wanted is not None)
                        at_work = None
                        continue
                    if at_work is None or wanted != seen:  # another generation may be the one to follow
                        at_work = self._begin(at_work)
                        seen = wanted
                    generation, worker = at_work
                    if generation.state != "building":
                        self._follow(worker)
                    elif self._build(generation, worker):
                        at_work = None
                    failures = 0
                    self._figures.is_ready, self._figures.is_stopped, self._figures.trouble = True, False, None
                except (Unavailable, Contention, ForeignGeneration, TooManyParked) as error:
                    at_work = None
                    failures += 1
                    self._wait_out(error, failures)
                except Unusable as error:  # only other code helps: the other projections of the process run on
                    self._figures.trouble, self._figures.is_stopped = error.code, True
                    self._logger.error(error.code, **error.fields)
                    self._stop.wait()
        finally:
            self._source.close(is_done=not self._arrived)
            self._postbox.close()

    def _begin(self, at_work: tuple[Generation, Worker] | None) -> tuple[Generation, Worker]:
        generation = self._generations.prepare()
        if at_work is not None and at_work[0] == generation:
            return at_work
        self._source.expect(generation.incarnation)
        worker = self._worker_of(generation)
        worker.start()
        worker.check(is_live=generation.state != "building")
        self._looked_at = time.monotonic()
        self._figures.generation = generation.number
        self._figures.is_building = generation.state == "building"
        self._logger.info(
            "projecting", generation=generation.number, version=generation.version, state=generation.state
        )
        return generation, worker

    def _rest(self, at_work: tuple[Generation, Worker] | None, *, is_known: bool) -> None:
        """An operator has paused the projection: its group is left, and what it begins with later is read anew."""
        self._figures.is_ready, self._figures.trouble = is_known, None
        if at_work is not None:
            self._source.close(is_done=not self._arrived)
            self._arrived = []
            self._logger.info("projection_paused", generation=at_work[0].number)
        self._controls.wait(PAUSED_WAIT_S)

    def _follow(self, worker: Worker) -> None:
        """One round: what the log has to mend, and what Kafka brings."""
        has_mended = worker.catch_up()
        if not self._arrived:
            self._arrived = self._source.poll(0.0 if has_mended else self._pace.poll_ms / 1_000)
        if self._source.was_assigned():
            worker.start()
        if self._arrived:
            self._silence.broken()
            began = time.monotonic()
            worker.apply(self._arrived)
            events, self._arrived = len(self._arrived), []
            if events < self._pace.batch_events_max:  # the first event is seen at once, those behind it together
                self._stop.wait(self._resting.after(events, began=began, ended=time.monotonic()))
        now = time.monotonic()
        if now - self._committed_at >= self._pace.commit_ms / 1_000:
            self._source.commit()
            self._committed_at = now
        if now - self._looked_at >= self._pace.heads_ms / 1_000:
            worker.check(is_live=True)
            self._looked_at = time.monotonic()
            if worker.is_healing and self._silence.healed(self._looked_at):
                self._figures.renewed += 1
                self._logger.warning("silent_consumer_renewed")
                self._source.close(is_done=False)  # the next poll begins anew

    def _build(self, generation: Generation, worker: Worker) -> bool:
        """One round of a build: a batch from the log. True: readers now see this generation, or another process saw to it."""
        if not self._generations.lock():
            self._stop.wait(self._pace.heads_ms / 1_000)
            return True  # look again at what there is to do
        has_more = worker.catch_up()
        if has_more and time.monotonic() - self._looked_at < self._pace.heads_ms / 1_000:
            return False
        behind = worker.check(is_live=False)
        self._looked_at = time.monotonic()
        if has_more:
            self._logger.info("building", generation=generation.number, behind=behind)
            return False
        if behind > self._pace.swap_behind_max:
            return False
        if not self._generations.swap(generation):  # a ledger stands still that the live generation has got past
            self._stop.wait(self._pace.poll_ms / 1_000)
            return False
        self._logger.info("generation_live", generation=generation.number, version=generation.version)
        return True

    def _forward(self) -> None:
        now = time.monotonic()
        if now - self._forwarded_at >= self._pace.heads_ms / 1_000:
            self._forwarded_at = now
            self._postbox.forward()

    def _wait_out(self, error: DaybookError, failures: int) -> None:
        is_stopped = isinstance(error, ForeignGeneration | TooManyParked)
        is_news = not self._figures.is_stopped or self._figures.trouble != error.code
        self._figures.is_ready, self._figures.trouble, self._figures.is_stopped = False, error.code, is_stopped
        longest = min(self._pace.retry_ms << min(failures - 1, 30), self._pace.retry_max_ms)
        wait_s = longest / 1_000 * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        say = self._logger.warning
        if is_stopped:  # one alert; it stands in health and metrics until it is over
            say = self._logger.error if is_news else self._logger.debug
        say("projection_waits", attempts=failures, wait_ms=int(wait_s * 1_000), code=error.code, **error.fields)
        self._stop.wait(wait_s)
