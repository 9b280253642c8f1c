"""The connection past the driver's cursors: what it answers, how it fails, and that whoever waits on it holds up nobody."""

import threading

import psycopg
import pytest
from psycopg import pq

from projections.application.ports import Unwritable
from projections.infrastructure.postgres import Database, Work
from projections.infrastructure.wire import PIECE_BYTES, Wire, rows_of
from shared_kernel.errors import Contention, Unavailable
from shared_kernel.event_log import binary
from tests.integration.projections.conftest import Kit, until
from tests.support.postgres_bounds import BOUNDS

TERMS = Work(name="test")
STATEMENTS = {
    "double": "select v * 2 from unnest($1::bigint[]) as v",
    "divide": "select 1 / $1::integer",
    "times": "select t::text from unnest($1::timestamptz[]) as t",
    "hold": "select from public.held where is_only for update",
    "linger": "select pg_sleep(60)",
}


@pytest.fixture
def session(kit: Kit) -> Database:
    """A database with tables to write to."""
    kit.admin.execute(
        "drop table if exists public.one, public.two, public.held; create table public.one (a text, b bigint);"
        " create table public.two (a text); create table public.held (is_only boolean); insert into public.held values (true);"
        " grant all on public.one, public.two, public.held to daybook_projector"
    )
    return kit.session()


def wired(session: Database) -> Wire:
    """The wire of an open session, with this module's statements."""
    with session.session() as connection:
        return Wire(connection.pgconn, STATEMENTS, wait_ms=60_000)


def test_statements_in_one_trip_answer_in_their_order(session: Database) -> None:
    wire = wired(session)
    calls = [("double", [binary.int8_array(values)]) for values in ([1, 2], [], [2**40])]
    for _ in range(2):  # the second time they are known
        results = wire.execute(*calls)
        assert [rows_of(result) for result in results] == [[(b"2",), (b"4",)], [], [(b"%d" % 2**41,)]]


def test_a_statement_that_fails_is_told_by_its_error_and_undoes_what_went_with_it(session: Database) -> None:
    wire = wired(session)

    def fail() -> None:
        with session.transaction(TERMS) as connection:
            connection.execute("insert into public.two values ('x')")
            wire.execute(("divide", [binary.int4(2)]), ("divide", [binary.int4(0)]), ("divide", [binary.int4(1)]))

    with pytest.raises(Unwritable, match="unwritable") as caught:
        fail()
    assert caught.value.fields == {"reason": "22012"}
    [result] = wire.execute(("divide", [binary.int4(1)]))
    assert rows_of(result) == [(b"1",)]
    with session.session() as connection:
        assert connection.execute("select a from public.two").fetchall() == []


def test_several_tables_are_filled_by_one_statement_in_pieces_of_any_size(session: Database, kit: Kit) -> None:
    wire = wired(session)
    many = PIECE_BYTES // 10
    with session.transaction(TERMS):
        wire.copy(
            [b"copy public.one from stdin", b"copy public.two from stdin"],
            ["".join(f"{'x' * 50}\t{number}\n" for number in range(many)).encode(), "y\n\N{SNOWMAN}\n".encode()],
        )
    assert kit.rows("select count(*), sum(b) from public.one") == [(many, sum(range(many)))]
    assert kit.rows("select a from public.two order by 1") == [("y",), ("\N{SNOWMAN}",)]


def test_a_text_that_a_table_cannot_hold_is_told_by_its_error_and_nothing_counts(session: Database, kit: Kit) -> None:
    wire = wired(session)
    copies = [b"copy public.two from stdin", b"copy public.one from stdin", b"copy public.two from stdin"]
    with pytest.raises(Unwritable) as caught, session.transaction(TERMS):
        wire.copy(copies, [b"first\n", b"x\tno number\n" * PIECE_BYTES, b"third\n"])
    assert caught.value.fields == {"reason": "22P02"}
    assert kit.rows("select a from public.two") == []
    with session.transaction(TERMS):  # and the connection goes on
        wire.copy(copies[:1], [b"later\n"])
    assert kit.rows("select a from public.two") == [("later",)]


def test_whoever_waits_lets_the_other_threads_run(session: Database, kit: Kit) -> None:
    wire = wired(session)
    failures: list[Exception] = []

    def hold() -> None:
        try:
            with session.transaction(TERMS):
                wire.execute(("hold", []))
        except Exception as error:
            failures.append(error)

    with psycopg.connect(kit.database.admin_url) as holder:
        holder.execute("select from public.held for update")
        waiting = threading.Thread(target=hold)
        waiting.start()
        until(lambda: kit.rows("select from pg_locks where not granted"))
        holder.rollback()
    waiting.join()
    assert failures == []  # or this thread would have been held up until the lock timed out


def test_a_lock_that_somebody_keeps_is_contention(session: Database, kit: Kit) -> None:
    session = kit.session(lock_ms=20)
    wire = wired(session)
    with psycopg.connect(kit.database.admin_url) as holder:
        holder.execute("select from public.held for update")
        with pytest.raises(Contention), session.transaction(TERMS):
            wire.execute(("hold", []))


def test_a_lost_connection_is_told_and_replaced(session: Database, kit: Kit) -> None:
    failures: list[Unavailable] = []

    def linger() -> None:
        try:
            with session.transaction(TERMS):
                wired(session).execute(("linger", []))
        except Unavailable as error:
            failures.append(error)

    lingering = threading.Thread(target=linger)
    lingering.start()
    until(lambda: kit.rows("select from pg_stat_activity where wait_event = 'PgSleep'"))
    kit.rows("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
    lingering.join()
    assert [failure.code for failure in failures] == ["postgres_unavailable"]
    assert rows_of(wired(session).execute(("double", [binary.int8_array([4])]))[0]) == [(b"8",)]


def test_the_driver_forgets_none_of_the_wires_statements(session: Database) -> None:
    wire = wired(session)
    wire.execute(("divide", [binary.int4(1)]))
    with session.session() as connection:
        for _ in range(10):  # so often that the driver would prepare it
            connection.execute("select 1 where %s", [True])
        with pytest.raises(ZeroDivisionError), session.transaction(TERMS):
            raise ZeroDivisionError  # rolled back, whereupon the driver would forget all that is prepared
        connection.execute("create schema fleeting")
        connection.execute("drop schema fleeting")
    assert rows_of(wire.execute(("divide", [binary.int4(1)]))[0]) == [(b"1",)]


def test_before_the_first_session_there_is_no_wire(kit: Kit) -> None:
    database = Database(kit.database.urls["projector"], name="test", bounds=BOUNDS)
    with pytest.raises(RuntimeError, match="open session"):
        _ = database.wire
    database.close()


def test_a_statement_by_itself_answers_in_binary_and_after_its_error_the_connection_goes_on(session: Database) -> None:
    wire = wired(session)
    for _ in range(2):  # prepared the first time
        assert wire.ask("divide", [binary.int4(2)]).get_value(0, 0) == binary.int4(0)
        with pytest.raises(psycopg.errors.DivisionByZero):
            wire.ask("divide", [binary.int4(0)])
    with session.session() as connection:
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE


def test_times_arrive_to_the_microsecond(session: Database, kit: Kit) -> None:
    [(said, at)] = kit.rows("select t::text, t from (select '1969-12-31 23:59:59.123457+00'::timestamptz as t) as t")
    [result] = wired(session).execute(("times", [binary.time_array([at])]))
    assert said.startswith("1969-12-31 23:59:59.123457")
    assert rows_of(result) == [(b"1969-12-31 23:59:59.123457+00",)]
