"""Deadlock scenarios on real processes: what would close a circle does not, and what stands still holds up nobody else.

Two command processes with account locks at every batch. The lock orders are those that the processes logged themselves.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from shared_kernel.checking import Checker
from tests.integration.command_service.conftest import KEY, token
from tests.integration.monitor import conftest as monitors
from tests.services import Database, Servers
from tests.support.command_process import CommandProcess, command_processes
from tests.support.plain_books import read_log

pytestmark = pytest.mark.long
monitor = monitors.monitor  # its fixture, for this module

LEASE_MS = 3_000
DEADLINE_S = 3
SETTINGS = {
    "DAYBOOK_LOCKS": "always",
    "DAYBOOK_LOG_LEVEL": "debug",
    "DAYBOOK_LEASE_MS": str(LEASE_MS),
    "DAYBOOK_REDIS_TIMEOUT_MS": "500",
    "DAYBOOK_LOCK_TIMEOUT_MS": "500",  # a busy machine is no reason to go without
    "DAYBOOK_LOG_LOCK_TIMEOUT_MS": "500",
    "DAYBOOK_COMMAND_SECONDS_MAX": str(DEADLINE_S),
}
ACCOUNTS = [f"limited:{number}" for number in range(5)]


def transfer(source: str, target: str, amount: int = 1) -> dict[str, Any]:
    return {
        "entries": [
            {"account": source, "direction": "debit", "amount": amount, "asset": "X"},
            {"account": target, "direction": "credit", "amount": amount, "asset": "X"},
        ]
    }


@contextmanager
def running(database: Database, stack: Servers, folder: Path, count: int = 2) -> Iterator[list[CommandProcess]]:
    """So many processes."""
    with command_processes(
        count,
        database=database,
        servers=stack,
        folder=folder,
        key=KEY,
        authorization=f"Bearer {token('writer')}",
        **SETTINGS,
    ) as made:
        yield made


def open_ledger(process: CommandProcess, ledger: str) -> None:
    """With five limited accounts of 100 each."""
    terms = {"ledger": ledger, "defaults": [{"pattern": "limited:*", "limits": {"X": {"minimum": 0}}}]}
    assert process.http.post("/v1/ledgers", json=terms).status_code == 201
    for address in ACCOUNTS:
        answer = process.http.post(f"/v1/ledgers/{ledger}/transactions", json=transfer("world", address, 100))
        assert answer.status_code == 201, answer.text


def post(process: CommandProcess, ledger: str, source: str = ACCOUNTS[0]) -> httpx.Response:
    return process.http.post(f"/v1/ledgers/{ledger}/transactions", json=transfer(source, "world"))


def deadlocks(database: Database) -> int:
    """How many Postgres has resolved in this database."""
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        row = admin.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def check_log(database: Database, *ledgers: str) -> None:
    """At every position: debits equal credits, and no limit is broken."""
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        events = read_log(admin)
    for ledger in ledgers:
        checker = Checker()
        for event in events:
            if event.ledger == ledger:
                assert checker.take(event) == []
        assert set(checker.debits_less_credits().values()) == {0}


@contextmanager
def head_held(database: Database, ledger: str) -> Iterator["psycopg.Connection[Any]"]:
    """Somebody at a terminal holds the row of the ledger's head."""
    with psycopg.connect(database.admin_url) as terminal:
        terminal.execute("select from daybook.ledgers where ledger = %s for update", [ledger])
        yield terminal


def wait_for_waiters(database: Database) -> None:
    """Returns once an append waits for the row."""
    until = time.monotonic() + 30
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        while time.monotonic() < until:
            row = admin.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
            if row and row[0]:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lock_holder_that_is_killed_or_stopped_holds_up_nobody(
    database: Database, stack: Servers, tmp_path: Path, monitor: monitors.NewMonitor, ending: signal.Signals
) -> None:
    """It has the account's lock and waits for the head row when it happens; the monitor names it while its lock lasts."""
    ledger = f"held-{ending.name.lower()}"
    watching = monitor(lock_ms_max=1, raise_looks=1)
    with running(database, stack, tmp_path) as processes:
        first, second = processes
        open_ledger(second, ledger)
        await watching.look()  # connected before it counts: the lock of the dead does not last for long
        with (
            head_held(database, ledger) as terminal,
            httpx.Client(base_url=first.url, headers=dict(first.http.headers), timeout=0.5) as caller,
        ):
            with pytest.raises(httpx.TimeoutException):
                caller.post(f"/v1/ledgers/{ledger}/transactions", json=transfer(ACCOUNTS[0], "world"))
            wait_for_waiters(database)
            first.child.send_signal(ending)
            await watching.looks_until(lambda look: any(lock.ledger == ledger for lock in look.locks))
            terminal.rollback()
        overdue = [one.detail for one in await watching.episodes("overdue_lease") if one.detail["ledger"] == ledger]
        assert overdue
        assert all(f"-{first.child.pid}-" in str(detail["holder"]) for detail in overdue)

        def goes_without_lock() -> bool:
            """One more command on the account: answered in time, with its lock or without."""
            before, began = second.metrics()["daybook_without_lock_total"], time.monotonic()
            assert post(second, ledger).status_code == 201
            assert time.monotonic() - began < DEADLINE_S
            return second.metrics()["daybook_without_lock_total"] > before

        until = time.monotonic() + 30
        while goes_without_lock():  # until the lease of the dead has ended
            assert time.monotonic() < until
        assert second.metrics()["daybook_set_aside_total"] > 0
        if ending == signal.SIGSTOP:
            first.child.send_signal(signal.SIGCONT)
            assert (
                post(first, ledger).status_code == 201
            )  # what it believed to hold is another's, and that harms nobody
    check_log(database, ledger)


async def test_a_terminal_that_holds_a_head_row_stops_that_ledger_alone_and_nobody_beyond_the_deadline(
    database: Database, stack: Servers, tmp_path: Path, monitor: monitors.NewMonitor
) -> None:
    before = deadlocks(database)
    watching = monitor(blocked_ms_max=100, raise_looks=1)
    with running(database, stack, tmp_path, count=1) as (process,):
        for ledger in ("stuck", "free"):
            open_ledger(process, ledger)
        headers = dict(process.http.headers)
        async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=60) as http:
            with head_held(database, "stuck") as terminal:
                began = time.monotonic()
                stuck = asyncio.create_task(
                    http.post("/v1/ledgers/stuck/transactions", json=transfer(ACCOUNTS[0], "world"))
                )
                others = []
                while not stuck.done():
                    others.append(await http.post("/v1/ledgers/free/transactions", json=transfer("world", "cash")))
                    await watching.container.watch().look()
                elapsed_s, answer = time.monotonic() - began, await stuck
                culprits = {episode.detail["pid"] for episode in await watching.episodes("blocked_chain")}
                assert culprits == {terminal.info.backend_pid}
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert elapsed_s < 3 * DEADLINE_S
        assert {other.status_code for other in others} == {201}
        assert len(others) > 10
        assert post(process, "stuck").status_code == 201
    assert deadlocks(database) == before
    check_log(database, "stuck", "free")
