"""A real hot standby of the test run's PostgreSQL: its base copied, its WAL streamed, on a port of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from daybook.stack.postgres import SETTINGS, Binaries, find_binaries
from daybook.stack.users import ServerUser, give_to, run_as, server_user
from tests.services import Servers, folder_for_servers
from tests.support.as_server import start_as_server

STARTS_WITHIN_S = 90


class Standby:
    """A running standby. `port` is where it listens; the roles and passwords are the primary's."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_url: str) -> None:
        self.process = process
        self.port = port
        self.admin_url = admin_url

    def url(self, primary_url: str) -> str:
        """The same role and database here."""
        return moved(primary_url, self.port)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """As an administrator."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def catch_up(self, primary_url: str) -> None:
        """It has replayed all that the primary has written until now."""
        with psycopg.connect(primary_url, autocommit=True) as connection:
            # A commit that waits for the disk: what was written before without waiting is there then too.
            connection.execute("set synchronous_commit = on")
            connection.execute("select pg_logical_emit_message(true, 'tests', 'until here')")
            row = connection.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        deadline = time.monotonic() + STARTS_WITHIN_S
        while self.execute(f"select pg_last_wal_replay_lsn() < '{row[0]}'") != [(False,)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """As a machine that loses its power."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """As a machine that hangs: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the server and each of its backends, which lead groups of their own; told apart before it ends, while they are its."""
        told = [self.process.pid]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if stat.read_text().rpartition(") ")[2].split()[1] == str(self.process.pid):
                    told.append(int(stat.parent.name))
        for pid in told:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def running_standby(servers: Servers) -> Iterator[Standby]:
    """A standby that is connected and answers; gone at the end. Skips where the primary's programs are not here."""
    if os.environ.get("DAYBOOK_SERVICES") == "docker":
        pytest.skip("the primary runs in a container: no programs of its version are here")
    user = server_user(os.environ)
    with psycopg.connect(servers.postgres_url, autocommit=True) as connection:
        binaries = find_binaries(user, cluster_major=connection.info.server_version // 10_000)
        # Other tests write so much at the same time that what the standby has not fetched yet would be gone.
        connection.execute("alter system set wal_keep_size = '2GB'")
        connection.execute("select pg_reload_conf()")
    with folder_for_servers() as folder, _process(binaries, servers, folder, user) as standby:
        yield standby


@contextmanager
def _process(binaries: Binaries, servers: Servers, folder: Path, user: ServerUser | None) -> Iterator[Standby]:
    home = folder / "standby"
    give_to(user, home)
    cluster, port = home / "data", _free_port()
    backup = [str(binaries.folder / "pg_basebackup"), "--dbname", servers.postgres_url, "--pgdata", str(cluster)]
    outcome = run_as(user, [*backup, "--write-recovery-conf", "--wal-method", "stream", "--checkpoint", "fast"])
    assert outcome.returncode == 0, outcome.stderr
    settings = {**SETTINGS, "port": str(port), "shared_buffers": "32MB", "wal_receiver_status_interval": "1s"}
    settings["shared_preload_libraries"] = ""
    argv = [str(binaries.folder / "postgres"), "-D", str(cluster)]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    with (folder / "standby.log").open("wb") as log:
        process = start_as_server(argv, log=log.fileno())
    standby = Standby(process, port, moved(servers.postgres_url, port))
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not _is_fed(standby):
            assert process.poll() is None, (folder / "standby.log").read_text()
            assert time.monotonic() < deadline, (folder / "standby.log").read_text()
            time.sleep(0.05)
        yield standby
    finally:
        if process.poll() is None:
            standby.kill()
        shutil.rmtree(home, ignore_errors=True)


def moved(url: str, port: int) -> str:
    """The URL with another port of this machine."""
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{account}@127.0.0.1:{port}").geturl()


def _is_fed(standby: Standby) -> bool:
    try:
        return standby.execute("select exists (select from pg_stat_wal_receiver where status = 'streaming')") == [
            (True,)
        ]
    except psycopg.OperationalError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
