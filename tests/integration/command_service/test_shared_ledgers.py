"""Workers that share a ledger, with account locks from a real Redis and the fences of a real Postgres beneath them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from command_service.application.locks import Wanted
from command_service.infrastructure.account_locks import AccountLocks
from command_service.infrastructure.redis_link import RedisLink
from shared_kernel import lock_table
from shared_kernel.redis_client import connect_redis
from shared_kernel.settings import Secret
from tests.integration.command_service.conftest import Caller, NewWorker
from tests.integration.command_service.test_account_locks import Seen
from tests.services import Database, Servers
from tests.support.clerk import some_ticket
from tests.support.door import Door, door_to

LIMITED = [{"pattern": "limited:*", "limits": {"X": {"minimum": 0}}}]
LONG_MS = 60_000  # nothing of these ends by time within a test
PATIENT = {
    "locks": "always",
    "lock_timeout_ms": 5_000,
    "lock_wait_ms": LONG_MS,
    "lease_ms": LONG_MS,
    "redis_timeout_ms": 5_000,  # of every step on the wire: on a busy machine a Redis that lives may take its time
}


def transfer(source: str, target: str, amount: int = 1) -> dict[str, Any]:
    return {
        "entries": [
            {"account": source, "direction": "debit", "amount": amount, "asset": "X"},
            {"account": target, "direction": "credit", "amount": amount, "asset": "X"},
        ]
    }


async def opened(caller: Caller, **funds: int) -> str:
    """A ledger with these limited accounts and what they have."""
    ledger = await caller.open_ledger(defaults=LIMITED)
    for name, amount in funds.items():
        assert (await post(caller, ledger, "world", f"limited:{name}", amount)).status_code == 201
    return ledger


def post(caller: Caller, ledger: str, source: str, target: str, amount: int = 1) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(caller.post(f"/{ledger}/transactions", transfer(source, target, amount)))


async def until(claim: Callable[[], bool]) -> None:
    """Returns once the claim is true; the bound is far above what any of these takes."""
    async with asyncio.timeout(30):
        while not claim():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def locked(caller: Caller, stack: Servers, ledger: str, *names: str) -> AsyncIterator[None]:
    """Another worker, which does nothing else, holds the draws of these limited accounts."""
    link = RedisLink(connect_redis(stack.redis_url, timeout_ms=5_000), metrics=Seen())
    other = AccountLocks(
        link,
        worker=lock_table.worker_name(),
        incarnation=lambda: caller.container.pool().incarnation,
        metrics=Seen(),
        lease_ms=LONG_MS,
        timeout_ms=5_000,
        background_timeout_ms=5_000,
        mark_ms=LONG_MS,
        slow_ms=LONG_MS,
    )
    grip = await other.take(ledger, [Wanted([f"draws:limited:{name}:X" for name in names], some_ticket())])
    assert not grip.blocked
    try:
        yield
    finally:
        grip.release(None)
        await other.stop()
        await link.close()


@asynccontextmanager
async def head_held(database: Database, ledger: str) -> AsyncIterator[psycopg.Connection[Any]]:
    """Somebody at a terminal holds the row of the ledger's head; appends wait for it."""
    with psycopg.connect(database.admin_url) as terminal:
        terminal.execute("select from daybook.ledgers where ledger = %s for update", [ledger])
        yield terminal


async def waiting_for_head(database: Database, backends: int) -> None:
    """Returns once so many backends wait for a lock."""
    with psycopg.connect(database.admin_url, autocommit=True) as admin:

        def waiting() -> bool:
            row = admin.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
            return row == (backends,)

        await until(waiting)


async def test_a_blocked_command_is_set_aside_and_the_others_go_on(worker: NewWorker, stack: Servers) -> None:
    caller = await worker(**PATIENT)
    ledger = await opened(caller, a=10, b=10)
    async with locked(caller, stack, ledger, "a"):
        blocked = post(caller, ledger, "limited:a", "limited:b")
        for _ in range(5):
            assert (await post(caller, ledger, "limited:b", "world")).status_code == 201
        assert (
            await post(caller, ledger, "world", "limited:a")
        ).status_code == 201  # a credit draws on nothing limited
        assert not blocked.done()
        assert await caller.metric("daybook_set_aside_total") >= 1
    assert (await blocked).status_code == 201
    assert await caller.metric("daybook_without_lock_total") == 0


async def test_a_command_that_was_set_aside_long_enough_goes_on_without_its_lock(
    worker: NewWorker, stack: Servers
) -> None:
    caller = await worker(**PATIENT | {"lock_wait_ms": 50})
    ledger = await opened(caller, a=10)
    async with locked(caller, stack, ledger, "a"):
        assert (await post(caller, ledger, "limited:a", "world")).status_code == 201
        assert await caller.metric("daybook_without_lock_total") == 1


async def test_what_is_set_aside_is_turned_away_at_its_deadline_and_not_done_later(
    worker: NewWorker, stack: Servers, database: Database
) -> None:
    caller = await worker(**PATIENT | {"command_seconds_max": 1})
    ledger = await opened(caller, a=10)
    async with locked(caller, stack, ledger, "a"):
        answer = await post(caller, ledger, "limited:a", "world")
    assert (answer.status_code, answer.json()["code"]) == (503, "deadline_passed")
    assert (await post(caller, ledger, "limited:a", "world", 10)).status_code == 201  # all of it is still there


async def test_commands_that_hang_together_keep_their_order_when_the_first_is_set_aside(
    worker: NewWorker, stack: Servers
) -> None:
    """Decided before the first, the second would be refused for want of money, the third because there is no such hold."""
    caller = await worker(**PATIENT)
    ledger = await opened(caller, a=10)
    held = transfer("limited:a", "world", 1) | {"status": "pending", "id": "hold"}
    commands = [
        {"type": "post_transaction", "key": "1", "data": transfer("limited:a", "limited:b", 9)},
        {"type": "post_transaction", "key": "2", "data": transfer("limited:b", "limited:c", 9)},
        {"type": "post_transaction", "key": "3", "data": held},
        {"type": "void_hold", "key": "4", "data": {"transaction": "hold"}},
        {"type": "post_transaction", "key": "5", "data": transfer("world", "elsewhere", 1)},
    ]
    async with locked(caller, stack, ledger, "a"):
        batch = asyncio.create_task(caller.post(f"/{ledger}/batches", {"commands": commands}))
        async with asyncio.timeout(30):
            while await caller.metric("daybook_set_aside_total") < 4:
                await asyncio.sleep(0.01)
        assert not batch.done()
    results = (await batch).json()["results"]
    assert [result["status"] for result in results] == [201, 201, 201, 200, 201], results


async def test_accounts_without_limits_are_never_locked(worker: NewWorker) -> None:
    caller = await worker(**PATIENT)
    ledger = await opened(caller)
    for _ in range(3):
        assert (await post(caller, ledger, "fees", "cash")).status_code == 201
    assert await caller.metric('daybook_account_locks_total{result="taken"}') == 0
    assert (await post(caller, ledger, "fees", "limited:a")).status_code == 201  # its first use: nobody can know of it
    assert (await post(caller, ledger, "limited:a", "fees")).status_code == 201
    assert await caller.metric('daybook_account_locks_total{result="taken"}') == 1


async def test_a_worker_that_comes_after_another_knows_what_it_did_and_meets_no_conflict(worker: NewWorker) -> None:
    first, second = await worker(**PATIENT), await worker(**PATIENT)
    ledger = await opened(first, a=100)
    for turn in range(10):
        caller = (first, second)[turn % 2]
        assert (await post(caller, ledger, "limited:a", "world")).status_code == 201
        returning = caller.container.locks().accounts._returning
        await asyncio.gather(*returning)  # with its lock, what it did is told
    for caller in (first, second):
        assert await caller.metric("daybook_append_conflicts_total") == 0


async def test_two_holders_of_one_lock_cannot_both_draw_what_is_there_once(
    worker: NewWorker, stack: Servers, database: Database
) -> None:
    """The lock ends while its holder is at work, and another has it too: the append's fence decides."""
    first, second = await worker(**PATIENT), await worker(**PATIENT)
    ledger = await opened(first, a=10)
    await post(second, ledger, "world", "cash")
    async with head_held(database, ledger) as terminal:
        one = post(first, ledger, "limited:a", "world", 10)
        await waiting_for_head(database, 1)
        async with contextlib.aclosing(connect_redis(stack.redis_url, timeout_ms=5_000)) as redis:
            key = lock_table.key(first.container.pool().incarnation, ledger, lock_table.LOCK + "draws:limited:a:X")
            assert await redis.delete(key) == 1  # flushed, failed over, or at the end of its time
        other = post(second, ledger, "limited:a", "world", 10)
        await waiting_for_head(database, 2)
        terminal.rollback()
        statuses = Counter([(await one).status_code, (await other).status_code])
    assert statuses == {201: 1, 422: 1}
    await asyncio.gather(*first.container.locks().accounts._returning)
    assert await first.metric('daybook_account_locks_total{result="lost"}') == 1


async def test_locks_given_up_at_the_stop_keep_nobody_out(
    database: Database, stack: Servers, worker: NewWorker
) -> None:
    """The holder stops while its command waits for the head row: answered first, then its locks are gone."""
    first, second = await worker(**PATIENT), await worker(**PATIENT)
    ledger = await opened(first, a=10)
    async with head_held(database, ledger) as terminal:
        one = post(first, ledger, "limited:a", "world")
        await waiting_for_head(database, 1)
        stopping = asyncio.create_task(first.container.executor().stop())
        await asyncio.sleep(0)
        terminal.rollback()
        await stopping
        assert (await one).status_code == 201
    await first.container.locks().stop()
    assert (await post(second, ledger, "limited:a", "world")).status_code == 201
    assert await second.metric("daybook_set_aside_total") == 0


ADAPTIVE = {"lease_ms": 900, "redis_timeout_ms": 300, "lock_timeout_ms": 5_000, "lock_wait_ms": LONG_MS}


async def test_two_workers_share_account_locks_and_the_one_that_is_left_takes_the_lease_again(
    worker: NewWorker,
) -> None:
    first, second = await worker(**ADAPTIVE), await worker(**ADAPTIVE)
    ledger = await opened(first, a=100_000)
    locks = [caller.container.locks() for caller in (first, second)]

    async def write_until(claim: Callable[[], bool], *callers: Caller) -> None:
        async with asyncio.timeout(30):
            while not claim():
                for answer in await asyncio.gather(*(post(each, ledger, "limited:a", "world") for each in callers)):
                    assert answer.status_code == 201

    await write_until(lambda: locks[0].leases.is_held(ledger), first)
    assert await first.metric('daybook_account_locks_total{result="taken"}') == 0  # alone: no lock of an account
    await write_until(lambda: all(each.leases.is_shared(ledger) for each in locks), first, second)
    before = [await each.metric('daybook_account_locks_total{result="taken"}') for each in (first, second)]
    for _ in range(5):
        await asyncio.gather(*(post(each, ledger, "limited:a", "world") for each in (first, second)))
    after = [await each.metric('daybook_account_locks_total{result="taken"}') for each in (first, second)]
    assert all(now >= then + 5 for then, now in zip(before, after, strict=True))
    await write_until(lambda: locks[0].leases.is_held(ledger), first)  # the second is silent
    assert not locks[0].touch(ledger, some_ticket())


@pytest.fixture
async def redis_door(stack: Servers) -> AsyncIterator[Door]:
    async with door_to(stack.redis_url) as door:
        yield door


async def test_commands_go_on_while_redis_stands_still_with_account_locks_in_use(
    worker: NewWorker, redis_door: Door
) -> None:
    caller = await worker(
        **PATIENT | {"lock_timeout_ms": 100}, redis_url=Secret(f"redis://127.0.0.1:{redis_door.port}/0")
    )
    ledger = await opened(caller, a=1_000)
    redis_door.shut()
    answers = await asyncio.gather(*(post(caller, ledger, "limited:a", "world") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert await caller.metric("daybook_redis_up") == 0
    redis_door.open()

    async with asyncio.timeout(30):
        while await caller.metric("daybook_redis_up") == 0:
            assert (await post(caller, ledger, "limited:a", "world")).status_code == 201


async def test_an_atomic_batch_across_ledgers_holds_the_locks_of_both(worker: NewWorker, stack: Servers) -> None:
    caller = await worker(**PATIENT)
    ledgers = [await opened(caller, a=10) for _ in range(2)]
    commands = [
        {"ledger": ledger, "type": "post_transaction", "key": ledger, "data": transfer("limited:a", "world")}
        for ledger in ledgers
    ]
    async with locked(caller, stack, max(ledgers), "a"):
        batch = asyncio.create_task(caller.send("POST", "/batches", {"commands": commands}))
        async with asyncio.timeout(30):
            while await caller.metric('daybook_account_locks_total{result="refused"}') < 2:  # it asks again and again
                await asyncio.sleep(0.01)
        assert not batch.done()
        # While it waits it holds nothing: the other ledger's account is free for whoever comes.
        assert (await post(caller, min(ledgers), "limited:a", "world")).status_code == 201
    answer = await batch
    assert answer.status_code == 200, answer.text
    assert [result["status"] for result in answer.json()["results"]] == [201, 201]


async def test_sessions_are_named_by_the_process_that_they_belong_to(worker: NewWorker, database: Database) -> None:
    """Or who waits for whom could not tell a command from a clock, which has the same role."""
    caller = await worker(**PATIENT)
    await opened(caller, a=10)
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        names = admin.execute(
            "select distinct application_name from pg_stat_activity"
            " where datname = current_database() and usename = 'daybook_command'"
        ).fetchall()
    assert names == [("daybook command",)]
