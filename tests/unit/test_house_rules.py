"""Rules of the house that no linter knows: read from the source of every package, so that who breaks one is told here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from shared_kernel.logs import FIELDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared_kernel", "command_service", "query_service", "projections", "daybook")
PSYCOPG = {"psycopg", "psycopg.AsyncConnection", "psycopg.Connection", "AsyncConnection", "Connection"}
OPENS_TRANSACTIONS = {"shared_kernel/transactions.py", "shared_kernel/event_log/fast.py"}
SQL_OF_TRANSACTIONS = re.compile(
    r"\s*(begin|start transaction|commit|rollback|savepoint|set transaction)( (isolation|work|transaction|read|to)\b.*)?;?\s*",
    re.IGNORECASE | re.DOTALL,
)


def sources() -> Iterator[tuple[str, str]]:
    """Every module of the packages, by its place below the root."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def offences_with_transactions(name: str, text: str) -> list[str]:
    """What in a module opens, ends or implies a transaction past `shared_kernel.transactions`."""
    found = []
    tree = ast.parse(text)
    prose = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    executed = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "execute"
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in prose:
            spoken = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            is_sql = id(node) in executed or " " in str(spoken).strip()  # one word alone may be the name of an action
            if isinstance(spoken, str) and is_sql and SQL_OF_TRANSACTIONS.fullmatch(spoken):
                found.append(f"{name}:{node.lineno} says {spoken!r}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called, arguments = node.func.attr, {keyword.arg for keyword in node.keywords}
            if called == "transaction" and not node.args and not arguments:
                found.append(f"{name}:{node.lineno} opens psycopg's own transaction")
            is_kafka = ast.unparse(node.func.value).endswith("_source")  # offsets, which are committed too
            if called in {"commit", "rollback"} and not (arguments or node.args or is_kafka):
                found.append(f"{name}:{node.lineno} ends a transaction by itself")
            if called == "connect" and ast.unparse(node.func.value) in PSYCOPG and "autocommit" not in arguments:
                found.append(f"{name}:{node.lineno} connects without autocommit: its first statement would begin one")
            if called == "set_autocommit":
                found.append(f"{name}:{node.lineno} changes autocommit")
    return found


def _has_docstring(node: ast.AST) -> bool:
    is_place = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return is_place and bool(node.body) and isinstance(node.body[0], ast.Expr)  # type: ignore[attr-defined]


def test_nothing_but_its_own_modules_opens_a_transaction() -> None:
    found = [
        offence
        for name, text in sources()
        if name not in OPENS_TRANSACTIONS
        for offence in offences_with_transactions(name, text)
    ]
    assert found == []


def test_the_rule_about_transactions_would_be_broken_by_each_way_to_open_one() -> None:
    for text in (
        "with connection.transaction():\n    pass",
        "connection.commit()",
        "connection.rollback()",
        "psycopg.connect(url)",
        "await psycopg.AsyncConnection.connect(url)",
        "connection.execute('begin')",
        "connection.execute(b'BEGIN isolation level serializable')",
        "connection.set_autocommit(False)",
    ):
        assert offences_with_transactions("m.py", text), text


def test_statements_in_files_leave_transactions_to_whoever_runs_them() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.sql"):
            for line in path.read_text().splitlines():
                assert not re.match(r"(begin|start transaction|commit|rollback);?$", line, re.IGNORECASE) or (
                    line == "begin"  # of a function's body
                ), f"{path.name}: {line}"


# What each call that makes a client, or waits for one, must be given: all of these arguments by name, or a first one that says so.
BOUNDED = {
    "urlopen": {"timeout"},
    "HTTPConnection": {"timeout"},
    "HTTPSConnection": {"timeout"},
    "create_connection": {"timeout"},
    "from_url": {"socket_timeout", "socket_connect_timeout"},
    "Redis": {"socket_timeout", "socket_connect_timeout"},
    "RedisCluster": {"socket_timeout", "socket_connect_timeout"},
    "list_topics": {"timeout"},
    "create_topics": {"request_timeout"},
}
POSTGRES = {"connect", "connect_start", "AsyncConnectionPool", "ConnectionPool"}
# No client of these kinds is in use; whoever brings one in says here how it is bounded.
UNKNOWN = {"open_connection", "AsyncClient", "ClientSession", "PoolManager"}
# These wait for ever where they are given nothing.
WAITS = {"flush", "consume"}


def offences_with_time(name: str, text: str) -> list[str]:
    """What in a module makes a client of another service, or waits for one, without a bound."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        receiver = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        given = {keyword.arg for keyword in node.keywords}
        lacking = BOUNDED.get(called, set()) - given
        if called == "create_connection" and len(node.args) > 1:
            lacking = set()
        is_postgres = called in POSTGRES and (called != "connect" or receiver in PSYCOPG)
        if is_postgres and "connect_timeout" not in given:
            first = ast.unparse(node.args[0]) if node.args else ""
            if not re.fullmatch(r"conninfo\(.*\)|(self\.)?_conninfo|bounded\.encode\(\)", first, re.DOTALL):
                lacking = {"conninfo"}
        if called in WAITS and receiver.endswith(("producer", "consumer")) and not (node.args or "timeout" in given):
            lacking = {"timeout"}
        if called in UNKNOWN:
            lacking = {"an entry in this test"}
        found += [f"{name}:{node.lineno} {called} without {what}" for what in sorted(lacking)]
    return found


def test_no_client_is_made_without_a_time_out() -> None:
    assert [offence for name, text in sources() for offence in offences_with_time(name, text)] == []


def test_the_rule_about_time_outs_would_be_broken_by_each_kind_of_client() -> None:
    for text in (
        "urllib.request.urlopen(url)",
        "http.client.HTTPSConnection(host)",
        "socket.create_connection((host, port))",
        "Redis.from_url(url, socket_timeout=1)",
        "redis.asyncio.Redis(host='x', socket_connect_timeout=1)",
        "psycopg.connect(url, autocommit=True)",
        "await AsyncConnection.connect(self._url, autocommit=True)",
        "AsyncConnectionPool(url)",
        "pq.PGconn.connect_start(url.encode())",
        "admin.list_topics()",
        "producer.flush()",
        "httpx.AsyncClient(timeout=3)",
    ):
        assert offences_with_time("m.py", text), text
    for text in (
        "psycopg.connect(conninfo(url), autocommit=True)",
        "await AsyncConnection.connect(self._conninfo, autocommit=True)",
        "urlopen(request, timeout=3)",
        "sqlite3.connect(path)",
    ):
        assert not offences_with_time("m.py", text), text


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
