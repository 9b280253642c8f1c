"""Another generation takes over, and the database goes away and comes back: no query gives a wrong answer."""

import asyncio

import psycopg
import pytest

from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service

pytestmark = pytest.mark.thorough


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Two generations of one log; generation 1 is live. Two accounts and five transactions."""
    keeper.append("bank", opened("bank"), account("a"), account("b"))
    keeper.append("bank", *(posting(f"t{n}", "a", "b", n + 1) for n in range(5)))
    keeper.make_generation(2)
    keeper.project("bank", generation=1)
    keeper.project("bank", generation=2)
    return keeper


async def test_next_query_reads_the_generation_that_became_live(client: Client, bank: Bookkeeper) -> None:
    first = await client.ok("/bank/transactions?limit=2")
    bank.connection.execute("update books_2.transactions set description = 'from the second'")
    bank.go_live(2)
    second = await client.ok(f"/bank/transactions?limit=3&cursor={first['next_cursor']}")
    assert [transaction["id"] for transaction in second["data"]] == ["t2", "t1", "t0"]
    assert {transaction["description"] for transaction in second["data"]} == {"from the second"}
    assert second["as_of"] == first["as_of"]
    bank.go_live(1)
    back = await client.ok("/bank/transactions")
    assert {transaction["description"] for transaction in back["data"]} == {None}
    assert "daybook_query_generation_swaps_total 2.0" in (await client.http.get("/metrics")).text


async def test_generation_may_be_dropped_once_another_is_live(client: Client, bank: Bookkeeper) -> None:
    await client.ok("/bank/accounts")
    bank.go_live(2)
    bank.drop_generation(1)
    assert len((await client.ok("/bank/accounts"))["data"]) == 2


async def test_generation_that_is_behind_makes_queries_wait(client: Client, bank: Bookkeeper) -> None:
    bank.append("bank", posting("t9", "a", "b", 9))
    bank.project("bank", generation=1)
    bank.go_live(2)
    position = {"Daybook-Position": "9", "Prefer": "wait=0"}
    await client.problem("/bank/accounts", 503, "read_model_behind", headers=position)
    bank.project("bank", generation=2)
    await client.ok("/bank/accounts", headers=position)


async def test_swaps_under_load_never_mix_generations(client: Client, bank: Bookkeeper) -> None:
    bank.connection.execute('update books_2.accounts set metadata = \'{"from":"2"}\'')

    async def read() -> set[str]:
        found = await client.ok("/bank/accounts")
        return {str(account["metadata"].get("from")) for account in found["data"]}

    seen: set[str] = set()
    for turn in range(10):
        reads = [asyncio.create_task(read()) for _ in range(8)]
        await asyncio.to_thread(bank.go_live, turn % 2 + 1)
        for whole in await asyncio.gather(*reads):
            assert len(whole) == 1
            seen |= whole
    assert seen == {"None", "2"}


async def test_lost_connections_cost_nobody_an_answer(client: Client, bank: Bookkeeper) -> None:
    await asyncio.gather(*(client.ok("/bank/accounts") for _ in range(20)))
    _terminate(bank)
    answers = await asyncio.gather(*(client.get("/bank/accounts") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


async def test_database_that_goes_away_is_told_and_that_comes_back_is_used(
    open_service: Service, bank: Bookkeeper
) -> None:
    client = await open_service(postgres_pool_wait_ms=200)
    await client.ok("/bank/accounts")
    name = bank.connection.info.dbname
    _allow_connections(bank, name, is_allowed=False)
    try:
        _terminate(bank)
        response = await client.get("/bank/accounts")
        assert (response.status_code, response.json()["code"]) == (503, "dependency_unavailable")
        assert response.headers["retry-after"]
        assert "postgresql" not in response.text
        ready = await client.http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
        assert not ready.json()["checks"]["postgres"]["ok"]
        assert (await client.http.get("/health/live")).status_code == 200
    finally:
        _allow_connections(bank, name, is_allowed=True)
    async with asyncio.timeout(60):
        while (await client.get("/bank/accounts")).status_code != 200:
            pass
        await client.container.visible().listening.wait()
    assert (await client.http.get("/health/ready")).status_code == 200


async def test_ready_needs_a_live_generation(client: Client, bank: Bookkeeper) -> None:
    assert (await client.http.get("/health/ready")).json()["status"] == "ready"
    bank.connection.execute("delete from projections.live")
    ready = await client.http.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"]["books"] == {"ok": False, "detail": "no generation of books is live"}


async def test_slow_statement_ends_in_time(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(postgres_statement_ms=50)
    await client.ok("/bank/accounts")
    with bank.connection.transaction():
        bank.connection.execute("lock table books_1.accounts in access exclusive mode")
        problem = await client.problem("/bank/accounts", 503, "dependency_unavailable")
    assert problem["reason"] == "statement_timeout"
    await client.ok("/bank/accounts")


async def test_more_than_may_wait_are_refused_as_overloaded(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(postgres_connections_max=1, postgres_requests_waiting_max=1)
    await client.ok("/bank/accounts")
    with bank.connection.transaction():
        bank.connection.execute("lock table books_1.accounts in access exclusive mode")
        asked = [asyncio.create_task(client.get("/bank/accounts")) for _ in range(3)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().json()["code"] for task in done] == ["overloaded"]
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_query_role_cannot_write(client: Client, bank: Bookkeeper) -> None:
    books = client.container.books()
    async with books.pool.connection() as connection:
        for statement in (b"set default_transaction_read_only = off", b"select 1"):
            await connection.execute(statement)
        for table in (b"books_1.accounts", b"daybook.events", b"projections.live", b"projections.positions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(b"delete from " + table)
        await connection.execute(b"set default_transaction_read_only = on")


def _terminate(keeper: Bookkeeper) -> None:
    keeper.connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = 'daybook_query'"
    )


def _allow_connections(keeper: Bookkeeper, name: str, *, is_allowed: bool) -> None:
    """From another database: one that is connected to cannot shut itself."""
    with psycopg.connect(keeper.admin_url, dbname="postgres", autocommit=True) as other:
        other.execute(f"alter database {name} allow_connections {str(is_allowed).lower()}".encode())
