"""Rules of the house that no linter knows: read from the source of every package, so that who breaks one is told here."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared_kernel.logs import FIELDS
from tests.support import house_rules
from tests.support.house_rules import PACKAGES, offences

ROOT = Path(__file__).parents[2]


def sources() -> Iterator[tuple[str, str]]:
    """Every module of the packages, by its place below the root."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


@pytest.mark.parametrize("rule", house_rules.RULES)
def test_no_module_breaks_a_rule(rule: Callable[[str, str], list[str]]) -> None:
    assert [offence for name, text in sources() for offence in rule(name, text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "with connection.transaction():\n    pass",
        "connection.transaction(force_rollback=True)",
        "connection.transaction('name')",
        "connection.transaction(None, True)",
        "connection.commit()",
        "connection.rollback()",
        "psycopg.connect(url)",
        "await psycopg.AsyncConnection.connect(url)",
        "connect(url, autocommit=False)",
        "connect(url, autocommit=is_wanted)",
        "connection.set_autocommit(False)",
        "connection.autocommit = False",
        "AsyncConnectionPool(conninfo(url), timeout=1)",
        "AsyncConnectionPool(conninfo(url), timeout=1, kwargs={'autocommit': False})",
        "connection.execute('begin')",
        "connection.execute(b'BEGIN isolation level serializable')",
        "connection.execute(SQL('begin'))",
        "connection.execute(sql.SQL('commit').format())",
        "connection.execute(f'begin')",
        "connection.execute('begin; update accounts set x = 1')",
        "connection.execute('select 1; /* so */ commit')",
        "connection.execute('-- now\\nstart transaction')",
        "connection.execute('end')",
        "connection.execute('abort')",
        "connection.execute('savepoint s')",
        "connection.execute(query='rollback')",
        "pgconn.exec_(b'begin')",
        "pgconn.send_query(b'commit')",
        "pgconn.send_prepare(b'b', b'begin', [])",
        "OPENING = 'begin isolation level serializable; select 1'",
    ],
)
def test_each_way_to_open_a_transaction_is_an_offence(text: str) -> None:
    assert house_rules.offences_with_transactions("m.py", text)


@pytest.mark.parametrize(
    "text",
    [
        "urllib.request.urlopen(url)",
        "urlopen(request, timeout=None)",
        "opener.open(url)",
        "urllib.request.build_opener(handler)",
        "http.client.HTTPSConnection(host)",
        "socket.create_connection((host, port))",
        "socket.socket()",
        "asyncio.open_connection(host, port)",
        "loop.create_connection(make, host, port)",
        "httpx.Client()",
        "httpx.AsyncClient(timeout=3)",
        "requests.get(url)",
        "hvac.Client(url)",
        "Redis.from_url(url, socket_timeout=1)",
        "Redis(host='x', socket_timeout=None, socket_connect_timeout=1)",
        "redis.asyncio.Redis(host='x', socket_timeout=1, socket_connect_timeout=1)",
        "psycopg.connect(conninfo(url), autocommit=True)",
        "await AsyncConnection.connect(self._url, autocommit=True)",
        "AsyncConnectionPool(url, timeout=1, kwargs={'autocommit': True})",
        "pq.PGconn.connect_start(url.encode())",
        "connect(Bounded(url))",
        "Consumer({'group.id': 'g'})",
        "Producer({'bootstrap.servers': 'k'})",
        "AdminClient({'bootstrap.servers': 'k'})",
        "providers.Singleton(Consumer, settings)",
        "make = psycopg.connect",
        "admin.list_topics()",
        "admin.list_topics(timeout=None)",
        "admin.create_topics([topic])",
        "made.result()",
        "made.result(timeout=None)",
        "producer.flush()",
        "consumer.consume()",
        "consumer.poll()",
        "consumer.commit(asynchronous=False)",
        "consumer.close()",
        "open_url(url, timeout_s=None)",
    ],
)
def test_each_way_to_wait_without_a_bound_is_an_offence(text: str) -> None:
    assert house_rules.offences_with_time("m.py", text)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("projections/infrastructure/kafka_clients.py", "Consumer({'group.id': 'g'})"),
        ("shared_kernel/http_out.py", "urlopen(request, timeout=None)"),
        ("shared_kernel/http_out.py", "_opener.open(request)"),
        ("shared_kernel/redis_client.py", "Redis.from_url(url, socket_timeout=None, socket_connect_timeout=1)"),
        ("query_service/infrastructure/postgres_books.py", "AsyncConnectionPool(url, timeout=1)"),
        ("daybook/client.py", "HTTPConnection(host, 80)"),
    ],
)
def test_where_a_client_may_be_made_it_has_its_bounds(place: str, text: str) -> None:
    assert house_rules.offences_with_time(place, text)


@pytest.mark.parametrize(
    "text",
    [
        "import asyncpg",
        "import httpx",
        "import requests as r",
        "from hvac import Client",
        "import psycopg",
        "from psycopg_pool import AsyncConnectionPool",
        "import redis.asyncio",
        "from confluent_kafka.admin import AdminClient",
        "import urllib.request",
        "from urllib.request import urlopen",
        "from urllib import request",
        "from http import client",
        "import socket",
        "import smtplib",
        "from xmlrpc.client import ServerProxy",
        "from multiprocessing.connection import Client",
        "import something_new",
        "importlib.import_module('psycopg')",
        "__import__('psycopg')",
        "def later() -> None:\n    import psycopg",
    ],
)
def test_each_import_of_what_reaches_a_network_is_an_offence(text: str) -> None:
    assert house_rules.offences_with_imports("m.py", text)


@pytest.mark.parametrize(
    "text",
    [
        "connect(conninfo(url))",
        "open_url(url, timeout_s=3)",
        "sqlite3.connect(path)",
        "with self._database.transaction(_TERMS) as session:\n    pass",
        "session.execute(SQL('begin execute {}; end').format(text))",
        "session.execute('set local lock_timeout = 1; select 1')",
        "wire.execute(('begin_positions', of))",
        "self._source.commit()",
        "def leave(consumer: Consumer) -> None: ...",
        "sys.stdout.flush()",
        "consumer.poll(1.0)",
        "made.result(timeout=3)",
        "import msgspec, urllib.parse, urllib.error",
        "from http import HTTPStatus",
    ],
)
def test_what_is_bounded_is_no_offence(text: str) -> None:
    assert offences("m.py", text) == []


@pytest.mark.parametrize(
    "text",
    [
        "open_url(url, timeout_s=5.0)",
        "open_url(url, timeout_s=FETCH_TIMEOUT_SECONDS)",
        "conninfo(url, silence_ms=silence_ms)",
        "conninfo(url, connect_ms=connect_ms, silence_ms=SILENCE_MS_MAX)",
        "conninfo(url, connect_ms=connect_ms, silence_ms=silence_ms, statement_ms=2 * STATEMENT_MS_MAX)",
        "connect_redis(url, timeout_ms=100)",
        "AsyncConnectionPool(conninfo(url), timeout=wait_s, reconnect_timeout=5)",
        "admin.list_topics(timeout=ADMIN_S_MAX)",
        "Terms(name='n', lock_timeout_ms=LOCK_TIMEOUT_MS)",
        "clients.producer({'message.timeout.ms': DELIVERY_MS_MAX})",
        "clients.consumer({'session.timeout.ms': 6_000})",
        "session.execute(\"set local statement_timeout = '2h'\")",
    ],
)
def test_a_time_out_of_a_process_that_no_setting_names_is_an_offence(text: str) -> None:
    assert house_rules.offences_with_settings("projections/infrastructure/m.py", text)


def test_the_lists_of_who_may_name_only_those_who_do() -> None:
    imported = {name: {module for _, module in house_rules.imports(text)} for name, text in sources()}
    for library, patterns in house_rules.MAY_IMPORT.items():
        for pattern in patterns:
            assert any(
                module == library or module.startswith(f"{library}.")
                for name, modules in imported.items()
                if Path(name).match(pattern)
                for module in modules
            ), f"{pattern} does not import {library}"
    lists = (*house_rules.MADE_IN.values(), *house_rules.OWN.values(), house_rules.LATE_IMPORTS, house_rules.SAVEPOINTS)
    assert {place for places in lists for place in places} <= imported.keys()


def test_statements_in_files_leave_transactions_to_whoever_runs_them() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.sql"):
            for line in path.read_text().splitlines():
                assert not re.match(r"(begin|start transaction|commit|rollback);?$", line, re.IGNORECASE) or (
                    line == "begin"  # of a function's body
                ), f"{path.name}: {line}"


def fields_withheld(name: str, text: str) -> list[str]:
    """What a module says in its log and nobody would see, because the allow-list does not have the field."""
    return [
        f"{name}:{node.lineno} logs {keyword.arg}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and _is_log_call(node.func)
        for keyword in node.keywords
        if keyword.arg not in FIELDS | {None, "exc_info"}
    ]


def _is_log_call(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "say"  # the level chosen before
    is_level = isinstance(called, ast.Attribute) and called.attr in {"debug", "info", "warning", "error", "bind"}
    return is_level and "log" in ast.unparse(called.value).lower()  # type: ignore[attr-defined]


def test_no_line_of_a_log_has_a_field_that_is_withheld() -> None:
    assert [offence for name, text in sources() for offence in fields_withheld(name, text)] == []


def test_the_rule_about_fields_would_be_broken_by_each_way_to_log_one() -> None:
    for text in ("self._logger.info('e', secret=1)", "log.bind(secret=1)", "say('e', secret=1)"):
        assert fields_withheld("m.py", text) == ["m.py:1 logs secret"]
