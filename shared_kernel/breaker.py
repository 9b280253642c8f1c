"""A circuit breaker: a neighbour that does not answer is left alone for a while, instead of being waited for by everybody.

Closed: calls pass and are counted. Open: none passes until `open_ms` are over. Half-open: a few probes pass; their answers close
it, one failure opens it anew. What the caller does meanwhile is its own stated fallback. Nothing here does I/O or knows a driver.
Source: M. Nygard, Release It!, 2nd ed., ch. 5. Our own, because no asyncio library measures a rate and limits probes (ADR 0013).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared_kernel.errors import SaysNothing, Unavailable
from shared_kernel.settings import ProcessSettings

SLOTS: Final = 10  # chosen: the window moves by a tenth of itself

_log = structlog.get_logger(__name__)


class State(IntEnum):
    """As shown in metrics."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class BreakerBounds(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens and closes: a process that asks often opens by the rate, one that asks seldom by the row. Each is a setting."""

    window_ms: int = 10_000
    calls_min: int = 20
    """Fewer calls in the window say nothing of a rate."""
    failures_percent: int = 50
    failures_in_row: int = 5
    """So many without one answer between them: a rate would still be full of the good time before."""
    open_ms: int = 1_000
    probes_max: int = 2
    """So many probes at a time, and so many answers in a row before it closes."""


def bounds_of(dependency: str, settings: ProcessSettings) -> BreakerBounds:
    """As the process is told: `breaker_…` for all of its breakers, `<dependency>_breaker_…` for this one. AttributeError: it has none."""
    of_all = {name: getattr(settings, f"breaker_{name}") for name in ("window_ms", "calls_min", "failures_percent")}
    own = {
        name: getattr(settings, f"{dependency}_breaker_{name}") for name in ("failures_in_row", "open_ms", "probes_max")
    }
    return BreakerBounds(**of_all, **own)


class Breaker:
    """One neighbour of one process. To be used on one event loop or thread; others may read `state` and `detail`."""

    def __init__(
        self,
        dependency: str,
        *,
        bounds: BreakerBounds | None = None,
        figures: "BreakerFigures | None" = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dependency = dependency
        self._bounds = bounds or BreakerBounds()
        self._figures = figures
        self._monotonic = monotonic
        self._state = State.CLOSED
        self._opened_at = 0.0
        self._round = 1  # of probing, so that a probe that outlives its round is told from those of the next
        self._probes = 0  # under way in this round
        self._answers = 0  # of probes in this round
        self._in_row = 0
        self._slots: list[tuple[int, int]] = []  # calls and failures of each tenth of the window
        self._slot = 0
        if figures is not None:
            figures.watch(self)

    @property
    def dependency(self) -> str:
        """The neighbour."""
        return self._dependency

    @property
    def state(self) -> State:
        """OPEN until its time is over; from then on a probe would pass, so HALF_OPEN."""
        if self._state is State.OPEN and self._monotonic() - self._opened_at >= self._bounds.open_ms / 1_000:
            return State.HALF_OPEN
        return self._state

    def tell(self) -> str | None:
        """For health: nothing while it is closed."""
        state = self.state
        return None if state is State.CLOSED else f"breaker {state.name.lower()}"

    def admits(self) -> bool:
        """True if a call would pass now."""
        if self._state is State.CLOSED:
            return True
        return self.state is State.HALF_OPEN and self._probes < self._bounds.probes_max

    def refuse(self) -> Unavailable:
        """One call does not pass: it is counted, and this is what to raise or tell instead of it."""
        if self._figures is not None:
            self._figures.refused(self.dependency)
        return Unavailable("dependency_unavailable", dependency=self.dependency, reason="breaker_open")

    def trip(self) -> None:
        """Open from now on: the caller has seen what no failed call shows, answers that come too late, say."""
        self._open()

    @contextmanager
    def call(self, *failures: type[Exception]) -> Iterator[None]:
        """The block is one call. An exception of `failures` counts against the neighbour; any other is an answer of it.

        A cancelled call is neither, nor is one that raises `SaysNothing`. Raises `refuse()` where no call passes.
        """
        probing = self._enter()
        try:
            yield
        except Exception as error:
            if isinstance(error, SaysNothing):
                self._leave(probing)
            else:
                self._settle(probing, is_failure=isinstance(error, failures))
            raise
        except BaseException:  # cancelled, say: nobody knows whether an answer would have come
            self._leave(probing)
            raise
        else:
            self._settle(probing, is_failure=False)

    @contextmanager
    def look(self, *failures: type[Exception]) -> Iterator[None]:
        """As `call`, but it passes whatever the state, as a health check does; unless the breaker is closed it counts as a probe."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, SaysNothing):
                self._hear(is_failure=isinstance(error, failures))
            raise
        else:
            self._hear(is_failure=False)

    def _hear(self, *, is_failure: bool) -> None:
        if self._state is State.CLOSED:
            self._settle(0, is_failure=is_failure)
        elif self.state is State.HALF_OPEN or not is_failure:  # a failure of one that is open says nothing new
            if self._state is State.OPEN and not is_failure:
                self._begin_probing()
            self._judge_probe(is_failure=is_failure)

    def _begin_probing(self) -> None:
        self._round += 1
        self._answers = self._probes = 0
        self._become(State.HALF_OPEN)

    def _enter(self) -> int:
        """The round of probing that this call belongs to; 0 while the breaker is closed."""
        if self._state is State.CLOSED:
            return 0
        if not self.admits():
            raise self.refuse()
        if self._state is State.OPEN:
            self._begin_probing()
        self._probes += 1
        return self._round

    def _leave(self, probing: int) -> None:
        """The call is over without a word of the neighbour."""
        if probing == self._round:
            self._probes -= 1

    def _settle(self, probing: int, *, is_failure: bool) -> None:
        if probing:
            if probing == self._round and self._state is State.HALF_OPEN:  # else another probe has decided
                self._probes -= 1
                self._judge_probe(is_failure=is_failure)
        elif self._state is State.CLOSED:
            self._in_row = self._in_row + 1 if is_failure else 0
            self._count(is_failure=is_failure)

    def _judge_probe(self, *, is_failure: bool) -> None:
        self._answers += not is_failure
        if is_failure:
            self._open()
        elif self._answers >= self._bounds.probes_max:
            self._slots.clear()
            self._in_row = 0
            self._become(State.CLOSED)

    def _count(self, *, is_failure: bool) -> None:
        bounds = self._bounds
        slot = int(self._monotonic() * 1_000 * SLOTS / bounds.window_ms)
        if gone := slot - self._slot if self._slots else 1:
            self._slots = [*self._slots, *[(0, 0)] * min(gone, SLOTS)][-SLOTS:]
            self._slot = slot
        calls, failed = self._slots[-1]
        self._slots[-1] = (calls + 1, failed + is_failure)
        if not is_failure:
            return
        calls = sum(each for each, _ in self._slots)
        failed = sum(each for _, each in self._slots)
        is_rate = calls >= bounds.calls_min and failed * 100 >= calls * bounds.failures_percent
        if is_rate or self._in_row >= bounds.failures_in_row:
            self._open()

    def _open(self) -> None:
        self._opened_at = self._monotonic()
        if self._state is not State.OPEN:
            self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self._state = state
        tell = _log.info if state is State.CLOSED else _log.warning
        tell("breaker", dependency=self.dependency, status=state.name.lower())
        if self._figures is not None:
            self._figures.became(self.dependency, state)


class BreakerFigures:
    """The breakers of one process for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._state = Gauge(
            "daybook_breaker_state",
            "State of the circuit breaker round a dependency: 0 closed, 1 half-open, 2 open",
            ("dependency",),
            registry=registry,
        )
        self._transitions = Counter(
            "daybook_breaker_transitions",
            "Times that a breaker became closed, half_open or open",
            ("dependency", "state"),
            registry=registry,
        )
        self._refused = Counter(
            "daybook_breaker_refused",
            "Calls that an open breaker did not let through",
            ("dependency",),
            registry=registry,
        )

    def watch(self, breaker: Breaker) -> None:
        """Its state is read whenever somebody looks."""
        self._state.labels(breaker.dependency).set_function(lambda: breaker.state)

    def became(self, dependency: str, state: State) -> None:
        """A breaker changed."""
        self._transitions.labels(dependency, state.name.lower()).inc()

    def refused(self, dependency: str) -> None:
        """A call did not pass."""
        self._refused.labels(dependency).inc()
