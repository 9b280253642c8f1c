"""The plans of the hot statements, as they must be whatever the statistics say: on empty tables and on large ones.

A statement planned while its table was empty would keep a sequential scan (measured: a factor of four). The golden file
holds one line a statement: its plan's nodes from the outside in. `DAYBOOK_GOLDEN=write` writes it anew.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from tests.integration.event_log.words import Admin
from tests.services import Database

pytestmark = [pytest.mark.long, pytest.mark.thorough]
GOLDEN = Path(__file__).parents[2] / "golden" / "plans" / "event_log.txt"
APPEND = (
    "select * from daybook.append((select incarnation from daybook.incarnation), {ledger}, {seen}, 1000, 1000000,"
    " '{{0,1,2}}', '{{ledger-terms,key:new,account:1}}', '{{0,0,0}}', '{{0,1,2}}', '{{E,E,E}}', '{{1,2,3}}', '{{1,2,3}}',"
    " '{{1,2,3}}', '{{account:1,key:new,account:2}}', null, null, null)"
)
LOAD = (
    "select * from daybook.load((select incarnation from daybook.incarnation), {ledger}, {seen}, 1000, 1000000,"
    " '{{account:1,account:2}}', '{{1,null}}', '{{1,0}}')"
)
OPEN = (
    "select * from daybook.append((select incarnation from daybook.incarnation), {ledger}, null, 0, 0,"
    " '{{}}', '{{}}', '{{}}', '{{0}}', '{{LedgerOpened.v1}}', '{{1}}', '{{1}}', '{{1}}', '{{ledger-terms}}', null, null, null)"
)
FILL = """
insert into daybook.ledgers select 'full:' || n, 0, now() from generate_series(1, 2000) n;
insert into daybook.events
  select 'full:' || l, n, 'E', repeat('x', 200), '{}', now() from generate_series(1, 4) l, generate_series(1, 10000) n;
insert into daybook.event_tags
  select 'full:' || l, 'account:' || n % 100, n from generate_series(1, 4) l, generate_series(1, 10000) n;
insert into daybook.event_tags
  select 'full:' || l, 'hot', n from generate_series(1, 4) l, generate_series(1, 10000) n;
update daybook.ledgers set position = 10000 where ledger in ('full:1', 'full:2', 'full:3', 'full:4');
analyze daybook.ledgers, daybook.events, daybook.event_tags;
"""


@pytest.fixture
def explained(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A session whose every statement, however deep, comes with its plan as a notice."""
    with psycopg.connect(database.admin_url, autocommit=True) as session:
        session.execute("load 'auto_explain'")
        for name, value in {
            "client_min_messages": "log",
            "auto_explain.log_min_duration": "0",
            "auto_explain.log_nested_statements": "on",
            "auto_explain.log_format": "json",
        }.items():
            session.execute("select set_config(%s, %s, false)", [name, value])
        yield session


def plans(session: psycopg.Connection[Any], call: str, **parameters: object) -> list[str]:
    """One line for each statement inside the call."""
    notices: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        notices.append(notice.message_primary or "")

    session.add_notice_handler(keep)
    composed = sql.SQL(call).format(**{name: sql.Literal(value) for name, value in parameters.items()})
    session.execute(composed)
    session.remove_notice_handler(keep)
    lines = []
    for notice in notices:
        explained = msgspec.json.decode(notice[notice.index("{") :])
        if explained["Query Text"] != composed.as_string():
            lines.append(" > ".join(nodes(explained["Plan"])))
    return lines


def nodes(plan: dict[str, Any]) -> list[str]:
    """The nodes of a plan from the outside in, each with what it reads."""
    what = plan.get("Index Name") or plan.get("Relation Name") or plan.get("Function Name") or ""
    direction = " backward" if plan.get("Scan Direction") == "Backward" else ""
    operation = f" {plan['Operation']}" if plan["Node Type"] == "ModifyTable" else ""
    own = f"{plan['Node Type']}{operation}{direction} {what}".strip()
    keys = re.findall(r'(\w+)"?\)?(?:::\w+)? [=<>]', plan.get("Index Cond", ""))
    if keys:
        own += f" by {', '.join(keys)}"
    return [own, *(name for inner in plan.get("Plans", ()) for name in nodes(inner))]


def hot_plans(session: psycopg.Connection[Any], ledger: str) -> str:
    """Every hot call's plans; each session plans anew."""
    (head,) = session.execute(
        "select coalesce(max(position), 0) from daybook.ledgers where ledger = %s", [ledger]
    ).fetchone() or (0,)
    parts = {
        "append (nobody else wrote)": plans(session, APPEND, ledger=ledger, seen=head),
        "append (with a tail)": plans(session, APPEND, ledger=ledger, seen=head),
        "load": plans(session, LOAD, ledger=ledger, seen=head),
        "lock_heads": plans(
            session,
            "select daybook.lock_heads((select incarnation from daybook.incarnation), array[{ledger}])",
            ledger=ledger,
        ),
        "matching": plans(
            session,
            "select * from daybook.matching({ledger}, {items}, 0, 10)",
            ledger=ledger,
            items='[{"types":["E"],"tags":["hot","account:1"]}]',
        ),
        "matching (everything)": plans(session, "select * from daybook.matching({ledger}, '[]', 0, 10)", ledger=ledger),
        "position_as_of": plans(session, "select daybook.position_as_of({ledger}, now())", ledger=ledger),
    }
    return "\n".join(
        f"{name}\n" + "".join(f"  {line}\n" for line in dict.fromkeys(lines)) for name, lines in parts.items()
    )


def test_plans_are_the_same_on_empty_and_on_large_tables(
    explained: psycopg.Connection[Any], database: Database, admin: Admin
) -> None:
    explained.execute(sql.SQL(OPEN).format(ledger=sql.Literal("empty")))
    on_empty = hot_plans(explained, "empty")
    admin.execute(FILL)
    explained.execute("discard plans")
    on_large = hot_plans(explained, "full:1")
    if os.environ.get("DAYBOOK_GOLDEN") == "write":
        GOLDEN.write_text(on_large)
    assert on_empty == on_large
    assert on_large == GOLDEN.read_text()
