"""Deadlock scenarios on real processes: what would close a circle does not, and what stands still holds up nobody else.

Two command processes with account locks at every batch. The lock orders are those that the processes logged themselves.
"""

import asyncio
import random
import signal
import time
from collections import Counter
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
from tests.support.lock_orders import LockOrders
from tests.support.plain_books import read_log

pytestmark = [pytest.mark.long, pytest.mark.thorough]
monitor = monitors.monitor  # its fixture, for this module

SECONDS = 4.0
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
def running(
    database: Database, stack: Servers, folder: Path, count: int = 2, **settings: str
) -> Iterator[list[CommandProcess]]:
    """So many processes."""
    with command_processes(
        count,
        database=database,
        servers=stack,
        folder=folder,
        key=KEY,
        authorization=f"Bearer {token('writer')}",
        **(SETTINGS | settings),
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


class Clients:
    """Everybody wants what the others hold, in every order."""

    def __init__(self, processes: list[CommandProcess], ledgers: list[str]) -> None:
        self._processes = processes
        self._ledgers = ledgers
        self.answers: Counter[str] = Counter()
        self.longest_s = 0.0

    async def run(self, count: int) -> None:
        until = time.monotonic() + SECONDS
        headers = dict(self._processes[0].http.headers)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._client(number, headers, until))

    async def _client(self, number: int, headers: dict[str, str], until: float) -> None:
        chance = random.Random(number)
        door = self._processes[number % 2].url
        async with httpx.AsyncClient(base_url=door, headers=headers, timeout=60) as http:
            while time.monotonic() < until:
                path, body = (self._opposite, self._circle, self._across)[number % 3](number, chance)
                began = time.monotonic()
                answer = await http.post(path, json=body)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.answers[f"{('opposite', 'circle', 'across')[number % 3]} {answer.status_code}"] += 1

    def _opposite(self, number: int, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """A to B at one process, B to A at the other."""
        pair = ACCOUNTS[:2] if number % 2 else ACCOUNTS[1::-1]
        return f"/v1/ledgers/{self._ledgers[0]}/transactions", transfer(*pair, chance.randint(1, 30))

    def _circle(self, number: int, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """One transaction that draws on every account, each time beginning with another."""
        start = chance.randrange(len(ACCOUNTS))
        ring = ACCOUNTS[start:] + ACCOUNTS[:start]
        entries = [entry for name in ring for entry in transfer(name, "world")["entries"]]
        return f"/v1/ledgers/{self._ledgers[number % 2]}/transactions", {"entries": entries}

    def _across(self, number: int, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """Both ledgers in one atomic batch, in one order or the other."""
        ledgers = self._ledgers if number % 2 else self._ledgers[::-1]
        key = f"{number}-{chance.getrandbits(64):x}"
        commands = [
            {
                "ledger": ledger,
                "type": "post_transaction",
                "key": f"{key}-{ledger}",
                "data": transfer(chance.choice(ACCOUNTS), "world"),
            }
            for ledger in ledgers
        ]
        return "/v1/batches", {"commands": commands}  # all or nothing, as across ledgers always


def test_opposite_transfers_circles_and_batches_across_ledgers_lock_in_one_order(
    database: Database, stack: Servers, tmp_path: Path
) -> None:
    before = deadlocks(database)
    with running(database, stack, tmp_path) as processes:
        for ledger in ("left", "right"):
            open_ledger(processes[0], ledger)
        clients = Clients(processes, ["left", "right"])
        asyncio.run(clients.run(12))
    assert {answer.partition(" ")[0] for answer in clients.answers} == {"opposite", "circle", "across"}
    assert {answer.rpartition(" ")[2] for answer in clients.answers} <= {"200", "201", "422"}, clients.answers
    assert clients.longest_s < 3 * DEADLINE_S
    assert deadlocks(database) == before
    check_log(database, "left", "right")
    orders = LockOrders()
    for process in processes:
        orders.read(process.url, process.log_file)
    assert orders.cycles() == []
    seen = {(one.split()[0], other.split()[0]) for one, others in orders.edges.items() for other in others}
    assert seen == {("redis", "redis"), ("redis", "head"), ("head", "head")}  # or the run would say little


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
        overdue = [one.detail for one in await watching.episodes("overdue_lease") if one.detail.get("ledger") == ledger]
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


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_a_lease_holder_that_is_killed_or_stands_still_is_an_alert_that_names_it_and_one_that_stops_is_none(
    database: Database, stack: Servers, tmp_path: Path, monitor: monitors.NewMonitor, ending: signal.Signals
) -> None:
    """Lease and looks a quarter as long as shipped, in the same proportion."""
    watching = monitor(look_ms=1_250)
    with running(database, stack, tmp_path, 1, DAYBOOK_LOCKS="adaptive", DAYBOOK_LEASE_MS="1500") as (process,):
        ledger = f"leased-{ending.name.lower()}"
        open_ledger(process, ledger)
        while process.metrics()["daybook_leases_held"] == 0:
            assert post(process, ledger).status_code == 201
        process.child.send_signal(ending)
        alerts = []
        for _ in range(4):
            await watching.look()
            alerts = [
                alert.detail
                for alert in await watching.container.watched().alerts()
                if alert.kind == "overdue_lease" and f"-{process.child.pid}-" in str(alert.detail["holder"])
            ]
        assert [(alert["first"], alert["ledgers"]) for alert in alerts] == (
            [] if ending == signal.SIGTERM else [(ledger, 1)]
        )


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
                chains = [episode.detail for episode in await watching.episodes("blocked_chain")]
                culprits = {chain["pid"] for chain in chains if chain["database"] == database.name}
                assert culprits == {terminal.info.backend_pid}
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert elapsed_s < 3 * DEADLINE_S
        assert {other.status_code for other in others} == {201}
        assert len(others) > 10
        assert post(process, "stuck").status_code == 201
    assert deadlocks(database) == before
    check_log(database, "stuck", "free")
