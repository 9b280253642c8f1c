"""The stack that is measured, and what every report says of where it was measured."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from bench.yardstick import Server
from daybook.client import Client, Target, ledger_path
from daybook.terminal import CommandFailed, Exit, out, talk
from shared_kernel.errors import Unavailable

PROJECTED_SECONDS_MAX = 600  # chosen: several times what a million entries take
RESULTS = Path(__file__).parent / "results"


class Stack(msgspec.Struct, frozen=True):
    """What a running stack's file says."""

    postgres_url: str
    pids: dict[str, int]
    postgres_urls: dict[str, str] = {}
    redis_url: str = ""
    kafka_bootstrap: str = ""
    projector_url: str = ""
    tokens: dict[str, str] = {}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where and on what a figure was measured."""

    measured_at: str
    commit: str
    machine: str
    cores: int
    python: str
    postgres: Server

    @classmethod
    def here(cls, postgres: Server) -> "Origin":
        """Of this machine, now."""
        return cls(
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=_commit(),
            machine=platform.machine(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
            python=platform.python_version(),
            postgres=postgres,
        )

    def told(self) -> str:
        """A line of it."""
        server = self.postgres
        return (
            f"Postgres {server.version}, fsync {server.fsync}, synchronous_commit {server.synchronous_commit}; {self.cores} cores "
            f"({self.machine}) for generator, servers and all processes; Python {self.python}; commit {self.commit}."
        )


@contextmanager
def running(data: Path | None, *, only: str = "") -> Iterator[Path]:
    """The data folder of a running stack: the given one, or one that lives as long as this, with `only` these parts."""
    if data is not None:
        yield data
        return
    durable = Path("/var/tmp")  # noqa: S108 - on disk by convention, where /tmp may be memory
    folder = Path(tempfile.mkdtemp(prefix="daybook-bench-", dir=durable if durable.is_dir() else None))
    folder.chmod(0o711)  # the servers may run as another user
    daybook = [sys.executable, "-P", "-m", "daybook"]
    chosen = ["--only", only] if only else []
    try:
        started = subprocess.run(
            [*daybook, "up", "--detach", "--data", str(folder), "--owner", str(os.getpid()), *chosen],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if started.returncode:
            raise CommandFailed("the stack did not start", Exit.UNAVAILABLE)
        yield folder
    finally:
        subprocess.run([*daybook, "down", "--data", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path) -> Stack:
    """Its addresses and processes."""
    return msgspec.json.decode((folder / "stack.json").read_bytes(), type=Stack)


def wait_until_visible(target: Target, ledger: str, head: int, *, account: str) -> None:
    """Both read models have the ledger's log up to its head."""
    began = time.monotonic()
    path = ledger_path(ledger, "accounts", account, "balances")
    with closing(Client(target.query_url, target.token("reader"))) as client:
        while time.monotonic() - began < PROJECTED_SECONDS_MAX:
            try:
                client.get(path, position=head, effective_at="2026-01-01T00:00:00Z")
            except Unavailable:
                talk().print("the read models are not there yet")
            else:
                return
    raise CommandFailed("the read models do not get there", Exit.UNAVAILABLE)


def keep(report: msgspec.Struct, table: str, *, name: str, measured_at: str, results: Path = RESULTS) -> None:
    """The figures are printed, and lie in bench/results/ or another folder."""
    stem = results / f"{measured_at[:10]}-{name}"
    results.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    stem.with_suffix(".md").write_text(table)
    out().print(table, markup=False)
    talk().print(f"written to {stem}.json and .md", markup=False)


def check_log(postgres_url: str, ledger: str, expected: int) -> None:
    """Every acknowledged transaction is in the log, once."""
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(
            "select count(*), count(distinct metadata::jsonb ->> 'key') from daybook.events"
            " where ledger = %s and type = 'TransactionPosted.v1'",
            (ledger,),
        ).fetchone()
    if row != (expected, expected):
        raise CommandFailed(f"acknowledged {expected}, in the log {row}", Exit.VERIFICATION_FAILED)


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], check=False, capture_output=True, text=True, cwd=RESULTS.parent
    )
    return told.stdout.strip() or "unknown"
