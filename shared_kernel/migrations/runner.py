"""Brings a database to the schema that this version needs: roles once per cluster, then plain SQL files in order.

Owns the .sql files beside it and the table `daybook.migrations`. Each file runs in a transaction of its own, under
one advisory lock, as `daybook_owner`. It never edits, skips or guesses: a file that changed after it was applied, or
one that this version does not know, is refused.
"""

import hashlib
import random
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Final

import psycopg
from psycopg import sql

from shared_kernel.errors import Corruption
from shared_kernel.postgres import connect, conninfo
from shared_kernel.transactions import Terms, Transactions, again

LOGIN_ROLES: Final = (
    "daybook_migrator",
    "daybook_command",
    "daybook_query",
    "daybook_relay",
    "daybook_projector",
    "daybook_importer",
    "daybook_monitor",
)
# Chosen: "daybook" as a number, so that it meets nobody else's advisory locks.
ADVISORY_LOCK: Final = 0x646179626F6F6B
# Chosen: a migration waits this long for another migrator, and its statements this long for a table's lock.
MIGRATOR_WAIT_MS: Final = 120_000
LOCK_WAIT_MS: Final = 10_000
# Chosen: an index over every event of a large log is the longest statement, and nobody waits for it.
MIGRATION_TERMS: Final = Terms(
    name="migration",
    lock_timeout_ms=LOCK_WAIT_MS,
    statement_timeout_ms=6 * 3_600_000,
    idle_timeout_ms=60_000,
    transaction_timeout_ms=6 * 3_600_000,
)
ROLES_MS_MAX: Final = 60_000  # chosen: roles and grants are a few rows
ROLE_ATTEMPTS_MAX: Final = 20
ROLE_RETRY_S: Final = 0.05

_MIGRATIONS_TABLE: Final = """
create schema if not exists daybook;
create table if not exists daybook.migrations (
  name       text collate "C" not null primary key,
  checksum   text             not null,
  applied_at timestamptz      not null default clock_timestamp()
);
"""


def ensure_roles(admin_url: str, password: str) -> None:
    """The cluster has Daybook's roles, each with this password, and the database of `admin_url` is granted to them.

    Repeating it changes nothing but the password. Roles are shared by the whole cluster, so two callers on two
    databases may meet: Postgres then fails one of them with "tuple concurrently updated" or a duplicate, and it
    tries again.
    """
    with connect(conninfo(admin_url, statement_ms=ROLES_MS_MAX, lock_ms=LOCK_WAIT_MS)) as connection:
        for attempt in range(1, ROLE_ATTEMPTS_MAX + 1):
            try:
                _make_roles(connection, password)
            except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject, psycopg.errors.InternalError_):
                if attempt == ROLE_ATTEMPTS_MAX:
                    raise
                time.sleep(ROLE_RETRY_S * attempt * random.random())  # noqa: S311 - jitter, not a secret
            else:
                return


def migrate(migrator_url: str, report: Callable[[str], None]) -> list[str]:
    """The database has every migration of this version; answers the names applied now, in order.

    `report` is told each file as it is done. Raises `Corruption` with `migration_changed`, `migration_unknown` or
    `migration_out_of_order` and the file's name, and then nothing was applied.
    """
    applied_now: list[str] = []
    with connect(conninfo(migrator_url)) as connection:
        connection.execute("select set_config('lock_timeout', %s, false)", [f"{MIGRATOR_WAIT_MS}ms"])
        connection.execute("select pg_advisory_lock(%s)", [ADVISORY_LOCK])
        connection.execute("select set_config('lock_timeout', %s, false)", [f"{LOCK_WAIT_MS}ms"])
        connection.execute("set role daybook_owner")
        connection.execute(_MIGRATIONS_TABLE)
        transactions = Transactions()

        def apply(name: str, text: str) -> None:
            with transactions.transaction(connection, MIGRATION_TERMS):
                connection.execute(text)
                connection.execute(
                    "insert into daybook.migrations (name, checksum) values (%s, %s)", [name, _checksum(text)]
                )

        for name, text in _pending(connection):
            again(partial(apply, name, text))
            report(f"applied {name}")
            applied_now.append(name)
    return applied_now


def migration_files() -> dict[str, str]:
    """The text of each numbered .sql file of this version, by name, in the order they run."""
    folder = files("shared_kernel.migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name[:4].isdigit() and entry.name.endswith(".sql"))
    return {name: (folder / name).read_text("utf-8") for name in names}


def _pending(connection: psycopg.Connection) -> list[tuple[str, str]]:
    known = migration_files()
    rows = connection.execute("select name, checksum from daybook.migrations order by name").fetchall()
    applied: dict[str, str] = dict(rows)
    for name, checksum in applied.items():
        if name not in known:
            raise Corruption("migration_unknown", migration=name)
        if _checksum(known[name]) != checksum:
            raise Corruption("migration_changed", migration=name)
    pending = [(name, text) for name, text in known.items() if name not in applied]
    last = max(applied, default="")
    for name, _ in pending:
        if name < last:
            raise Corruption("migration_out_of_order", migration=name)
    return pending


def _make_roles(connection: psycopg.Connection, password: str) -> None:
    text = (files("shared_kernel.migrations") / "roles.sql").read_text("utf-8")
    connection.execute(text)
    for role in LOGIN_ROLES:
        # A verifier made here, so that the password itself is in no statement and no server log.
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        connection.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
        )


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
