"""The one way to open a transaction: its bounds hold inside and nowhere else, its end is judged truly, and none is inside another."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import Rollback

from shared_kernel.errors import Contention, Unavailable
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.transactions import TRANSACTION_TIMEOUT_SINCE, Terms, Transactions, again
from tests.integration.event_log.words import Admin
from tests.services import Database
from tests.support.proxy import proxied

BOUNDS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
WITHIN_S = 30  # generous: the server notices a deadlock after a second


def terms(name: str = "test", **bounds: int) -> Terms:
    """Bounds that no test meets, but for those it names."""
    generous = {
        "lock_timeout_ms": 20_000,
        "statement_timeout_ms": 21_000,
        "idle_timeout_ms": 22_000,
        "transaction_timeout_ms": 23_000,
    }
    return Terms(name=name, **(generous | bounds))


class Heard(list[tuple[str, str]]):
    """Name and outcome of each transaction that ended."""

    def __call__(self, name: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.append((name, outcome))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def transactions(heard: Heard) -> Transactions:
    return Transactions(heard)


@pytest.fixture
def rows(admin: Admin) -> Iterator[None]:
    """Two rows that transactions may fight for."""
    admin.execute("create table public.rows as select generate_series(1, 2) as id, 0 as touched")
    yield
    admin.execute("drop table public.rows")


def touched(admin: Admin) -> list[object]:
    """What became of the rows."""
    return [row[0] for row in admin.execute("select touched from public.rows order by id").fetchall()]


def touch(session: Admin, row: int) -> None:
    """Locks the row until the transaction ends."""
    session.execute("update public.rows set touched = touched + 1 where id = %s", [row])


def test_the_bounds_hold_inside_and_not_afterwards(admin: Admin, transactions: Transactions) -> None:
    def shown(name: str) -> object:
        return admin.execute("select current_setting(%s)", [name]).fetchall()[0][0]

    before = [shown(name) for name in BOUNDS]
    with transactions.transaction(admin, Terms(**_fields(terms(), isolation="repeatable read"))):
        assert [shown(name) for name in BOUNDS] == ["20s", "21s", "22s"]
        assert shown("transaction_isolation") == "repeatable read"
        if admin.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            assert shown("transaction_timeout") == "23s"
    assert [shown(name) for name in BOUNDS] == before


def _fields(made: Terms, **changed: object) -> dict[str, object]:
    return {name: getattr(made, name) for name in made.__struct_fields__} | changed


def test_what_the_block_did_is_committed_or_undone(
    admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    with transactions.transaction(admin, terms("kept")):
        touch(admin, 1)
    with transactions.transaction(admin, terms("dropped")):
        touch(admin, 1)
        raise Rollback

    def fail() -> None:
        with transactions.transaction(admin, terms("failed")):
            touch(admin, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert touched(admin) == [1, 0]
    assert heard == [("kept", "committed"), ("dropped", "abandoned"), ("failed", "abandoned")]


def test_a_block_that_goes_on_after_a_failed_statement_has_committed_nothing(
    admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    def go_on() -> None:
        with transactions.transaction(admin, terms()):
            touch(admin, 1)
            with suppress(psycopg.errors.DivisionByZero):
                admin.execute("select 1 / 0")

    with pytest.raises(Contention, match="rolled_back"):
        go_on()
    assert touched(admin) == [0, 0]
    assert heard == [("test", "rolled_back")]


def test_no_transaction_begins_inside_another(database: Database, admin: Admin, transactions: Transactions) -> None:
    with (
        psycopg.connect(database.admin_url, autocommit=True) as other,
        transactions.transaction(admin, terms("outer")),
        pytest.raises(RuntimeError, match="inner would begin inside outer"),
        transactions.transaction(other, terms("inner")),
    ):
        pass
    with transactions.transaction(admin, terms()):  # the refusal left nothing behind
        assert admin.info.transaction_status.name == "INTRANS"


def test_one_that_means_to_hold_others_up_lets_them_begin(
    database: Database, admin: Admin, transactions: Transactions, heard: Heard
) -> None:
    holding = Terms(**_fields(terms("outer"), holds_others=True))
    with (
        psycopg.connect(database.admin_url, autocommit=True) as other,
        psycopg.connect(database.admin_url, autocommit=True) as third,
        transactions.transaction(admin, holding),
        transactions.transaction(other, terms("inner")),
        pytest.raises(RuntimeError, match="innermost would begin inside inner"),
        transactions.transaction(third, terms("innermost")),
    ):
        pass
    assert heard == [("inner", "committed"), ("outer", "committed")]


def test_no_transaction_begins_on_a_connection_that_somebody_left_in_one(
    database: Database, transactions: Transactions
) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as left:
        left.execute("begin")
        with pytest.raises(RuntimeError, match="is in one"), transactions.transaction(left, terms()):
            pass


async def test_nor_on_one_of_an_event_loop(database: Database, transactions: Transactions) -> None:
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as left:
        await left.execute("begin")
        with pytest.raises(RuntimeError, match="is in one"):
            async with transactions.transaction_of(left, terms()):
                pass


async def test_the_slow_path_is_such_a_transaction(connection: LogConnection, ledger: str, admin: Admin) -> None:
    with (
        Transactions().watched(terms("outer")),
        pytest.raises(RuntimeError, match="slow_path would begin inside outer"),
    ):
        async with connection.transaction([ledger]):
            pass
    async with connection.transaction([ledger]):  # the connection is as good as before
        pass
    assert connection.is_usable


async def test_the_slow_path_is_bounded_as_a_whole(database: Database, ledger: str, admin: Admin) -> None:
    heard = Heard()
    connection = await LogConnection.connect(
        database.urls["command"], incarnation=None, statement_timeout_ms=100, transactions=Transactions(heard)
    )
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        async with connection.transaction([ledger]):
            await _gone(admin, connection.backend_pid)  # it idles under the lock: the server ends it
    assert asyncio.get_running_loop().time() - begun < WITHIN_S
    assert heard in (
        [("slow_path", "lost")],
        [("slow_path", "unknown")],
    )  # whether COMMIT was sent before the end was heard
    admin.execute("select from daybook.ledgers where ledger = %s for update nowait", [ledger])  # nobody holds it


async def _gone(admin: Admin, pid: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while admin.execute("select from pg_stat_activity where pid = %s", [pid]).rowcount:
            await asyncio.sleep(0.01)


def test_a_transaction_that_lasts_too_long_is_ended(
    database: Database, transactions: Transactions, heard: Heard
) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as session:
        if session.info.server_version < TRANSACTION_TIMEOUT_SINCE:
            pytest.skip("PostgreSQL 17 is the first with transaction_timeout")

        def linger() -> None:
            with transactions.transaction(session, terms(transaction_timeout_ms=200)):
                for _ in range(WITHIN_S * 20):
                    session.execute("select pg_sleep(0.05)")

        with pytest.raises(psycopg.errors.TransactionTimeout):
            linger()
    assert heard == [("test", "lost")]


def test_a_lost_backend_before_the_commit_applied_nothing(
    database: Database, admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    def lose() -> None:
        with (
            psycopg.connect(database.admin_url, autocommit=True) as session,
            transactions.transaction(session, terms()),
        ):
            touch(session, 1)
            admin.execute("select pg_terminate_backend(%s, 10000)", [session.info.backend_pid])
            touch(session, 2)

    with pytest.raises(psycopg.OperationalError):
        lose()
    assert touched(admin) == [0, 0]
    assert heard == [("test", "lost")]


async def test_a_lost_answer_to_the_commit_is_unknown_and_not_repeated(
    database: Database, admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    async with proxied(database.admin_url) as (proxy, url):
        attempts = 0

        def work() -> None:
            nonlocal attempts
            attempts += 1
            with psycopg.connect(url, autocommit=True) as session, transactions.transaction(session, terms()):
                touch(session, 1)
                proxy.rule = lambda frame: None if frame == b"C" else b""  # the server has done what it answers

        with pytest.raises(Unavailable, match="outcome_unknown"):
            await asyncio.to_thread(again, work)
    assert attempts == 1
    assert touched(admin) == [1, 0]  # which only a look could tell
    assert heard == [("test", "unknown")]


def test_of_two_in_a_deadlock_one_is_rolled_back_and_done_again(
    database: Database, admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    both_hold_one = threading.Barrier(2)
    is_first = threading.local()

    def in_order(first: int, second: int) -> None:
        def work() -> None:
            with (
                psycopg.connect(database.admin_url, autocommit=True) as session,
                transactions.transaction(session, terms()),
            ):
                touch(session, first)
                if not getattr(is_first, "done", False):
                    is_first.done = True
                    both_hold_one.wait(WITHIN_S)
                touch(session, second)

        again(work)

    threads = [threading.Thread(target=in_order, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert touched(admin) == [2, 2]
    assert sorted(heard) == [("test", "committed"), ("test", "committed"), ("test", "rolled_back")]


def test_what_is_rolled_back_again_and_again_is_given_up(
    database: Database, admin: Admin, rows: None, transactions: Transactions, heard: Heard
) -> None:
    pauses: list[float] = []

    def work() -> None:
        with (
            psycopg.connect(database.admin_url, autocommit=True) as session,
            transactions.transaction(session, terms(lock_timeout_ms=20)),
        ):
            touch(session, 1)

    with Transactions().transaction(admin, terms("holder")):
        touch(admin, 1)
        outcome: list[BaseException] = []

        def other() -> None:
            try:
                again(work, attempts_max=3, pause=pauses.append)
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(WITHIN_S)
    assert [type(error) for error in outcome] == [psycopg.errors.LockNotAvailable]
    assert heard == [("test", "rolled_back")] * 3
    assert len(pauses) == 2
    assert 0 < pauses[0] < pauses[1] * 2 < 1
