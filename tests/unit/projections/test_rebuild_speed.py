"""How large the batches of a rebuild are: by its size, so that a crash repeats little."""

import pytest

from projections.application.rebuild import BATCHES_IN_HAND, Speed

SPEED = Speed(batch_events_max=3_000, batch_bytes_max=1, ledgers_max=1, rows_max=1, parked_max=1)


@pytest.mark.parametrize("processes", [1, 2, 7])
@pytest.mark.parametrize("events", [3_000, 24_000, 360_000, 50_000_000])
def test_what_all_processes_have_in_hand_is_a_twentieth_at_most(events: int, processes: int) -> None:
    batch = SPEED.bounded_for(events, processes=processes).batch_events_max
    assert batch * BATCHES_IN_HAND * processes <= max(events / 20, 20 * BATCHES_IN_HAND * processes)
    assert 20 <= batch <= SPEED.batch_events_max


def test_large_rebuilds_keep_the_batches_that_are_quickest_and_nothing_else_changes() -> None:
    assert SPEED.bounded_for(1_000_000, processes=2) == SPEED
    throttled = SPEED.no_faster(500)
    assert throttled.bounded_for(6_000, processes=1).events_per_second_max == 500
