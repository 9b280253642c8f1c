"""Time is over. A command's while somebody holds the ledger's row: told in time where nothing is sent, waited for where something is;
a query's when nothing comes any more from a Postgres that nobody has told to be gone.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from shared_kernel.settings import Secret
from tests.integration.command_service.conftest import Caller, workers
from tests.integration.event_log.words import until_blocked
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, start_with
from tests.integration.query_service.conftest import services
from tests.services import Database, Servers
from tests.support.proxy import proxied

ENTRIES = [
    {"account": "cash", "direction": "debit", "amount": 7, "asset": "CZK/2"},
    {"account": "till", "direction": "credit", "amount": 7, "asset": "CZK/2"},
]
TIME_S = 1
SOON_S = 10  # generous: three times what a busy machine needs to tell it


@pytest.fixture
def psql(database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Somebody at a terminal."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield connection


async def test_the_append_that_is_sent_is_waited_for_and_what_waits_behind_it_is_turned_away(
    database: Database, stack: Servers, tmp_path: Path, psql: psycopg.Connection[tuple[object, ...]]
) -> None:
    async with workers(database, stack, tmp_path) as start:
        caller: Caller = await start(
            command_seconds_max=TIME_S, log_lock_timeout_ms=60_000, log_statement_timeout_ms=60_000
        )
        ledger = await caller.open_ledger()

        def post(key: str) -> "asyncio.Task[object]":
            return asyncio.create_task(caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key=key))

        with psycopg.connect(database.admin_url) as holder:
            holder.execute("select from daybook.ledgers where ledger = %s for update", [ledger])
            sent = post("sent")
            await until_blocked(psql, await _appender(psql, holder.info.backend_pid))
            began = time.monotonic()
            turned_away = await post("behind")
            assert TIME_S * 0.9 <= time.monotonic() - began < SOON_S
            assert (turned_away.status_code, turned_away.json()["code"]) == (503, "deadline_passed")  # type: ignore[attr-defined]
            assert not sent.done()  # as late as the other, but it may come to be
        done = await sent
        assert done.status_code == 201  # type: ignore[attr-defined]
        found = await caller.get(f"/{ledger}/commands/behind")
        assert (found.status_code, found.json()["code"]) == (404, "command_not_found")
        kinds = [
            row[0]
            for row in psql.execute("select type from daybook.events where ledger = %s order by position", [ledger])
        ]
        assert kinds.count("TransactionPosted.v1") == 1


async def _appender(psql: psycopg.Connection[tuple[object, ...]], holder: int) -> int:
    """The backend that waits for the holder."""
    async with asyncio.timeout(SOON_S):
        while True:
            for (pid,) in psql.execute(
                "select pid from pg_stat_activity where %s = any(pg_blocking_pids(pid))", [holder]
            ):
                return int(str(pid))
            await asyncio.sleep(0.01)


async def test_a_command_that_outlives_its_time_in_doubt_is_told_so(
    database: Database, stack: Servers, tmp_path: Path, psql: psycopg.Connection[tuple[object, ...]]
) -> None:
    async with workers(database, stack, tmp_path) as start:
        caller: Caller = await start(
            command_seconds_max=TIME_S, log_lock_timeout_ms=60_000, log_statement_timeout_ms=60_000
        )
        ledger, key = await caller.open_ledger(), uuid4().hex
        with psycopg.connect(database.admin_url) as holder:
            holder.execute("select from daybook.ledgers where ledger = %s for update", [ledger])
            sent = asyncio.create_task(caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key=key))
            pid = await _appender(psql, holder.info.backend_pid)
            await asyncio.sleep(TIME_S)  # its time is over while it waits for the row: not to be waited for otherwise
            psql.execute("select pg_terminate_backend(%s, 10000)", [pid])
            answer = await sent
        # The backend was seen gone and the log looked at: what is told is the truth, and the key says the same afterwards.
        told = (answer.status_code, answer.json()["code"])
        assert told in {(503, "deadline_passed"), (503, "outcome_unknown")}
        assert (await caller.get(f"/{ledger}/commands/{key}")).status_code == 404
        assert (await caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key=key)).status_code == 201


async def test_a_command_that_a_postgres_without_a_word_holds_up_before_the_append_hears_in_time(
    database: Database, stack: Servers, tmp_path: Path
) -> None:
    """The wire is whole and nothing comes: each step's own time-out is far longer than a command has."""
    async with workers(database, stack, tmp_path) as start, proxied(database.urls["command"]) as (proxy, url):
        caller: Caller = await start(command_seconds_max=TIME_S, postgres_url=Secret(url))
        ledger = await caller.open_ledger()
        proxy.is_silent = True
        began = time.monotonic()  # the accounts are not loaded yet
        answer = await caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key=uuid4().hex)
        took_s = time.monotonic() - began
        assert (answer.status_code, answer.json()["code"]) == (503, "deadline_passed")
        assert TIME_S * 0.9 <= took_s < SOON_S
        proxy.is_silent = False


async def test_a_command_behind_a_held_row_hears_what_its_time_went_by_with(
    database: Database, stack: Servers, tmp_path: Path
) -> None:
    async with workers(database, stack, tmp_path) as start:
        caller: Caller = await start(command_seconds_max=TIME_S, log_lock_timeout_ms=200)
        ledger, key = await caller.open_ledger(), uuid4().hex
        with psycopg.connect(database.admin_url) as holder, capture_logs() as lines:
            holder.execute("select from daybook.ledgers where ledger = %s for update", [ledger])
            answer = await caller.post(f"/{ledger}/transactions", {"entries": ENTRIES}, key=key)
        told = answer.json()
        assert (answer.status_code, told["code"], told["reason"]) == (503, "deadline_passed", "lock_timeout")
        failed = [line for line in lines if line["event"] == "append_failed"]
        assert {(line["reason"], line["ledgers"][0], line["keys"][0]) for line in failed} == {
            ("lock_timeout", ledger, key)
        }
        assert all(line["elapsed_ms"] >= 200 * 0.9 for line in failed)
        assert (await caller.get(f"/{ledger}/commands/{key}")).status_code == 404


async def test_a_query_whose_answer_never_comes_is_given_up_and_others_are_answered_when_the_wire_is_whole_again(
    database: Database, tmp_path: Path
) -> None:
    start_with(database.admin_url, "bank", opened("bank"), account("cash"))
    statement_ms, overdue_ms, read = 200, 500, "/bank/accounts/cash/balances"
    async with proxied(database.urls["query"]) as (proxy, url), services(database, tmp_path) as start:
        client = await start(
            listens=False,
            postgres_url=Secret(url),
            postgres_statement_ms=statement_ms,
            postgres_overdue_ms=overdue_ms,
            postgres_pool_wait_ms=10_000,
        )
        assert (await client.get(read)).status_code == 200
        proxy.is_silent = True
        began = time.monotonic()
        answer = await client.get(read)
        took_s = time.monotonic() - began
        assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
        assert (answer.json()["dependency"], answer.json()["reason"]) == ("postgres", "no_answer")
        assert (statement_ms + overdue_ms) / 1_000 <= took_s < SOON_S
        proxy.is_silent = False
        assert (await client.get(read)).status_code == 200


async def test_a_query_that_got_no_connection_in_time_is_counted(
    database: Database, tmp_path: Path, psql: psycopg.Connection[tuple[object, ...]]
) -> None:
    start_with(database.admin_url, "bank", opened("bank"), account("cash"))
    refused = 'daybook_query_postgres_refused_total{server="primary"} '
    async with services(database, tmp_path) as start:
        client = await start(listens=False, postgres_connections_max=1, postgres_pool_wait_ms=200)
        assert f"{refused}0.0" in (await client.http.get("/metrics")).text
        with psycopg.connect(database.admin_url) as holder:
            holder.execute("lock table daybook.ledgers")
            having_it = asyncio.create_task(client.get("/bank/accounts/cash/balances"))
            await _appender(psql, holder.info.backend_pid)
            answer = await client.get("/bank/accounts/cash/balances")
            assert (answer.status_code, answer.json()["reason"]) == (503, "no_connection")
        assert (await having_it).status_code == 200
        assert f"{refused}1.0" in (await client.http.get("/metrics")).text


async def test_a_query_has_no_more_time_than_its_request_whatever_it_waits_for(
    database: Database, tmp_path: Path
) -> None:
    keeper = Bookkeeper(database.admin_url)
    keeper.start_over()
    keeper.append("bank", opened("bank"), account("cash"))
    keeper.project("bank")
    keeper.append("bank", account("till"))  # which the read model has not
    read = "/bank/accounts/cash/balances"
    async with proxied(database.urls["query"]) as (proxy, url), services(database, tmp_path) as start:
        client = await start(
            listens=False,
            postgres_url=Secret(url),
            postgres_statement_ms=60_000,
            postgres_pool_wait_ms=60_000,
            wait_ms_max=60_000,
            query_seconds_max=TIME_S,
            postgres_connections_max=1,
        )
        assert (await client.get(read)).status_code == 200
        breaker = client.container.postgres_breaker()

        began = time.monotonic()
        behind = await client.get(read, headers={"daybook-position": "3", "prefer": "wait=60"})
        assert (behind.status_code, behind.json()["code"]) == (503, "read_model_behind")
        assert time.monotonic() - began < SOON_S

        with psycopg.connect(database.admin_url) as holder:  # a statement that waits for a lock
            holder.execute("lock table daybook.ledgers")
            began = time.monotonic()
            answer = await client.get(read)
            assert TIME_S * 0.9 <= time.monotonic() - began < SOON_S
            assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
            assert (answer.json()["dependency"], answer.json()["reason"]) == ("postgres", "deadline_passed")
        assert (await client.get(read)).status_code == 200

        proxy.is_silent = True
        began = time.monotonic()
        first, second = await asyncio.gather(
            client.get(read), client.get(read)
        )  # one has the connection, one waits for it
        assert time.monotonic() - began < SOON_S
        for answer in (first, second):
            assert answer.status_code == 503
            assert answer.json()["reason"] in {"deadline_passed", "no_connection"}
        assert "deadline_passed" in {first.json()["reason"], second.json()["reason"]}
        proxy.is_silent = False
        proxy.cut()
        async with asyncio.timeout(SOON_S * 3):
            while (await client.get(read)).status_code != 200:
                await asyncio.sleep(0.05)
        assert breaker.tell() is None
    keeper.close()
