"""Relay and projector rest briefly up to the rate that readers are promised fresh books at, and in proportion beyond it."""

import pytest

from projections.application.resting import Resting


def rests(a_second: int, *, worked_s: float) -> float:
    """The rest that so many events a second settle at, where every batch takes so long."""
    resting, began, rest_s = Resting(round_ms=30, rest_ms_max=250), 0.0, 0.0
    for _ in range(200):
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
    assert resting.after(1_150, began=60.0, ended=60.1) == 0.0


def test_events_that_come_in_lumps_at_the_promised_rate_are_no_rush() -> None:
    resting, began = Resting(round_ms=30, rest_ms_max=250), 0.0
    for lump in range(100):
        began += 0.195 if lump % 2 else 0.005  # as behind a stall: two lumps of 100 in 200 ms
        assert resting.after(100, began=began, ended=began + 0.04) == 0.0


def test_a_rush_is_over_as_soon_as_fewer_come() -> None:
    resting, began, rests_s = Resting(round_ms=30, rest_ms_max=250), 0.0, []
    for lump in range(80):
        began += 0.1
        rests_s.append(resting.after(500 if lump < 20 else 100, began=began, ended=began + 0.04))
    assert rests_s[15:20] == [pytest.approx(0.12)] * 5
    assert rests_s[60:] == [0.0] * 20


def test_rests_that_a_rush_has_made_long_do_not_last_by_themselves_at_the_promised_rate() -> None:
    resting, began, rest_s, rests_s = Resting(round_ms=30, rest_ms_max=300), 0.0, 0.0, []
    for lump in range(60):
        cycle_s = 0.12 + rest_s
        began += cycle_s
        rest_s = resting.after(round((4_000 if lump < 20 else 1_000) * cycle_s), began=began, ended=began + 0.12)
        rests_s.append(rest_s)
    assert rests_s[19] == pytest.approx(0.3)
    assert rests_s[-1] == 0.0
