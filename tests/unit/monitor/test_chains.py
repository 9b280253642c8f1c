"""Who stands at the root of a chain of sessions that wait for each other, and what is seen of their queries."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from daybook.monitor.domain.cancelling import Policy, step
from daybook.monitor.domain.looks import Blocker, Chain, Session, blockers, chains
from daybook.monitor.infrastructure.postgres import without_literals
from tests.unit.monitor.shipped import SHIPPED

BEGAN = datetime(2026, 11, 28, tzinfo=UTC)


def session(pid: int, *blocked_by: int, waiting_ms: int = 0, age_s: int = 0) -> Session:
    return Session(
        pid=pid,
        user="daybook_command",
        application=f"application {pid}",
        database="daybook",
        is_client=True,
        state="active",
        began_at=BEGAN - timedelta(seconds=age_s),
        transaction_ms=60_000,
        state_ms=0,
        waiting_ms=waiting_ms if blocked_by else None,
        waits_for="ShareLock of transactionid" if blocked_by else None,
        blocked_by=blocked_by,
    )


def seen(sessions: Sequence[Session]) -> list[Chain]:
    """The chains of a first look."""
    return chains(sessions, BEGAN, ())


def looks(*waiters: Sequence[Session]) -> list[int | None]:
    """For how long session 1 has held others up at each of several looks, as far apart as shipped; None: nobody waits for it."""
    found: list[int | None] = []
    before: list[Blocker] = []
    for number, waiting in enumerate(waiters):
        at = BEGAN + number * timedelta(milliseconds=SHIPPED.look_ms)
        there = chains([session(1), *waiting], at, before)
        before = blockers(there, at, before)
        found.append(there[0].blocking_ms if there else None)
    return found


def test_nobody_waits_and_there_is_no_chain() -> None:
    assert seen([session(1), session(2)]) == []


def test_chain_is_walked_to_the_session_that_waits_for_nobody() -> None:
    (chain,) = seen([session(3, 2, waiting_ms=50), session(2, 1, waiting_ms=900), session(1), session(4, 3)])
    assert chain.root.pid == 1
    assert [(waiter.pid, waiter.depth) for waiter in chain.waiters] == [(2, 1), (3, 2), (4, 3)]
    assert chain.waiting_ms == 900


def test_a_waiter_behind_two_roots_stands_in_both_chains_and_the_longest_wait_comes_first() -> None:
    found = seen([session(1), session(2), session(3, 1, 2, waiting_ms=10), session(4, 2, waiting_ms=70)])
    assert [(chain.root.pid, [waiter.pid for waiter in chain.waiters]) for chain in found] == [(2, [3, 4]), (1, [3])]


def test_a_root_is_judged_by_how_long_it_has_held_up_anybody_whoever_waits_now() -> None:
    assert looks([session(2, 1, waiting_ms=1_200)], [session(3, 1, waiting_ms=40)], [session(4, 1)]) == [
        1_200, 6_200, 11_200,
    ]  # fmt: skip


def test_a_look_between_two_waiters_does_not_begin_anew_and_two_in_a_row_do() -> None:
    waiting = [session(2, 1, waiting_ms=500)]
    assert looks(waiting, [], waiting, [], [], waiting) == [500, None, 10_500, None, None, 500]


def test_another_transaction_of_the_same_session_has_held_up_nobody_yet() -> None:
    first = chains([session(1), session(2, 1, waiting_ms=1_000)], BEGAN, ())
    at = BEGAN + timedelta(seconds=5)
    (again,) = chains([session(1, age_s=-4), session(2, 1, waiting_ms=300)], at, blockers(first, BEGAN, ()))
    assert again.blocking_ms == 300


def test_who_has_waited_for_longer_than_the_roots_transaction_lasts_waited_for_others_before() -> None:
    young = msgspec.structs.replace(session(1), transaction_ms=5)
    (chain,) = seen([young, session(2, 1, waiting_ms=900), session(3, 2, waiting_ms=950)])
    assert (chain.blocking_ms, chain.waiting_ms) == (5, 950)


def test_a_circle_has_the_youngest_as_root_and_is_one_chain() -> None:
    (chain,) = seen([session(1, 2, age_s=9), session(2, 3, age_s=1), session(3, 1, age_s=5)])
    assert chain.root.pid == 2
    assert {waiter.pid for waiter in chain.waiters} == {1, 3}


def test_who_waits_behind_a_circle_belongs_to_it() -> None:
    (chain,) = seen([session(1, 2, age_s=1), session(2, 1, age_s=2), session(5, 2)])
    assert chain.root.pid == 1
    assert [waiter.pid for waiter in chain.waiters] == [2, 5]


def test_prepared_transactions_are_a_root_of_which_nothing_is_ended() -> None:
    prepared = msgspec.structs.replace(
        session(0), application="prepared transaction till 7", is_client=False, state="prepared"
    )
    (chain,) = seen([prepared, session(2, 0, waiting_ms=99_000)])
    assert (chain.root.application, [waiter.pid for waiter in chain.waiters]) == ("prepared transaction till 7", [2])
    policy = Policy(cancelling="terminate", cancel_after_ms=1, terminate_after_ms=1)
    assert step(chain, "", policy) is None


def test_blockers_that_are_not_seen_make_no_chain() -> None:
    assert seen([session(2, 77, waiting_ms=5)]) == []


def test_literals_do_not_show() -> None:
    assert without_literals("select 1 from t where a = 'it''s' and b = $1 for update") == (
        "select 1 from t where a = '?' and b = $1 for update"
    )
    assert without_literals("alter role x password E'se\\'cret'") == "alter role x password E'?'"
    assert without_literals("do $body$ it's $1 $body$; select 2") == "do '?'; select 2"
    assert without_literals("select 'cut off in the mid") == "select '?'"
