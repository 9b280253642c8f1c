"""`python -m bench freshness`: how soon a committed transaction is visible to readers, at a steady rate of commands.

Every transaction is *visible* when a listener was told that a read model has its position. That is counted from two moments: when its
append was committed, which is when the command process said so in its log (`batch_appended`), and when the log recorded it, before
the commit was written to disk. *Read your write*: some clients ask for the newest position that was acknowledged, as of its command's
answer, and wait until the query service has answered.
"""

import asyncio
import re
import secrets
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psycopg
import uvloop

from bench import processor, workloads
from bench.generator import Measured, UnexpectedAnswer, Workload, measure, percentile
from bench.stack import Origin, keep, read, running, wait_until_visible
from bench.yardstick import server
from daybook.client import Client, Target, find_target, ledger_path
from daybook.terminal import Exit, talk

GATE_MS = 100.0  # the issue on reads: p99 from commit to visible, at 1,000 transactions/s
CONNECTIONS = 64
READERS = 16
LISTENED_SECONDS = 0.2  # chosen: how soon the listener sees that it may stop
_POSITION = re.compile(rb"\r\ndaybook-position: *([0-9]+)\r\n", re.IGNORECASE)
_RECORDED_AT = re.compile(rb'"recorded_at":"([^"]+)"')


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Of so many, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    longest_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        """At least one."""
        return cls(
            count=len(seconds),
            p50_ms=round(percentile(seconds, 50), 1),
            p99_ms=round(percentile(seconds, 99), 1),
            longest_ms=round(max(seconds) * 1000, 1),
        )


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What one window saw: the commands of it, when they became visible by projection, and who waited for the newest of them."""

    commands: Measured
    visible: dict[str, Spread]
    visible_since_recorded: dict[str, Spread]
    read_your_write: Measured


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, and what came of it."""

    name: str
    origin: Origin
    asked_a_second: float
    seen: Observed
    cores_elsewhere: float
    gate_ms: float


def freshness(
    *,
    data: Path | None = None,
    name: str = "freshness",
    a_second: float = 1_000.0,
    queries: float = 50.0,
    warm_up: float = 40.0,
    window: float = 20.0,
) -> int:
    """Measure how soon a committed transaction can be read, at a steady rate of commands.

    Parameters
    ----------
    data
        The data folder of a running stack; without it one is started and thrown away.
    name
        What the result files are called, after the date.
    a_second
        Transactions a second, sent whether or not the service keeps up.
    queries
        Queries a second that wait for the newest acknowledged position.
    warm_up
        Seconds before the window. The system writes out after half a minute what starting the servers has left in its memory, and
        Kafka's compiler is busy for about as long: neither comes again.
    window
        Seconds of the window.
    """
    with running(data) as folder:
        target = find_target(data=folder, command_url=None, query_url=None, token=None)
        report = uvloop.run(
            _measured(target, folder, name=name, rates=(a_second, queries), warm_up=warm_up, window=window)
        )
    keep(report, to_markdown(report), name=name, measured_at=report.origin.measured_at)
    return Exit.DONE if report.seen.visible["books"].p99_ms <= GATE_MS else Exit.FAULT


class _Posted:
    """W1's requests, and when each transaction that was acknowledged had been recorded."""

    def __init__(self, requests: Workload) -> None:
        self._requests = requests
        self.newest = 1
        self.recorded: list[tuple[int, bytes]] = []

    def workload(self) -> Workload:
        return Workload(make=self._requests.make, count=self._count)

    def _count(self, answer: bytes) -> int:
        acknowledged = self._requests.count(answer)
        position, recorded_at = _POSITION.search(answer), _RECORDED_AT.search(answer)
        if position is None or recorded_at is None:
            raise UnexpectedAnswer(answer[-1000:].decode("utf-8", "replace"))
        self.newest = max(self.newest, int(position[1]))
        self.recorded.append((int(position[1]), recorded_at[1]))
        return acknowledged


async def _measured(
    target: Target, folder: Path, *, name: str, rates: tuple[float, float], warm_up: float, window: float
) -> Report:
    stack, ledger = read(folder), open_ledger(target, folder)
    others, began = processor.elsewhere(stack.pids), time.monotonic()
    before = others()
    seen = await observed(target, folder, ledger, rates=rates, warm_up=warm_up, window=window)
    return Report(
        name=name,
        origin=Origin.here(server(stack.postgres_url)),
        asked_a_second=rates[0],
        seen=seen,
        cores_elsewhere=round((others() - before) / (time.monotonic() - began), 2),
        gate_ms=GATE_MS,
    )


def open_ledger(target: Target, folder: Path) -> str:
    """A new ledger with all its accounts, visible to readers; its name."""
    ledger = f"fresh-{secrets.token_hex(4)}"
    talk().print(f"opening {workloads.ACCOUNTS} accounts in the ledger {ledger}")
    with closing(Client(target.command_url, target.token("writer"))) as client:
        workloads.open_ledger(client, ledger)
    with psycopg.connect(read(folder).postgres_url) as connection:
        [(head,)] = connection.execute("select position from daybook.ledgers where ledger = %s", [ledger]).fetchall()
    wait_until_visible(target, ledger, head, account=workloads.address(0))
    return ledger


async def observed(
    target: Target, folder: Path, ledger: str, *, rates: tuple[float, float], warm_up: float, window: float
) -> Observed:
    """What one window saw. `rates`: transactions a second, and queries."""
    posted = _Posted(
        workloads.singles(urlsplit(target.command_url).netloc, target.token("writer"), ledger, secrets.token_hex(4))
    )
    queries = _queries(target, ledger, posted)
    with _announcements(read(folder).postgres_url, ledger) as heard:
        commands, readers = await asyncio.gather(
            measure(
                target.command_url,
                posted.workload(),
                connections=CONNECTIONS,
                a_second=rates[0],
                warm_up_seconds=warm_up,
                window_seconds=window,
            ),
            measure(
                target.query_url,
                queries,
                connections=READERS,
                a_second=rates[1],
                warm_up_seconds=warm_up,
                window_seconds=window,
            ),
        )
        last = posted.newest
        async with asyncio.timeout(10):
            while any(not told or told[-1][0] < last for told in heard.values()):
                await asyncio.sleep(0.01)
    counted = [
        (position, datetime.fromisoformat(at.decode()).timestamp())
        for position, at in sorted(posted.recorded)[-commands.transactions :]
    ]
    committed = _first_since(counted, _commits(folder / "logs" / "command.log", ledger))
    return Observed(
        commands=commands,
        visible={projection: _spread(committed, told) for projection, told in heard.items()},
        visible_since_recorded={projection: _spread(counted, told) for projection, told in heard.items()},
        read_your_write=readers,
    )


def _queries(target: Target, ledger: str, posted: _Posted) -> Workload:
    """The balances of one account, not older than what was acknowledged last."""
    path = ledger_path(ledger, "accounts", workloads.address(0), "balances")
    head = (
        f"GET {path} HTTP/1.1\r\nhost: {urlsplit(target.query_url).netloc}\r\n"
        f"authorization: Bearer {target.token('reader')}\r\ndaybook-position: "
    ).encode()

    def make() -> bytes:
        return head + b"%d\r\n\r\n" % posted.newest

    def count(answer: bytes) -> int:
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise UnexpectedAnswer(answer[-1000:].decode("utf-8", "replace"))
        return 1

    return Workload(make=make, count=count)


@contextmanager
def _announcements(url: str, ledger: str) -> Iterator[dict[str, list[tuple[int, float]]]]:
    """By projection: the positions of the ledger that became visible, and when that was heard."""
    heard: dict[str, list[tuple[int, float]]] = {"books": [], "periods": []}
    stop = threading.Event()

    def listen() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("listen daybook_visible")
            while not stop.is_set():
                for notice in connection.notifies(timeout=LISTENED_SECONDS):
                    projection, _, rest = notice.payload.partition("/")
                    name, _, position = rest.rpartition("/")
                    if name == ledger:
                        heard[projection].append((int(position), time.time()))

    listener = threading.Thread(target=listen, name="announcements")
    listener.start()
    try:
        yield heard
    finally:
        stop.set()
        listener.join()


def _commits(log: Path, ledger: str) -> list[tuple[int, float]]:
    """The heads that the ledger's appends have made, and when each was committed."""
    lines = [line for line in log.read_bytes().splitlines() if b'"batch_appended"' in line and ledger.encode() in line]
    told = msgspec.json.Decoder(_Committed)
    return [(line.position, line.timestamp.timestamp()) for line in map(told.decode, lines)]


class _Committed(msgspec.Struct):
    """What counts of a line of the command process's log."""

    position: int
    timestamp: datetime


def _first_since(transactions: list[tuple[int, float]], told: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Of each transaction: when its position, or a later one, was told first."""
    positions = [position for position, _ in told]
    return [(position, told[bisect_left(positions, position)][1]) for position, _ in transactions]


def _spread(transactions: list[tuple[int, float]], told: list[tuple[int, float]]) -> Spread:
    """How long it took each until then."""
    told = _first_since(transactions, told)
    return Spread.of([then - at for (_, at), (_, then) in zip(transactions, told, strict=True)])


def to_markdown(report: Report) -> str:
    """The table, and beneath it what was measured on what."""
    seen = report.seen
    commands, readers = seen.commands, seen.read_your_write
    lines = [
        f"# {report.name}, {report.origin.measured_at}",
        "",
        "| | count | p50 ms | p99 ms | longest ms |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {since} until visible in {projection} | {s.count:,} | {s.p50_ms:.1f} | {s.p99_ms:.1f} | {s.longest_ms:.1f} |"
            for since, visible in (("committed", seen.visible), ("recorded", seen.visible_since_recorded))
            for projection, s in visible.items()
        ),
        f"| read your write | {readers.transactions:,} | {readers.p50_ms:.1f} | {readers.p99_ms:.1f} | {readers.longest_ms:.1f} |",
        f"| command | {commands.transactions:,} | {commands.p50_ms:.1f} | {commands.p99_ms:.1f} | {commands.longest_ms:.1f} |",
        "",
        f"{commands.rate:,.0f} transactions/s of {report.asked_a_second:,.0f} that fell due (open loop, {commands.connections} "
        f"connections; generator {commands.generator_cpu:.2f} cores). From commit to the announcement that readers see it: p99 "
        f"**{seen.visible['books'].p99_ms:.0f} ms** for the books; the gate is {report.gate_ms:.0f} ms. *Recorded* is the time in the "
        "log, before the commit is written to disk. "
        f"*Read your write*: {readers.rate:,.0f} queries a second with the position that was "
        "acknowledged last, until their answer.",
        "",
        f"{report.origin.told()} Other work took {report.cores_elsewhere:.2f} of the cores meanwhile.",
        "",
    ]
    return "\n".join(lines)
