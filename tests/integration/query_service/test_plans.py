"""The hot statements go by an index, on empty and on large tables, with and without statistics: golden in tests/golden/plans."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from query_service.application.graph_questions import GRAPH_QUESTIONS
from query_service.application.log_questions import LOG_QUESTIONS
from query_service.application.questions import QUESTIONS
from query_service.infrastructure.postgres_books import session
from query_service.infrastructure.statements import Statements, numbered
from tests.integration.query_service.bookkeeper import Bookkeeper
from tests.services import Database

pytestmark = pytest.mark.thorough

GOLDEN = Path(__file__).parents[2] / "golden" / "plans"
NAMES = sorted({question.statement for question in (*QUESTIONS, *LOG_QUESTIONS, *GRAPH_QUESTIONS)})

# 20 ledgers, 20,000 events, 40,000 entries of 2,000 accounts: large enough for a scan to look cheaper than it is.
FILL = """
insert into daybook.ledgers select 'l:' || n, 1000, '2026-01-01' from generate_series(1, 20) n;
insert into daybook.events select 'l:' || n, p, 'TransactionPosted.v1', '{}', '{}', '2026-01-01'
  from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into daybook.event_tags select 'l:' || n, 'account:a:' || (p % 100), p from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into projections.positions select projection, 1, 'l:' || n, 1000, '2026-01-01', incarnation
  from daybook.incarnation, generate_series(1, 20) n, unnest(array['books', 'periods']) projection;
insert into books_1.ledgers select 'l:' || n, 1, 'open', '2026-01-01', '2026-01-01', 'explicit', '[]', true, 'UTC', '{}'
  from generate_series(1, 20) n;
insert into books_1.accounts
  select 'l:' || n, 'a:' || a, 1, 1, '2026-01-01', '2026-01-01', 'credit', case when a % 7 = 0 then 'frozen' else 'open' end, null, false, '{}', '{}'
  from generate_series(1, 20) n, generate_series(0, 99) a;
insert into books_1.transactions
  select 'l:' || n, 't' || p, p, p, '2026-01-01', '2026-01-01', case when p % 9 = 0 then 'pending' else 'posted' end,
    '2026-01-01', null, null, 'r' || p, null, '[]', null, null, '{}', 'EUR/2', p % 50, null, null, false, 'x', 'x'
  from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into books_1.other_amounts select 'l:' || n, 'EUR/2', p % 50, p from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into books_1.entries
  select 'l:' || n, 'a:' || ((p + i * 7) % 100), 'EUR/2', p, i, 'posted', 'debit', 1, 't' || p, '2026-01-01', '2026-01-01', 0, 0, 0, 0
  from generate_series(1, 20) n, generate_series(1, 1000) p, generate_series(0, 1) i;
insert into books_1.unsettled
  select 'l:' || n, 't' || p, p, p, 'pending', null, case when p % 2 = 0 then p + 1 end
  from generate_series(1, 20) n, generate_series(9, 1000, 9) p;
insert into books_1.scheduled_accounts select 'l:' || n, 'a:' || (p % 100), p from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into books_1.refusals
  select 'l:' || n, p, '2026-01-01', 'c' || (p % 5), 'x', null, '[]', '{}', '{}', p, 'a' || (p % 5), 'x', null
  from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into books_1.transaction_labels select 'l:' || n, 'k' || (p % 3), 'v' || (p % 50), p, p from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into books_1.account_labels select 'l:' || n, 'k', 'v' || (a % 5), 'a:' || a, 1 from generate_series(1, 20) n, generate_series(0, 99) a;
insert into periods_1.timely
  select 'l:' || n, 'a:' || (p % 100), 'EUR/2', p, timestamptz '2026-01-01' + p * interval '1 hour', p, 0
  from generate_series(1, 20) n, generate_series(1, 1000) p;
insert into periods_1.untimely
  select 'l:' || n, 'a:' || (p % 100), 'EUR/2', span, timestamptz '2026-01-01' + p * interval '1 hour', p, p, 0
  from generate_series(1, 20) n, generate_series(1, 1000) p, unnest(array['year', 'month', 'day', 'hour', 'minute', 'second', 'instant']) span;
"""

# One ledger in which a single account moves 20,000 times.
LONG = """
insert into daybook.ledgers values ('long', 20000, '2026-01-01');
insert into daybook.events values ('long', 20000, 'TransactionPosted.v1', '{}', '{}', '2026-01-01');
insert into projections.positions select projection, 1, 'long', 20000, '2026-01-01', incarnation
  from daybook.incarnation, unnest(array['books', 'periods']) projection;
insert into books_1.accounts values ('long', 'b', 1, 1, '2026-01-01', '2026-01-01', 'credit', 'open', null, false, '{}', '{}');
insert into books_1.entries select 'long', account, 'EUR/2', p, 0, 'posted', 'debit', 1, 't' || p, '2026-01-01',
    timestamptz '2026-01-01' + p * interval '1 hour', p, 0, p, 0
  from unnest(array['a', 'b']) account, generate_series(1, 20000) p;
insert into books_1.transactions
  select 'long', 't' || p, p, p, '2026-01-01', '2026-01-01', 'posted', timestamptz '2026-01-01' + p * interval '1 hour', null, null, null,
    null, '[]', null, null, '{}', 'EUR/2', 1, null, null, false, 'x', 'x'
  from generate_series(1, 20000) p;
insert into periods_1.timely select 'long', 'b', 'EUR/2', p, timestamptz '2026-01-01' + p * interval '1 hour', p, 0
  from generate_series(1, 20000) p;
"""
# Another in which an account moves 20,000 times: half of it comes a second late, and the last event is of the year before.
LATE = """
insert into daybook.ledgers values ('late', 20001, '2026-01-01');
insert into daybook.events values ('late', 20001, 'TransactionPosted.v1', '{}', '{}', '2026-01-01');
insert into projections.positions select projection, 1, 'late', 20001, '2026-01-01', incarnation
  from daybook.incarnation, unnest(array['books', 'periods']) projection;
insert into books_1.accounts values ('late', 'b', 1, 1, '2026-01-01', '2026-01-01', 'credit', 'open', null, false, '{}', '{}');
create temporary table moved on commit drop as
  select p as position, case when p = 20001 then timestamptz '2025-05-01'
    else timestamptz '2026-01-01' + p * interval '1 hour' - (p % 2) * interval '1 hour 1 second' end as effective_at
  from generate_series(1, 20001) p;
insert into books_1.entries select 'late', 'b', 'EUR/2', position, 0, 'posted', 'debit', 1, 't' || position, '2026-01-01', effective_at,
    position, 0, position, 0
  from moved;
insert into periods_1.timely select 'late', 'b', 'EUR/2', position, effective_at, position / 2, 0 from moved where position % 2 = 0;
insert into periods_1.untimely
  select 'late', 'b', 'EUR/2', span, case span when 'instant' then effective_at else date_trunc(span, effective_at) end, position,
    count(*) over (partition by span, case span when 'instant' then effective_at else date_trunc(span, effective_at) end order by position), 0
  from moved, unnest(array['year', 'month', 'day', 'hour', 'minute', 'second', 'instant']) span
  where position % 2 = 1;
"""
YEARS_LATER = datetime(2030, 1, 1, tzinfo=UTC)
NOTHING_ASKED: dict[str, object] = {
    "ledger": "long",
    **dict.fromkeys(
        ("at", "at_position", "at_time", "begins_at", "recorded_from", "recorded_until", "from_time", "until_time")
    ),
    **dict.fromkeys(("effective_at", "effective_until"), YEARS_LATER),
    **dict.fromkeys(("after_version", "after_index", "segments"), 0),
    **dict.fromkeys(("walk_max", "pairs_max"), 100),
    "wanted": 1,
    "address": "b",
    "addresses": ["b"],
    "asset": "EUR/2",
    "limit": 10,
    "high": "c",
    "matching": "b",
    "effective_from": datetime(2026, 1, 1, tzinfo=UTC),
}


def _key(position: int) -> dict[str, object]:
    """After the transaction of that position, by whatever a list may go by."""
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=position)
    return {"after_position": position, "after_birth": position, "after_time": time}


@pytest.fixture(scope="module")
def plans(database: Database) -> Iterator[dict[str, dict[str, str]]]:
    """The plan of every statement by the state of the tables."""
    keeper = Bookkeeper(database.admin_url)
    keeper.make_generation(1)
    keeper.go_live(1)
    found = {"empty": _plans(database.urls["query"])}
    keeper.connection.execute(FILL)
    found["large, no statistics"] = _plans(database.urls["query"])
    keeper.connection.execute(LONG)
    with keeper.connection.transaction():
        keeper.connection.execute("set local timezone = 'UTC'")
        keeper.connection.execute(LATE)
    keeper.connection.execute("analyze")
    found["large"] = _plans(database.urls["query"])
    yield found
    keeper.close()


@pytest.mark.parametrize("name", NAMES)
def test_plan_is_the_golden_one_whatever_the_tables_hold(plans: dict[str, dict[str, str]], name: str) -> None:
    golden = GOLDEN / f"query_{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(plans["large"][name])
    expected = golden.read_text()
    for of_state in plans.values():
        assert of_state[name].splitlines() == expected.splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_no_plan_scans_a_table_from_end_to_end(plans: dict[str, dict[str, str]], name: str) -> None:
    assert "Seq Scan" not in plans["large"][name]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{index}transactions_{order}"
            for index in ("", "labelled_", "status_", "unsettled_")
            for order in ("newest", "oldest")
        ),
        *(
            "accounts",
            "labelled_accounts",
            "status_accounts",
            "refusals_newest",
            "refusals_by_code_oldest",
            "statement",
        ),
    ],
)
@pytest.mark.usefixtures("plans")
def test_list_is_walked_in_the_order_of_its_index(database: Database, name: str) -> None:
    """Nothing is sorted but the page: a page that is full reads no further."""
    with psycopg.connect(database.urls["query"], autocommit=True) as connection:
        connection.execute(session(statement_ms=10_000))
        lines = _explained(connection, Statements.load(), name)
    assert len([line for line in lines if "Sort Key" in line]) == 1


@pytest.mark.parametrize(
    "name",
    [
        f"{name}_{order}"
        for name in ("entries", "entries_of_many", "effective_entries", "transactions", "effective_transactions")
        for order in ("newest", "oldest")
    ]
    + ["statement", "dated_statement", "effective_statement"],
)
@pytest.mark.usefixtures("plans")
def test_a_page_far_on_costs_what_the_first_one_does(database: Database, name: str) -> None:
    """An index scan that began where the list begins would pass over all that earlier pages have shown."""
    near, far = (19_990, 20) if name.endswith("newest") else (20, 19_980)
    with psycopg.connect(database.urls["query"], autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(session(statement_ms=10_000))
        pages = [_pages(connection, name, {**NOTHING_ASKED, **_key(position)}) for position in (near, far)]
    assert pages[1] < pages[0] + 20  # of several hundred that the index has


@pytest.mark.usefixtures("plans")
def test_a_sum_begins_with_the_first_account_of_its_pattern(database: Database) -> None:
    with psycopg.connect(database.urls["query"], autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(session(statement_ms=10_000))
        asked = {**NOTHING_ASKED, "effective_at": None, "begin": "b", "begin_asset": ""}
        assert _pages(connection, "sums", asked) < 60  # the account before it alone has several hundred


@pytest.mark.usefixtures("plans")
def test_by_effective_time_a_label_is_looked_up_and_the_ledger_not_walked(database: Database) -> None:
    asked = {
        **NOTHING_ASKED,
        "after_time": None,
        **dict.fromkeys(("after_birth", "after_position"), 2**60),
        "after_version": 2**31 - 1,
        "key": "k",
        "indexed": "rare",
    }
    with psycopg.connect(database.urls["query"], autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(session(statement_ms=10_000))
        assert (
            _pages(connection, "effective_labelled_transactions_newest", asked) < 60
        )  # to walk a hundred takes some 400


@pytest.mark.usefixtures("plans")
def test_a_late_correction_is_found_without_what_was_recorded_since(database: Database) -> None:
    asked = {
        **NOTHING_ASKED,
        "ledger": "late",
        "begin": "b",
        "begin_asset": "",
        "from_position": 100,
        "after_position": 0,
        "effective_until": datetime(2026, 1, 1, tzinfo=UTC),
        **dict.fromkeys(("entries_max", "rows_max"), 101),
    }
    with psycopg.connect(database.urls["query"], autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(session(statement_ms=10_000))
        assert _pages(connection, "effective_changes", asked) < 400  # the account's entries alone have some 500


def _pages(connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, object]) -> int:
    """How many pages the statement touches."""
    text = Statements.load().text(name, "books_1 periods_1").replace("{condition}", "true")
    asked = f"explain (analyze, buffers, timing off, summary off, format json) {text}"
    row = connection.execute(asked.encode(), parameters).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] > 0
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def _plans(url: str) -> dict[str, str]:
    statements = Statements.load()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(session(statement_ms=10_000))
        return {name: _access(_explained(connection, statements, name)) for name in NAMES}


def _explained(connection: psycopg.Connection[tuple[str]], statements: Statements, name: str) -> list[str]:
    text, names = numbered(statements.text(name, "books_1 periods_1").replace("{condition}", "true"))
    nulls = ", ".join(["null"] * len(names))
    connection.execute(b"prepare plan as " + text)
    rows = connection.execute(f"explain (costs off) execute plan({nulls})".encode()).fetchall()
    connection.execute("deallocate plan")
    return [line for (line,) in rows]


def _access(lines: Iterable[str]) -> str:
    """How each table is reached, in the plan's order: what PostgreSQL 15 and 18 say alike."""
    found = [line.strip().removeprefix("->  ") for line in lines if " Scan" in line or "Cond:" in line]
    return "\n".join(re.sub(r"(\w+?)_\d+\b", r"\1", line) for line in found) + "\n"
