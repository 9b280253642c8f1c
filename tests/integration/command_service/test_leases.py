"""The ledger lease on a real Redis: who has it, how it ends, and that nothing depends on it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from command_service.application.locks import Wanted
from command_service.infrastructure.lease import RedisLeases
from command_service.infrastructure.locks import NoLocks
from command_service.infrastructure.redis_link import RedisLink
from shared_kernel import lock_table
from shared_kernel.redis_client import connect_redis
from tests.support.clerk import some_ticket
from tests.support.door import Door, door_to

# Short, so that ends can be waited for, and longer than a busy machine stands still.
SHORT_LEASE_MS = 800
LONG_LEASE_MS = 60_000
TIMEOUT_MS = 2_000
NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens on port 1


class Seen:
    """What the leases reported."""

    def __init__(self) -> None:
        self.held = 0
        self.asked: Counter[str] = Counter()
        self.is_up: bool | None = None

    def leases_held(self, count: int) -> None:
        self.held = count

    def lease_asked(self, result: str) -> None:
        self.asked[result] += 1

    def redis_answered(self, is_up: bool) -> None:
        self.is_up = is_up


class Worker:
    """One process's leases, asked for by hand (`leases.ask()`) or in the background (`leases.start()`)."""

    def __init__(self, url: str, incarnation: object, **settings: int) -> None:
        self.seen = Seen()
        self.name = lock_table.worker_name()
        self.link = RedisLink(connect_redis(url, timeout_ms=settings.get("timeout_ms", TIMEOUT_MS)), metrics=self.seen)
        self.leases = RedisLeases(
            self.link,
            worker=self.name,
            incarnation=incarnation if callable(incarnation) else lambda: incarnation,
            metrics=self.seen,
            lease_ms=settings.get("lease_ms", LONG_LEASE_MS),
            timeout_ms=settings.get("timeout_ms", TIMEOUT_MS),
            ledgers_max=settings.get("ledgers_max", 100),
        )

    async def stand_still(self) -> None:
        """As a process that is killed or stopped: nothing is renewed, nothing is given back."""
        task = self.leases._task
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        await self.leases.stop()
        await self.link.close()


@asynccontextmanager
async def workers(url: str, count: int, incarnation: object = None, **settings: int) -> AsyncIterator[list[Worker]]:
    """Workers on one log, which nobody else uses; their leases are given back at the end."""
    made = [Worker(url, incarnation or uuid4(), **settings) for _ in range(count)]
    if incarnation is None and count > 1:
        raise ValueError("workers of one log share its incarnation")
    try:
        yield made
    finally:
        for worker in made:
            await worker.stop()


async def until(claim: Callable[[], bool]) -> None:
    """Returns once the claim is true; the bound is far above what any of these takes."""
    async with asyncio.timeout(10):
        while not claim():
            await asyncio.sleep(0.01)


async def ask(worker: Worker, *ledgers: str) -> None:
    for ledger in ledgers:
        worker.leases.touch(ledger, some_ticket())
    await worker.leases.ask()


async def test_one_worker_has_the_lease_and_the_other_is_told_no(redis_url: str) -> None:
    async with workers(redis_url, 2, uuid4()) as (first, second):
        await ask(first, "bank")
        await ask(second, "bank")
        assert first.leases.is_held("bank")
        assert not second.leases.is_held("bank")
        assert (first.seen.asked, second.seen.asked) == ({"taken": 1}, {"refused": 1})
        assert (first.seen.held, second.seen.held) == (1, 0)


async def test_a_lease_is_one_of_one_ledger_and_one_incarnation(redis_url: str) -> None:
    log, restored = uuid4(), uuid4()
    async with workers(redis_url, 2, log) as (first, second), workers(redis_url, 1, restored) as (third,):
        await ask(first, "bank")
        await ask(second, "other")
        await ask(third, "bank")
        assert first.leases.is_held("bank")
        assert second.leases.is_held("other")
        assert third.leases.is_held("bank")


async def test_all_keys_of_a_ledger_share_one_hash_tag_with_the_incarnation(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 1, log) as (worker,), Redis.from_url(redis_url) as redis:
        await ask(worker, "acme:main")
        keys = [key.decode() for key in await redis.keys(f"daybook:*{log}*")]
        assert sorted(keys) == [f"daybook:{{{log}:acme:main}}:{name}" for name in ("lease", "writers")]
        for key in keys:
            assert 0 < await redis.pttl(key) <= LONG_LEASE_MS + (lock_table.OVER_KEPT_MS if "writers" in key else 0)
        lease = lock_table.read_value((await redis.get(keys[0] if keys[0].endswith("lease") else keys[1])).decode())
        assert lease is not None
        assert (lease.state, lease.worker) == ("held", worker.name)
        seconds, microseconds = await redis.time()
        assert 0 <= seconds * 1_000 + microseconds // 1_000 - lease.number < LONG_LEASE_MS


async def test_the_lease_is_renewed_while_there_is_work_and_then_given_back(redis_url: str) -> None:
    async with workers(redis_url, 2, uuid4(), lease_ms=SHORT_LEASE_MS) as (first, second):
        await first.leases.start()
        first.leases.touch("bank", some_ticket())
        await until(lambda: first.leases.is_held("bank"))

        def working() -> bool:
            first.leases.touch("bank", some_ticket())
            return first.seen.asked["kept"] >= 4  # longer than one lease

        await until(working)
        assert first.seen.asked["lost"] == 0
        await until(lambda: first.seen.held == 0)  # no work any more
        await ask(second, "bank")
        assert second.leases.is_held("bank")


async def test_a_worker_that_stops_gives_its_leases_back(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 1, log) as (first,):
        await ask(first, "bank")
    async with workers(redis_url, 1, log) as (second,):
        await ask(second, "bank")
        assert second.leases.is_held("bank")


async def test_a_worker_that_dies_loses_its_lease_by_time(redis_url: str) -> None:
    async with workers(redis_url, 2, uuid4(), lease_ms=SHORT_LEASE_MS) as (dead, second):
        await ask(dead, "bank")
        await second.leases.start()

        def working() -> bool:
            second.leases.touch("bank", some_ticket())
            return second.leases.is_held("bank")

        await until(working)
        assert not dead.leases.is_held("bank")  # it does not believe longer than Redis does
        assert second.seen.asked["refused"] >= 1


@pytest.mark.parametrize("ending", ["stops", "dies"])
async def test_a_second_writer_makes_the_holder_step_down_and_when_it_is_gone_the_lease_is_taken_again(
    redis_url: str, ending: str
) -> None:
    async with workers(redis_url, 2, uuid4(), lease_ms=SHORT_LEASE_MS) as (first, second):
        both = True

        def writing(claim: Callable[[], bool]) -> Callable[[], bool]:
            def touched() -> bool:
                first.leases.touch("bank", some_ticket())
                if both:
                    second.leases.touch("bank", some_ticket())
                return claim()

            return touched

        await ask(first, "bank")
        assert first.leases.is_held("bank")
        assert not first.leases.touch("bank", some_ticket())  # alone: no account locks
        await first.leases.start()
        await second.leases.start()
        await until(
            writing(lambda: first.leases.touch("bank", some_ticket()) and second.leases.touch("bank", some_ticket()))
        )
        assert first.seen.asked["stepped_down"] == 1
        assert first.seen.asked["lost"] == second.seen.asked["lost"] == 0
        assert not first.leases.is_held("bank")
        assert not second.leases.is_held("bank")
        both = False
        if ending == "stops":
            await second.leases.stop()
        else:
            await second.stand_still()
        await until(writing(lambda: first.leases.is_held("bank")))
        assert not first.leases.touch("bank", some_ticket())


async def test_whoever_did_not_give_back_is_remembered_and_whoever_stopped_or_went_idle_is_not(redis_url: str) -> None:
    log = uuid4()
    names = {name: lock_table.key(log, name, lock_table.WRITERS) for name in ("dead", "stopped", "idle")}
    async with (
        Redis.from_url(redis_url, decode_responses=True) as redis,
        workers(redis_url, 3, log, lease_ms=SHORT_LEASE_MS) as (dead, other, idle),
    ):
        await ask(dead, "dead")
        await ask(idle, "idle")
        await asyncio.sleep(SHORT_LEASE_MS / 1_000)
        await ask(other, "dead")  # it is alone there, and still the first is not forgotten
        await idle.leases.ask()
        assert other.leases.is_held("dead")
        assert await redis.zrange(names["dead"], 0, -1) == [dead.name, other.name]
        assert await redis.zrange(names["idle"], 0, -1) == []
        async with workers(redis_url, 1, log) as (stopped,):
            await ask(stopped, "stopped")
        assert await redis.zrange(names["stopped"], 0, -1) == []


async def test_an_idle_lease_that_could_not_be_given_back_is_given_back_when_redis_answers_again(
    redis_url: str,
) -> None:
    log = uuid4()
    async with door_to(redis_url) as door, Redis.from_url(redis_url) as redis:
        worker = Worker(f"redis://127.0.0.1:{door.port}/0", log, lease_ms=SHORT_LEASE_MS, timeout_ms=300)
        await ask(worker, "bank")
        door.shut()
        await asyncio.sleep(SHORT_LEASE_MS / 1_000)
        await worker.leases.ask()
        door.open()
        await worker.leases.ask()
        assert await redis.zcard(lock_table.key(log, "bank", lock_table.WRITERS)) == 0
        await worker.stop()


async def test_a_late_release_does_not_end_the_lease_of_the_next_holder(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 2, log) as (first, second), Redis.from_url(redis_url) as redis:
        await ask(first, "bank")
        await redis.delete(*(lock_table.key(log, "bank", name) for name in (lock_table.LEASE, lock_table.WRITERS)))
        await ask(second, "bank")
        await first.leases.stop()
        assert await redis.exists(f"daybook:{{{log}:bank}}:lease")


async def test_an_emptied_redis_is_noticed_and_the_lease_taken_anew(redis_url: str) -> None:
    log = uuid4()
    async with workers(redis_url, 1, log, lease_ms=SHORT_LEASE_MS) as (worker,), Redis.from_url(redis_url) as redis:
        await worker.leases.start()

        def working(claim: Callable[[], bool]) -> Callable[[], bool]:
            def touched() -> bool:
                worker.leases.touch("bank", some_ticket())
                return claim()

            return touched

        await until(working(lambda: worker.leases.is_held("bank")))
        await redis.delete(f"daybook:{{{log}:bank}}:lease")
        await until(working(lambda: worker.seen.asked["lost"] == 1))
        assert worker.leases.is_held("bank")


async def test_nothing_is_asked_before_the_log_s_incarnation_is_known(redis_url: str) -> None:
    known: list[object] = []
    worker = Worker(redis_url, lambda: known[0] if known else None)
    try:
        await ask(worker, "bank")
        assert worker.seen.is_up is None
        known.append(uuid4())
        await ask(worker, "bank")
        assert worker.leases.is_held("bank")
    finally:
        await worker.stop()


async def test_ledgers_beyond_the_bound_go_without(redis_url: str) -> None:
    async with workers(redis_url, 1, uuid4(), ledgers_max=2) as (worker,):
        await ask(worker, "a", "b", "c")
        assert [worker.leases.is_held(name) for name in "abc"] == [True, True, False]


async def test_every_change_of_a_lease_is_told_with_its_duration_and_the_command_that_brought_the_worker(
    redis_url: str,
) -> None:
    log, ticket = uuid4(), some_ticket()
    async with workers(redis_url, 2, log) as (worker, other), Redis.from_url(redis_url) as redis:
        with capture_logs() as lines:
            worker.leases.touch("bank", ticket)
            await worker.leases.ask()
            other.leases.touch("bank", some_ticket())
            await other.leases.ask()
            await redis.delete(*(lock_table.key(log, "bank", name) for name in (lock_table.LEASE, lock_table.WRITERS)))
            worker.leases._ledgers["bank"].asked_at = float("-inf")  # due again
            worker.leases.touch("bank", some_ticket())
            await worker.leases.ask()
            await worker.leases.stop()
    told = [line for line in lines if line["event"] == "lease" and line["worker"] == worker.name]
    assert [(line["status"], "held_ms" in line, "wait_ms" in line) for line in told] == [
        ("taken", False, True),
        ("lost", True, False),
        ("released", True, False),
    ]
    assert all(ticket.identity().items() <= line.items() for line in told)
    (refused,) = [line for line in lines if line["event"] == "lease" and line["worker"] == other.name]
    assert (refused["status"], refused["wait_ms"] >= 0) == ("refused", True)
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert (warning["event"], warning["count"], warning["ledger"]) == ("leases_lost", 1, "bank")
    assert ticket.identity().items() <= warning.items()
    assert warning["held_ms"] >= 0


async def test_an_absent_redis_is_said_once_and_holds_nothing() -> None:
    async with workers(NOWHERE, 1, uuid4()) as (worker,):
        with capture_logs() as lines:
            await ask(worker, "bank")
            await ask(worker, "bank", "other")
        assert not worker.leases.is_held("bank")
        assert worker.seen.is_up is False
        assert [line["event"] for line in lines if line["event"] != "breaker"] == ["redis_unavailable"]


async def test_a_redis_that_stands_still_delays_nobody_and_is_used_again_when_it_goes_on(
    redis_url: str,
) -> None:
    async with door_to(redis_url) as door:
        url = f"redis://127.0.0.1:{door.port}/0"
        async with workers(url, 1, uuid4(), timeout_ms=200, lease_ms=SHORT_LEASE_MS) as (worker,):
            lines = await lines_of_a_standstill(worker, door)
    # Whether the last renewal reached Redis before the lease's end is chance.
    assert [line for line in lines if line != "leases_lost"] == ["redis_unavailable", "redis_back"]


async def lines_of_a_standstill(worker: Worker, door: Door) -> list[str]:
    """What is logged, but for debugging, while Redis stands still and goes on."""
    with capture_logs() as lines:
        await worker.leases.start()
        worker.leases.touch("bank", some_ticket())
        await until(lambda: worker.leases.is_held("bank"))
        door.shut()
        worker.leases.touch("bank", some_ticket())
        await until(lambda: worker.seen.is_up is False)
        worker.leases.touch("bank", some_ticket())  # returns at once: it asks nobody
        await until(lambda: not worker.leases.is_held("bank"))
        door.open()

        def working() -> bool:
            worker.leases.touch("bank", some_ticket())
            return worker.leases.is_held("bank")

        await until(working)
    return [line["event"] for line in lines if line["log_level"] != "debug" and line["event"] != "breaker"]


async def test_stopping_does_not_wait_for_a_redis_that_is_gone() -> None:
    worker = Worker(NOWHERE, uuid4())
    await worker.leases.start()
    worker.leases.touch("bank", some_ticket())
    await until(lambda: worker.seen.is_up is False)
    async with asyncio.timeout(5):
        await worker.stop()


async def test_off_holds_nothing_and_asks_nobody() -> None:
    locks = NoLocks()
    await locks.start()
    assert not locks.touch("bank", some_ticket())
    assert not (await locks.take("bank", [Wanted(["draws:a:X"], some_ticket())])).blocked
    await locks.stop()
