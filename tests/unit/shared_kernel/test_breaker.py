"""The breaker under a clock of its own: when it opens, what passes then, and how it closes again."""

import asyncio
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from command_service.infrastructure.redis_link import RedisLink
from shared_kernel.breaker import Breaker, BreakerBounds, BreakerFigures, State, bounds_of
from shared_kernel.errors import Refusal, SaysNothing, Unavailable
from shared_kernel.event_log.pool import LogPool
from shared_kernel.redis_client import connect_redis
from shared_kernel.settings import ProcessSettings, Secret
from tests.support.workers import Counts

BOUNDS = BreakerBounds(
    window_ms=10_000, calls_min=10, failures_percent=50, failures_in_row=4, open_ms=1_000, probes_max=2
)


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def breaker(clock: Clock, registry: CollectorRegistry) -> Breaker:
    return Breaker("redis", bounds=BOUNDS, figures=BreakerFigures(registry), monotonic=clock)


def answer(breaker: Breaker) -> None:
    """One call that is answered."""
    with breaker.call(OSError):
        pass


def fail(breaker: Breaker) -> None:
    """One call that is not."""
    with suppress(OSError), breaker.call(OSError):
        raise OSError


def opened(breaker: Breaker) -> Breaker:
    """The breaker after a row of failures."""
    for _ in range(BOUNDS.failures_in_row):
        fail(breaker)
    assert breaker.state is State.OPEN
    return breaker


def test_a_row_of_failures_opens_it_and_one_fewer_does_not(breaker: Breaker) -> None:
    for _ in range(BOUNDS.failures_in_row - 1):
        fail(breaker)
    answer(breaker)
    for _ in range(BOUNDS.failures_in_row - 1):
        fail(breaker)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN


def test_half_of_many_calls_open_it_though_never_many_in_a_row(breaker: Breaker) -> None:
    for _ in range(BOUNDS.calls_min // 2 - 1):
        answer(breaker)
        fail(breaker)
    answer(breaker)
    assert breaker.state is State.CLOSED  # nine calls say nothing yet
    fail(breaker)
    assert breaker.state is State.OPEN


def test_what_left_the_window_is_forgotten(breaker: Breaker, clock: Clock) -> None:
    for _ in range(BOUNDS.calls_min * 2):
        answer(breaker)
    clock.now += 11
    for _ in range(BOUNDS.calls_min // 2):
        answer(breaker)
        fail(breaker)
    assert breaker.state is State.OPEN  # of the last ten seconds half failed, of all calls a sixth


def test_within_the_window_good_calls_count_against_the_rate(breaker: Breaker, clock: Clock) -> None:
    for _ in range(BOUNDS.calls_min * 2):
        answer(breaker)
    clock.now += 8
    for _ in range(BOUNDS.calls_min // 2):
        answer(breaker)
        fail(breaker)
    assert breaker.state is State.CLOSED


def test_while_it_is_open_nothing_passes(breaker: Breaker, clock: Clock, registry: CollectorRegistry) -> None:
    opened(breaker)
    clock.now += 0.999
    assert not breaker.admits()
    with pytest.raises(Unavailable) as refused, breaker.call(OSError):
        pytest.fail("passed")
    assert (refused.value.code, refused.value.fields) == (
        "dependency_unavailable",
        {"dependency": "redis", "reason": "breaker_open"},
    )
    assert registry.get_sample_value("daybook_breaker_refused_total", {"dependency": "redis"}) == 1


def test_it_is_open_when_the_caller_says_so(breaker: Breaker, clock: Clock) -> None:
    answer(breaker)
    breaker.trip()
    assert breaker.state is State.OPEN
    clock.now += 1
    assert breaker.state is State.HALF_OPEN


def test_half_open_it_lets_a_few_probes_through_at_a_time(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 1
    assert breaker.state is State.HALF_OPEN
    with breaker.call(OSError), breaker.call(OSError):
        assert not breaker.admits()
        with pytest.raises(Unavailable), breaker.call(OSError):
            pytest.fail("a third probe passed")
    assert breaker.state is State.CLOSED


def test_one_answered_probe_is_not_enough_and_one_failed_opens_it_anew(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 1
    answer(breaker)
    assert breaker.state is State.HALF_OPEN
    fail(breaker)
    assert breaker.state is State.OPEN
    clock.now += 0.5
    assert not breaker.admits()
    clock.now += 0.5
    answer(breaker)
    answer(breaker)
    assert breaker.state is State.CLOSED


def test_a_probe_that_is_answered_after_another_failed_changes_nothing(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 1
    late = breaker.call(OSError)
    late.__enter__()
    fail(breaker)
    assert breaker.state is State.OPEN
    clock.now += 1
    with breaker.call(OSError), breaker.call(OSError):
        late.__exit__(None, None, None)
        assert not breaker.admits()  # both probes of this round are under way
    assert breaker.state is State.CLOSED


def test_after_closing_the_old_failures_do_not_count(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 1
    answer(breaker)
    answer(breaker)
    for _ in range(BOUNDS.failures_in_row - 1):
        fail(breaker)
    assert breaker.state is State.CLOSED


def test_refusals_are_answers(breaker: Breaker) -> None:
    for _ in range(BOUNDS.calls_min * 2):
        with suppress(Refusal), breaker.call(OSError):
            raise Refusal("insufficient_funds")
    assert breaker.state is State.CLOSED


def test_cancelled_calls_count_neither_way_and_give_their_probe_back(breaker: Breaker, clock: Clock) -> None:
    for _ in range(BOUNDS.calls_min * 2):
        with suppress(asyncio.CancelledError), breaker.call(OSError):
            raise asyncio.CancelledError
    assert breaker.state is State.CLOSED
    opened(breaker)
    clock.now += 1
    for _ in range(BOUNDS.probes_max + 1):
        with suppress(asyncio.CancelledError), breaker.call(OSError):
            raise asyncio.CancelledError
    assert breaker.state is State.HALF_OPEN
    assert breaker.admits()


def test_its_state_is_shown(breaker: Breaker, clock: Clock, registry: CollectorRegistry) -> None:
    def shown() -> tuple[float | None, str | None]:
        return registry.get_sample_value("daybook_breaker_state", {"dependency": "redis"}), breaker.tell()

    assert shown() == (0, None)
    opened(breaker)
    assert shown() == (2, "breaker open")
    clock.now += 1
    assert shown() == (1, "breaker half_open")
    answer(breaker)
    answer(breaker)
    assert shown() == (0, None)
    for state in ("open", "half_open", "closed"):
        labels = {"dependency": "redis", "state": state}
        assert registry.get_sample_value("daybook_breaker_transitions_total", labels) == 1


def test_a_call_that_says_nothing_is_neither_failure_nor_answer(breaker: Breaker, clock: Clock) -> None:
    def say_nothing() -> None:
        with suppress(SaysNothing), breaker.call(OSError):
            raise SaysNothing

    for _ in range(BOUNDS.failures_in_row * BOUNDS.calls_min):
        say_nothing()
    assert breaker.state is State.CLOSED
    for _ in range(BOUNDS.failures_in_row - 1):
        fail(breaker)
    say_nothing()  # no answer either: the row goes on
    fail(breaker)
    assert breaker.state is State.OPEN
    clock.now += 2
    for _ in range(BOUNDS.probes_max * 3):  # each gives its place back
        say_nothing()
    assert breaker.state is State.HALF_OPEN
    for _ in range(BOUNDS.probes_max):
        answer(breaker)
    assert breaker.state is State.CLOSED


class Ended(OSError, SaysNothing):
    """What elsewhere is a failure, and says nothing."""


def test_what_says_nothing_does_so_even_if_it_is_of_the_failures_too(breaker: Breaker) -> None:
    for _ in range(BOUNDS.failures_in_row * BOUNDS.calls_min):
        with suppress(Ended), breaker.call(OSError):
            raise Ended
        with suppress(Ended), breaker.look(OSError):
            raise Ended
    assert breaker.state is State.CLOSED


def look(breaker: Breaker, *, fails: bool = False) -> None:
    """One health check."""
    with suppress(OSError), breaker.look(OSError):
        if fails:
            raise OSError


def test_answers_to_a_health_check_close_what_nobody_else_asks(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    look(breaker)
    assert breaker.state is State.HALF_OPEN
    look(breaker)
    assert breaker.state is State.CLOSED
    opened(breaker)
    clock.now += 1
    answer(breaker)
    look(breaker)
    assert breaker.state is State.CLOSED


def test_a_health_check_that_fails_opens_what_was_half_open_and_does_not_keep_open_what_is(
    breaker: Breaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += 0.9
    look(breaker, fails=True)
    clock.now += 0.1
    assert breaker.state is State.HALF_OPEN
    answer(breaker)
    look(breaker, fails=True)
    assert breaker.state is State.OPEN
    clock.now += 1
    look(breaker, fails=True)
    assert breaker.state is State.OPEN


def test_health_checks_pass_an_open_breaker_and_count_as_calls_while_it_is_closed(
    breaker: Breaker, registry: CollectorRegistry
) -> None:
    for _ in range(BOUNDS.failures_in_row):
        look(breaker, fails=True)
    assert breaker.state is State.OPEN
    passed = False
    with suppress(SaysNothing), breaker.look(OSError):
        passed = True
        raise SaysNothing
    assert passed
    assert breaker.state is State.OPEN
    assert registry.get_sample_value("daybook_breaker_refused_total", {"dependency": "redis"}) is None


async def test_those_who_go_round_an_open_breaker_are_counted(breaker: Breaker, registry: CollectorRegistry) -> None:
    pool = LogPool("postgresql://127.0.0.1:1", breaker=breaker)
    link = RedisLink(connect_redis("redis://127.0.0.1:1", timeout_ms=1), metrics=Counts(), breaker=breaker)
    assert link.lets_wait()
    assert pool.unavailable() is None
    opened(breaker)
    assert not link.lets_wait()
    away = pool.unavailable()
    assert away is not None
    assert away.fields["reason"] == "breaker_open"
    assert registry.get_sample_value("daybook_breaker_refused_total", {"dependency": "redis"}) == 2
    await link.close()


class Told(ProcessSettings, frozen=True, kw_only=True):
    """What a process with two breakers reads."""

    breaker_window_ms: int = 7_000
    breaker_calls_min: int = 6
    breaker_failures_percent: int = 40
    redis_breaker_failures_in_row: int = 1
    redis_breaker_open_ms: int = 500
    redis_breaker_probes_max: int = 3
    kafka_breaker_failures_in_row: int = 4


def test_bounds_are_those_of_the_process_and_of_this_breaker() -> None:
    told = Told(postgres_url=Secret("postgresql://"))
    assert bounds_of("redis", told) == BreakerBounds(
        window_ms=7_000, calls_min=6, failures_percent=40, failures_in_row=1, open_ms=500, probes_max=3
    )
    with pytest.raises(AttributeError, match="kafka_breaker_open_ms"):
        bounds_of("kafka", told)
