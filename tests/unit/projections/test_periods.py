"""The periods projection: its tables give what was posted up to any position and any effective time."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from projections.domain.periods import PERIODS
from projections.domain.projection import Rows
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Entry, HoldPosted, TransactionHeld, TransactionPosted
from shared_kernel.words import format_time
from tests.support.folding import project_in_batches, written
from tests.support.histories import opened, recorded, transfer
from tests.support.lives import FAR, MOMENTS, Life
from tests.support.plain_books import plain_books

RANDOM = st.randoms(use_true_random=False)
WITHIN = {
    "year": (0, 4),
    "month": (4, 7),
    "day": (7, 10),
    "hour": (10, 13),
    "minute": (13, 16),
    "second": (16, 19),
    "instant": (19, 27),
}
Totals = dict[tuple[str, str], tuple[int, int]]


def life(chance: Random, count: int) -> list[RecordedEvent]:
    """A ledger and what became of it."""
    return recorded("bank", [opened("bank"), *Life("bank", chance).steps(count)])


def plain_totals(events: Iterable[RecordedEvent], *, position: int, effective_at: str) -> Totals:
    """Debits and credits by address and asset, summed from the plain books' entries."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for _, address, asset, at, _, kind, direction, amount, _, _, effective, *_ in plain_books(events)["entries"]:
        if kind in {"posted", "captured"} and at <= position and format_time(effective) <= effective_at:
            sums[address, asset][direction == "credit"] += amount
    return {pair: (debits, credits_) for pair, (debits, credits_) in sums.items()}


def totals(rows: Rows, *, position: int, effective_at: str) -> Totals:
    """The same, asked of the tables as their SQL says."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    timely = defaultdict(list)
    for _, address, asset, at, effective, *both in rows["timely"]:
        timely[address, asset].append((at, effective, both))
    for pair, versions in timely.items():
        # Both columns rise together: the last row that is within both bounds is the earlier of two probes.
        found = min(
            bisect_right([at for at, _, _ in versions], position),
            bisect_right([effective for _, effective, _ in versions], effective_at),
        )
        if found:
            sums[pair] = list(versions[found - 1][2])
    last = {
        (address, asset, span, begins_at): both
        for _, address, asset, span, begins_at, at, *both in rows["untimely"]
        if at <= position
    }
    for (address, asset, span, begins_at), both in last.items():
        # Within what is known of a longer span, and before E's own: so many characters tell a span's time.
        longer, own = WITHIN[span]
        is_before = begins_at <= effective_at if span == "instant" else begins_at[:own] < effective_at[:own]
        if begins_at[:longer] == effective_at[:longer] and is_before:
            sums[address, asset][0] += both[0]
            sums[address, asset][1] += both[1]
    return {pair: (debits, credits_) for pair, (debits, credits_) in sums.items()}


@settings(max_examples=30)
@given(chance=RANDOM)
def test_totals_at_any_position_and_effective_time_are_those_of_the_plain_fold(chance: Random) -> None:
    events = life(chance, 40)
    [folded] = project_in_batches(PERIODS, [{"bank": events}])
    assert not folded.faults
    rows = written(PERIODS, [folded])
    times = [format_time(time) for time in [*MOMENTS, *FAR]] + [format_time(event.recorded_at) for event in events]
    for _ in range(5):
        bounds = {"position": chance.randrange(len(events) + 2), "effective_at": chance.choice(times)}
        assert totals(rows, **bounds) == plain_totals(events, **bounds)


@settings(max_examples=30)
@given(chance=RANDOM, cuts=st.lists(st.integers(0, 40), max_size=4), rows_max=st.integers(0, 3))
def test_the_rows_are_the_same_however_the_events_are_cut_into_batches(
    chance: Random, cuts: list[int], rows_max: int
) -> None:
    events = life(chance, 40)
    edges = [0, *sorted(cuts), len(events)]
    pieces = [{"bank": events[begin:end]} for begin, end in pairwise(edges)]
    at_once = written(PERIODS, project_in_batches(PERIODS, [{"bank": events}]))
    assert written(PERIODS, project_in_batches(PERIODS, pieces, rows_max=rows_max)) == at_once


def test_what_is_posted_without_a_time_of_its_own_costs_one_row_an_account() -> None:
    events = recorded("bank", [opened("bank"), *(transfer(f"t{number}", 1) for number in range(10))])
    rows = written(PERIODS, project_in_batches(PERIODS, [{"bank": events}]))
    assert (len(rows["timely"]), len(rows["untimely"])) == (20, 0)


def test_a_late_entry_and_one_dated_ahead_leave_what_follows_in_order() -> None:
    def at(name: str, time: str) -> TransactionPosted:
        return TransactionPosted(transaction=name, entries=transfer(name, 1).entries, effective_at=time)

    late, ahead = at("late", "2020-05-06T07:08:09Z"), at("ahead", "2030-01-01T00:00:00Z")
    events = recorded("bank", [opened("bank"), transfer("t1", 1), ahead, late, transfer("t2", 1)])
    rows = written(PERIODS, project_in_batches(PERIODS, [{"bank": events}]))
    assert [row[3] for row in rows["timely"]] == [2, 2, 5, 5]
    assert [row[3:6] for row in rows["untimely"] if row[1] == "users:1" and row[5] == 4] == [
        ("year", "2020-01-01T00:00:00.000000Z", 4),
        ("month", "2020-05-01T00:00:00.000000Z", 4),
        ("day", "2020-05-06T00:00:00.000000Z", 4),
        ("hour", "2020-05-06T07:00:00.000000Z", 4),
        ("minute", "2020-05-06T07:08:00.000000Z", 4),
        ("second", "2020-05-06T07:08:09.000000Z", 4),
        ("instant", "2020-05-06T07:08:09.000000Z", 4),
    ]


def test_a_capture_without_a_time_counts_when_the_hold_said_or_else_when_it_was_recorded() -> None:
    entries = transfer("t", 5).entries
    events = recorded(
        "bank",
        [
            opened("bank"),
            TransactionHeld(transaction="dated", entries=entries, effective_at="2026-11-24T09:30:01Z"),
            TransactionHeld(transaction="undated", entries=entries),
            HoldPosted(transaction="dated", entries=entries),
            HoldPosted(transaction="undated", entries=entries),
        ],
    )
    rows = written(PERIODS, project_in_batches(PERIODS, [{"bank": events}]))
    assert [row[3:5] for row in rows["timely"] if row[1] == "users:1"] == [
        (4, "2026-11-24T09:30:01.000000Z"),
        (5, "2026-11-24T09:30:05.000000Z"),
    ]


def test_an_entry_of_both_directions_in_one_account_is_one_row() -> None:
    both = [
        Entry(account="a", direction="debit", amount=5, asset="JPY"),
        Entry(account="a", direction="credit", amount=5, asset="JPY"),
    ]
    events = recorded("bank", [TransactionPosted(transaction="t", entries=both)])
    rows = written(PERIODS, project_in_batches(PERIODS, [{"bank": events}]))
    assert [row[-2:] for row in rows["timely"]] == [(5, 5)]
