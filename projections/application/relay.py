"""The relay's loop: publishes each ledger's events to Kafka in order, and remembers how far, under a lease.

One relay is active. What keeps a second one harmless is not the lease's time but its epoch: every position is written only
where the epoch, the incarnation and the previous position are the expected ones. Events may be published twice, never skipped.
"""

import random
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from projections.application.figures import RelayFigures
from projections.application.ports import Log, Move, Publisher, PublishFailed, Relayed, Wakeups
from projections.application.resting import Resting
from projections.application.worker import beyond_head
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.types import RecordedEvent


class RelayPace(msgspec.Struct, frozen=True, kw_only=True):
    """How much at once, how often, and how long."""

    batch_events_max: int
    batch_bytes_max: int
    ledgers_max: int
    lease_ms: int
    stop_ms: int
    round_ms: int
    rest_ms_max: int = 0
    poll_ms: int
    retry_ms: int
    retry_max_ms: int


class LeaseLost(DaybookError):
    """Another relay has taken over."""


class Relay:
    """Publishes while it holds the lease, stands by while another does."""

    def __init__(
        self,
        owner: str,
        *,
        log: Log,
        relayed: Relayed,
        publisher: Publisher,
        wakeups: Wakeups,
        figures: RelayFigures,
        pace: RelayPace,
        stop: threading.Event,
        monotonic: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._log = log
        self._relayed = relayed
        self._publisher = publisher
        self._wakeups = wakeups
        self._figures = figures
        self._pace = pace
        self._resting = Resting(round_ms=pace.round_ms, rest_ms_max=pace.rest_ms_max)
        self._stop = stop
        self._monotonic = monotonic
        self._epoch: int | None = None
        self._incarnation = ""
        self._positions: dict[str, int] = {}
        self._news: dict[str, None] = {}  # ledgers that may have unpublished events, in the order they were heard of
        self._renew_at = 0.0
        self._look_at = 0.0
        self._stop_at: float | None = None
        self._logger = structlog.get_logger("daybook.relay").bind(owner=owner)

    def run(self) -> None:
        """Returns after `stop` was set and the batch in hand is published. Corruption: a position is beyond its head."""
        failures = 0
        try:
            while not self._stop.is_set():
                try:
                    self._round()
                    failures = 0
                    self._figures.is_ready, self._figures.trouble = True, None
                except LeaseLost as error:
                    self._figures.lost_leases += 1
                    self._logger.warning("lease_lost", epoch=self._epoch, code=error.code)
                    self._step_down()
                except (Unavailable, Contention, PublishFailed) as error:
                    failures += 1
                    self._figures.failures += 1
                    # Kafka is waited for like events; without the log there is nothing that a relay could do.
                    self._figures.is_ready, self._figures.trouble = isinstance(error, PublishFailed), error.code
                    self._leave()  # memory and producer may disagree with what is stored; another relay may do better
                    self._stop.wait(self._back_off(error, failures))
        finally:
            self._leave()

    def _round(self) -> None:
        self._publisher.probe()
        if self._epoch is None and not self._take_over():
            self._stop.wait(self._pace.poll_ms / 1_000)
            return
        self._keep_lease()
        now = self._monotonic()
        if now >= self._look_at:
            self._look()
            self._look_at = now + self._pace.poll_ms / 1_000
        if not self._news:
            self._news.update(dict.fromkeys(self._wakeups.wait(max(self._look_at - self._monotonic(), 0.0))))
            return
        ledgers = list(self._news)[: self._pace.ledgers_max]
        after = {ledger: self._positions.get(ledger, 0) for ledger in ledgers}
        began = self._monotonic()
        events = self._log.read(after, events_max=self._pace.batch_events_max, bytes_max=self._pace.batch_bytes_max)
        if events:
            self._publish(events, after)
        # The log answers in the order asked: what stands behind the last ledger with events may only have had no room.
        served = dict.fromkeys(event.ledger for event in events)
        answered = ledgers[: ledgers.index(events[-1].ledger) + 1] if events else ledgers
        for ledger in answered:
            del self._news[ledger]
        self._news.update(served)  # until a read finds nothing more
        if 0 < len(events) < self._pace.batch_events_max:  # the first event goes at once, those behind it together
            self._stop.wait(self._resting.after(len(events), began=began, ended=self._monotonic()))

    def _publish(self, events: Sequence[RecordedEvent], after: Mapping[str, int]) -> None:
        began = self._monotonic()
        self._publisher.publish(events, incarnation=self._incarnation, meanwhile=self._while_publishing)
        last = {event.ledger: event for event in events}
        moves = [
            Move(ledger=ledger, previous=after[ledger], position=event.position, recorded_at=event.recorded_at)
            for ledger, event in sorted(last.items())
        ]
        if not self._relayed.advance(self._held(), self._incarnation, moves):
            raise LeaseLost("relay_fenced")
        self._positions.update((move.ledger, move.position) for move in moves)
        self._figures.published += len(events)
        self._figures.batches += 1
        elapsed_s = self._monotonic() - began
        self._figures.batch_seconds += elapsed_s
        elapsed_ms = round(elapsed_s * 1_000, 3)
        self._logger.debug("batch_published", ledgers=len(moves), events=len(events), elapsed_ms=elapsed_ms)

    def _take_over(self) -> bool:
        epoch = self._relayed.acquire(self._owner, self._pace.lease_ms)
        self._figures.is_active = False
        if epoch is None:
            return False
        self._epoch = epoch
        self._renew_at = self._monotonic() + self._pace.lease_ms / 3_000
        self._incarnation = self._log.incarnation()
        self._publisher.prepare()
        self._positions = self._relayed.positions(epoch, self._incarnation)
        self._news = {}
        self._look_at = 0.0
        self._figures.is_active, self._figures.epoch = True, epoch
        self._logger.info("relay_active", epoch=epoch, ledgers=len(self._positions))
        return True

    def _look(self) -> None:
        """The net under the notifications, and the check that no position is beyond its head."""
        lags = self._relayed.lags()
        for lag in lags:
            if lag.position > lag.head:
                raise beyond_head(lag.ledger, position=lag.position, head=lag.head)
            self._news[lag.ledger] = None
        if self._log.incarnation() != self._incarnation:
            raise LeaseLost("incarnation_changed")
        self._figures.lag_events = sum(lag.head - lag.position for lag in lags)
        self._figures.lag_events_max = max((lag.head - lag.position for lag in lags), default=0)

    def _keep_lease(self) -> None:
        now = self._monotonic()
        if now < self._renew_at:
            return
        if not self._relayed.renew(self._owner, self._held(), self._pace.lease_ms):
            raise LeaseLost("lease_taken")
        self._renew_at = now + self._pace.lease_ms / 3_000

    def _while_publishing(self) -> None:
        self._keep_lease()
        if self._stop.is_set():  # Kafka may be away for ever; the batch was not remembered, so it comes again
            now = self._monotonic()
            self._stop_at = self._stop_at or now + self._pace.stop_ms / 1_000
            if now >= self._stop_at:
                raise PublishFailed("stopped_while_publishing")

    def _held(self) -> int:
        if self._epoch is None:
            raise LeaseLost("lease_not_held")
        return self._epoch

    def _step_down(self) -> None:
        self._publisher.close()
        self._epoch = None
        self._figures.is_active = False

    def _leave(self) -> None:
        epoch = self._epoch
        self._step_down()
        if epoch is not None:
            try:
                self._relayed.release(self._owner, epoch)
            except DaybookError as error:  # it runs out by itself
                self._logger.warning("lease_not_released", code=error.code)

    def _back_off(self, error: DaybookError, failures: int) -> float:
        longest = min(self._pace.retry_ms << min(failures - 1, 30), self._pace.retry_max_ms)
        wait_s = longest / 1_000 * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        wait_ms = int(wait_s * 1_000)
        self._logger.warning("relay_waits", attempts=failures, wait_ms=wait_ms, code=error.code, **error.fields)
        return wait_s
