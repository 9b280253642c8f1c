"""`python -m bench locks`: what `DAYBOOK_LOCKS` costs and saves, with one command process on a ledger and with two.

Postgres and Redis of a stack of its own, and beside them command processes that are started anew for every cell. W1: transfers among
10,000 limited accounts; W3: among ten. Ends with 6 where the log does not hold what was acknowledged.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
import uvloop
from cyclopts import Parameter

from bench import workloads
from bench.generator import Measured, measure
from bench.processor import Seconds, reader, spent_us
from bench.stack import Origin, Stack, check_log, keep, read, running
from bench.yardstick import server
from daybook.client import Client
from daybook.stack.layout import Layout
from daybook.stack.ports import choose_free
from daybook.stack.processes import Places, environment, health_fault
from daybook.terminal import CommandFailed, Exit, talk

SETTINGS = ("off", "adaptive", "always")
CELLS = (("W1", 1), ("W1", 2), ("W3", 2))
ACCOUNTS = {"W1": workloads.ACCOUNTS, "W3": 10}
CONNECTIONS = 64  # over all processes
LEASE_MS = 1_500  # short, so that the warm-up is enough for a holder to step down
READY_WITHIN_S = 30.0
COUNTED = {
    "appends": "daybook_append_seconds_count",
    "conflicts": "daybook_append_conflicts_total",
    "again": "daybook_redecisions_total",
    "slow path": "daybook_slow_path_total",
    "set aside": "daybook_set_aside_total",
    "without lock": "daybook_without_lock_total",
    "locks": 'daybook_account_locks_total{result="taken"}',
}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One workload, number of processes and setting, once. Processor time in microseconds a transaction, counters in the window."""

    workload: str
    processes: int
    locks: str
    transactions: int
    rate: float
    p50_ms: float
    p99_ms: float
    processor_us: dict[str, float]
    counted: dict[str, int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a figure needs to be believed later; cells in the order in which they were measured."""

    name: str
    origin: Origin
    lease_ms: int
    cells: list[Cell]


def locks(
    *,
    name: str = "locks",
    rounds: int = 1,
    warm_up: Annotated[float, Parameter(name="--warm-up")] = 3.0,
    window: float = 5.0,
) -> int:
    """Measure what each setting of DAYBOOK_LOCKS costs and saves.

    Parameters
    ----------
    name
        What the result files are called, after the date.
    rounds
        How often every cell is measured; cells take turns, so that a drift of the machine meets all of them.
    warm_up
        Seconds before each window.
    window
        Seconds of each window.
    """
    with running(
        None, only="postgres,redis,command"
    ) as folder:  # its own process makes the database ready, and idles then
        stack = read(folder)
        cells = []
        for _ in range(rounds):
            for workload, processes in CELLS:
                for setting in SETTINGS:
                    with _commands(folder, stack, processes, setting) as commands:
                        cell = uvloop.run(_measure(stack, commands, workload, setting, warm_up=warm_up, window=window))
                    cells.append(cell)
                    talk().print(f"{workload}, {processes} processes, {setting}: {cell.rate:,.0f}/s", markup=False)
        origin = Origin.here(server(stack.postgres_url))
    report = Report(name=name, origin=origin, lease_ms=LEASE_MS, cells=cells)
    keep(report, to_markdown(report), name=name, measured_at=origin.measured_at)
    return Exit.DONE


def to_markdown(report: Report) -> str:
    """A row a cell; beneath it what was measured on what."""
    names = list(COUNTED)[2:]
    lines = [
        f"# {report.name}, {report.origin.measured_at}",
        "",
        "| | processes | `DAYBOOK_LOCKS` | transactions/s | p50 ms | p99 ms | µs command | µs Postgres | µs Redis "
        f"| conflicts | {' | '.join(names)} |",
        f"|---|---:|---|{'---:|' * (7 + len(names))}",
    ]
    order = [(workload, processes, setting) for workload, processes in CELLS for setting in SETTINGS]
    for cell in sorted(report.cells, key=lambda each: order.index((each.workload, each.processes, each.locks))):
        conflicts = cell.counted["conflicts"] * 100 / max(1, cell.counted["appends"])
        told = [f"{cell.rate:,.0f}", f"{cell.p50_ms:.1f}", f"{cell.p99_ms:.1f}"]
        told += [f"{_spent(cell, name):.0f}" for name in ("command", "postgres", "redis")]
        told += [f"{conflicts:.0f} %", *(f"{cell.counted[name] * 1_000 / cell.transactions:,.0f}" for name in names)]
        lines.append(f"| {cell.workload} | {cell.processes} | {cell.locks} | {' | '.join(told)} |")
    lines += [
        "",
        "Conflicts in percent of appends, what follows them for 1,000 transactions. µs: processor time for a transaction, of all command "
        f"processes together. {CONNECTIONS} connections over all processes; leases of {report.lease_ms} ms; {report.origin.told()}",
        "",
    ]
    return "\n".join(lines)


def _spent(cell: Cell, prefix: str) -> float:
    """Processor time of all whose name begins so."""
    return sum(us for name, us in cell.processor_us.items() if name.split()[0] == prefix)


class _Command(NamedTuple):
    """A command process that runs."""

    name: str
    url: str
    pid: int


class _Look(NamedTuple):
    """What was read at one moment: processor time since each process began, and counters summed over the command processes."""

    processor: Seconds
    counted: dict[str, float]


async def _measure(
    stack: Stack, commands: Sequence[_Command], workload: str, setting: str, *, warm_up: float, window: float
) -> Cell:
    ledger, token = f"bench-{secrets.token_hex(4)}", stack.tokens["writer"]
    accounts = ACCOUNTS[workload]
    with closing(Client(commands[0].url, token)) as client:
        expected = workloads.open_ledger(client, ledger, accounts=accounts)
    pids = {"redis": stack.pids["redis"], "postgres": stack.pids["postgres"]}
    processor = reader(pids | {command.name: command.pid for command in commands})

    async def look_twice() -> tuple[_Look, _Look]:
        """At the beginning and at the end of the window, about."""
        looks = []
        for pause in (warm_up, window):
            await asyncio.sleep(pause)
            figures = [await asyncio.to_thread(_figures, command.url) for command in commands]
            summed = {name: sum(each.get(line, 0.0) for each in figures) for name, line in COUNTED.items()}
            looks.append(_Look(processor(), summed))
        return looks[0], looks[1]

    async def load(number: int) -> Measured:
        url = commands[number].url
        work = workloads.singles(
            urlsplit(url).netloc, token, ledger, secrets.token_hex(4), accounts=accounts, seed=workloads.SEED + number
        )
        connections = CONNECTIONS // len(commands)
        return await measure(url, work, connections=connections, warm_up_seconds=warm_up, window_seconds=window)

    looking = asyncio.ensure_future(look_twice())
    measured = await asyncio.gather(*(load(number) for number in range(len(commands))))
    before, after = await looking
    check_log(stack.postgres_url, ledger, expected + sum(each.acknowledged for each in measured))
    transactions = sum(each.transactions for each in measured)
    return Cell(
        workload=workload,
        processes=len(commands),
        locks=setting,
        transactions=transactions,
        rate=round(sum(each.rate for each in measured), 1),
        p50_ms=round(sum(each.p50_ms for each in measured) / len(measured), 1),
        p99_ms=round(max(each.p99_ms for each in measured), 1),
        processor_us=spent_us(before.processor, after.processor, transactions),
        counted={name: round(after.counted[name] - before.counted[name]) for name in COUNTED},
    )


@contextmanager
def _commands(folder: Path, stack: Stack, count: int, setting: str) -> Iterator[list[_Command]]:
    """So many command processes on the stack's servers, ready."""
    layout, taken = Layout.at(folder), set[int]()
    with ExitStack() as ending:
        made = []
        for number in range(count):
            port = choose_free(taken=taken)
            taken.add(port)
            places = Places(
                ports={"command": port, "query": port},
                postgres_urls=stack.postgres_urls,
                redis_url=stack.redis_url,
                kafka_bootstrap="",
                keys_file=layout.jwks_file,
                swagger_folder=layout.swagger,
            )
            env = environment("command", places, os.environ)
            env |= {"DAYBOOK_LOCKS": setting, "DAYBOOK_LEASE_MS": str(LEASE_MS), "DAYBOOK_LOG_LEVEL": "warning"}
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "command_service"],
                env=env,
                stdout=layout.open_log(f"bench-command-{number}"),
                stderr=subprocess.STDOUT,
            )
            ending.callback(_end, child)
            made.append(_Command(f"command {number}", places.url("command"), child.pid))
        until = time.monotonic() + READY_WITHIN_S
        for command in made:
            while (fault := health_fault(f"{command.url}/health/ready")) is not None:
                if time.monotonic() > until:
                    raise CommandFailed(f"a command process is not ready: {fault}", Exit.UNAVAILABLE)
                time.sleep(0.1)
        yield made


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _figures(url: str) -> dict[str, float]:
    """Every line of a process's /metrics."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
