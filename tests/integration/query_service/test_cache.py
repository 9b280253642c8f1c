"""The cache on real Redis: it may save a question, and can never change an answer."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from query_service.infrastructure import cached_books
from query_service.infrastructure.cached_books import KEY_PREFIX
from shared_kernel.settings import Secret
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service, services
from tests.services import Database, Servers

pytestmark = [pytest.mark.long, pytest.mark.thorough]

LEDGER = "bank"
TILL = f"/{LEDGER}/accounts/till/balances"


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """A ledger of four events, of an incarnation of its own: each test begins the same positions anew."""
    keeper.connection.execute("select daybook.restored()")
    keeper.start_over()
    keeper.append(LEDGER, opened(LEDGER), account("cash"), account("till"), posting("t1", "cash", "till", 7))
    keeper.project(LEDGER)
    return keeper


@pytest.fixture
async def redis(stack: Servers) -> AsyncIterator[Redis]:
    """The run's Redis."""
    client: Redis = Redis.from_url(stack.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def start(database: Database, stack: Servers, bank: Bookkeeper, tmp_path: Path) -> AsyncIterator[Service]:
    """Starts a query service that has a cache."""
    async with services(database, tmp_path) as start:
        yield lambda **settings: start(**({"cache_url": Secret(stack.redis_url), "cache_timeout_ms": 2_000} | settings))


@pytest.fixture
async def client(start: Service) -> Client:
    """One with ordinary settings that knows which generation answers."""
    client: Client = await start()
    await client.ok(TILL)
    await client.ok(f"{TILL}?as_of_position=3")
    return client


def cached(client: Client) -> float:
    """How many questions the cache has answered for this service."""
    return client.container.registry().get_sample_value("daybook_query_answers_total", {"source": "cache"}) or 0.0


async def entries(redis: Redis, database: Database) -> dict[bytes, bytes]:
    """All that this database's services keep there."""
    import psycopg

    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute("select incarnation::text from daybook.incarnation").fetchone()
    assert row is not None
    return {key: await redis.get(key) async for key in redis.scan_iter(match=f"{KEY_PREFIX}{row[0]}:*", count=10_000)}


def posted(body: dict[str, Any]) -> int:
    balance: int = body["balances"]["EUR/2"]["posted"]
    return balance


FIXED = (
    "accounts/till/balances",
    "accounts",
    "accounts/till/entries",
    "transactions",
    "transactions/t1",
    "trial-balance",
)


@pytest.mark.parametrize("path", FIXED)
async def test_what_a_position_names_is_asked_once_and_is_the_same_from_the_cache(
    start: Service, client: Client, path: str
) -> None:
    asked = f"/{LEDGER}/{path}?as_of_position=4"
    first = await client.get(asked)
    before = cached(client)
    again = await client.get(asked)
    assert cached(client) == before + 1
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    other: Client = await start()
    await other.get(f"/{LEDGER}/{path}?as_of_position=3")
    assert (await other.get(asked)).content == first.content
    assert cached(other) >= 1


async def test_the_newest_balance_comes_from_the_cache_until_something_newer_is_announced(
    client: Client, bank: Bookkeeper
) -> None:
    visible = client.container.visible()
    before = cached(client)
    async with asyncio.timeout(30):
        while cached(client) == before:
            assert posted(await client.ok(TILL)) == 7
    bank.append(LEDGER, posting("t2", "cash", "till", 5))
    head = bank.project(LEDGER)
    async with asyncio.timeout(30):
        while visible.newest(LEDGER) != head:
            await asyncio.sleep(0.001)
    assert posted(await client.ok(TILL)) == 12


async def test_a_client_that_says_what_it_knows_never_gets_anything_older(client: Client, bank: Bookkeeper) -> None:
    for number in range(100):
        bank.append(LEDGER, posting(f"n{number}", "cash", "till", 1))
        head = bank.project(LEDGER, announce=False)  # not even an announcement is needed
        body = await client.ok(TILL, headers={"Daybook-Position": str(head)})
        assert (posted(body), body["as_of"]["position"] >= head) == (8 + number, True)
        older = await client.ok(TILL, headers={"Daybook-Position": str(head - 1)})
        assert posted(older) >= 7 + number
    assert cached(client) > 50


async def test_what_the_cache_says_of_an_older_position_is_passed_over(
    client: Client, bank: Bookkeeper, redis: Redis, database: Database
) -> None:
    assert posted(await client.ok(TILL)) == 7
    old = await entries(redis, database)
    bank.append(LEDGER, posting("t2", "cash", "till", 5))
    head = bank.project(LEDGER)
    for key, entry in old.items():  # as a process that was long asleep might write it
        await redis.set(key, entry, px=60_000)
    assert posted(await client.ok(TILL, headers={"Daybook-Position": str(head)})) == 12


async def test_another_generation_is_never_answered_from_entries_of_the_last_one(
    client: Client, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = f"{TILL}?as_of_position=4"
    first = await client.get(fixed)
    bank.make_generation(2)
    bank.project(LEDGER, generation=2)
    bank.go_live(2)
    monkeypatch.setattr(cached_books, "BELIEVED_S", -1.0)  # as if a second had passed
    other = await client.get(fixed)
    monkeypatch.undo()
    assert other.headers["etag"] != first.headers["etag"]
    await client.get(fixed)
    before = cached(client)
    assert (await client.get(fixed)).headers["etag"] == other.headers["etag"]
    assert cached(client) == before + 1


async def test_a_ledger_that_stands_still_is_not_answered_as_if_it_went_on(client: Client, bank: Bookkeeper) -> None:
    bank.stand_still(LEDGER, "parked", 5)
    async with asyncio.timeout(30):
        while (await client.ok(TILL))["complete"]:
            await asyncio.sleep(0.01)
    for _ in range(5):
        assert (await client.ok(TILL))["complete"] is False


async def test_a_flushed_cache_changes_no_answer(client: Client, redis: Redis, database: Database) -> None:
    fixed = f"{TILL}?as_of_position=4"
    first = await client.get(fixed)
    for _ in range(3):
        if kept := await entries(redis, database):
            await redis.delete(*kept)
        assert (await client.get(fixed)).content == first.content
        assert posted(await client.ok(TILL)) == 7


async def test_entries_of_another_version_are_passed_over(client: Client, redis: Redis, database: Database) -> None:
    fixed = f"{TILL}?as_of_position=4"
    first = await client.get(fixed)
    for key in await entries(redis, database):
        await redis.set(key, b'["of another version"]', px=60_000)
    assert (await client.get(fixed)).content == first.content


async def test_every_entry_has_a_lifetime_and_all_together_keep_to_the_budget(
    start: Service, redis: Redis, database: Database
) -> None:
    client: Client = await start(cache_bytes_max=3_000)
    for number in range(40):
        await client.ok(f"/{LEDGER}/accounts?limit={number + 1}&as_of_position=4")
    kept = await entries(redis, database)
    assert 1 < len(kept) < 40
    assert sum(len(key) + len(entry) for key, entry in kept.items()) <= 3_000
    for key in kept:
        assert 0 < await redis.pttl(key) <= 3_600_000


async def test_an_entry_counts_against_the_budget_only_for_as_long_as_it_lives(
    start: Service, redis: Redis, database: Database
) -> None:
    client: Client = await start(cache_bytes_max=4_000, cache_live_ms=1)
    await client.ok(f"{TILL}?as_of_position=3")
    for _ in range(40):
        await client.ok(TILL)
    await client.ok(f"{TILL}?as_of_position=4")
    lifetimes = [await redis.pttl(key) for key in await entries(redis, database)]
    assert sum(lifetime > 1_000 for lifetime in lifetimes) == 2


async def test_that_a_time_has_not_come_is_not_kept(client: Client, redis: Redis, database: Database) -> None:
    before = await entries(redis, database)
    path = f"/{LEDGER}/accounts/till/statement?asset=EUR/2&from=9999-01-01T00:00:00Z&as_of_position=4"
    await client.problem(path, 400, "invalid_request")
    assert (await entries(redis, database)).keys() <= before.keys()


async def test_a_long_answer_is_not_kept(start: Service, redis: Redis, database: Database) -> None:
    client: Client = await start(cache_entry_bytes_max=100)
    for _ in range(3):
        await client.ok(f"{TILL}?as_of_position=4")
    assert await entries(redis, database) == {}


@pytest.mark.parametrize("is_there", [False, True])
async def test_without_an_answering_redis_everything_is_answered_from_the_books(start: Service, is_there: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if is_there:  # it takes connections and says nothing
            silent.listen()
        url = Secret(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        client: Client = await start(cache_url=url, cache_timeout_ms=50)
        for position in (None, "4"):
            answers: list[httpx.Response] = await asyncio.gather(
                *(client.get(f"{TILL}?as_of_position={position}" if position else TILL) for _ in range(20))
            )
            assert {answer.status_code for answer in answers} == {200}
            assert {posted(json.loads(answer.content)) for answer in answers} == {7}
        assert cached(client) == 0
