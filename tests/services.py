"""The real servers that the tests run on, and a fresh database for whoever asks.

The choice: servers named in DAYBOOK_POSTGRES_URL, DAYBOOK_REDIS_URL, DAYBOOK_KAFKA_BOOTSTRAP; else,
with DAYBOOK_SERVICES=docker, pinned images by testcontainers; else the local stack, so that a laptop
and CI test the same binaries. Never a mixture by accident: what `daybook up` is given, it uses.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql

from daybook.stack.database import role_urls
from daybook.stack.ports import FREE_BELOW, FREE_FROM, is_free
from shared_kernel.migrations.runner import ensure_roles, migrate

SERVERS = "postgres,redis,kafka"
START_WITHIN_S = 240  # the first run on a machine downloads 45 MB of jars
STOP_WITHIN_S = 60
# One password for every run: the roles belong to the whole cluster, which other runs may share.
ROLES_PASSWORD = "daybook-tests"

POSTGRES_IMAGE = "postgres:18.6-alpine"
VALKEY_IMAGE = "valkey/valkey:9.1.2-alpine"
KAFKA_IMAGE = "apache/kafka:4.3.1"


class Servers(msgspec.Struct, frozen=True):
    """Where the servers of this run are; `postgres_url` is an administrator's."""

    postgres_url: str
    redis_url: str
    kafka_bootstrap: str


class _Answer(msgspec.Struct, frozen=True):
    """What a worker is told: the servers, or why there are none."""

    servers: Servers | None = None
    fault: str = ""


class Database(msgspec.Struct, frozen=True):
    """A migrated database of its own: an administrator's URL, and one for each of Daybook's roles."""

    name: str
    admin_url: str
    urls: Mapping[str, str]


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    """The servers of one test run; those started here are stopped at the end."""
    if os.environ.get("DAYBOOK_SERVICES") == "docker":
        with _containers() as servers:
            yield servers
        return
    daybook("up", "--only", SERVERS, "--detach", "--owner", str(os.getpid()), data=folder, within_s=START_WITHIN_S)
    try:
        yield msgspec.json.decode((folder / "stack.json").read_bytes(), type=Servers)
    finally:
        daybook("down", data=folder, within_s=STOP_WITHIN_S)


class FrontDesk:
    """One set of servers for all workers of pytest-xdist: started in the controller when the first worker asks.

    Whoever connects to `port` is answered by one thread, one after another, so that nobody needs a lock; a run in which
    nobody asks starts nothing.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_closing = False
        self._thread = threading.Thread(target=self._answer, name="front desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The servers that were started are stopped."""
        self._is_closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes the thread
        self._thread.join()
        self._listener.close()

    def _answer(self) -> None:
        with ExitStack() as running:
            answer: bytes | None = None
            while True:
                asker, _ = self._listener.accept()
                with asker, suppress(OSError):  # a worker that has gone needs no answer
                    if self._is_closing:
                        return
                    answer = answer or msgspec.json.encode(_start(running))
                    asker.sendall(answer)


def _start(running: ExitStack) -> _Answer:
    try:
        folder = running.enter_context(folder_for_servers())
        return _Answer(servers=running.enter_context(running_servers(folder)))
    except Exception as fault:  # whatever it is, the workers tell it
        return _Answer(fault=f"{type(fault).__name__}: {fault}")


def ask_front_desk(port: int) -> Servers:
    """The servers of the run that this worker belongs to; they are there when it returns."""
    asking = socket.create_connection(("127.0.0.1", port), timeout=START_WITHIN_S + STOP_WITHIN_S)
    with asking, asking.makefile("rb") as told:
        answer = msgspec.json.decode(told.read(), type=_Answer)
    if answer.servers is None:
        raise AssertionError(f"the servers did not start: {answer.fault}")
    return answer.servers


@contextmanager
def fresh_database(servers: Servers) -> Iterator[Database]:
    """A new, migrated database with Daybook's roles; dropped at the end, whoever is connected."""
    name = f"t_{secrets.token_hex(6)}"
    admin_url = with_database(servers.postgres_url, name)
    _administer(servers.postgres_url, "create database {}", name)
    try:
        ensure_roles(admin_url, ROLES_PASSWORD)
        urls = role_urls(admin_url, ROLES_PASSWORD)
        migrate(urls["migrator"], lambda line: None)
        yield Database(name=name, admin_url=admin_url, urls=urls)
    finally:
        _administer(servers.postgres_url, "drop database if exists {} with (force)", name)


@contextmanager
def folder_for_servers() -> Iterator[Path]:
    """A new folder that servers of another user can enter, removed at the end.

    Not below pytest's own folder: the start of another pytest makes that 0700 again, under the feet of servers that
    run as another user.
    """
    with tempfile.TemporaryDirectory(prefix="daybook-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def daybook(
    *arguments: str,
    data: Path | None = None,
    within_s: float = 60,
    env: Mapping[str, str] | None = None,
    is_checked: bool = True,
) -> subprocess.CompletedProcess[str]:
    """One call of the command line as a person would make it; fails with what it said."""
    argv = [sys.executable, "-P", "-m", "daybook", *arguments, *(() if data is None else ("--data", str(data)))]
    outcome = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL, env=env
    )
    if is_checked and outcome.returncode != 0:
        raise AssertionError(f"daybook {' '.join(arguments)}: exit code {outcome.returncode}\n{outcome.stderr}")
    return outcome


def with_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    head, _, query = url.partition("?")
    scheme, rest = head.split("://", 1)
    place = rest.split("/", 1)[0]
    return f"{scheme}://{place}/{name}" + (f"?{query}" if query else "")


def free_port() -> int:
    """A loopback port for a server of a test: not of the range that outgoing connections are given theirs from.

    Not chosen by `random`, which pytest-randomly seeds alike in every worker.
    """
    while not is_free(port := secrets.SystemRandom().randrange(FREE_FROM, FREE_BELOW)):
        pass
    return port


def _administer(url: str, statement: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))  # type: ignore[arg-type]


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    kafka_port = free_port()  # the broker tells its clients where it is, so it must know from the start
    postgres = (
        DockerContainer(POSTGRES_IMAGE)
        .with_env("POSTGRES_USER", "daybook")
        .with_env("POSTGRES_PASSWORD", ROLES_PASSWORD)
        .with_exposed_ports(5432)
    )
    valkey = DockerContainer(VALKEY_IMAGE).with_exposed_ports(6379)
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, kafka_port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{kafka_port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        kafka.with_env(name, value)
    with ExitStack() as running:
        for container, line in (
            (postgres, "listening on IPv4 address"),
            (valkey, "Ready to accept connections"),
            (kafka, "Kafka Server started"),
        ):
            running.enter_context(container)
            wait_for_logs(container, line, timeout=120)
        place = f"{postgres.get_container_host_ip()}:{postgres.get_exposed_port(5432)}"
        yield Servers(
            postgres_url=f"postgresql://daybook:{ROLES_PASSWORD}@{place}/daybook",
            redis_url=f"redis://{valkey.get_container_host_ip()}:{valkey.get_exposed_port(6379)}/0",
            kafka_bootstrap=f"127.0.0.1:{kafka_port}",
        )
