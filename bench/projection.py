"""`python -m bench projection`: events a second of a rebuild of `books`, and of live consumption, for a million events.

A rebuild is what an operator asks for: a job of a child process, Postgres and indexes included, on the servers of a stack of its own
whose other processes have nothing to do. Live consumption is a projector that follows Kafka, with a relay, from nothing to the head;
before it, in the same run, a whole stack's one command worker posts at 64 connections, which is what it must outdo.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg
import uvloop
from joserfc.jwk import ECKey

from bench import transfers, workloads
from bench.generator import measure
from bench.stack import Origin, keep, read, running
from bench.yardstick import server, yardstick
from daybook.client import Client, find_target
from daybook.stack.database import role_urls
from daybook.terminal import CommandFailed, Exit, talk
from projections.application.operations import Asker
from projections.infrastructure.postgres import Database, PostgresBounds
from projections.infrastructure.postgres_builds import PostgresBuilds
from projections.infrastructure.postgres_generations import PostgresGenerations
from projections.infrastructure.shipped import shipped
from shared_kernel.migrations.runner import ensure_roles, migrate

EVENTS = 1_000_000
LEDGERS = 1_000
GATE = 40_000.0  # the issue on projections: events a second of a rebuild of `books`, on two cores with Postgres
LIVE_TIMES = 3.0  # the same: live consumption over what one command worker posts at 64 connections
CONNECTIONS = 64
INSERTED_SECONDS = 5
LOOK_S = 0.25
_PASSWORD = "bench"  # noqa: S105 - of servers that live as long as this


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. Memory: of our processes together, at a quarter of the way and at its end."""

    what: str
    ledgers: int
    events: int
    seconds: float
    events_per_second: float
    python_us: float
    memory_mb: tuple[int, int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the figures need to be believed later.

    `posted`: transactions a second that one command worker took, if asked. `inserts`: plain inserts a second just before and after.
    """

    origin: Origin
    runs: list[Run]
    posted: float | None
    inserts: tuple[float, float]
    gate: float


class _Servers(msgspec.Struct, frozen=True):
    postgres_url: str
    kafka_bootstrap: str = ""
    keys_file: str = ""


def projection(
    *, count: int = EVENTS, what: Literal["both", "rebuild", "live"] = "both", name: str = "projection"
) -> int:
    """Measure how fast the books are built from the log, and how fast they follow Kafka.

    Parameters
    ----------
    count
        Events of each history.
    what
        Rebuilds, live consumption, or both.
    name
        What the result files are called, after the date.
    """
    runs: list[Run] = []
    posted = None if what == "rebuild" else _posted()
    with _servers("postgres" if what == "rebuild" else "postgres,kafka") as servers:
        origin = Origin.here(server(servers.postgres_url))
        before = _inserts(servers)
        for ledgers in (LEDGERS, 1):
            with _database(servers, f"bench_{ledgers}") as urls:
                talk().print(f"{count:,} events in {ledgers:,} ledgers are written")
                events = transfers.fill(urls["administrator"], ledgers=ledgers, count=count)
                if what != "live":
                    runs.append(_rebuilt(urls, servers, ledgers=ledgers, events=events))
                if what != "rebuild":
                    runs.append(_followed(urls, servers, ledgers=ledgers, events=events))
        inserts = (before, _inserts(servers))
    report = Report(origin=origin, runs=runs, posted=posted, inserts=inserts, gate=GATE)
    keep(report, to_markdown(report), name=name, measured_at=origin.measured_at)
    has_passed = all(
        run.events_per_second >= (GATE if run.what == "rebuild" else LIVE_TIMES * (posted or 0)) for run in runs
    )
    return Exit.DONE if has_passed else Exit.FAULT


def to_markdown(report: Report) -> str:
    """The table, and beneath it what was measured on what."""
    lines = [
        f"# projection, {report.origin.measured_at}",
        "",
        "| | ledgers | events | seconds | events/s | Python, µs an event | memory, MB: a quarter · the end |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {run.what} | {run.ledgers:,} | {run.events:,} | {run.seconds:.1f} | {run.events_per_second:,.0f} | {run.python_us:.1f} |"
        f" {run.memory_mb[0]} · {run.memory_mb[1]} |"
        for run in report.runs
    ]
    if report.posted is not None:
        times = [f"{run.events_per_second / report.posted:.1f}" for run in report.runs if run.what == "live"]
        lines += [
            "",
            f"Just before, one command worker of a whole stack posted {report.posted:,.0f} transactions/s at {CONNECTIONS} connections, each an "
            f"event in one ledger: live consumption is {' and '.join(times)} times that; the gate is {LIVE_TIMES:.0f}.",
        ]
    lines += [
        "",
        f"Plain inserts just before and after: {report.inserts[0]:,.0f} and {report.inserts[1]:,.0f}/s at {CONNECTIONS} connections. "
        + _times_of_inserts(report),
        "",
        f"The gate is {report.gate:,.0f} events/s of a rebuild. Transfers of two entries with a description, metadata and"
        " a key; a rebuild with Postgres, keys and indexes; live consumption through Kafka, with the relay.",
        "",
        report.origin.told(),
        "",
    ]
    return "\n".join(lines)


def _times_of_inserts(report: Report) -> str:
    """What a machine that others use says best: how fast a rebuild is beside what Postgres does on it in the same minutes."""
    mean = sum(report.inserts) / len(report.inserts)
    times = [f"{run.events_per_second / mean:.1f}" for run in report.runs if run.what == "rebuild"]
    return f"A rebuild is {' and '.join(times)} times as fast." if times else ""


def _inserts(servers: _Servers) -> float:
    with yardstick(servers.postgres_url) as stick:
        rate = stick.inserts_a_second(INSERTED_SECONDS)
    talk().print(f"plain inserts: {rate:,.0f}/s")
    return rate


def _posted() -> float:
    """Transactions a second that one command worker takes with all other processes at work, as `python -m bench` measures it."""
    with running(None) as folder:
        target = find_target(data=folder, command_url=None, query_url=None, token=None)
        ledger, token = f"bench-{secrets.token_hex(4)}", target.token("writer")
        with closing(Client(target.command_url, token)) as client:
            workloads.open_ledger(client, ledger)
        workload = workloads.singles(urlsplit(target.command_url).netloc, token, ledger, secrets.token_hex(4))
        measured = uvloop.run(
            measure(target.command_url, workload, connections=CONNECTIONS, warm_up_seconds=5.0, window_seconds=10.0)
        )
    talk().print(f"{measured.rate:,.0f} transactions/s at {CONNECTIONS} connections")
    return measured.rate


def _rebuilt(urls: Mapping[str, str], servers: _Servers, *, ledgers: int, events: int) -> Run:
    """A generation built beside an empty live one."""
    books = shipped()["books"]
    database = Database(
        urls["projector"],
        name="bench",
        bounds=PostgresBounds(
            connect_ms=5_000,
            silence_ms=15_000,
            lock_ms=5_000,
            statement_ms=120_000,
            idle_ms=30_000,
            transaction_ms=240_000,
        ),
    )
    PostgresGenerations(database, books).prepare()
    job = PostgresBuilds(database, books).rebuild(Asker(subject="bench"), events_per_second_max=None)
    with psycopg.connect(urls["administrator"], autocommit=True) as admin:
        admin.execute(
            "update projections.jobs set state = 'running', owner = 'bench', lease_until = 'infinity' where id = %s",
            [job],
        )

        def done() -> int:
            [(applied,)] = admin.execute(
                "select coalesce(sum(position), 0)::bigint from projections.positions where generation = 2"
            ).fetchall()
            return int(applied)

        run = _measured(
            "rebuild",
            ["job", str(job), "bench"],
            _environment(urls, servers),
            ledgers=ledgers,
            events=events,
            done=done,
        )
        [(state,)] = admin.execute("select state from projections.jobs where id = %s", [job]).fetchall()
    database.close()
    if state != "done":
        raise CommandFailed(f"the rebuild is {state}")
    return run


def _followed(urls: Mapping[str, str], servers: _Servers, *, ledgers: int, events: int) -> Run:
    """The live generation of `books`, from nothing: all is in the topic before the projector begins."""
    environment = _environment(urls, servers) | {"DAYBOOK_PROJECTIONS": "books"}
    relay = environment | {"DAYBOOK_POSTGRES_URL": urls["relay"], "DAYBOOK_HEALTH_PORT": "0"}
    relay = {name: value for name, value in relay.items() if name not in _OF_PROJECTOR}
    command = [sys.executable, "-P", "-m", "projections"]
    with psycopg.connect(urls["administrator"], autocommit=True) as admin:

        def sum_of(table: str, where: str) -> int:
            [(applied,)] = admin.execute(
                f"select coalesce(sum(position), 0)::bigint from projections.{table} where {where}".encode()
            ).fetchall()
            return int(applied)

        with subprocess.Popen([*command, "relay"], env=relay, stdout=subprocess.DEVNULL) as relaying:
            while sum_of("relay_positions", "true") < events:
                time.sleep(LOOK_S)
            relaying.terminate()
        return _measured(
            "live",
            ["projector"],
            environment,
            ledgers=ledgers,
            events=events,
            done=lambda: sum_of("positions", "generation = 1"),
        )


def _measured(
    what: str,
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    ledgers: int,
    events: int,
    done: Callable[[], int],
) -> Run:
    """From the start of the process to its end or, for one that does not end by itself, until everything is applied."""
    memory: list[tuple[float, int]] = []
    spent = 0.0
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "projections", *arguments],
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    is_job = what == "rebuild"
    while (process.poll() is None) if is_job else (done() < events):
        time.sleep(LOOK_S)
        now = _family(process.pid)
        spent = max(spent, now[0])
        memory.append((done() / events, now[1]))
    seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    quarter = next((size for share, size in memory if share >= 0.25), 0)
    return Run(
        what=what,
        ledgers=ledgers,
        events=events,
        seconds=round(seconds, 2),
        events_per_second=round(events / seconds, 1),
        python_us=round(spent / events * 1e6, 1),
        memory_mb=(quarter, max(size for _, size in memory)),
    )


_OF_PROJECTOR = {
    "DAYBOOK_HTTP_PORT",
    "DAYBOOK_JWT_KEYS_FILE",
    "DAYBOOK_JWT_ISSUER",
    "DAYBOOK_JWT_AUDIENCE",
    "DAYBOOK_PROJECTIONS",
    "DAYBOOK_KAFKA_GROUP_PREFIX",
}


def _environment(urls: Mapping[str, str], servers: _Servers) -> dict[str, str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    topic = urlsplit(urls["projector"]).path.strip("/")
    return outer | {
        "DAYBOOK_POSTGRES_URL": urls["projector"],
        "DAYBOOK_KAFKA_BOOTSTRAP": servers.kafka_bootstrap or "none",
        "DAYBOOK_KAFKA_TOPIC": topic,
        "DAYBOOK_KAFKA_GROUP_PREFIX": topic,
        "DAYBOOK_HTTP_PORT": "0",
        "DAYBOOK_JWT_KEYS_FILE": servers.keys_file,
        "DAYBOOK_JWT_ISSUER": "bench",
        "DAYBOOK_JWT_AUDIENCE": "bench",
        "DAYBOOK_LOG_LEVEL": "warning",
    }


def _family(pid: int) -> tuple[float, int]:
    """Processor seconds and resident megabytes of a process and all below it that live now."""
    seconds, megabytes, pids = 0.0, 0, [pid]
    while pids:
        member = pids.pop()
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{member}/status").read_text()
            pids += [
                int(child)
                for task in Path(f"/proc/{member}/task").glob("*/children")
                for child in task.read_text().split()
            ]
        except OSError:
            continue
        # Its own, and of the children that it has waited for.
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        megabytes += next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return seconds, megabytes


@contextmanager
def _servers(only: str) -> Iterator[_Servers]:
    """Servers and nothing else, for as long as this lasts."""
    with running(None, only=only) as folder:
        keys = folder / "keys.json"  # nobody asks the projector anything, but it does not start without
        keys.write_bytes(msgspec.json.encode({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
        found = read(folder)
        yield _Servers(found.postgres_url, found.kafka_bootstrap, str(keys))


@contextmanager
def _database(servers: _Servers, name: str) -> Iterator[dict[str, str]]:
    """A database of its own, brought up to date: the URLs of Daybook's roles, and the administrator's."""
    with psycopg.connect(servers.postgres_url, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    administrator = urlunsplit(urlsplit(servers.postgres_url)._replace(path=f"/{name}"))
    ensure_roles(administrator, _PASSWORD)
    urls = role_urls(administrator, _PASSWORD)
    migrate(urls["migrator"], lambda line: None)
    yield urls | {"administrator": administrator}
    with psycopg.connect(servers.postgres_url, autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)".encode())
