"""A source that brings nothing, while the log has to fill in what it should have brought, is begun anew: soon, then ever more rarely."""

from itertools import count

from projections.application.silence import LONGER_MAX, Silence

SILENT_S = 15


def renewed_after(silence: Silence, begin: int) -> int:
    """Seconds until it is begun anew, where the log fills something in every second."""
    return next(now for now in count() if silence.healed(begin + now))


def test_one_that_stays_silent_is_begun_anew_each_time_twice_as_late() -> None:
    silence = Silence(silent_ms=SILENT_S * 1_000)
    now, waited = 0, []
    for _ in range(8):
        waited.append(renewed_after(silence, now))
        now += waited[-1]
    assert waited == [SILENT_S * min(2**number, LONGER_MAX) for number in range(8)]


def test_whatever_comes_in_between_begins_the_count_anew() -> None:
    silence = Silence(silent_ms=SILENT_S * 1_000)
    for begin in range(0, 100, SILENT_S):
        assert not any(silence.healed(begin + now) for now in range(SILENT_S))
        silence.broken()
    renewed_after(silence, 100)
    silence.broken()
    assert renewed_after(silence, 200) == SILENT_S


def test_one_healing_now_and_then_is_no_silence_of_a_source_that_speaks() -> None:
    silence = Silence(silent_ms=SILENT_S * 1_000)
    for hour in range(5):
        assert not silence.healed(hour * 3_600)
        silence.broken()
