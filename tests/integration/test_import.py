"""`daybook import`: the same ledger in another database, byte for byte, or nothing at all."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from tests.services import Database, Servers, daybook, fresh_database
from tests.support import histories
from tests.support.plain_books import read_log
from tests.unit.shared_kernel.test_checking import SOUND, pair, posted

pytestmark = [pytest.mark.long, pytest.mark.thorough]
LEDGER = "bank"
TABLES = {
    "events": "ledger, position, type, data, metadata, recorded_at",
    "event_tags": "ledger, tag, position",
    "ledgers": "ledger, position, recorded_at",
}


@pytest.fixture(scope="module")
def elsewhere(stack: Servers) -> Iterator[Database]:
    """Another database."""
    with fresh_database(stack) as database:
        yield database


@pytest.fixture(scope="module")
def log(database: Database) -> list[RecordedEvent]:
    """A ledger's log with every kind of event, longer than one batch of an import."""
    more = [posted(f"more-{number}", pair("world", "other", number % 90 + 1)) for number in range(2_100)]
    histories.append(database.urls["command"], LEDGER, [*SOUND, *more])
    with psycopg.connect(database.admin_url) as connection:
        return read_log(connection)


@pytest.fixture
def file(log: list[RecordedEvent], tmp_path: Path) -> Path:
    """The log's NDJSON."""
    path = tmp_path / "log.ndjson"
    path.write_text("".join(f"{canonical_line(event)}\n" for event in log))
    return path


def environment(url: str) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return {**inherited, "DAYBOOK_POSTGRES_URL": url}


def run_import(database: Database, *arguments: str, role: str = "importer") -> subprocess.CompletedProcess[str]:
    return daybook("import", *arguments, env=environment(database.urls[role]), is_checked=False)


def rows(database: Database, ledger: str = LEDGER) -> dict[str, list[Any]]:
    """All that the log's tables hold of a ledger."""
    with psycopg.connect(database.admin_url) as connection:
        return {
            table: connection.execute(
                f"select {columns} from daybook.{table} where ledger = %s order by 1, 2, 3".encode(), [ledger]
            ).fetchall()
            for table, columns in TABLES.items()
        }


def test_what_an_import_that_was_held_up_says_of_it_is_not_among_its_output(
    stack: Servers, file: Path, log: list[RecordedEvent]
) -> None:
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'daybook import' and wait_event_type = 'Lock'"
        " and clock_timestamp() - xact_start > interval '1.1 s'"
    )
    with (
        fresh_database(stack) as fresh,
        ThreadPoolExecutor(1) as aside,
        psycopg.connect(fresh.admin_url) as holder,
        psycopg.connect(fresh.admin_url, autocommit=True) as looking,
    ):
        holder.execute("lock table daybook.ledgers")
        importing = aside.submit(run_import, fresh, str(file), "--ledger", LEDGER, "--json")
        while looking.execute(waiting).fetchone() != (1,):
            assert not importing.done(), importing.result().stderr
        holder.rollback()
        done = importing.result()
    assert json.loads(done.stdout)["events"] == len(log)
    assert "slow_transaction" in done.stderr


def test_an_imported_ledger_is_the_same_to_the_last_byte_and_goes_on(
    database: Database, elsewhere: Database, log: list[RecordedEvent], file: Path
) -> None:
    done = run_import(elsewhere, str(file), "--ledger", LEDGER, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"seconds": 0} == {
        "ledger": LEDGER,
        "file": str(file),
        "events": len(log),
        "accounts": 3,
        "is_written": True,
        "seconds": 0,
        "findings": [],
    }
    assert rows(elsewhere) == rows(database)

    again = run_import(elsewhere, str(file), "--ledger", LEDGER)
    assert again.returncode == 3
    assert "already" in again.stderr
    assert rows(elsewhere) == rows(database)

    head = histories.append(elsewhere.urls["command"], LEDGER, [posted("next", pair("world", "other", 1))])
    assert head == len(log) + 1


Change = Callable[[list[str]], list[str]]
BROKEN: dict[str, Change] = {
    "position_gap": lambda lines: [*lines[:10], *lines[11:]],
    "not_canonical": lambda lines: [*lines[:10], lines[10].replace(":", ": ", 1), *lines[11:]],
    "unreadable": lambda lines: [*lines[:10], lines[10][:-2], *lines[11:]],
    "unbalanced": lambda lines: [*lines[:-1], lines[-1].replace('"amount":', '"amount":1', 1)],
    "minimum_passed": lambda lines: [line.replace('"amount":50', '"amount":10') for line in lines],
    "transaction_twice": lambda lines: [*lines[:-1], lines[-1].replace("more-2099", "more-2098")],
    "other_ledger": lambda lines: [*lines[:-1], lines[-1].replace('"ledger":"bank"', '"ledger":"tank"')],
    "no_events": lambda lines: [],
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_log_that_does_not_hold_is_refused_whole_and_says_why(stack: Servers, file: Path, rule: str) -> None:
    file.write_text("\n".join(BROKEN[rule](file.read_text().splitlines())))
    with fresh_database(stack) as empty:
        refused = run_import(empty, str(file), "--ledger", LEDGER)
        assert refused.returncode == 6, refused.stderr
        assert f": {rule}: " in refused.stderr
        assert rows(empty) == {"events": [], "event_tags": [], "ledgers": []}


def test_a_log_is_checked_without_any_database(file: Path) -> None:
    sound = daybook("import", str(file), "--ledger", LEDGER, "--check", env=environment(""), is_checked=False)
    assert (sound.returncode, sound.stdout) == (0, "")
    assert "is sound" in sound.stderr
    named_otherwise = daybook("import", str(file), "--ledger", "x", "--check", env=environment(""), is_checked=False)
    assert named_otherwise.returncode == 6


def test_a_packed_log_comes_through_a_pipe(stack: Servers, database: Database, file: Path) -> None:
    argv = [sys.executable, "-P", "-m", "daybook", "import", "-", "--ledger", LEDGER]
    with fresh_database(stack) as empty:
        packed = gzip.compress(file.read_bytes())
        done = subprocess.run(
            argv, check=False, input=packed, capture_output=True, timeout=60, env=environment(empty.urls["importer"])
        )
        assert done.returncode == 0, done.stderr
        assert rows(empty)["events"] == rows(database)["events"][: 2_100 + len(SOUND)]


def test_only_the_importer_imports_and_it_can_do_nothing_else(
    database: Database, log: list[RecordedEvent], file: Path
) -> None:
    for role in ("command", "query", "relay", "projector"):
        refused = run_import(database, str(file), "--ledger", LEDGER, role=role)
        assert refused.returncode == 2, refused.stderr
    with psycopg.connect(database.urls["importer"], autocommit=True) as connection:
        for statement in (
            "select from daybook.events",
            "select from daybook.ledgers",
            "insert into daybook.ledgers values ('x', 0, now())",
            "insert into daybook.events values ('bank', 1, 't', '{}', '{}', now())",
            "select daybook.load(gen_random_uuid(), 'bank', null, 0, 0, '{}', '{}', '{}')",
            "select daybook.restored()",
            "select daybook.create_ledger_head('x')",
            "create schema mine",
            "create table public.mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("in_one_transaction", [False, True])
def test_a_ledger_that_was_there_before_cannot_be_added_to(
    database: Database, log: list[RecordedEvent], in_one_transaction: bool
) -> None:
    call = (
        b"select daybook.import_events(%s, %s, '{AccountOpened.v1}', '{\"{}\"}', '{\"{}\"}', array[now()], '{}', '{}')"
    )
    before = rows(database)
    with psycopg.connect(database.urls["importer"], autocommit=not in_one_transaction) as connection:
        for base in (len(log), len(log) + 1, len(log) - 1):
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(call, [LEDGER, base])
            assert refused.value.sqlstate == "DB006"
            connection.rollback()
    assert rows(database) == before


@pytest.mark.parametrize(
    ("types", "times", "state"),
    [
        ("{AccountOpened.v1}", "{2026-01-01}", "DB005"),  # a ledger begins with its opening
        ("{}", "{}", "DB005"),
        ("{LedgerOpened.v1,X}", "{2026-01-02,2026-01-01}", "DB005"),
        ("{LedgerOpened.v1}", "{2026-01-01,2026-01-01}", "DB005"),
        ("{LedgerOpened.v1}", "{9999-01-01}", "DB007"),
    ],
)
def test_the_call_itself_refuses_what_no_ledger_can_be(database: Database, types: str, times: str, state: str) -> None:
    texts = "{" + ",".join(["x"] * (types.count(",") + 1 if types != "{}" else 0)) + "}"
    call = b"select daybook.import_events('new', 0, %s, %s, %s, %s, '{}', '{}')"
    with psycopg.connect(database.urls["importer"]) as connection:
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(call, [types, texts, texts, times])
        assert refused.value.sqlstate == state
    assert rows(database, "new")["ledgers"] == []
