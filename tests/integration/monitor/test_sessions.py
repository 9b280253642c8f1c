"""What the monitor finds in a real Postgres: who holds others up, who sleeps in a transaction, deadlocks; and what it may do."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from contextvars import Context
from pathlib import Path

import psycopg
import pytest

from daybook.monitor.domain.alerts import Episode
from daybook.monitor.domain.looks import Look
from shared_kernel.errors import Unavailable
from shared_kernel.settings import Secret
from tests.integration.command_service.conftest import Caller, workers
from tests.integration.monitor.conftest import WITHIN_S, Monitor, NewMonitor
from tests.services import Database, Servers
from tests.support.proxy import proxied

POSTING = {
    "entries": [
        {"account": "a", "direction": "debit", "amount": 1, "asset": "EUR/2"},
        {"account": "b", "direction": "credit", "amount": 1, "asset": "EUR/2"},
    ]
}


@pytest.fixture
async def caller(database: Database, stack: Servers, tmp_path: Path) -> AsyncIterator[Caller]:
    """Somebody who asks a command process."""
    folder = tmp_path / "command"
    folder.mkdir()
    async with workers(database, stack, folder) as start:
        yield await start()


@pytest.fixture
async def psql(database: Database) -> AsyncIterator[psycopg.AsyncConnection]:
    """A person's session, in a transaction from its first statement on."""
    connection = await psycopg.AsyncConnection.connect(
        database.urls["migrator"], application_name="psql", options="-c role=daybook_owner"
    )
    yield connection
    await connection.close()


@pytest.fixture
def may_signal(database: Database) -> Iterator[None]:
    """An administrator has allowed the monitor to end sessions."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("grant pg_signal_backend to daybook_monitor")
        yield
        connection.execute("revoke pg_signal_backend from daybook_monitor")


async def hold_head(psql: psycopg.AsyncConnection, ledger: str) -> int:
    """The session holds the ledger's head row and sleeps on it."""
    await psql.execute(f"select position from daybook.ledgers where ledger = '{ledger}' for update")
    return psql.info.backend_pid


async def waited_for(monitor: Monitor, pid: int) -> Look:
    return await monitor.looks_until(lambda look: any(chain.root.pid == pid for chain in look.chains))


async def acted_on(monitor: Monitor, pid: int) -> Episode:
    """Looks until something was done about the chain behind this session."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            await monitor.look()
            for episode in await monitor.episodes("blocked_chain"):
                if episode.detail["pid"] == pid and episode.action:
                    return episode


async def test_session_that_holds_a_head_row_is_named_as_root_while_a_command_waits(
    monitor: NewMonitor, caller: Caller, psql: psycopg.AsyncConnection
) -> None:
    watching = monitor(blocked_ms_max=1, transaction_ms_max=86_400_000, clear_looks=10)
    ledger = await caller.open_ledger(accounts="on-first-use")
    pid = await hold_head(psql, ledger)
    posting = asyncio.create_task(caller.post(f"/{ledger}/transactions", POSTING, key="k"))

    look = await waited_for(watching, pid)

    (chain,) = [chain for chain in look.chains if chain.root.pid == pid]
    assert chain.root.application == "psql"
    assert chain.root.state == "idle in transaction"
    assert chain.root.query == "select position from daybook.ledgers where ledger = '?' for update"
    assert chain.root.transaction_ms > 0
    assert chain.waiters[0].application.startswith("daybook")
    assert "transactionid" in chain.waiters[0].waits_for
    while not await watching.container.watched().alerts():
        await watching.look()
    (alert,) = await watching.container.watched().alerts()
    assert (alert.kind, alert.detail["pid"], alert.detail["application"]) == ("blocked_chain", pid, "psql")
    assert (await watching.metrics())['daybook_monitor_alerts{kind="blocked_chain"}'] == 1

    await psql.rollback()
    assert (await posting).status_code == 201
    while await watching.container.watched().alerts():
        await watching.look()
    # Of this session: a look may have met two that waited for another's brief lock.
    (episode,) = [one for one in await watching.episodes("blocked_chain") if one.detail["pid"] == pid]
    assert episode.raised_at is not None
    assert episode.ended_at is not None
    metrics = await watching.metrics()
    assert metrics['daybook_monitor_alerts{kind="blocked_chain"}'] == 0
    assert metrics['daybook_monitor_alerts_raised_total{kind="blocked_chain"}'] == 1


async def test_a_transaction_that_sleeps_is_found_by_its_age(
    monitor: NewMonitor, psql: psycopg.AsyncConnection
) -> None:
    watching = monitor(transaction_ms_max=1)
    await psql.execute("select 1")
    pid = psql.info.backend_pid
    await watching.looks_until(lambda look: any(session.pid == pid for session in look.sessions))
    found = [each for each in await watching.episodes("long_transaction") if each.detail["pid"] == pid]
    assert [(each.detail["application"], each.detail["state"]) for each in found] == [("psql", "idle in transaction")]


async def test_a_deadlock_is_counted_and_told_at_once(monitor: NewMonitor, database: Database) -> None:
    watching = monitor()
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("create table public.scratch (id int primary key)")
        connection.execute("insert into public.scratch values (1), (2)")
    await watching.look()

    await asyncio.to_thread(deadlock, database.admin_url)

    await watching.looks_until(lambda look: look.deadlocks[database.name] == 1)
    (episode,) = [each for each in await watching.episodes("deadlock") if each.subject == database.name]
    assert episode.detail["deadlocks"] == 1
    assert episode.raised_at is not None


def deadlock(url: str) -> None:
    """Two transactions wait for each other until Postgres ends one."""
    both_hold = threading.Barrier(2)

    def lock(first: int, second: int) -> None:
        with psycopg.connect(url) as connection, suppress(psycopg.errors.DeadlockDetected):
            connection.execute("select from public.scratch where id = %s for update", [first])
            both_hold.wait(30)
            connection.execute("select from public.scratch where id = %s for update", [second])

    threads = [threading.Thread(target=lock, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def test_policy_ends_the_session_at_the_root_and_the_command_goes_on(
    monitor: NewMonitor, caller: Caller, psql: psycopg.AsyncConnection, may_signal: None
) -> None:
    watching = monitor(blocked_ms_max=1, cancelling="terminate", cancel_after_ms=1, terminate_after_ms=1)
    ledger = await caller.open_ledger(accounts="on-first-use")
    pid = await hold_head(psql, ledger)
    posting = asyncio.create_task(caller.post(f"/{ledger}/transactions", POSTING, key="k"))

    episode = await acted_on(watching, pid)

    assert (await posting).status_code == 201
    with pytest.raises(psycopg.errors.AdminShutdown):
        await psql.execute("select 1")
    assert (episode.action, episode.detail["action"], episode.detail["is_daybook"]) == ("terminated", "terminated", 1)
    assert (await watching.metrics())['daybook_monitor_signals_total{action="terminated"}'] == 1


async def test_policy_ends_a_session_that_holds_a_head_row_though_each_wait_for_it_ends_after_two_seconds(
    monitor: NewMonitor, caller: Caller, psql: psycopg.AsyncConnection, may_signal: None
) -> None:
    """The command process and `blocked_ms_max` as shipped: nobody ever waits for as long as the policy asks."""
    watching = monitor(look_ms=1_000, cancelling="terminate", cancel_after_ms=3_000, terminate_after_ms=5_000)
    ledger = await caller.open_ledger(accounts="on-first-use")
    pid = await hold_head(psql, ledger)
    posting = asyncio.create_task(caller.post(f"/{ledger}/transactions", POSTING, key="k"))

    episode = await acted_on(watching, pid)

    assert (await posting).status_code == 201
    assert episode.action == "terminated"
    assert episode.raised_at is not None
    assert isinstance(episode.detail["waiting_ms"], int)
    assert episode.detail["waiting_ms"] < 3_000


async def test_policy_cancels_a_statement_and_leaves_the_session(
    monitor: NewMonitor, caller: Caller, psql: psycopg.AsyncConnection, may_signal: None
) -> None:
    watching = monitor(blocked_ms_max=1, cancelling="cancel", cancel_after_ms=1)
    ledger = await caller.open_ledger(accounts="on-first-use")
    pid = await hold_head(psql, ledger)
    sleeping = asyncio.create_task(psql.execute("select pg_sleep(300)"))
    posting = asyncio.create_task(caller.post(f"/{ledger}/transactions", POSTING, key="k"))

    episode = await acted_on(watching, pid)

    assert episode.action == "cancelled"
    with pytest.raises(psycopg.errors.QueryCanceled):
        await sleeping
    await psql.rollback()
    assert (await posting).status_code == 201


async def test_without_the_right_nothing_is_ended_and_health_says_so(
    monitor: NewMonitor, caller: Caller, psql: psycopg.AsyncConnection
) -> None:
    watching = monitor(blocked_ms_max=1, cancelling="terminate", cancel_after_ms=1, terminate_after_ms=1)
    ledger = await caller.open_ledger(accounts="on-first-use")
    pid = await hold_head(psql, ledger)
    posting = asyncio.create_task(caller.post(f"/{ledger}/transactions", POSTING, key="k"))

    episode = await acted_on(watching, pid)

    assert episode.action == "failed"
    readiness = await watching.container.health().ready()
    assert not readiness.checks["cancelling"].ok
    assert readiness.checks["looks"].ok
    await psql.rollback()
    assert (await posting).status_code == 201


async def test_another_monitor_looks_only_when_its_turn_comes_and_goes_on_where_the_first_left_off(
    monitor: NewMonitor, psql: psycopg.AsyncConnection
) -> None:
    first, second = monitor(transaction_ms_max=1, raise_looks=2), monitor(transaction_ms_max=1, raise_looks=2)
    await psql.execute("select 1")
    pid = psql.info.backend_pid
    await first.looks_until(lambda look: any(session.pid == pid for session in look.sessions))
    async with first.container.watched().turn(after_ms=0) as turn:
        assert turn is not None
        # In a context of its own: it is another process, and its transaction does not begin inside this one.
        looking = asyncio.create_task(second.container.watch().look(), context=Context())
        assert await looking is None  # whatever the time

    taken = await second.look()

    assert taken.taken_by == second.container.watch()._name
    (episode,) = [each for each in await second.episodes("long_transaction") if each.detail["pid"] == pid]
    assert episode.looks >= 2
    assert episode.raised_at is not None


def test_the_role_sees_no_event_and_appends_none(database: Database) -> None:
    denied = (
        "select data from daybook.events",
        "select tag from daybook.event_tags",
        "select daybook.lock_heads(gen_random_uuid(), '{}')",
        "update daybook.ledgers set position = 1",
        "delete from projections.waiting",
    )
    for statement in denied:
        with (
            psycopg.connect(database.urls["monitor"]) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)


async def test_who_asks_while_the_database_hangs_is_told_so_and_does_not_queue_for_ever(
    monitor: NewMonitor, database: Database
) -> None:
    async with proxied(database.urls["monitor"]) as (proxy, url):
        watching = monitor(postgres_url=Secret(url), look_timeout_ms=500)
        await watching.look()
        proxy.is_silent = True
        answers = await asyncio.gather(*(watching.get("/locks", "operator") for _ in range(4)))
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "dependency_unavailable")}
        waiting = [watching.container.watched().last_look() for _ in range(4)]
        faults = await asyncio.gather(*waiting, return_exceptions=True)
        assert "busy" in {fault.fields["reason"] for fault in faults if isinstance(fault, Unavailable)}
        proxy.is_silent = False
        proxy.cut()


async def test_a_database_that_does_not_answer_is_an_alert_until_it_does(
    monitor: NewMonitor, database: Database
) -> None:
    alerts = 'daybook_monitor_alerts{kind="database_unreachable"}'
    async with proxied(database.urls["monitor"]) as (proxy, url):
        watching = monitor(postgres_url=Secret(url), raise_looks=2, clear_looks=2)
        await watching.look()
        proxy.is_refusing = True
        proxy.cut()
        with pytest.raises(Unavailable):
            await watching.container.watch().look()
        running = asyncio.create_task(watching.container.watch().run())
        try:
            async with asyncio.timeout(WITHIN_S):
                while (await watching.metrics())[alerts] != 1:
                    await asyncio.sleep(0.02)
                proxy.is_refusing = False
                while (await watching.metrics())[alerts] != 0:
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await watching.container.watched().close()
    assert watching.container.watch().trouble() is None
    raised = 'daybook_monitor_alerts_raised_total{kind="database_unreachable"}'
    assert (await watching.metrics())[raised] == 1
