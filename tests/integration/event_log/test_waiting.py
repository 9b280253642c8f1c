"""Who waits for whom: head rows, the snapshot trap, openers, the slow path."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from shared_kernel.event_log.errors import LedgerNotFound, RolledBack
from shared_kernel.event_log.fast import LogConnection
from tests.integration.event_log.words import ALL, Admin, decision, event, opening, until_blocked, whole

Connect = Callable[..., Awaitable[LogConnection]]
HOLD = "select from daybook.ledgers where ledger = %s for update"


async def test_a_held_head_holds_up_no_other_ledger(connection: LogConnection, connect: Connect, admin: Admin) -> None:
    held, free = f"held:{uuid4()}", f"free:{uuid4()}"
    await opening(connection, held)
    await opening(connection, free)
    waiting = await connect(lock_timeout_ms=60_000)
    with admin.transaction():
        admin.execute(HOLD, [held])
        waits = asyncio.create_task(waiting.append(held, seen=1, decisions=[decision(event())], tail=ALL))
        await until_blocked(admin, waiting.backend_pid)
        for _ in range(3):
            await connection.append(free, seen=None, decisions=[decision(event())], tail=ALL)
        assert (await connection.load(held, seen=None, tags=(), tail=ALL)).head == 1
        assert not waits.done()
    assert (await waits).head == 2


async def test_after_a_wait_the_fences_see_what_was_committed_meanwhile(
    connection: LogConnection, connect: Connect, ledger: str, admin: Admin
) -> None:
    # The snapshot trap: a fence in the statement that waited for the head would look at the log as of its start.
    waiting = await connect(lock_timeout_ms=60_000)
    async with connection.transaction([ledger]):
        waits = asyncio.create_task(
            waiting.append(
                ledger, seen=1, decisions=[decision(event(), a=1), decision(event(), group=1, b=1)], tail=ALL
            )
        )
        await until_blocked(admin, waiting.backend_pid)
        await connection.append(ledger, seen=None, decisions=[decision(event("theirs", "a"))], tail=ALL)
    appended = await waits
    assert list(appended.failed) == [(0, 0)]
    assert (appended.base, appended.head, [found.type for found in appended.tail]) == (2, 3, ["theirs"])


async def test_recorded_time_is_from_after_the_wait(
    connection: LogConnection, connect: Connect, ledger: str, admin: Admin
) -> None:
    waiting = await connect(lock_timeout_ms=60_000)
    with admin.transaction():
        admin.execute(HOLD, [ledger])
        waits = asyncio.create_task(waiting.append(ledger, seen=None, decisions=[decision(event())], tail=ALL))
        await until_blocked(admin, waiting.backend_pid)
        (released_at,) = admin.execute("select clock_timestamp()").fetchall()[0]
    assert (await waits).recorded_at > released_at  # type: ignore[operator]


async def test_a_head_that_stays_held_gives_the_connection_back(connect: Connect, ledger: str, admin: Admin) -> None:
    impatient = await connect(lock_timeout_ms=20)
    with admin.transaction():
        admin.execute(HOLD, [ledger])
        with pytest.raises(RolledBack) as raised:
            await impatient.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)
    assert raised.value.fields == {"reason": "lock_timeout", "sqlstate": "55P03"}
    assert impatient.is_usable
    assert (await impatient.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)).head == 2


async def test_two_openers_at_once_make_one_ledger(connect: Connect, connection: LogConnection) -> None:
    openers = [await connect() for _ in range(4)]
    for _ in range(10):
        name = f"opened:{uuid4()}"
        answers = await asyncio.gather(*(opening(opener, name) for opener in openers))
        assert sorted((answer.base, len(answer.failed)) for answer in answers) == [(0, 0), (1, 1), (1, 1), (1, 1)]
        assert [found.type for found in await whole(connection, name)] == ["LedgerOpened.v1"]


async def test_an_opener_waits_for_another_and_then_finds_its_ledger(
    connection: LogConnection, connect: Connect, ledger: str, admin: Admin
) -> None:
    second = await connect(lock_timeout_ms=60_000)
    name = f"opened:{uuid4()}"
    async with connection.transaction([ledger]):
        await opening(connection, name)
        waits = asyncio.create_task(opening(second, name))
        await until_blocked(admin, second.backend_pid)
    assert list((await waits).failed) == [(0, 0)]


async def test_pipelined_appends_are_answered_in_order(connection: LogConnection, ledger: str) -> None:
    appends = [
        connection.append(ledger, seen=1, decisions=[decision(event(f"E{n}", "a"), a=1)], tail=ALL) for n in range(5)
    ]
    answers = await asyncio.gather(*appends)
    assert [answer.head for answer in answers] == [2] * 5
    assert [len(answer.failed) for answer in answers] == [0, 1, 1, 1, 1]
    assert connection.is_usable


# The slow path ----------------------------------------------------------------------------------------------


async def test_several_ledgers_change_together_or_not_at_all(connection: LogConnection) -> None:
    names = [f"slow:{uuid4()}" for _ in range(3)]
    for name in names:
        await opening(connection, name)
    async with connection.transaction(names):
        for name in names:
            await connection.load(name, seen=None, tags=["ledger-terms"], tail=ALL)
            await connection.append(name, seen=1, decisions=[decision(event("together"))], tail=ALL)

    async def fail_half_way() -> None:
        async with connection.transaction(names):
            await connection.append(names[0], seen=None, decisions=[decision(event("alone"))], tail=ALL)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()
    assert connection.is_usable
    for name in names:
        assert [found.type for found in await whole(connection, name)] == ["LedgerOpened.v1", "together"]


async def test_what_the_slow_path_loads_stays_true_until_it_ends(
    connection: LogConnection, connect: Connect, ledger: str, admin: Admin
) -> None:
    other = await connect(lock_timeout_ms=60_000)
    async with connection.transaction([ledger]):
        before = await connection.load(ledger, seen=None, tags=(), tail=ALL)
        waits = asyncio.create_task(other.append(ledger, seen=1, decisions=[decision(event("late"))], tail=ALL))
        await until_blocked(admin, other.backend_pid)
        assert (await connection.load(ledger, seen=None, tags=(), tail=ALL)).head == before.head
        await connection.append(ledger, seen=before.head, decisions=[decision(event("mine"))], tail=ALL)
    late = await waits
    assert [found.type for found in late.tail] == ["mine"]


async def test_heads_are_locked_in_sorted_order_whoever_asks(
    connection: LogConnection, connect: Connect, admin: Admin
) -> None:
    names = sorted(f"order:{uuid4()}" for _ in range(3))
    for name in names:
        await opening(connection, name)
    slow = await connect(lock_timeout_ms=60_000)

    async def lock_backwards() -> None:
        async with slow.transaction(names[::-1]):
            pass

    with admin.transaction():
        admin.execute(HOLD, [names[1]])
        waits = asyncio.create_task(lock_backwards())
        await until_blocked(admin, slow.backend_pid)
        # It stands at the second name: the first is its own by now, the third is still free.
        assert await _is_locked(connect, names[0])
        assert not await _is_locked(connect, names[2])
    await waits


async def _is_locked(connect: Connect, ledger: str) -> bool:
    probe = await connect(lock_timeout_ms=20)
    try:
        async with probe.transaction([ledger]):
            return False
    except RolledBack:
        return True


async def test_opposite_orders_never_deadlock(connect: Connect, connection: LogConnection) -> None:
    names = [f"many:{uuid4()}" for _ in range(4)]
    for name in names:
        await opening(connection, name)

    async def work(worker: LogConnection, order: list[str]) -> None:
        for _ in range(15):
            async with worker.transaction(order):
                for name in order:
                    await worker.append(name, seen=None, decisions=[decision(event())], tail=ALL)

    orders = (names, names[::-1], names[1:] + names[:1])
    workers = [await connect(lock_timeout_ms=60_000) for _ in orders]
    await asyncio.gather(*(work(worker, order) for worker, order in zip(workers, orders, strict=True)))
    for name in names:
        assert [found.position for found in await whole(connection, name)] == list(range(1, 47))


async def test_a_transaction_on_an_unknown_ledger_is_refused_and_leaves_a_clean_connection(
    connection: LogConnection, ledger: str
) -> None:
    with pytest.raises(LedgerNotFound):
        async with connection.transaction([ledger, "nowhere"]):
            pytest.fail("the block must not begin")
    assert connection.is_usable


async def test_a_block_that_goes_on_after_an_error_does_not_pretend_to_commit(
    connection: LogConnection, ledger: str
) -> None:
    async def go_on_regardless() -> None:
        async with connection.transaction([ledger]):
            await connection.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)
            with pytest.raises(LedgerNotFound):
                await connection.load("nowhere", seen=None, tags=(), tail=ALL)

    with pytest.raises(RolledBack):
        await go_on_regardless()
    assert len(await whole(connection, ledger)) == 1


async def test_a_head_row_update_stays_on_its_page(connection: LogConnection, ledger: str, admin: Admin) -> None:
    for _ in range(100):
        await connection.append(ledger, seen=None, decisions=[decision(event())], tail=ALL)
    connection.close()

    def updates() -> tuple[int, int]:
        admin.execute("select pg_stat_clear_snapshot()")
        row = admin.execute("select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'ledgers'")
        return row.fetchall()[0]  # type: ignore[return-value]

    async with asyncio.timeout(30):  # a backend hands its counts over when it ends
        while updates()[0] < 100:
            await asyncio.sleep(0.01)
    total, on_page = updates()
    assert on_page >= total * 0.9
