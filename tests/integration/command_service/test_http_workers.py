"""Two workers on one log, with Redis as it comes: the lease tells, and nothing waits for it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from command_service.infrastructure.locks import NoLocks
from shared_kernel.settings import Secret
from tests.integration.command_service.conftest import Caller, NewWorker
from tests.services import Servers
from tests.support.door import Door, door_to

NOWHERE = "redis://127.0.0.1:1/0"  # nothing listens on port 1
LEASE = {"lease_ms": 900, "redis_timeout_ms": 300}  # short, so that its end can be waited for


def transfer(amount: int = 1) -> dict[str, Any]:
    return {
        "entries": [
            {"account": "wallet", "direction": "debit", "amount": amount, "asset": "X"},
            {"account": "cash", "direction": "credit", "amount": amount, "asset": "X"},
        ]
    }


def is_held(caller: Caller, ledger: str) -> bool:
    held: bool = caller.container.locks().leases.is_held(ledger)
    return held


async def until(claim: Callable[[], bool]) -> None:
    """Returns once the claim is true; the bound is far above what any of these takes."""
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.01)


async def posted(caller: Caller, ledger: str, *, times: int = 1) -> Counter[int]:
    """How many of that many transfers were answered with which status."""
    answers = await asyncio.gather(*(caller.post(f"/{ledger}/transactions", transfer()) for _ in range(times)))
    return Counter(answer.status_code for answer in answers)


async def test_the_worker_without_the_lease_goes_on_at_once(worker: NewWorker) -> None:
    long = {"lease_ms": 9_000}  # a third of it is longer than this takes: who writes nothing for so long gives it back
    first, second = await worker(**long), await worker(**long)
    ledger = await first.open_ledger()
    await until(lambda: is_held(first, ledger))
    assert await posted(second, ledger, times=20) == {201: 20}
    assert await posted(first, ledger, times=20) == {201: 20}
    await until(lambda: second.container.locks().link.is_up is True)
    assert not is_held(second, ledger)


async def test_the_lease_passes_on_when_its_holder_falls_silent(worker: NewWorker) -> None:
    first, second = await worker(**LEASE), await worker(**LEASE)
    ledger = await first.open_ledger()
    await until(lambda: is_held(first, ledger))

    async def second_writes_until_it_has_the_lease() -> None:
        while not is_held(second, ledger):
            assert await posted(second, ledger) == {201: 1}

    async with asyncio.timeout(20):
        await second_writes_until_it_has_the_lease()
    assert not is_held(first, ledger)
    assert await second.metric("daybook_leases_held") >= 1


async def test_two_workers_never_pass_a_minimum_together(worker: NewWorker) -> None:
    """Whoever has the lease, the append's fences decide: 30 units, 80 draws of one by two workers at once."""
    first, second = await worker(**LEASE), await worker(locks="off")
    ledger = await first.open_ledger(defaults=[{"pattern": "wallet", "limits": {"X": {"minimum": -30}}}])
    counts = await asyncio.gather(*(posted(asker, ledger, times=40) for asker in (first, second)))
    assert sum(counts, Counter()) == {201: 30, 422: 50}


async def test_commands_go_on_without_redis(worker: NewWorker) -> None:
    caller = await worker(redis_url=Secret(NOWHERE), **LEASE)
    ledger = await caller.open_ledger()
    assert await posted(caller, ledger, times=10) == {201: 10}
    await until(lambda: caller.container.locks().link.is_up is False)
    assert not is_held(caller, ledger)
    ready = await caller.http.get("/health/ready")
    assert ready.status_code == 200, ready.text
    assert await caller.metric("daybook_redis_up") == 0


@pytest.fixture
async def redis_door(stack: Servers) -> AsyncIterator[Door]:
    """Other modules use the same Redis at the same time: it must not stand still for them."""
    async with door_to(stack.redis_url) as door:
        yield door


async def test_commands_go_on_while_redis_stands_still_and_after_it_was_emptied(
    worker: NewWorker, redis_door: Door, stack: Servers
) -> None:
    caller = await worker(**LEASE, redis_url=Secret(f"redis://127.0.0.1:{redis_door.port}/0"))
    ledger = await caller.open_ledger()
    await until(lambda: is_held(caller, ledger))
    async with Redis.from_url(stack.redis_url) as redis:
        redis_door.shut()
        assert await posted(caller, ledger, times=10) == {201: 10}

        async def writes_until(claim: Callable[[], bool]) -> None:
            async with asyncio.timeout(20):
                while not claim():
                    assert await posted(caller, ledger) == {201: 1}

        await writes_until(lambda: caller.container.locks().link.is_up is False)
        redis_door.open()
        await writes_until(lambda: is_held(caller, ledger) and caller.container.locks().link.is_up is True)
        for key in await redis.keys(f"daybook:*{ledger}*"):
            await redis.delete(key)
        assert await posted(caller, ledger, times=10) == {201: 10}


@pytest.mark.parametrize("settings", [{"locks": "off"}, {"redis_url": Secret("")}])
async def test_locks_can_be_left_out(worker: NewWorker, settings: dict[str, Any]) -> None:
    caller = await worker(**settings)
    ledger = await caller.open_ledger()
    assert await posted(caller, ledger, times=3) == {201: 3}
    assert isinstance(caller.container.locks(), NoLocks)


async def test_figures_tell_what_was_done(worker: NewWorker) -> None:
    caller = await worker()
    ledger = await caller.open_ledger(defaults=[{"pattern": "wallet", "limits": {"X": {"minimum": -3}}}])
    for _ in range(2):
        await caller.post(f"/{ledger}/transactions", transfer(3), key="k")
    await caller.post(f"/{ledger}/transactions", transfer(1))
    text = (await caller.http.get("/metrics")).text
    for line in (
        'daybook_commands_total{command="PostTransaction",outcome="accepted"} 2.0',
        'daybook_commands_total{command="PostTransaction",outcome="insufficient_funds"} 1.0',
        "daybook_replays_total 1.0",
        "daybook_queue_depth 0.0",
        'daybook_http_requests_total{method="POST",route="/v1/ledgers/{ledger}/transactions",status="422"} 1.0',
    ):
        assert line in text
    assert await caller.metric("daybook_append_seconds_count") >= 3


async def test_a_database_that_is_away_makes_the_process_unready_and_its_answers_say_so(worker: NewWorker) -> None:
    caller = await worker(
        postgres_url=Secret("postgresql://nobody@127.0.0.1:1/none"), log_connect_timeout_ms=200, command_seconds_max=1
    )
    ready = await caller.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"]["ok"] is False
    answer = await caller.post("/bank/transactions", transfer())
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert (await caller.http.get("/health/live")).status_code == 200
