"""Locks in Redis that are overdue, alerts that reach a webhook, a history that stays bounded, and what operators are answered."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
import redis

from projections.infrastructure.postgres import Database as Session
from projections.infrastructure.postgres_relayed import PostgresRelayed
from shared_kernel import lock_table
from shared_kernel.settings import Secret
from tests.integration.monitor.conftest import NewMonitor
from tests.services import Database, Servers
from tests.support.postgres_bounds import BOUNDS


@pytest.fixture(scope="session")
def stack(stack: Servers) -> Servers:
    """With another of its Redis's databases: in the first, processes of other modules die and leave leases behind."""
    return msgspec.structs.replace(stack, redis_url=f"{stack.redis_url.rpartition('/')[0]}/1")


@pytest.fixture
def overdue(stack: Servers) -> Iterator[str]:
    """The ledger of a lease that would never end."""
    ledger = f"l{uuid4().hex[:12]}"
    client = redis.Redis.from_url(stack.redis_url)
    key = lock_table.key(uuid4(), ledger, lock_table.LEASE)
    client.set(key, f"held {lock_table.worker_name()} 1")
    yield ledger
    client.delete(key)
    client.close()


async def test_locks_that_were_given_back_do_not_take_the_place_of_those_that_are_held(
    monitor: NewMonitor, stack: Servers, overdue: str
) -> None:
    watching = monitor(locks_max=500)
    back = [lock_table.key(uuid4(), f"back{number}", f"{lock_table.LOCK}a:x") for number in range(3_000)]
    writers = lock_table.key(uuid4(), "back", lock_table.WRITERS)
    with redis.Redis.from_url(stack.redis_url) as client:
        client.mset(dict.fromkeys(back, f"free {lock_table.worker_name()} 7"))
        client.zadd(writers, {"somebody": 1})
        look = await watching.look()
        client.delete(writers, *back)
    assert overdue in {lock.ledger for lock in look.locks}
    assert "redis" not in look.skipped, look.skipped


async def test_more_locks_than_may_be_shown_are_said_to_be_more(
    monitor: NewMonitor, stack: Servers, overdue: str
) -> None:
    watching = monitor(locks_max=2)
    keys = [lock_table.key(uuid4(), "many", lock_table.LEASE) for _ in range(3)]
    with redis.Redis.from_url(stack.redis_url) as client:
        for key in keys:
            client.set(key, f"held {lock_table.worker_name()} 7", px=60_000)
        look = await watching.look()
        client.delete(*keys)
    assert len(look.locks) == 2
    assert look.skipped["redis"] == "more than 2 locks are held"


class Hook:
    """A webhook that answers what it was told to, then 200; `taken` has the bodies it took."""

    def __init__(self, *statuses: int) -> None:
        answers = list(statuses)
        self.taken: Queue[Any] = Queue()
        self.refused = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = answers.pop(0) if answers else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if status == 200:
                    hook.taken.put(body)
                else:
                    hook.refused += 1

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def told_of(self, ledger: str) -> Any:
        """The next message about it; the databases of other modules have deadlocks of their own."""
        while (told := self.taken.get(timeout=60))["detail"].get("ledger") != ledger:
            pass
        return told

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook(500)
    yield made
    made.close()


async def test_a_lease_that_never_ends_is_found_and_told_to_the_webhook_though_that_failed_once(
    monitor: NewMonitor, stack: Servers, overdue: str, hook: Hook
) -> None:
    watching = monitor(webhook_url=Secret(hook.url), raise_looks=2, clear_looks=1)
    sending = asyncio.create_task(watching.container.bell().run())
    try:
        look = await watching.look()
        (lock,) = [lock for lock in look.locks if lock.ledger == overdue]
        assert (lock.kind, lock.left_ms) == ("lease", None)
        assert [each.raised_at for each in await watching.episodes("overdue_lease")] == [None]
        look = await watching.look()
        (lock,) = [lock for lock in look.locks if lock.ledger == overdue]
        assert lock.held_ms > 0

        told = await asyncio.to_thread(hook.told_of, overdue)
        assert (told["event"], told["kind"], told["detail"]["ledger"]) == ("alert_raised", "overdue_lease", overdue)
        assert hook.refused == 1

        redis.Redis.from_url(stack.redis_url).delete(lock.key)
        await watching.look()
        told = await asyncio.to_thread(hook.told_of, overdue)
        assert (told["event"], told["kind"]) == ("alert_cleared", "overdue_lease")
        assert told["ended_at"] is not None
        await watching.container.bell().close()  # until the answer is counted too
        assert (await watching.metrics())['daybook_monitor_notices_total{result="sent"}'] >= 2
    finally:
        sending.cancel()


async def test_an_alert_that_nobody_takes_is_given_up_and_counted(monitor: NewMonitor, overdue: str) -> None:
    watching = monitor(webhook_url=Secret("http://127.0.0.1:1/"), webhook_attempts_max=2, raise_looks=1)
    sending = asyncio.create_task(watching.container.bell().run())
    try:
        await watching.look()
        async with asyncio.timeout(60):
            while (await watching.metrics()).get('daybook_monitor_notices_total{result="failed"}') != 1:
                await asyncio.sleep(0.02)
    finally:
        sending.cancel()


async def test_history_is_trimmed_by_rows_and_by_age_and_what_is_open_stays(
    monitor: NewMonitor, database: Database, overdue: str
) -> None:
    watching = monitor(history_rows_max=5, history_days_max=30)
    await watching.look()  # its finding is the oldest, and open
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(
            "insert into monitor.findings (kind, subject, first_seen_at, last_seen_at, looks, missed, ended_at, detail)"
            " select 'deadlock', n::text, now(), now(), 1, 3, now() - case when n = 20 then interval '31 days' else '0' end,"
            " '{}' from generate_series(1, 20) n"
        )
    await watching.look()
    kept = await watching.episodes("deadlock")
    assert [episode.subject for episode in kept] == ["19", "18", "17", "16"]
    assert len(await watching.episodes("overdue_lease")) == 1


async def test_operators_read_locks_alerts_and_findings_and_nobody_else_does(monitor: NewMonitor, overdue: str) -> None:
    watching = monitor(raise_looks=1)
    assert (await watching.get("/locks", "operator")).json() == {"look": None, "age_ms": None}
    await watching.look()

    locks = (await watching.get("/locks", "operator")).json()
    assert overdue in {lock["ledger"] for lock in locks["look"]["locks"]}
    assert locks["look"]["skipped"] == {"processes": "DAYBOOK_METRICS_URLS is not set"}
    assert locks["age_ms"] >= 0
    alerts = (await watching.get("/alerts", "admin")).json()["data"]
    assert [alert["kind"] for alert in alerts if alert["detail"].get("ledger") == overdue] == ["overdue_lease"]
    page = (await watching.get("/findings?limit=1", "operator")).json()
    rest = (await watching.get(f"/findings?before={page['data'][0]['id']}", "operator")).json()
    assert len(page["data"]) == 1
    assert page["data"][0]["id"] not in {each["id"] for each in rest["data"]}

    for path in ("/locks", "/alerts", "/findings"):
        refused = await watching.get(path, "reader", "writer", "auditor")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    elsewhere = (await watching.get("/locks", "operator", ledgers=("other:**",))).json()
    assert elsewhere["look"]["locks"] == []
    assert (await watching.get("/alerts", "operator", ledgers=("other:**",))).json()["data"] == []
    unknown = await watching.get("/locks?x=1", "operator")
    assert unknown.json()["code"] == "invalid_request"


async def test_a_relay_that_gave_its_lease_back_is_no_finding_and_one_whose_lease_ran_out_is(
    monitor: NewMonitor, database: Database
) -> None:
    watching = monitor(raise_looks=1)
    session = Session(database.urls["relay"], name="test", bounds=BOUNDS)
    relayed = PostgresRelayed(session)
    epoch = relayed.acquire("first", 60_000)
    assert epoch is not None
    (lease,) = [lock for lock in (await watching.look()).locks if lock.kind == "relay"]
    assert (lease.holder, lease.held_ms) == ("first", None)

    relayed.release("first", epoch)
    assert [lock for lock in (await watching.look()).locks if lock.kind == "relay"] == []
    assert [one for one in await watching.episodes("overdue_lease") if one.subject == "relay"] == []

    second = relayed.acquire("second", 1)
    assert second is not None
    await watching.look()
    (found,) = [one for one in await watching.episodes("overdue_lease") if one.subject == "relay"]
    assert found.detail["holder"] == "second"
    relayed.release("second", second)
    session.close()


async def test_redis_that_does_not_answer_is_said_and_nothing_more(monitor: NewMonitor) -> None:
    watching = monitor(redis_url=Secret("redis://127.0.0.1:1/0"))
    look = await watching.look()
    assert look.skipped["redis"].startswith("Redis does not answer")
    assert [lock for lock in look.locks if lock.kind != "relay"] == []


async def test_a_look_counts_from_its_beginning_however_long_a_silent_process_is_waited_for(
    monitor: NewMonitor,
) -> None:
    asked_at: list[datetime] = []
    asking: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_at.append(datetime.now(UTC))
        asking.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    watching = monitor(metrics_urls=f"http://127.0.0.1:{port}/metrics", metrics_timeout_ms=1_000, look_ms=1_100)
    first, second = await watching.look(), await watching.look()
    assert [process.fault for process in (*first.processes, *second.processes)] == ["TimeoutError"] * 2
    assert [look.taken_at <= asked for look, asked in zip((first, second), asked_at, strict=True)] == [True, True]
    server.close()
    for writer in asking:
        writer.close()
        await writer.wait_closed()


async def test_command_and_query_processes_are_asked_for_their_queues_and_breakers(monitor: NewMonitor) -> None:
    text = (
        b"# TYPE daybook_queue_depth gauge\ndaybook_queue_depth 7\n# TYPE daybook_breaker_state gauge\n"
        b'daybook_breaker_state{dependency="redis"} 2\ndaybook_breaker_state{dependency="postgres"} 0\n'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        look = await monitor(metrics_urls=f"{url} http://127.0.0.1:1/metrics").look()
        server.shutdown()
        thread.join()
    answered, silent = look.processes
    assert (answered.queue_depth, list(answered.open_breakers), answered.fault) == (7, ["redis"], "")
    assert (silent.queue_depth, silent.fault) == (None, "URLError")
