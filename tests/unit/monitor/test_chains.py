"""Who stands at the root of a chain of sessions that wait for each other, and what is seen of their queries."""

from datetime import UTC, datetime, timedelta

from daybook.monitor.domain.looks import Session, chains
from daybook.monitor.infrastructure.postgres import without_literals

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
        transaction_ms=0,
        state_ms=0,
        waiting_ms=waiting_ms if blocked_by else None,
        waits_for="ShareLock of transactionid" if blocked_by else None,
        blocked_by=blocked_by,
    )


def test_nobody_waits_and_there_is_no_chain() -> None:
    assert chains([session(1), session(2)]) == []


def test_chain_is_walked_to_the_session_that_waits_for_nobody() -> None:
    (chain,) = chains([session(3, 2, waiting_ms=50), session(2, 1, waiting_ms=900), session(1), session(4, 3)])
    assert chain.root.pid == 1
    assert [(waiter.pid, waiter.depth) for waiter in chain.waiters] == [(2, 1), (3, 2), (4, 3)]
    assert chain.waiting_ms == 900


def test_a_waiter_behind_two_roots_stands_in_both_chains_and_the_longest_wait_comes_first() -> None:
    found = chains([session(1), session(2), session(3, 1, 2, waiting_ms=10), session(4, 2, waiting_ms=70)])
    assert [(chain.root.pid, [waiter.pid for waiter in chain.waiters]) for chain in found] == [(2, [3, 4]), (1, [3])]


def test_a_circle_has_the_youngest_as_root_and_is_one_chain() -> None:
    (chain,) = chains([session(1, 2, age_s=9), session(2, 3, age_s=1), session(3, 1, age_s=5)])
    assert chain.root.pid == 2
    assert {waiter.pid for waiter in chain.waiters} == {1, 3}


def test_who_waits_behind_a_circle_belongs_to_it() -> None:
    (chain,) = chains([session(1, 2, age_s=1), session(2, 1, age_s=2), session(5, 2)])
    assert chain.root.pid == 1
    assert [waiter.pid for waiter in chain.waiters] == [2, 5]


def test_blockers_that_are_not_seen_make_no_chain() -> None:
    assert chains([session(2, 77, waiting_ms=5)]) == []  # a prepared transaction has no session


def test_literals_do_not_show() -> None:
    assert without_literals("select 1 from t where a = 'it''s' and b = $1 for update") == (
        "select 1 from t where a = '?' and b = $1 for update"
    )
    assert without_literals("alter role x password E'se\\'cret'") == "alter role x password E'?'"
    assert without_literals("do $body$ it's $1 $body$; select 2") == "do '?'; select 2"
    assert without_literals("select 'cut off in the mid") == "select '?'"
