"""Times as text: always 27 characters, in UTC, whatever the zone and however round the second."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_kernel.words import format_time, parse_time

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.one_of(st.just(UTC), ZONES))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (datetime(2026, 11, 24, 9, 30, tzinfo=UTC), "2026-11-24T09:30:00.000000Z"),
        (datetime(2026, 11, 24, 9, 30, 0, 1, tzinfo=UTC), "2026-11-24T09:30:00.000001Z"),
        (datetime(2026, 11, 24, 9, 30, 0, 500_000, tzinfo=UTC), "2026-11-24T09:30:00.500000Z"),
        (datetime(993, 1, 2, tzinfo=UTC), "0993-01-02T00:00:00.000000Z"),
        (datetime(993, 1, 2, 0, 0, 0, 20, tzinfo=UTC), "0993-01-02T00:00:00.000020Z"),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2025-12-31T23:00:00.000000Z"),
    ],
)
def test_a_time_is_27_characters_of_utc(time: datetime, text: str) -> None:
    assert format_time(time) == text


@given(TIMES)
def test_a_time_that_was_written_is_read_as_the_same(time: datetime) -> None:
    text = format_time(time)
    assert len(text) == 27
    assert parse_time(text) == time
