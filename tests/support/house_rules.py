"""What a module's source says of transactions, of clients without time-outs and of libraries that reach a network.

Names are judged as they are written, whatever they were imported as is no excuse: a rule that errs is widened here, with a reason.
"""

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Final

PACKAGES: Final = ("shared_kernel", "command_service", "query_service", "projections", "daybook")

# Who may import what reaches a network, by patterns of places. Whatever is neither here nor in OFFLINE, nor ours, nor of the standard
# library, is refused: who brings a library in says here how it is bounded.
MAY_IMPORT: Final[dict[str, tuple[str, ...]]] = {
    "psycopg": (
        "shared_kernel/postgres.py",
        "shared_kernel/transactions.py",
        "shared_kernel/migrations/runner.py",
        "shared_kernel/event_log/*.py",
        "command_service/infrastructure/due.py",
        "query_service/infrastructure/*.py",
        "projections/infrastructure/*.py",
        "daybook/monitor/infrastructure/postgres.py",
        "daybook/cli/import_log.py",
        "daybook/stack/database.py",
        "daybook/stack/postgres.py",
    ),
    "psycopg_pool": ("query_service/infrastructure/postgres_books.py", "query_service/infrastructure/figures.py"),
    "redis": (
        "shared_kernel/redis_client.py",
        "command_service/infrastructure/redis_link.py",
        "query_service/infrastructure/cached_books.py",
        "daybook/monitor/infrastructure/redis_locks.py",
        "daybook/stack/redis.py",
    ),
    "confluent_kafka": ("projections/infrastructure/kafka*.py", "daybook/stack/kafka.py"),
    "urllib.request": ("shared_kernel/http_out.py",),
    "http.client": ("shared_kernel/http_out.py", "daybook/client.py"),
    "http.server": ("shared_kernel/health.py",),
    "ssl": ("daybook/client.py",),
    "socket": (  # some for the name of the host alone
        "shared_kernel/lock_table.py",
        "shared_kernel/health.py",
        "shared_kernel/http_accept.py",
        "shared_kernel/serve.py",
        "shared_kernel/postgres.py",
        "projections/container.py",
        "daybook/monitor/container.py",
        "daybook/monitor/infrastructure/process_metrics.py",
        "daybook/stack/kafka.py",
        "daybook/stack/ports.py",
    ),
    "uvicorn": ("shared_kernel/http_protocol.py", "shared_kernel/serve.py"),
    "eventsourcing": ("shared_kernel/event_log/recorder.py",),
    "jgo": ("daybook/stack/jars.py",),  # fetches Kafka's jars for the local stack
}
OFFLINE: Final = frozenset(
    (
        *("cross_web", "cyclopts", "dependency_injector", "graphql", "httptools", "joserfc", "litestar", "msgspec"),
        *("prometheus_client", "rich", "strawberry", "structlog", "uvloop"),
    )
)
# What the standard library has besides, and none of us uses.
NETWORK: Final = frozenset(
    (
        *("_socket", "_ssl", "asynchat", "asyncore", "ftplib", "imaplib", "multiprocessing", "nntplib", "poplib"),
        *("smtplib", "socketserver", "telnetlib", "webbrowser", "wsgiref", "xmlrpc"),
        *("asyncio.streams", "logging.config", "logging.handlers"),
    )
)
STRANGERS: Final = frozenset(
    (
        *("aiohttp", "aiokafka", "aiopg", "asyncpg", "boto3", "botocore", "grpc", "httpcore", "httpx", "hvac"),
        *("paramiko", "pg8000", "psycopg2", "pycurl", "requests", "sqlalchemy", "urllib3", "valkey", "websockets"),
    )
)
# Where a module is imported by a name that is made at run time.
LATE_IMPORTS: Final = ("daybook/__main__.py", "daybook/stack/processes.py")

# Each client is made in one place of ours, which demands its time-outs; the local stack asks its servers whether they are up.
_KAFKA, _POOLS = (
    ("projections/infrastructure/kafka_clients.py", "daybook/stack/kafka.py"),
    ("query_service/infrastructure/postgres_books.py",),
)
_REDIS, _HTTP = ("shared_kernel/redis_client.py", "daybook/stack/redis.py"), ("shared_kernel/http_out.py",)
MADE_IN: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("connect_start", "Connection.connect", "AsyncConnection.connect"), ("shared_kernel/postgres.py",)),
    **dict.fromkeys(("psycopg.connect", "Bounded", "make_conninfo"), ("shared_kernel/postgres.py",)),
    **dict.fromkeys(("ConnectionPool", "NullConnectionPool", "AsyncConnectionPool", "AsyncNullConnectionPool"), _POOLS),
    **dict.fromkeys(("Redis", "StrictRedis", "RedisCluster", "Sentinel", "BlockingConnectionPool", "from_url"), _REDIS),
    **dict.fromkeys(("Consumer", "Producer", "AdminClient", "DeserializingConsumer", "SerializingProducer"), _KAFKA),
    **dict.fromkeys(("AIOConsumer", "AIOProducer", "AvroConsumer", "AvroProducer", "SchemaRegistryClient"), ()),
    **dict.fromkeys(("urlopen", "build_opener", "OpenerDirector", "urlretrieve", "URLopener"), _HTTP),
    **dict.fromkeys(("HTTPConnection", "HTTPSConnection"), ("daybook/client.py",)),
    "socket.create_connection": ("daybook/stack/kafka.py",),
    "socket.socket": (
        "shared_kernel/serve.py",  # listens
        "shared_kernel/postgres.py",  # shuts one down
        "daybook/stack/ports.py",  # binds, to see whether a port is free
    ),
    **dict.fromkeys(("open_connection", "open_unix_connection", "create_connection", "create_unix_connection"), ()),
    **dict.fromkeys(("create_datagram_endpoint", "sock_connect", "socketpair", "create_server", "start_server"), ()),
    **dict.fromkeys(("AsyncClient", "ClientSession", "PoolManager"), ()),
}
# What each of these calls must be given, by name and not None.
BOUNDED: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(("urlopen", "HTTPConnection", "HTTPSConnection", "create_connection"), frozenset({"timeout"})),
    **dict.fromkeys(("Redis", "from_url"), frozenset({"socket_timeout", "socket_connect_timeout"})),
    **dict.fromkeys(("AsyncConnectionPool", "list_topics"), frozenset({"timeout"})),
    "create_topics": frozenset({"request_timeout"}),
    "open_url": frozenset({"timeout_s"}),
    "connect_redis": frozenset({"timeout_ms"}),
}
_WAITS: Final = ("flush", "consume", "poll", "result")  # for ever, where they are given nothing
# These futures are of a task or thread of ours, or done; the polls are of a child process, and do not wait.
OWN: Final[dict[str, tuple[str, ...]]] = {
    "result": (
        "command_service/presentation/commands.py",
        "command_service/application/clock.py",
        "query_service/infrastructure/announcements.py",
        "query_service/infrastructure/replicas.py",
        "projections/application/rebuild.py",
        "projections/infrastructure/workshop.py",
        "shared_kernel/serve.py",
        "daybook/stack/supervisor.py",
        "daybook/stack/jars.py",
    ),
    "poll": ("daybook/stack/commands.py",),
}
# Neither takes a time-out: it is done in a thread that is waited for so long and no longer.
LEAVES_KAFKA: Final = ("projections/infrastructure/kafka.py",)

# Whose time-outs are settings of a process, each with a name; commands of the command line have none.
OF_PROCESSES: Final = (
    *("command_service/*", "query_service/*", "projections/*", "daybook/monitor/*", "shared_kernel/keys.py"),
    *("shared_kernel/event_log/pool.py", "shared_kernel/event_log/fast.py", "shared_kernel/event_log/pipeline.py"),
)
_TOLD: Final = frozenset(
    (
        *("AsyncConnectionPool", "Terms", "conninfo", "connect_redis", "create_topics", "list_topics", "open_url"),
        *("KafkaClients", "PostgresBounds"),
    )
)
_TIME: Final = re.compile(r"(^|_)(timeout|timeout_ms|timeout_s|ms|s)$")
_SQL_OF_TIME: Final = re.compile(r"_timeout\s*(=|to)\s*'?\d", re.IGNORECASE)

OPENS_TRANSACTIONS: Final = ("shared_kernel/transactions.py", "shared_kernel/event_log/fast.py")
# A savepoint in a transaction of `shared_kernel.transactions`.
SAVEPOINTS: Final = ("daybook/monitor/infrastructure/postgres.py",)
_EXECUTES: Final = frozenset(
    (
        *("execute", "executemany", "stream", "copy", "SQL", "exec_", "exec_params", "prepare"),
        *("send_query", "send_query_params", "send_prepare"),
    )
)
_SQL_OF_TRANSACTIONS: Final = re.compile(
    r"\s*(begin|end|commit|rollback|abort|start\s+transaction|savepoint|release\s+\w+|prepare\s+transaction"
    r"|set\s+(local\s+)?transaction|set\s+session\s+characteristics)\b",
    re.IGNORECASE,
)
# The same in any text of some words, where prose is no offence.
_PLAINLY_SQL: Final = re.compile(
    r"\s*(begin|start transaction|commit|rollback|savepoint|set transaction)( (isolation|work|transaction|read|to)\b.*)?\s*",
    re.IGNORECASE | re.DOTALL,
)
# `begin` of a block in a function's language, which Postgres takes for no statement.
_BLOCK: Final = re.compile(r"\s*begin\s+(?!work|transaction|isolation|read|not|deferrable)\w", re.IGNORECASE)
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def offences(name: str, text: str) -> list[str]:
    """All of them."""
    return [offence for rule in RULES for offence in rule(name, text)]


def offences_with_imports(name: str, text: str) -> list[str]:
    """What a module imports that reaches a network, and has no leave to."""
    found = []
    for line, module in imports(text):
        root = module.partition(".")[0]
        if root in PACKAGES:
            continue
        allowed = next((MAY_IMPORT[each] for each in (module, _two(module), root) if each in MAY_IMPORT), None)
        is_known = root in OFFLINE or (root in sys.stdlib_module_names and not {root, module, _two(module)} & NETWORK)
        if not (_is_one_of(name, allowed) if allowed is not None else is_known):
            found.append(f"{name}:{line} imports {module}")
    for node in ast.walk(ast.parse(text)):
        called = _called(node) if isinstance(node, ast.Call) else ""
        if called in {"__import__", "import_module", "resolve_name", "exec", "eval"} and name not in LATE_IMPORTS:
            found.append(f"{name}:{node.lineno} imports by {called}")  # type: ignore[attr-defined]
    return found


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, of `from a import b` both `a` and `a.b` where that may be one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node.lineno, module
            of_network = MAY_IMPORT.keys() | NETWORK
            yield from ((node.lineno, full) for alias in node.names if (full := f"{module}.{alias.name}") in of_network)


def offences_with_transactions(name: str, text: str) -> list[str]:
    """What in a module opens, ends or implies a transaction past `shared_kernel.transactions`."""
    if name in OPENS_TRANSACTIONS:
        return []
    tree = ast.parse(text)
    prose = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    executed = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) in _EXECUTES
        for argument in (*node.args, *(keyword.value for keyword in node.keywords))
        for part in ast.walk(argument)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            if _says_transaction(node.value, is_executed=id(node) in executed):
                found.append(f"{name}:{node.lineno} says {node.value!r}")
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Attribute) and target.attr == "autocommit" for target in targets):
                found.append(f"{name}:{node.lineno} changes autocommit")
        elif isinstance(node, ast.Call):
            found += [f"{name}:{node.lineno} {offence}" for offence in _of_transactions(name, node)]
    return found


def _says_transaction(value: str | bytes, *, is_executed: bool) -> bool:
    spoken = _COMMENT.sub(" ", value.decode("latin-1") if isinstance(value, bytes) else value)
    if is_executed:
        return not _BLOCK.match(spoken) and any(_SQL_OF_TRANSACTIONS.match(each) for each in spoken.split(";"))
    # One word alone may be the name of an action.
    return " " in spoken.strip() and any(_PLAINLY_SQL.fullmatch(each) for each in spoken.split(";"))


def _of_transactions(name: str, node: ast.Call) -> Iterator[str]:
    called, given = _called(node), {keyword.arg: keyword.value for keyword in node.keywords}
    if called == "transaction" and isinstance(node.func, ast.Attribute) and name not in SAVEPOINTS:
        is_ours = bool(node.args) and not isinstance(node.args[0], ast.Constant)
        if not is_ours or given.keys() & {"force_rollback", "savepoint_name"}:
            yield "opens psycopg's own transaction"
    is_kafka = _receiver(node).endswith(("_source", "consumer"))  # offsets, which are committed too
    if called in {"commit", "rollback"} and not (given or node.args or is_kafka):
        yield "ends a transaction by itself"
    if called == "set_autocommit" or ("autocommit" in given and not _is_true(given["autocommit"])):
        yield "changes autocommit"
    is_psycopg = called == "connect" and _of_psycopg(_receiver(node))
    if is_psycopg and "autocommit" not in given:
        yield "connects without autocommit: its first statement would begin one"
    if called.endswith("ConnectionPool") and called in MADE_IN:
        options = given.get("kwargs")
        pairs = zip(options.keys, options.values, strict=True) if isinstance(options, ast.Dict) else ()
        if not any(isinstance(key, ast.Constant) and key.value == "autocommit" and _is_true(on) for key, on in pairs):
            yield "makes a pool without autocommit"


def offences_with_time(name: str, text: str) -> list[str]:
    """What in a module makes a client of another service anywhere but in its place, or waits for one without a bound."""
    tree = ast.parse(text)
    types = {id(part) for node in ast.walk(tree) for place in _annotations(node) for part in ast.walk(place)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in types:
            places = next((MADE_IN[each] for each in _endings(node) if each in MADE_IN), None)
            if places is not None and name not in places:
                found.append(f"{name}:{node.lineno} {ast.unparse(node)} is made elsewhere")
            if isinstance(node, ast.Name) and node.id in STRANGERS:
                found.append(f"{name}:{node.lineno} {node.id} is not in use")
        if isinstance(node, ast.Call):
            found += [f"{name}:{node.lineno} {offence}" for offence in _of_time(name, node)]
    return found


def _of_time(name: str, node: ast.Call) -> Iterator[str]:
    called, receiver = _called(node), _receiver(node)
    given = {keyword.arg for keyword in node.keywords if not _is_none(keyword.value)}
    demanded = BOUNDED.get(called, frozenset())
    if called == "open" and re.search("opener|director", receiver, re.IGNORECASE):
        demanded = frozenset({"timeout"})
    yield from (f"{called} without {each}" for each in sorted(demanded - given))
    if called in _WAITS and receiver != "select" and name not in OWN.get(called, ()):
        is_given = any(not _is_none(argument) for argument in node.args) or "timeout" in given
        is_client = called != "flush" or receiver.endswith(("producer", "consumer"))  # a file's flush does not wait
        if is_client and not is_given:
            yield f"{called} waits for ever"
    is_leaving = called == "close" and receiver.endswith("consumer")
    is_leaving = is_leaving or any(
        keyword.arg == "asynchronous" and not _is_true(keyword.value) for keyword in node.keywords
    )
    if is_leaving and name not in LEAVES_KAFKA:
        yield f"{called} takes no time-out"
    if called in {"Consumer", "Producer", "AdminClient"}:
        said = ast.unparse(node.args[0]) if node.args else ""
        if "socket.timeout.ms" not in said and "self._bounded()" not in said:
            yield f"{called} without socket.timeout.ms"
    if called in {"AsyncConnectionPool", "ConnectionPool"}:
        first = ast.unparse(node.args[0]) if node.args else ""
        if not first.startswith("conninfo("):
            yield f"{called} without conninfo"


def offences_with_settings(name: str, text: str) -> list[str]:
    """What in a module of a process has a time-out that no setting names: a number, a constant, or a default elsewhere."""
    if not _is_one_of(name, OF_PROCESSES):
        return []
    tree = ast.parse(text)
    prose = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in _TOLD:
            given = {keyword.arg or "": keyword.value for keyword in node.keywords}
            fixed = [each for each, value in given.items() if _TIME.search(each) and _is_fixed(value)]
            if _called(node) == "conninfo":
                fixed += sorted({"connect_ms", "silence_ms"} - given.keys())
            found += [f"{name}:{node.lineno} {each} of {_called(node)} is no setting" for each in fixed]
        elif isinstance(node, ast.Dict):
            found += [
                f"{name}:{node.lineno} {key.value} is no setting"
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and str(key.value).endswith("timeout.ms") and _is_fixed(value)
            ]
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            spoken = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(spoken, str) and _SQL_OF_TIME.search(spoken):
                found.append(f"{name}:{node.lineno} says {spoken!r}")
    return found


def _is_fixed(node: ast.expr) -> bool:
    """A number but 0, which is no bound, or a constant."""
    if isinstance(node, ast.Constant):
        return node.value != 0
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
    return all(_endings(part)[1].isupper() for part in parts)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _receiver(node: ast.Call) -> str:
    return ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""


def _of_psycopg(receiver: str) -> bool:
    return receiver.rpartition(".")[2] in {"psycopg", "AsyncConnection", "Connection"}


def _endings(node: ast.expr) -> tuple[str, str]:
    """The name as it is written, by its last two parts and by its last."""
    last = getattr(node, "attr", None) or getattr(node, "id", "")
    of = getattr(node, "value", None)
    return f"{getattr(of, 'attr', None) or getattr(of, 'id', '')}.{last}", last


def _two(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    for place in ("annotation", "returns"):
        if (found := getattr(node, place, None)) is not None:
            yield found


def _has_docstring(node: ast.AST) -> bool:
    is_place = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return is_place and bool(node.body) and isinstance(node.body[0], ast.Expr)  # type: ignore[attr-defined]


RULES: Final = (offences_with_imports, offences_with_transactions, offences_with_time, offences_with_settings)
