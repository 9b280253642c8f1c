"""Leases and account locks on a server that is a cluster of one node: it refuses any call whose keys are not in one hash slot."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daybook.stack.redis import find_server
from shared_kernel import lock_table
from tests.integration.command_service.test_account_locks import A, B, C, workers
from tests.integration.command_service.test_leases import ask
from tests.integration.command_service.test_leases import workers as lease_workers
from tests.services import free_port

READY_WITHIN_S = 30


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    """A cluster-enabled server that has all slots."""
    port = free_port()
    argv = [str(find_server(None)), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    argv += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        async with asyncio.timeout(READY_WITHIN_S), Redis.from_url(url) as redis:
            await _answers(redis)
            await redis.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while (await redis.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":
                await asyncio.sleep(0.02)
        yield url
    finally:
        server.terminate()
        server.wait(10)


async def _answers(redis: Redis) -> None:
    while True:
        try:
            await redis.ping()
        except RedisError:
            await asyncio.sleep(0.02)
        else:
            return


async def test_the_keys_of_a_ledger_are_in_one_hash_slot_and_every_call_is_taken(cluster_url: str) -> None:
    log = uuid4()
    async with (
        lease_workers(cluster_url, 2, log) as (first, second),
        workers(cluster_url, 2, log) as (one, other),
        Redis.from_url(cluster_url) as redis,
    ):
        await ask(first, "bank")
        await ask(second, "bank")
        await first.leases.ask()
        assert first.link.is_up
        grip = await one.take((A, B), (C,))
        assert len((await other.take((B,), (C,))).blocked) == 2
        await one.give_back(grip, 4)
        assert (await other.take((A,), (B,), (C,))).position == 4
        keys = [key async for key in redis.scan_iter(match=lock_table.PATTERN)]
        assert len(keys) == 5  # the lease, who writes, three locks
        slots = {await redis.execute_command("CLUSTER KEYSLOT", key) for key in keys}
        assert len(slots) == 1
        assert {await redis.execute_command("CLUSTER KEYSLOT", lock_table.key(log, "other", "lease"))} != slots
