"""What counts as wrong in a look, and what becomes of it over several."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from daybook.monitor.domain.alerts import Episode, Hysteresis, judge
from daybook.monitor.domain.cancelling import Cancelling, Policy, root_of, step
from daybook.monitor.domain.findings import Finding, Limits, find, was_looked_at
from daybook.monitor.domain.looks import Chain, Lag, Lock, Look, Process, Standing, blockers, chains
from shared_kernel import lock_table
from tests.unit.monitor.shipped import SHIPPED
from tests.unit.monitor.test_chains import BEGAN, seen, session

AT = datetime(2026, 11, 28, tzinfo=UTC)
LIMITS = Limits(transaction_ms_max=10_000, blocked_ms_max=2_000, lock_ms_max=30_000, lag_ms_max=30_000)
PACE = Hysteresis(raise_looks=2, clear_looks=3)
NOTHING: dict[str, Any] = {
    "taken_at": AT,
    "taken_by": "m",
    "sessions": (),
    "chains": (),
    "blockers": (),
    "locks": (),
    "lags": (),
    "standing": (),
    "processes": (),
    "deadlocks": {},
    "skipped": {},
}


def look(**seen: Any) -> Look:
    return Look(**(NOTHING | seen))


def lock(kind: str, left_ms: int | None, held_ms: int = 0) -> Lock:
    return Lock(key=f"k:{kind}", kind=kind, ledger="shop", holder="h", left_ms=left_ms, held_ms=held_ms)


def lag(reader: str, lag_ms: int, *, is_live: bool = True) -> Lag:
    return Lag(reader=reader, generation=1, is_live=is_live, events=7, ledgers=2, ledger="shop", lag_ms=lag_ms)


def kinds(seen: Look, before: Look | None = None) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject) for finding in find(seen, before, LIMITS)]


def test_an_empty_look_has_no_findings() -> None:
    assert kinds(look(), look()) == []


def test_a_transaction_of_a_client_that_is_open_too_long_is_found() -> None:
    old = msgspec.structs.replace(session(1), transaction_ms=10_001, query="select '?'")
    vacuum = msgspec.structs.replace(session(2), transaction_ms=99_999, is_client=False)
    seen = look(sessions=[old, vacuum, msgspec.structs.replace(session(3), transaction_ms=10_000)])
    (finding,) = find(seen, None, LIMITS)
    assert (finding.kind, finding.subject) == ("long_transaction", old.name)
    assert finding.detail["application"] == "application 1"
    assert finding.detail["query"] == "select '?'"


def test_a_chain_is_found_by_its_root_once_it_holds_others_up_for_too_long() -> None:
    short = seen([session(1), session(2, 1, waiting_ms=2_000)])
    long = seen([session(1), session(2, 1, waiting_ms=2_001)])
    assert kinds(look(chains=short)) == []
    assert kinds(look(chains=long)) == [("blocked_chain", session(1).name)]


def test_deadlocks_are_found_where_the_count_grew_and_not_where_counting_began() -> None:
    before = look(deadlocks={"a": 3, "b": 5})
    (finding,) = find(look(deadlocks={"a": 5, "b": 0, "new": 9}), before, LIMITS)
    assert (finding.kind, finding.subject, finding.detail["deadlocks"]) == ("deadlock", "a", 2)
    assert kinds(look(deadlocks={"a": 5})) == []


@pytest.mark.parametrize(
    ("seen", "is_overdue"),
    [
        (lock("lease", 1, held_ms=10**9), False),
        (lock("lease", None), True),
        (lock("lock:draws:a", 500, held_ms=30_000), False),
        (lock("lock:draws:a", 500, held_ms=30_001), True),
        (lock("relay", 1), False),
        (lock("relay", 0), True),
    ],
)
def test_locks_are_overdue_by_their_kind(seen: Lock, is_overdue: bool) -> None:
    assert kinds(look(locks=[seen])) == ([("overdue_lease", seen.key)] if is_overdue else [])


def test_a_worker_that_gave_nothing_back_is_one_finding_that_names_it() -> None:
    ended = [
        Lock(key=f"k{n}", kind="writers", ledger=f"l{n}", holder="h-1-a", left_ms=-n, held_ms=None) for n in range(7)
    ]
    (finding,) = find(look(locks=ended), None, LIMITS)
    assert (finding.kind, finding.subject) == ("overdue_lease", "h-1-a")
    assert (finding.detail["ledgers"], finding.detail["first"], finding.detail["ended_ms"]) == (
        7, "l0, l1, l2, l3, l4", 6,
    )  # fmt: skip


def test_what_ran_out_is_remembered_for_as_long_as_it_takes_to_become_an_alert_as_shipped() -> None:
    assert (SHIPPED.raise_looks + 1) * SHIPPED.look_ms < lock_table.OVER_KEPT_MS


def test_lags_count_where_readers_see_them() -> None:
    seen = look(lags=[lag("relay", 30_001), lag("books", 30_001), lag("books", 10**9, is_live=False), lag("x", 30_000)])
    assert kinds(seen) == [("relay_lag", "relay"), ("projection_lag", "books")]


def test_parked_ledgers_of_a_projection_are_one_finding() -> None:
    standing = [
        Standing(projection="books", ledger=f"l{n}", state=state, position=1, error_class="E", since_ms=5)
        for n, state in enumerate(["parked"] * 7 + ["waiting"])
    ]
    (finding,) = find(look(standing=standing), None, LIMITS)
    assert (finding.kind, finding.subject) == ("parked_ledgers", "books")
    assert finding.detail == {"parked": 7, "first": "l0, l1, l2, l3, l4"}


def test_each_open_breaker_is_found_by_process_and_dependency() -> None:
    processes = [Process(url="u", open_breakers=("redis", "kafka")), Process(url="v", fault="URLError")]
    assert kinds(look(processes=processes)) == [("breaker_open", "u redis"), ("breaker_open", "u kafka")]


def finding(kind: Any = "relay_lag") -> Finding:
    return Finding(kind=kind, subject="s", detail={"lag_ms": 1})


def run(*seen: bool, kind: Any = "relay_lag", pace: Hysteresis = PACE) -> list[list[Episode]]:
    """What is judged at each look; what has ended is not known at the next."""
    known: Sequence[Episode] = []
    judged = []
    for number, is_seen in enumerate(seen):
        found = judge(known, [finding(kind)] if is_seen else [], AT + timedelta(seconds=number), pace)
        known = [episode for episode in found if episode.ended_at is None]
        judged.append(found)
    return judged


def test_an_alert_is_raised_after_looks_in_a_row_and_cleared_after_looks_without() -> None:
    first, second, *middle, last = run(True, True, False, False, False)
    assert first[0].raised_at is None
    assert second[0].raised_at == AT + timedelta(seconds=1)
    assert [each[0].ended_at for each in middle] == [None, None]
    assert (last[0].ended_at, last[0].raised_at) == (AT + timedelta(seconds=4), second[0].raised_at)


def test_what_comes_and_goes_is_no_alert_and_one_episode() -> None:
    judged = run(True, False, True, False, False, True)
    assert all(len(each) == 1 and each[0].raised_at is None for each in judged)
    assert judged[-1][0].first_seen_at == AT


def test_an_alert_that_comes_again_before_it_is_cleared_is_the_same() -> None:
    *_, last = run(True, True, False, False, True, False, False)
    assert last[0].raised_at == AT + timedelta(seconds=1)
    assert (last[0].ended_at, last[0].missed) == (None, 2)


def test_a_deadlock_is_told_at_once() -> None:
    (only,) = run(True, kind="deadlock")
    assert only[0].raised_at == AT


SILENT_REDIS = look(skipped={"redis": "Redis does not answer (TimeoutError)"})
SILENT = look(processes=[Process(url="u", fault="URLError"), Process(url="v")])
NOBODY = look(skipped={"processes": "DAYBOOK_METRICS_URLS is not set"})


@pytest.mark.parametrize(
    ("kind", "subject", "seen", "is_over"),
    [
        ("overdue_lease", "h-1-a", SILENT_REDIS, False),
        ("overdue_lease", "h-1-a", look(), True),
        ("overdue_lease", "relay", SILENT_REDIS, True),
        ("breaker_open", "u redis", SILENT, False),
        ("breaker_open", "v redis", SILENT, True),
        ("breaker_open", "u redis", NOBODY, False),
        ("breaker_open", "u redis", look(processes=[Process(url="v")]), True),
        ("breaker_open", "http://10.0.0.7:1 redis", SILENT, False),
        ("relay_lag", "relay", SILENT_REDIS, True),
    ],
)
def test_an_alert_is_cleared_only_by_looks_at_what_it_is_about(
    kind: Any, subject: str, seen: Look, is_over: bool
) -> None:
    raised = Episode(
        kind=kind, subject=subject, first_seen_at=AT, last_seen_at=AT, looks=2, raised_at=AT, detail={"lag_ms": 1}
    )
    known: Sequence[Episode] = [raised]
    for _ in range(PACE.clear_looks):
        known = judge(known, [], AT, PACE, partial(was_looked_at, seen))
    assert known == [raised] or is_over
    assert (known[0].ended_at is not None) == is_over


def test_over_and_back_is_a_new_episode() -> None:
    *_, ended, again = run(True, True, False, False, False, True)
    assert ended[0].ended_at is not None
    assert (again[0].first_seen_at, again[0].raised_at) == (AT + timedelta(seconds=5), None)


def chain(blocking_ms: int, *, state: str = "active", is_client: bool = True) -> Chain:
    root = msgspec.structs.replace(session(1), state=state, is_client=is_client, transaction_ms=blocking_ms)
    return seen([root, session(2, 1, waiting_ms=blocking_ms)])[0]


@pytest.mark.parametrize(
    ("cancelling", "blocking_ms", "state", "done", "expected"),
    [
        ("off", 10**9, "active", "", None),
        ("cancel", 999, "active", "", None),
        ("cancel", 1_000, "active", "", "cancel"),
        ("cancel", 10**9, "active", "cancelled", None),
        ("cancel", 10**9, "idle in transaction", "", None),
        ("terminate", 1_000, "active", "", "cancel"),
        ("terminate", 2_000, "active", "cancelled", "terminate"),
        ("terminate", 1_999, "idle in transaction", "", None),
        ("terminate", 2_000, "idle in transaction", "", "terminate"),
        ("terminate", 10**9, "active", "terminated", None),
        ("terminate", 10**9, "active", "failed", None),
    ],
)
def test_policy_decides_what_is_done(
    cancelling: Cancelling, blocking_ms: int, state: str, done: Any, expected: str | None
) -> None:
    policy = Policy(cancelling=cancelling, cancel_after_ms=1_000, terminate_after_ms=2_000)
    assert step(chain(blocking_ms, state=state), done, policy) == expected


def test_a_session_that_holds_a_head_row_is_an_alert_and_ended_though_each_command_gives_up_after_two_seconds() -> None:
    """As shipped: a command waits for the head row for 2,000 ms at most, then another does, and between them nobody."""
    limits = msgspec.structs.replace(LIMITS, blocked_ms_max=SHIPPED.blocked_ms_max)
    pace = Hysteresis(raise_looks=SHIPPED.raise_looks, clear_looks=SHIPPED.clear_looks)
    policy = Policy(
        cancelling="terminate", cancel_after_ms=SHIPPED.cancel_after_ms, terminate_after_ms=SHIPPED.terminate_after_ms
    )
    known: Sequence[Episode] = []
    seen_before = look()
    steps = []
    for number in range(14):
        at = BEGAN + number * timedelta(milliseconds=SHIPPED.look_ms)
        waiter = [session(10 + number, 1, waiting_ms=300 * number % 2_000)] if number != 4 else []
        root = msgspec.structs.replace(session(1), state="idle in transaction")
        there = chains([root, *waiter], at, seen_before.blockers)
        now = look(taken_at=at, chains=there, blockers=blockers(there, at, seen_before.blockers))
        known = judge(known, find(now, seen_before, limits), at, pace)
        seen_before = now
        raised = [episode.raised_at for episode in known]
        assert raised == ([] if number == 0 else [None] if number == 1 else [BEGAN + timedelta(seconds=10)])
        steps.append(step(there[0], "", policy) if there else None)
    assert steps == [None] * 12 + ["terminate"] * 2


def test_what_the_server_does_by_itself_is_left_alone() -> None:
    policy = Policy(cancelling="terminate", cancel_after_ms=1, terminate_after_ms=1)
    assert step(chain(10**9, is_client=False), "", policy) is None


def test_only_a_chain_that_is_there_now_is_acted_on() -> None:
    blocked = chain(5)
    seen = run(True, False, kind="blocked_chain")
    (now,), (missed,) = seen
    named = msgspec.structs.replace(now, subject=blocked.root.name)
    assert root_of(named, [blocked]) is blocked
    assert root_of(now, [blocked]) is None
    assert root_of(msgspec.structs.replace(missed, subject=blocked.root.name), [blocked]) is None
