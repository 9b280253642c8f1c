"""When a crashed child is started again, and when not."""

from hypothesis import given
from hypothesis import strategies as st

from daybook.stack.restarts import CRASHES_MAX, LAST_DELAY_S, WINDOW_S, CrashHistory


def test_waits_double_and_the_fifth_crash_within_a_minute_gives_up() -> None:
    history = CrashHistory()

    delays = [history.next_delay_s(now) for now in (0.0, 1.0, 2.0, 3.0, 4.0)]

    assert delays == [0.2, 0.4, 0.8, 1.6, None]


def test_a_quiet_minute_is_forgiven() -> None:
    history = CrashHistory()
    for now in (0.0, 1.0, 2.0, 3.0):
        history.next_delay_s(now)

    assert history.next_delay_s(3.0 + WINDOW_S) == 0.2


@given(st.lists(st.floats(min_value=0, max_value=200), min_size=1, max_size=50))
def test_gives_up_exactly_when_five_crashes_lie_within_a_minute(gaps: list[float]) -> None:
    history = CrashHistory()
    now = 0.0
    crashes: list[float] = []
    for gap in gaps:
        now += gap
        crashes.append(now)
        recent = [crash for crash in crashes if crash > now - WINDOW_S]

        delay = history.next_delay_s(now)

        assert (delay is None) == (len(recent) >= CRASHES_MAX)
        assert delay is None or 0 < delay <= LAST_DELAY_S
