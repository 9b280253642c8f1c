"""Account locks on a real Redis: all or nothing, who waits comes next, and no lock outlives its holder, its log or its Redis."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from command_service.application.locks import Grip, Wanted
from command_service.infrastructure import account_locks
from command_service.infrastructure.account_locks import LOCKS_MAX, AccountLocks
from command_service.infrastructure.redis_link import RedisLink
from shared_kernel import lock_table
from shared_kernel.redis_client import connect_redis
from tests.support.clerk import some_ticket
from tests.support.door import door_to
from tests.support.lock_orders import LockOrders

# Short, so that ends can be waited for, and longer than a busy machine stands still.
SHORT_MS = 800
LONG_MS = 60_000
TIMEOUT_MS = 2_000
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens on port 1
TICKET = some_ticket()
A, B, C = "draws:a:X", "draws:b:X", "fills:c:X"


class Seen:
    """What the locks reported."""

    def __init__(self) -> None:
        self.locks: Counter[str] = Counter()
        self.holds = 0

    def account_locks(self, result: str, count: int) -> None:
        self.locks[result] += count

    def account_locks_held(self, seconds: float) -> None:
        self.holds += 1

    def redis_answered(self, is_up: bool) -> None:
        """Told by the link itself."""


class Worker:
    """One process's account locks in the ledger `bank` of one log."""

    def __init__(self, url: str, incarnation: object, **settings: int) -> None:
        self.name = lock_table.worker_name()
        self.seen = Seen()
        self.link = RedisLink(connect_redis(url, timeout_ms=TIMEOUT_MS), metrics=self.seen)
        self.locks = AccountLocks(
            self.link,
            worker=self.name,
            incarnation=lambda: incarnation,
            metrics=self.seen,
            lease_ms=settings.get("lease_ms", LONG_MS),
            timeout_ms=settings.get("timeout_ms", TIMEOUT_MS),
            background_timeout_ms=TIMEOUT_MS,
            mark_ms=settings.get("mark_ms", LONG_MS),
            slow_ms=settings.get("slow_ms", LONG_MS),
        )

    async def take(self, *commands: tuple[str, ...]) -> Grip:
        """The locks of these commands, each given by its names."""
        return await self.locks.take("bank", [Wanted(sorted(names), TICKET) for names in commands])

    async def give_back(self, grip: Grip, position: int | None = None) -> None:
        """They are free when it returns."""
        grip.release(position)
        await asyncio.gather(*self.locks._returning)

    async def gets(self, *names: str) -> bool:
        """Whether one command gets these locks; they are given back if so."""
        grip = await self.take(names)
        await self.give_back(grip)
        return not grip.blocked

    async def stop(self) -> None:
        await self.locks.stop()
        await self.link.close()


@asynccontextmanager
async def workers(url: str, count: int, incarnation: object = None, **settings: int) -> AsyncIterator[list[Worker]]:
    """Workers on one log, which nobody else uses."""
    log = incarnation or uuid4()
    made = [Worker(url, log, **settings) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            await worker.stop()


async def until(claim: Callable[[], bool]) -> None:
    """Returns once the claim is true; the bound is far above what any of these takes."""
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.01)


async def table(redis: Redis, log: object) -> dict[str, lock_table.LockValue]:
    """The lock table of one log, as the monitor reads it: by the tag of the fence."""
    found = {}
    async for key in redis.scan_iter(match=lock_table.PATTERN):
        parts = lock_table.read_key(key.decode())
        if parts is not None and parts.incarnation == str(log) and (text := await redis.get(key)) is not None:
            value = lock_table.read_value(text.decode())
            assert value is not None, text
            found[parts.name.removeprefix(lock_table.LOCK)] = value
    return found


async def test_a_command_has_all_of_its_locks_or_none_and_the_others_go_on(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 2, log) as (first, second), Redis.from_url(redis_url) as redis:
        grip = await first.take((B,))
        other = await second.take((A, B), (C,))
        assert other.blocked == {0: first.name}
        assert {name: (value.worker, value.waiter) for name, value in (await table(redis, log)).items()} == {
            B: (first.name, second.name),
            C: (second.name, None),
        }
        assert (second.seen.locks["taken"], second.seen.locks["refused"]) == (1, 1)
        await first.give_back(grip)
        await second.give_back(other)
        assert await second.gets(A, B)


async def test_what_earlier_holders_did_is_told_and_what_one_did_oneself_is_not(redis_url: str) -> None:
    async with workers(redis_url, 2) as (first, second):
        await first.give_back(await first.take((A,), (B,)), 17)
        assert (await first.take((A,))).position == 0
        assert (await second.take((C,))).position == 0
        assert (await second.take((B,))).position == 17


async def test_a_lock_is_kept_until_every_batch_of_its_worker_gave_it_back(redis_url: str) -> None:
    async with workers(redis_url, 2) as (first, second):
        batch, atomic = await first.take((A,)), await first.take((A, B))
        await first.give_back(batch, 5)
        await first.give_back(batch, 5)  # once is enough
        assert not await second.gets(A)
        await first.give_back(atomic, 6)
        assert await second.gets(A)
        assert first.seen.locks["lost"] == 0


@pytest.mark.parametrize("is_marked", [True, False])
async def test_a_busy_holder_cannot_starve_who_waits(redis_url: str, is_marked: bool) -> None:
    """The holder asks again in the very round trip in which it gives back, every time: without the mark nobody else ever comes."""
    log, waiting = uuid4(), 0
    async with workers(redis_url, 2, log) as (busy, other), Redis.from_url(redis_url) as redis:
        grip = await busy.take((A,))
        while not await other.gets(A) and waiting < 10:
            waiting += 1
            if not is_marked:
                key = lock_table.key(log, "bank", lock_table.LOCK + A)
                await redis.set(key, (await redis.get(key)).rpartition(b" ")[0], keepttl=True)
            grip.release(None)
            grip = await busy.take((A,))
            assert grip.blocked == ({0: other.name} if is_marked else {})
        assert waiting == (1 if is_marked else 10)


async def test_the_mark_of_a_waiter_that_does_not_come_back_ends(redis_url: str) -> None:
    async with workers(redis_url, 2, mark_ms=300) as (busy, gone):
        grip = await busy.take((A,))
        assert (await gone.take((A,))).blocked
        await busy.give_back(grip)
        assert not await busy.gets(A)
        async with asyncio.timeout(20):
            while not await busy.gets(A):
                await asyncio.sleep(0.02)


async def test_the_lock_of_a_worker_that_dies_ends_by_time(redis_url: str) -> None:
    async with workers(redis_url, 2, lease_ms=SHORT_MS) as (dead, other):
        await dead.take((A,))  # and nobody renews it
        assert not await other.gets(A)
        async with asyncio.timeout(20):
            while not await other.gets(A):
                await asyncio.sleep(0.05)


async def test_a_lock_that_is_held_for_long_is_renewed(redis_url: str) -> None:
    async with workers(redis_url, 2, lease_ms=SHORT_MS, slow_ms=SHORT_MS) as (slow, other):
        await slow.locks.start()
        grip = await slow.take((A,))
        until_s = asyncio.get_running_loop().time() + 2 * SHORT_MS / 1_000
        while asyncio.get_running_loop().time() < until_s:
            assert not await other.gets(A)
            await asyncio.sleep(0.05)
        with capture_logs() as lines:
            await slow.give_back(grip)
        (warning,) = [line for line in lines if line["log_level"] == "warning"]
        assert (warning["event"], warning["lock"]) == ("account_locks_slow", A)
        assert TICKET.identity().items() <= warning.items()
        assert warning["held_ms"] >= 2 * SHORT_MS
        assert await other.gets(A)


async def test_an_emptied_redis_is_noticed_and_a_late_release_ends_nobody_s_lock(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 2, log, lease_ms=SHORT_MS) as (first, second), Redis.from_url(redis_url) as redis:
        with capture_logs() as lines:
            await first.locks.start()
            grip = await first.take((A,), (B,))
            await redis.delete(*(lock_table.key(log, "bank", lock_table.LOCK + name) for name in (A, B)))
            await until(lambda: first.seen.locks["lost"] == 2)  # at the next renewal
        told = [line for line in lines if line.get("status") == "lost"]
        assert [line["lock"] for line in told] == [A, B]
        assert all(TICKET.identity().items() <= line.items() for line in told)
        assert all(line["held_ms"] > 0 for line in told)
        held = await second.take((A,))
        assert not held.blocked
        grip.release(9)
        await first.locks.stop()
        assert (await table(redis, log))[A].worker == second.name


@pytest.mark.parametrize("is_renewed", [False, True])
async def test_a_lost_lock_is_told_once_whoever_notices_first(redis_url: str, is_renewed: bool) -> None:
    """Given back while the answer to its renewal is on its way, it is not told by both; and never as released."""
    log = uuid4()
    async with workers(redis_url, 1, log) as (worker,), Redis.from_url(redis_url) as redis:
        grip = await worker.take((A,))
        await redis.delete(lock_table.key(log, "bank", lock_table.LOCK + A))
        with capture_logs() as lines:
            if is_renewed:
                renewing = asyncio.create_task(worker.locks._renew_some("bank", worker.locks._ledgers["bank"], [A]))
                await asyncio.sleep(0)  # it has asked, and waits
                grip.release(None)
                await renewing
            await worker.give_back(grip)
        assert [line["status"] for line in lines if line["event"] == "account_lock"] == ["given_back", "lost"]
        assert (worker.seen.locks["lost"], worker.seen.locks["released"]) == (1, 0)


async def test_what_a_failed_call_may_have_taken_is_not_told_as_lost(redis_url: str) -> None:
    async with workers(redis_url, 1, timeout_ms=1) as (worker,):
        async with worker.locks._ledgers.setdefault("bank", account_locks._Ledger()).turn:
            assert not (await worker.take((A,))).blocked  # its turn did not come in time
        with capture_logs() as lines:
            await asyncio.gather(*worker.locks._returning)
        assert [line for line in lines if line["event"] == "account_lock"] == []
        assert worker.seen.locks["lost"] == 0


async def test_a_worker_that_stops_gives_back_what_it_holds(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 1, log) as (first,):
        await first.take((A,), (B, C))
    async with workers(redis_url, 1, log) as (second,):
        assert await second.gets(A, B, C)


async def test_a_restored_log_knows_no_locks_of_before(redis_url: str) -> None:
    async with workers(redis_url, 1, uuid4()) as (before,), workers(redis_url, 1, uuid4()) as (after,):
        await before.take((A,))
        assert await after.gets(A)


async def test_nothing_is_asked_before_the_log_s_incarnation_is_known_nor_for_commands_without_limits(
    redis_url: str,
) -> None:
    worker = Worker(redis_url, None)
    assert not (await worker.take((A,))).blocked
    await worker.stop()
    async with workers(redis_url, 1) as (worker,):
        assert not (await worker.take((), ())).blocked
        assert worker.link.is_up is None


async def test_a_batch_with_more_locks_than_one_call_takes_goes_without(redis_url: str) -> None:
    async with workers(redis_url, 2) as (first, second):
        many = [(f"draws:{number}:X",) for number in range(LOCKS_MAX)]
        await first.take(*many)
        assert len((await second.take(*many)).blocked) == LOCKS_MAX
        assert not (await second.take(*many, (C,))).blocked


async def test_a_server_that_forgot_the_scripts_is_told_them_again(redis_url: str) -> None:
    async with workers(redis_url, 2) as (first, second), Redis.from_url(redis_url) as redis:
        grip = await first.take((A,))
        await redis.script_flush()
        await first.give_back(grip, 3)
        assert (await second.take((A,))).position == 3


async def test_without_redis_nobody_is_blocked_and_it_is_left_alone_for_a_while() -> None:
    async with workers(NOWHERE, 1) as (worker,):
        with capture_logs() as lines:
            assert not (await worker.take((A,))).blocked
            assert not worker.link.lets_wait()
            assert not (await worker.take((A,))).blocked
        assert [line["event"] for line in lines] == ["breaker", "redis_unavailable"]


async def test_a_redis_that_stands_still_costs_one_time_out_and_is_used_again_when_it_goes_on(redis_url: str) -> None:
    log = uuid4()
    async with door_to(redis_url) as door:
        slow = Worker(f"redis://127.0.0.1:{door.port}/0", log, timeout_ms=100)
        async with workers(redis_url, 1, log) as (other,):
            (await slow.take((B,))).release(None)
            door.shut()
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert not (await slow.take((A,))).blocked
            assert loop.time() - began < 5  # the client's own time-out is two seconds, the lock's a tenth
            assert not slow.link.lets_wait()
            door.open()
            await until(slow.link.lets_wait)
            async with asyncio.timeout(20):
                while slow.seen.locks["taken"] < 2:
                    (await slow.take((C,))).release(None)
                    await asyncio.sleep(0.02)
                # What the lost call may have taken was given back after it, so it keeps nobody out.
                while not await other.gets(A):
                    await asyncio.sleep(0.02)
            await slow.stop()


@pytest.mark.parametrize("is_sorted", [True, False])
async def test_locks_that_one_call_asks_for_in_another_order_are_reported_as_a_circle(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, is_sorted: bool
) -> None:
    orders = LockOrders()
    async with workers(redis_url, 2) as (first, second):
        with capture_logs() as lines:
            await first.give_back(await first.take((A,), (B,)))
            if not is_sorted:
                monkeypatch.setattr(account_locks, "in_order", lambda names: sorted(names, reverse=True))
            await second.give_back(await second.take((A,), (B,)))
    for line in lines:
        orders.hear(line["worker"], line)
    one, other = f"redis bank {A}", f"redis bank {B}"
    assert orders.cycles() == ([] if is_sorted else [[one, other, one]])


async def test_every_lock_has_a_line_for_taken_refused_and_released(redis_url: str) -> None:
    async with workers(redis_url, 2) as (first, second):
        with capture_logs() as lines:
            grip = await first.take((B, A))
            await second.take((A,), (C,))
            await first.give_back(grip)
        told = [(line["worker"], line["status"], line["lock"], line.get("holder")) for line in lines]
        assert told == [
            (first.name, "taken", A, None),
            (first.name, "taken", B, None),
            (second.name, "taken", C, None),
            (second.name, "refused", A, first.name),
            (first.name, "given_back", A, None),
            (first.name, "given_back", B, None),
            (first.name, "released", A, None),
            (first.name, "released", B, None),
        ]
        assert all(TICKET.identity().items() <= line.items() for line in lines)
        assert all(line["held_ms"] >= 0 for line in lines if line["status"] in ("given_back", "released"))
        assert first.seen.holds == 1
