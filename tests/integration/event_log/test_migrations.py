"""The migration runner: once, in order, one at a time, and nothing that it does not know."""

import threading
from collections.abc import Callable

import psycopg
import pytest

from shared_kernel.errors import Corruption
from shared_kernel.migrations import runner
from shared_kernel.migrations.runner import ensure_roles, migrate, migration_files
from tests.integration.event_log.words import Admin
from tests.services import Database

SECOND = "create table daybook.second (n integer);"


def with_files(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """As if this version shipped other files; None takes one away."""
    known = {**migration_files(), **{f"{name[1:]}.sql": text for name, text in changed.items()}}
    files = {name: text for name, text in sorted(known.items()) if text is not None}
    monkeypatch.setattr(runner, "migration_files", lambda: files)


def ignore(line: str) -> None:
    """No report."""


def test_repeating_changes_nothing(database: Database) -> None:
    assert migrate(database.urls["migrator"], ignore) == []


def test_many_migrators_at_once_apply_each_file_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, admin: Admin
) -> None:
    with_files(monkeypatch, _8001_second=SECOND, _8002_third="create table daybook.third (n integer);")
    applied: list[list[str]] = []
    reports: list[str] = []
    in_threads(4, lambda: applied.append(migrate(database.urls["migrator"], reports.append)))
    assert sorted(applied) == [[], [], [], ["8001_second.sql", "8002_third.sql"]]
    assert reports == ["applied 8001_second.sql", "applied 8002_third.sql"]
    forget(admin, "8001_second.sql", "8002_third.sql")


def test_a_file_that_fails_leaves_nothing_and_can_be_mended(
    database: Database, monkeypatch: pytest.MonkeyPatch, admin: Admin
) -> None:
    with_files(monkeypatch, _8001_second=SECOND + "select 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(database.urls["migrator"], ignore)
    with_files(monkeypatch, _8001_second=SECOND)
    assert migrate(database.urls["migrator"], ignore) == ["8001_second.sql"]
    owner = admin.execute("select tableowner from pg_tables where tablename = 'second'").fetchall()
    assert owner == [("daybook_owner",)]
    forget(admin, "8001_second.sql")


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("migration_changed", {"_0001_event_log": "select 1;"}),
        ("migration_unknown", {"_0002_projections": None}),
        ("migration_out_of_order", {"_0001_zz_late": "select 1;"}),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_applied(
    database: Database, monkeypatch: pytest.MonkeyPatch, code: str, files: dict[str, str | None]
) -> None:
    with_files(monkeypatch, **files, _8009_never="create table daybook.never (n integer);")
    with pytest.raises(Corruption) as raised:
        migrate(database.urls["migrator"], ignore)
    assert raised.value.code == code
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("select to_regclass('daybook.never')").fetchone() == (None,)


def test_roles_are_made_by_many_at_once_and_the_password_counts(database: Database) -> None:
    password = psycopg.conninfo.conninfo_to_dict(database.urls["command"])["password"]
    failures: list[Exception] = []

    def ensure() -> None:
        try:
            ensure_roles(database.admin_url, str(password))
        except psycopg.Error as error:
            failures.append(error)

    in_threads(6, ensure)
    assert failures == []
    with psycopg.connect(database.admin_url) as connection:
        stored = connection.execute("select rolpassword from pg_authid where rolname = 'daybook_command'").fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")
    with psycopg.connect(database.urls["command"]) as connection:
        assert connection.execute("select current_user").fetchone() == ("daybook_command",)


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Runs the work in several threads at once and waits for all."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def forget(admin: Admin, *names: str) -> None:
    """Takes away what a test migrated."""
    admin.execute("delete from daybook.migrations where name = any(%s)", [list(names)])
    admin.execute("drop table if exists daybook.second, daybook.third")
