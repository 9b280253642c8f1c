"""Who may do what to the log: the rights of each role, and the triggers behind them."""

from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from shared_kernel.event_log.fast import LogConnection
from tests.integration.event_log.words import Admin
from tests.services import Database

PROCESS_ROLES = ("command", "query", "relay", "projector")
LOG_TABLES = ("ledgers", "events", "event_tags", "incarnation")
CHANGES = (
    "insert into daybook.{} select * from daybook.{}",
    "update daybook.{} set {column} = {column}",
    "delete from daybook.{}",
    "truncate daybook.{}",
)
FUNCTIONS = {
    "append": "select daybook.append(gen_random_uuid(), 'x', null, 0, 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', null, null, null)",
    "load": "select daybook.load(gen_random_uuid(), 'x', null, 0, 0, '{}', '{}', '{}')",
    "lock_heads": "select daybook.lock_heads(gen_random_uuid(), '{}')",
    "create_ledger_head": "select daybook.create_ledger_head('x')",
    "restored": "select daybook.restored()",
    "matching": "select daybook.matching('x', null, 0, 1)",
    "position_as_of": "select daybook.position_as_of('x', now())",
}
MAY_EXECUTE = {
    "command": {"append", "load", "lock_heads", "matching", "position_as_of"},
    "query": {"matching", "position_as_of"},
    "relay": {"matching", "position_as_of"},
    "projector": {"matching", "position_as_of"},
}


def state_of(url: str, statement: str | sql.Composed) -> str:
    """The SQLSTATE that the statement ends with; it is rolled back in any case."""
    with psycopg.connect(url) as connection:
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            return error.sqlstate or "?"
        finally:
            connection.rollback()
    return "00000"


def change(text: str, table: str) -> sql.Composed:
    """One of CHANGES on one table."""
    column = sql.Identifier("incarnation" if table == "incarnation" else "ledger")
    return sql.SQL(text).format(sql.Identifier(table), sql.Identifier(table), column=column)


@pytest.mark.parametrize("role", PROCESS_ROLES)
@pytest.mark.parametrize("table", LOG_TABLES)
def test_no_process_may_change_the_log_but_every_one_reads_it(database: Database, role: str, table: str) -> None:
    url = database.urls[role]
    for text in CHANGES:
        assert state_of(url, change(text, table)) == "42501"
    assert state_of(url, sql.SQL("select from daybook.{} limit 1").format(sql.Identifier(table))) == "00000"


@pytest.mark.parametrize("role", PROCESS_ROLES)
def test_each_process_executes_its_own_functions_only(database: Database, role: str) -> None:
    states = {name: state_of(database.urls[role], call) for name, call in FUNCTIONS.items()}
    assert {name for name, state in states.items() if state != "42501"} == MAY_EXECUTE[role]


@pytest.mark.parametrize("role", PROCESS_ROLES)
def test_snapshots_belong_to_the_command_process(database: Database, role: str) -> None:
    statement = f"insert into daybook.snapshots values ('l', 'a', 1, '{uuid4()}', 1, 'x')"
    assert state_of(database.urls[role], statement) == ("00000" if role == "command" else "42501")


@pytest.mark.parametrize(
    ("table", "writers"),
    [
        ("relay_lease", {"relay"}),
        ("relay_positions", {"relay"}),
        ("generations", {"projector"}),
        ("live", {"projector"}),
        ("positions", {"projector"}),
        ("waiting", {"projector"}),
        ("skips", {"projector"}),
        ("skipped", {"projector"}),
        ("dead_letters", {"projector"}),
    ],
)
def test_relay_and_projector_write_their_own_tables_only(database: Database, table: str, writers: set[str]) -> None:
    own = {"relay_lease": "epoch", "relay_positions": "epoch", "skips": "version"}.get(table, "generation")
    update = sql.SQL("update projections.{} set {column} = {column}").format(
        sql.Identifier(table), column=sql.Identifier(own)
    )
    select = sql.SQL("select from projections.{}").format(sql.Identifier(table))
    for role in PROCESS_ROLES:
        assert (state_of(database.urls[role], update) == "00000") is (role in writers)
        # The clock, a command process, asks which generation is live.
        reads = role != "command" or table in {"live", "generations"}
        if table in {"skips", "skipped", "dead_letters"}:
            reads = role in {"query", "projector"}
        assert (state_of(database.urls[role], select) == "00000") is reads


def test_the_projector_adds_to_the_trail_of_operators_and_nobody_changes_it(database: Database) -> None:
    added = "insert into projections.operator_actions (actor, action, projection) values ('me', 'park', 'books')"
    for role in PROCESS_ROLES:
        assert (state_of(database.urls[role], added) == "00000") is (role == "projector")
    for text in ("delete from {}", "truncate {}", "update {} set actor = ''"):
        changed = text.format("projections.operator_actions")
        assert state_of(database.urls["projector"], changed) == "42501"
        assert state_of(database.urls["migrator"], changed) == state_of(database.admin_url, changed) == "DB004"


async def test_even_the_owner_cannot_rewrite_history(
    database: Database, connection: LogConnection, ledger: str
) -> None:
    for url in (database.urls["migrator"], database.admin_url):
        for table in ("events", "event_tags"):
            for text in CHANGES[1:]:
                assert state_of(url, change(text, table)) == "DB004"
        for text in CHANGES[2:]:
            assert state_of(url, change(text, "ledgers")) == "DB004"
        assert state_of(url, "delete from daybook.incarnation") == "DB004"


def test_only_the_projector_and_the_owner_make_schemas(database: Database) -> None:
    for role in PROCESS_ROLES:
        expected = "00000" if role == "projector" else "42501"
        assert state_of(database.urls[role], "create schema books_1") == expected
        assert state_of(database.urls[role], "create table daybook.mine ()") == "42501"
        assert state_of(database.urls[role], "create table public.mine ()") == "42501"


def test_nothing_of_ours_is_open_to_everybody(admin: Admin) -> None:
    everybody = admin.execute(
        """
        select 'function ' || p.proname from pg_proc p
        where p.pronamespace in ('daybook'::regnamespace, 'projections'::regnamespace)
          and has_function_privilege('public', p.oid, 'execute')
        union all
        select 'table ' || c.relname from pg_class c
        where c.relnamespace in ('daybook'::regnamespace, 'projections'::regnamespace) and c.relkind = 'r'
          and has_table_privilege('public', c.oid, 'select, insert, update, delete, truncate, references, trigger')
        union all
        select 'schema ' || n.nspname from pg_namespace n
        where n.nspname in ('daybook', 'projections') and has_schema_privilege('public', n.oid, 'usage, create')
        union all
        select 'database' where has_database_privilege('public', current_database(), 'connect, temporary')
        """
    ).fetchall()
    assert everybody == []


def test_every_function_of_ours_fixes_its_search_path_and_no_process_is_privileged(admin: Admin) -> None:
    loose = admin.execute(
        "select proname from pg_proc where pronamespace = 'daybook'::regnamespace"
        " and not coalesce('search_path=pg_catalog, pg_temp' = any(proconfig), false)"
    ).fetchall()
    privileged = admin.execute(
        "select rolname from pg_roles where rolname like 'daybook\\_%' and (rolsuper or rolcreatedb or rolcreaterole"
        " or rolbypassrls or rolreplication or (rolname in ('daybook_owner', 'daybook_builder')) = rolcanlogin)"
    ).fetchall()
    owners = admin.execute(
        "select distinct tableowner from pg_tables where schemaname in ('daybook', 'projections')"
    ).fetchall()
    assert (loose, privileged, owners) == ([], [], [("daybook_owner",)])
