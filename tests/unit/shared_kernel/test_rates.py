"""The rate of each subject, under a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_kernel.errors import Contention
from shared_kernel.rates import Rates


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def let_through(rates: Rates, subject: str, times: int) -> int:
    """How many of so many requests passed."""
    passed = 0
    for _ in range(times):
        try:
            rates.take(subject)
        except Contention:
            continue
        passed += 1
    return passed


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    clock = Clock()
    rates = Rates(100, burst=20, monotonic=clock)
    assert let_through(rates, "alice", 50) == 20
    clock.now += 0.1
    assert let_through(rates, "alice", 50) == 10
    clock.now += 60
    assert let_through(rates, "alice", 50) == 20  # what was not used is not saved up


def test_the_refusal_says_when_to_come_again() -> None:
    clock = Clock()
    rates = Rates(2, burst=1, monotonic=clock)
    rates.take("alice")
    with pytest.raises(Contention) as refused:
        rates.take("alice")
    assert (refused.value.code, refused.value.retry_after_ms) == ("rate_limited", 500)
    clock.now += 0.5
    rates.take("alice")


def test_one_subject_takes_nothing_from_another() -> None:
    rates = Rates(1, burst=1, monotonic=Clock())
    assert let_through(rates, "alice", 10) == 1
    assert let_through(rates, "bob", 10) == 1


def test_what_is_refused_does_not_count_against_the_rate() -> None:
    clock = Clock()
    rates = Rates(1, burst=1, monotonic=clock)
    rates.take("alice")
    assert let_through(rates, "alice", 1_000) == 0
    clock.now += 1
    rates.take("alice")


def test_of_many_subjects_the_one_longest_unheard_of_begins_anew() -> None:
    rates = Rates(1, burst=1, subjects_max=2, monotonic=Clock())
    for subject in ("alice", "bob"):
        rates.take(subject)
    assert let_through(rates, "alice", 1) == 0  # heard of again, and so kept
    rates.take("carol")
    assert let_through(rates, "alice", 1) == 0
    assert let_through(rates, "bob", 1) == 1


@given(st.lists(st.floats(0, 0.5), max_size=200), st.integers(1, 50), st.integers(1, 20))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], per_second: int, burst: int) -> None:
    clock = Clock()
    rates = Rates(per_second, burst=burst, monotonic=clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += let_through(rates, "alice", 3)
    assert passed <= burst + per_second * (clock.now - 50) + 1e-6
