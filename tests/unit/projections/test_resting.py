"""Relay and projector rest briefly up to the rate that readers are promised fresh books at, and in proportion beyond it."""

import pytest

from projections.application.resting import Resting


def rests(a_second: int, *, worked_s: float) -> float:
    """The rest that so many events a second settle at, where every batch takes so long."""
    resting, began, rest_s = Resting(round_ms=30, rest_ms_max=250), 0.0, 0.0
    for _ in range(20):
        cycle_s = worked_s + rest_s
        rest_s = resting.after(round(a_second * cycle_s), began=began, ended=began + worked_s)
        began += worked_s + rest_s
    return rest_s


@pytest.mark.parametrize(
    ("a_second", "worked_s", "expected"),
    [
        (100, 0.005, 0.025),
        (1_000, 0.02, 0.01),
        (1_000, 0.08, 0.0),
        (3_000, 0.02, 0.06),
        (3_000, 0.2, 0.25),
    ],
)
def test_rests_are_short_up_to_the_promised_rate_and_in_proportion_beyond(
    a_second: int, worked_s: float, expected: float
) -> None:
    assert rests(a_second, worked_s=worked_s) == pytest.approx(expected)


def test_one_large_batch_after_silence_is_followed_at_once_like_any_other() -> None:
    resting = Resting(round_ms=30, rest_ms_max=250)
    assert resting.after(1, began=0.0, ended=0.01) == pytest.approx(0.02)
    assert resting.after(2_000, began=60.0, ended=60.1) == 0.0
