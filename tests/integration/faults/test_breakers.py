"""Each breaker through its three states by a real outage of the real server, and what goes on meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from projections.application.ports import PublishFailed
from projections.infrastructure.kafka import KafkaPublisher
from projections.infrastructure.kafka_clients import KafkaClients
from shared_kernel.breaker import Breaker, BreakerBounds, State
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.settings import Secret
from tests.integration.command_service.conftest import Caller, workers
from tests.integration.query_service.bookkeeper import account, opened, posting, start_with
from tests.integration.query_service.conftest import Client, services
from tests.services import Database, Servers, fresh_database
from tests.support.own_servers import OwnServers, own_servers

pytestmark = [pytest.mark.long, pytest.mark.thorough]

WITHIN_S = 60  # generous: servers start in two to ten seconds
FAST_S = 2  # generous: an open breaker answers without asking anybody
ENTRIES = [
    {"account": "cash", "direction": "debit", "amount": 7, "asset": "CZK/2"},
    {"account": "till", "direction": "credit", "amount": 7, "asset": "CZK/2"},
]

SIDES = ("credit", "debit")


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServers]:
    """A PostgreSQL that may be stopped."""
    with own_servers("postgres") as servers:
        yield servers


@pytest.fixture(scope="module")
def its_database(own: OwnServers) -> Iterator[Database]:
    """A database on it. Whoever stops it starts it again."""
    with fresh_database(own.start()) as fresh:
        yield fresh


@pytest.fixture
async def caller(its_database: Database, stack: Servers, tmp_path: Path) -> AsyncIterator[Caller]:
    """A command process on it; a command waits longer than any outage here."""
    async with workers(its_database, stack, tmp_path) as start:
        yield await start(command_seconds_max=WITHIN_S * 2)


@pytest.fixture
async def client(its_database: Database, tmp_path: Path) -> AsyncIterator[Client]:
    """A query process on it."""
    folder = tmp_path / "query"
    folder.mkdir()
    async with services(its_database, folder) as start:
        yield await start(listens=False, postgres_pool_wait_ms=200)


async def until(is_so: Callable[[], Any], doing: Callable[[], Any] | None = None) -> None:
    """Returns once it is so; `doing` is awaited again and again meanwhile."""
    async with asyncio.timeout(WITHIN_S):
        while not is_so():
            if doing is not None:
                await doing()
            await asyncio.sleep(0.02)


async def test_commands_and_queries_are_told_at_once_while_postgres_is_away_and_go_on_when_it_is_back(
    own: OwnServers, caller: Caller, client: Client
) -> None:
    ledger = await caller.open_ledger()
    writing: Breaker = caller.container.postgres_breaker()
    reading: Breaker = client.container.postgres_breaker()
    read = f"/{ledger}/events?limit=1"
    assert (writing.state, reading.state) == (State.CLOSED, State.CLOSED)

    await asyncio.to_thread(own.stop)
    waiting = asyncio.create_task(caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key="before"))
    await until(lambda: writing.state is not State.CLOSED)
    many = [lambda: client.get(read, role="auditor")] * 8  # at once, so that the outage is short
    await until(lambda: reading.state is not State.CLOSED, lambda: asyncio.gather(*(ask() for ask in many)))
    for ask in (
        lambda: caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}),
        lambda: client.get(read, role="auditor"),
    ):
        answer = None
        while answer is None or answer.json().get("reason") != "breaker_open":  # a probe may be let through in between
            began = time.monotonic()
            answer = await ask()
        assert time.monotonic() - began < FAST_S
        assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
        assert answer.json()["dependency"] == "postgres"
        assert int(answer.headers["retry-after"]) >= 1
    ready = await caller.http.get("/health/ready")
    assert ready.json()["checks"]["postgres_breaker"]["detail"].startswith("breaker ")

    await asyncio.to_thread(own.start)
    answer = await waiting  # it was there before the outage was known: done, once
    assert answer.status_code == 201, answer.text
    await until(lambda: writing.state is State.CLOSED, lambda: caller.get(f"/{ledger}/commands/before"))
    again = await caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key="before")
    assert again.status_code == 201, again.text
    await until(lambda: reading.state is State.CLOSED, lambda: client.get(read, role="auditor"))
    assert (await caller.post(f"/{ledger}/transactions", {"entries": ENTRIES})).status_code == 201
    for state in ("open", "half_open", "closed"):
        for container in (caller.container, client.container):
            labels = {"dependency": "postgres", "state": state}
            assert container.registry().get_sample_value("daybook_breaker_transitions_total", labels), state
    assert (await client.get(read, role="auditor")).status_code == 200


async def test_an_open_breaker_that_nobody_asks_closes_with_the_answers_to_the_readiness_check(
    its_database: Database, stack: Servers, tmp_path: Path
) -> None:
    async with workers(its_database, stack, tmp_path) as start:
        caller: Caller = await start()
        folder = tmp_path / "query"
        folder.mkdir()
        async with services(its_database, folder) as start_query:
            client: Client = await start_query(listens=False)
            breakers: list[Breaker] = [each.container.postgres_breaker() for each in (caller, client)]
            for breaker in breakers:
                breaker.trip()  # as after an outage that is over by now
            for http, breaker in zip((caller.http, client.http), breakers, strict=True):

                async def ready(http: httpx.AsyncClient = http) -> None:
                    checks = (await http.get("/health/ready")).json()["checks"]
                    assert all(check["ok"] for name, check in checks.items() if name != "books"), checks

                await until(lambda breaker=breaker: breaker.state is State.CLOSED, ready)  # type: ignore[misc]
                breaker.trip()
                await asyncio.sleep(BreakerBounds().open_ms / 1_000)
                await until(lambda breaker=breaker: breaker.state is State.CLOSED, ready)  # type: ignore[misc]


async def test_connections_that_ended_while_nobody_asked_say_nothing_of_the_server(
    database: Database, tmp_path: Path
) -> None:
    start_with(database.admin_url, "bank", opened("bank"), account("cash"))
    async with services(database, tmp_path) as start:
        client: Client = await start(
            listens=False, postgres_connections_max=4, postgres_breaker_failures_in_row=1, postgres_pool_wait_ms=10_000
        )
        breaker: Breaker = client.container.postgres_breaker()
        read = "/bank/accounts/cash/balances"
        await asyncio.gather(*(client.ok(read) for _ in range(20)))
        with psycopg.connect(database.admin_url, autocommit=True) as admin:
            ended = admin.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
                " where datname = current_database() and application_name = 'daybook query'"
            ).fetchall()
        assert len(ended) > 1
        await asyncio.gather(*(client.ok(read) for _ in range(20)))
        transitions = {"dependency": "postgres", "state": "open"}
        assert client.container.registry().get_sample_value("daybook_breaker_transitions_total", transitions) is None
        assert breaker.state is State.CLOSED


async def test_queries_go_on_without_the_cache_while_its_redis_is_away(database: Database, tmp_path: Path) -> None:
    start_with(
        database.admin_url, "bank", opened("bank"), account("cash"), account("till"), posting("t1", "cash", "till", 7)
    )
    with own_servers("redis") as own:
        cache_url = Secret((await asyncio.to_thread(own.start)).redis_url)
        async with services(database, tmp_path) as start:
            client: Client = await start(listens=False, cache_url=cache_url)
            breaker: Breaker = client.container.cache_breaker()

            async def ask() -> None:
                await client.ok("/bank/accounts/till/balances?as_of_position=4")

            def from_cache() -> float:
                sources = {"source": "cache"}
                return client.container.registry().get_sample_value("daybook_query_answers_total", sources) or 0.0

            await until(lambda: from_cache() > 0, ask)
            assert breaker.state is State.CLOSED
            await asyncio.to_thread(own.stop)
            await until(lambda: breaker.state is State.OPEN, ask)
            checks = (await client.http.get("/health/ready")).json()["checks"]
            assert checks["cache_breaker"]["ok"] is True
            await until(lambda: breaker.state is State.HALF_OPEN)
            await asyncio.to_thread(own.start)
            await until(lambda: breaker.state is State.CLOSED, ask)
            before = from_cache()
            await until(lambda: from_cache() > before, ask)


async def test_commands_go_on_without_locks_while_redis_is_away(
    database: Database, stack: Servers, tmp_path: Path
) -> None:
    with own_servers("redis") as own:
        redis_url = (await asyncio.to_thread(own.start)).redis_url
        async with workers(database, stack, tmp_path) as start:
            caller: Caller = await start(redis_url=Secret(redis_url), locks="always", lock_timeout_ms=500)
            breaker: Breaker = caller.container.redis_breaker()
            ledger = await caller.open_ledger()
            limited = {"address": "till", "limits": {"CZK/2": {"minimum": 0}}}
            assert (await caller.post(f"/{ledger}/accounts", limited)).status_code == 201

            async def draw() -> None:
                for entries in (
                    ENTRIES,
                    [entry | {"direction": other} for entry, other in zip(ENTRIES, SIDES, strict=True)],
                ):
                    assert (await caller.post(f"/{ledger}/transactions", {"entries": entries})).status_code == 201

            async def taken() -> float:
                return await caller.metric('daybook_account_locks_total{result="taken"}')

            await draw()
            assert breaker.state is State.CLOSED
            assert await taken() > 0
            await asyncio.to_thread(own.stop)
            await until(lambda: breaker.state is State.OPEN, draw)
            checks = (await caller.http.get("/health/ready")).json()["checks"]
            assert checks["redis_breaker"]["ok"] is True
            began = time.monotonic()
            await draw()
            assert time.monotonic() - began < FAST_S
            assert await caller.metric('daybook_breaker_refused_total{dependency="redis"}') > 0
            await asyncio.to_thread(own.start)
            before = await taken()
            await until(lambda: breaker.state is State.CLOSED, draw)
            await draw()
            assert await taken() > before


def test_the_relays_publisher_leaves_kafka_alone_while_it_is_away(kafka_topic: str) -> None:
    event = RecordedEvent(ledger="bank", position=1, type="E", data="{}", metadata="{}", recorded_at=datetime.now(UTC))
    with own_servers("kafka") as own:
        breaker = Breaker("kafka", bounds=BreakerBounds(failures_in_row=2, probes_max=1, open_ms=2_000))
        clients = KafkaClients(
            bootstrap=own.start().kafka_bootstrap, connect_ms=30_000, request_ms=60_000, admin_ms=5_000
        )
        publisher = KafkaPublisher(
            clients, topic=kafka_topic, partitions=1, replicas=1, stall_ms=6_000, breaker=breaker
        )

        def publish() -> str:
            try:
                publisher.publish([event], incarnation="i", meanwhile=lambda: None)
            except PublishFailed as error:
                publisher.close()  # as the relay does after a failed round
                return str(error.fields.get("reason"))
            return "published"

        assert publish() == "published"
        own.stop()
        told = [publish()]
        assert told == ["no_delivery_reports"]
        deadline = time.monotonic() + WITHIN_S
        while breaker.state is State.CLOSED and time.monotonic() < deadline:
            told.append(publish())
        assert breaker.state is not State.CLOSED
        while told[-1] != "breaker_open" and time.monotonic() < deadline:
            told.append(publish())
        assert told[-1] == "breaker_open"
        own.start()
        while (last := publish()) != "published" and time.monotonic() < deadline + WITHIN_S:
            time.sleep(0.1)
        assert (last, breaker.state) == ("published", State.CLOSED)
        publisher.close()
