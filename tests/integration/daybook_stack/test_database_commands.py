"""The commands that make a database ready, and the one that every restore ends with."""

import json
import os
from collections.abc import Mapping

import psycopg
import pytest

from tests.services import ROLES_PASSWORD, Database, Servers, daybook, fresh_database

pytestmark = [pytest.mark.long, pytest.mark.thorough]


def with_url(url: str, **more: str) -> Mapping[str, str]:
    """Our environment with this database and no other setting of Daybook."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return {**ours, "DAYBOOK_POSTGRES_URL": url, **more}


def incarnation(database: Database) -> str:
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute("select incarnation::text from daybook.incarnation").fetchone()
    assert row is not None
    return str(row[0])


def test_roles_and_migrate_can_be_repeated_and_change_nothing(database: Database) -> None:
    before = incarnation(database)

    daybook("roles", env=with_url(database.admin_url, DAYBOOK_ROLES_PASSWORD=ROLES_PASSWORD))
    daybook("migrate", env=with_url(database.urls["migrator"]))

    assert incarnation(database) == before


def test_restored_gives_the_log_a_new_incarnation_and_prints_it(stack: Servers) -> None:
    with fresh_database(stack) as database:
        before = incarnation(database)

        told = daybook("restored", "--json", env=with_url(database.urls["migrator"])).stdout

        assert json.loads(told) == {"incarnation": incarnation(database)}
        assert incarnation(database) != before


def test_a_process_may_not_change_the_incarnation(database: Database) -> None:
    before = incarnation(database)

    outcome = daybook("restored", env=with_url(database.urls["command"]), is_checked=False)

    assert outcome.returncode == 1
    assert incarnation(database) == before


def test_a_missing_setting_and_an_absent_server_have_their_own_exit_codes() -> None:
    assert daybook("migrate", env=with_url(""), is_checked=False).returncode == 2
    refused = daybook("migrate", env=with_url("postgresql://daybook_migrator@127.0.0.1:1/x"), is_checked=False)
    assert refused.returncode == 5
    assert "could not be migrated" in refused.stderr
