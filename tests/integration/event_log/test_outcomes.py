"""Was it applied? Every way in which the answer can fail to come, and what the log then says.

An append counts only when the sync point of its own pipeline has come back; a row alone proves nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import psycopg
import pytest

from shared_kernel.breaker import Breaker, BreakerBounds, State
from shared_kernel.errors import Contention
from shared_kernel.event_log.errors import IncarnationChanged, LogFault, LogUnavailable, OutcomeUnknown, RolledBack
from shared_kernel.event_log.fast import LogConnection, end_backend
from shared_kernel.event_log.pool import LogPool
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from tests.integration.event_log.words import ALL, Admin, decision, event, until_blocked, whole
from tests.services import Database
from tests.support.proxy import Rule, fatal, notice, proxied

Connect = Callable[..., Awaitable[LogConnection]]
HOLD = "select from daybook.ledgers where ledger = %s for update"


@pytest.fixture
def at_commit(admin: Admin) -> None:
    """Events of the type `At.commit` run their data as SQL when their transaction commits: after the row was made."""
    admin.execute(
        """
        create or replace function public.at_commit() returns trigger language plpgsql security definer as $$
        begin
          execute new.data;
          return null;
        end $$;
        create or replace function public.fail(state text) returns void language plpgsql as $$
        begin
          raise exception 'on purpose' using errcode = state;
        end $$;
        drop trigger if exists at_commit on daybook.events;
        create constraint trigger at_commit after insert on daybook.events deferrable initially deferred
          for each row when (new.type = 'At.commit') execute function public.at_commit();
        """
    )


def cut_at(kind: bytes) -> Rule:
    """Cuts the wire when the server sends such a frame."""
    return lambda frame: None if frame == kind else b""


async def answered(connection: LogConnection, ledger: str, type_: str = "E", data: str = "{}") -> BaseException | None:
    """Appends one event tagged `mine`; answers how that failed."""
    outcome = await asyncio.gather(
        connection.append(ledger, seen=None, decisions=[decision(event(type_, "mine", data=data))], tail=ALL),
        return_exceptions=True,
    )
    return outcome[0] if isinstance(outcome[0], BaseException) else None


@pytest.mark.parametrize("frame", [b"2", b"D", b"C", b"Z"], ids=["bind", "row", "command", "sync"])
async def test_a_wire_that_is_cut_before_the_sync_leaves_the_outcome_unknown(
    database: Database, connect: Connect, connection: LogConnection, ledger: str, frame: bytes
) -> None:
    async with proxied(database.urls["command"]) as (proxy, url):
        through = await connect(url)
        proxy.rule = cut_at(frame)
        failure = await answered(through, ledger)
    assert isinstance(failure, OutcomeUnknown)
    assert not through.is_usable
    # The server had committed: only the log can say so.
    assert [found.type for found in await whole(connection, ledger)] == ["LedgerOpened.v1", "E"]


@pytest.mark.parametrize("state", ["40001", "40P01", "53100"])
async def test_an_error_at_commit_after_the_row_is_a_roll_back(
    at_commit: None, connection: LogConnection, ledger: str, state: str
) -> None:
    failure = await answered(connection, ledger, "At.commit", f"select public.fail('{state}')")
    assert isinstance(failure, RolledBack)
    assert failure.fields["sqlstate"] == state
    assert connection.is_usable
    assert len(await whole(connection, ledger)) == 1


async def test_an_error_that_repetition_cannot_cure_is_a_fault(
    at_commit: None, connection: LogConnection, ledger: str
) -> None:
    failure = await answered(connection, ledger, "At.commit", "select 1 / 0")
    assert isinstance(failure, LogFault)
    assert len(await whole(connection, ledger)) == 1


async def test_a_backend_that_ends_between_row_and_sync_leaves_the_outcome_unknown(
    at_commit: None, connection: LogConnection, connect: Connect, ledger: str
) -> None:
    ending = await connect()
    sql = "select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)"
    assert isinstance(await answered(ending, ledger, "At.commit", sql), OutcomeUnknown)
    assert len(await whole(connection, ledger)) == 1


async def test_a_backend_that_is_ended_while_it_waits_leaves_the_outcome_unknown_and_applies_nothing(
    database: Database, connection: LogConnection, ledger: str, admin: Admin
) -> None:
    pool = LogPool(database.urls["command"], lock_timeout_ms=60_000)

    async def append() -> None:
        async with pool.borrow() as waiting:
            pids.set_result(waiting.backend_pid)
            await waiting.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)

    pids: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with admin.transaction():
        admin.execute(HOLD, [ledger])
        waits = asyncio.create_task(append())
        await until_blocked(admin, await pids)
        admin.execute("select pg_terminate_backend(%s)", [await pids])
        with pytest.raises(OutcomeUnknown) as raised:
            await waits
    assert raised.value.is_settled
    pool.close()
    assert len(await whole(connection, ledger)) == 1


async def test_a_lost_connections_backend_is_ended_before_the_outcome_leaves_the_pool(
    database: Database, connection: LogConnection, ledger: str, admin: Admin
) -> None:
    # The client gives up while its backend still waits for the head: without ending it, the append would come later.
    pool = LogPool(database.urls["command"], lock_timeout_ms=60_000, statement_timeout_ms=60_000)

    async def append() -> None:
        async with pool.borrow() as waiting:
            pids.set_result(waiting.backend_pid)
            append = asyncio.ensure_future(waiting.append(ledger, seen=None, decisions=[decision(event())], tail=ALL))
            await until_blocked(admin, waiting.backend_pid)
            waiting.close()
            await append

    pids: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with admin.transaction():
        admin.execute(HOLD, [ledger])
        with pytest.raises(OutcomeUnknown) as raised:
            await append()
        assert raised.value.is_settled
        assert admin.execute("select from pg_stat_activity where pid = %s", [await pids]).rowcount == 0
    pool.close()
    assert len(await whole(connection, ledger)) == 1


async def test_a_backend_is_ended_only_if_it_is_the_one_that_was_meant(
    database: Database, connect: Connect, ledger: str
) -> None:
    living = await connect()
    url = database.urls["command"]
    assert await end_backend(url, living.backend_pid, "2020-01-01 00:00:00+00")
    assert await answered(living, ledger) is None
    assert await end_backend(url, living.backend_pid, living.backend_start)
    assert isinstance(await answered(living, ledger), OutcomeUnknown | LogUnavailable)


async def test_a_server_that_cannot_be_asked_is_no_proof(unused_tcp_port: int) -> None:
    with pytest.raises(LogUnavailable):
        await end_backend(f"postgresql://x@127.0.0.1:{unused_tcp_port}/x", 1, "2020-01-01 00:00:00+00")
    with pytest.raises(LogUnavailable):
        await LogConnection.connect(f"postgresql://x@127.0.0.1:{unused_tcp_port}/x", incarnation=None)


async def test_a_commit_that_no_standby_confirmed_is_an_unknown_outcome(
    database: Database, connect: Connect, ledger: str
) -> None:
    warning = notice(S="AVERTISSEMENT", V="WARNING", C="01000", M="annulation de l'attente", R="SyncRepWaitForLSN")
    other = notice(S="WARNING", V="WARNING", C="01000", M="something else", R="SomeOther")
    async with proxied(database.urls["command"]) as (proxy, url):
        through = await connect(url)
        proxy.rule = lambda frame: warning if frame == b"C" else b""
        failure = await answered(through, ledger)
        assert isinstance(failure, OutcomeUnknown)
        assert failure.fields == {"reason": "not_replicated"}
        proxy.rule = lambda frame: other if frame == b"C" else b""
        assert await answered(through, ledger) is None
        through.close()


async def test_a_reply_that_never_comes_ends_the_connection(
    database: Database, connect: Connect, connection: LogConnection, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_kernel.event_log.fast._REPLY_MARGIN_MS", 0)
    async with proxied(database.urls["command"]) as (proxy, url):
        through = await connect(url, statement_timeout_ms=500)
        proxy.is_silent = True
        failure = await answered(through, ledger)
    assert isinstance(failure, OutcomeUnknown)
    assert failure.fields == {"reason": "reply_timeout"}
    assert not through.is_usable


async def test_a_lost_slow_transaction_is_unknown_only_at_its_commit(
    database: Database, connect: Connect, connection: LogConnection, ledger: str
) -> None:
    async with proxied(database.urls["command"]) as (proxy, url):

        async def change(*, is_cut_before_commit: bool) -> None:
            through = await connect(url)
            async with through.transaction([ledger]):
                if is_cut_before_commit:
                    proxy.rule = cut_at(b"D")
                await through.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)
                proxy.rule = cut_at(b"C")

        with pytest.raises(LogUnavailable):
            await change(is_cut_before_commit=True)
        proxy.rule = None
        assert len(await whole(connection, ledger)) == 1
        with pytest.raises(OutcomeUnknown):
            await change(is_cut_before_commit=False)
        assert len(await whole(connection, ledger)) == 2


async def test_a_lost_look_is_merely_unavailable(database: Database, connect: Connect, ledger: str) -> None:
    async with proxied(database.urls["command"]) as (proxy, url):
        through = await connect(url)
        proxy.rule = cut_at(b"D")
        with pytest.raises(LogUnavailable):
            await through.load(ledger, seen=None, tags=(), tail=ALL)
        with pytest.raises(LogUnavailable):
            await through.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)


async def test_every_request_in_flight_is_lost_with_its_connection(
    at_commit: None, connect: Connect, connection: LogConnection, ledger: str
) -> None:
    ending = await connect()
    failures = await asyncio.gather(
        answered(ending, ledger),
        answered(ending, ledger, "At.commit", "select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)"),
        answered(ending, ledger),
    )
    assert failures[0] is None
    assert all(isinstance(failure, OutcomeUnknown) for failure in failures[1:])
    assert len(await whole(connection, ledger)) == 2


def test_the_recorder_tells_a_roll_back_from_an_unknown_outcome(
    at_commit: None, database: Database, admin: Admin
) -> None:
    name = f"recorder:{uuid4()}"
    with PostgresLedgerRecorder(database.urls["migrator"], name) as recorder:
        recorder.create()
        rolls_back = decision(event("At.commit", data="select public.fail('40001')"))
        with pytest.raises(RolledBack):
            recorder.append_decisions([rolls_back], seen=None, tail=ALL)
        ends = decision(event("At.commit", data="select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)"))
        with pytest.raises(OutcomeUnknown):
            recorder.append_decisions([ends], seen=None, tail=ALL)
        assert recorder.read().head is None


# Incarnation and pool -----------------------------------------------------------------------------------------


async def test_another_incarnation_is_refused_everywhere(database: Database, connect: Connect, ledger: str) -> None:
    before = await connect()
    with psycopg.connect(database.urls["migrator"], autocommit=True) as migrator:
        row = migrator.execute("select daybook.restored()").fetchone()
    assert row is not None
    with pytest.raises(IncarnationChanged):
        await before.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)
    with pytest.raises(IncarnationChanged):
        await before.load(ledger, seen=None, tags=(), tail=ALL)
    with pytest.raises(IncarnationChanged):
        async with before.transaction([ledger]):
            pytest.fail("the block must not begin")
    with pytest.raises(IncarnationChanged):
        await connect(incarnation=before.incarnation)
    after = await connect(incarnation=row[0])
    assert isinstance(row[0], UUID)
    assert (after.incarnation, len(await whole(after, ledger))) == (row[0], 1)


async def test_the_pool_is_bounded_and_throws_broken_connections_away(database: Database, ledger: str) -> None:
    refused: list[int] = []
    pool = LogPool(
        database.urls["command"],
        connections_max=1,
        borrow_timeout_ms=20,
        refused=lambda: refused.append(pool.waiting + pool.used),
    )
    async with pool.borrow() as first:
        with pytest.raises(Contention):
            async with pool.borrow():
                pytest.fail("there is only one")
    assert refused == [2]
    assert (pool.idle, pool.used, pool.waiting) == (1, 0, 0)
    async with pool.borrow() as again:
        assert again is first
        again.close()
    async with pool.borrow() as fresh:
        assert fresh is not first
        assert fresh.incarnation == pool.incarnation
        append = asyncio.ensure_future(fresh.append(ledger, seen=None, decisions=[decision(event())], tail=ALL))
        await asyncio.sleep(0)  # sent, not answered: its borrower goes away
    async with pool.borrow() as clean:
        assert clean is not fresh
    with pytest.raises(OutcomeUnknown):
        await append
    pool.close()


async def test_sessions_that_the_server_ends_do_not_open_the_breaker_and_a_refused_connection_does(
    database: Database, ledger: str
) -> None:
    breaker = Breaker("postgres", bounds=BreakerBounds(failures_in_row=1))
    async with proxied(database.urls["command"]) as (proxy, url):
        pool = LogPool(url, breaker=breaker, settle_timeout_ms=300)

        async def append() -> None:
            async with pool.borrow() as connection:
                proxy.rule = lambda frame: fatal("57P01") if frame in b"12" else b""  # whatever is parsed or bound
                await connection.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)

        with pytest.raises(OutcomeUnknown) as raised:  # ended while it writes, and so is each hunt for its backend
            await append()
        assert not raised.value.is_settled
        with pytest.raises(LogUnavailable) as ended:  # ended while it is made ready
            await append()
        assert ended.value.fields["reason"] == "57P01"
        assert breaker.state is State.CLOSED
        proxy.is_refusing = True
        with pytest.raises(LogUnavailable):
            await append()
        assert breaker.state is State.OPEN
        pool.close()


async def test_an_announcement_wakes_listeners_once_for_many_appends(
    database: Database, connection: LogConnection, ledger: str
) -> None:
    pool = LogPool(database.urls["command"])
    listener = await psycopg.AsyncConnection.connect(database.urls["relay"], autocommit=True)
    async with listener:
        await listener.execute("listen daybook_appended")
        for _ in range(50):
            pool.announce(ledger)
        pool.announce("another")
        heard = [notice.payload async for notice in listener.notifies(timeout=5, stop_after=2)]
    assert sorted(heard) == sorted([ledger, "another"])
    pool.close()


async def test_an_announcement_whose_session_is_ended_is_made_again(database: Database, ledger: str) -> None:
    listener = await psycopg.AsyncConnection.connect(database.urls["relay"], autocommit=True)
    async with listener, proxied(database.urls["command"]) as (proxy, url):
        await listener.execute("listen daybook_appended")

        def end_once(frame: bytes) -> bytes:
            if frame != b"1":
                return b""
            proxy.rule = None
            return fatal("57P01")

        proxy.rule = end_once
        pool = LogPool(url)
        pool.announce(ledger)
        assert [notice.payload async for notice in listener.notifies(timeout=5, stop_after=1)] == [ledger]
        pool.close()
