"""`python -m bench overload`: what is still done, and how fast the rest is told so, when three times as much comes as can be done.

An open loop: requests leave when they are due, whether answers come or not, as clients who know nothing of each other send them.
The peak that they are measured by is that of the closed loop just before.
"""

import asyncio
import gc
import os
import secrets
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench import workloads
from bench.generator import ANSWER_SECONDS_MAX, Workload, measure, percentile
from bench.stack import RESULTS, Origin, keep, read, running
from bench.yardstick import server
from daybook.client import Client, find_target
from daybook.terminal import CommandFailed, Exit, talk

PEAK_CONNECTIONS = 64
OPEN_CONNECTIONS = (
    1_500  # chosen: above the requests that a process answers at once, below the connections that it takes
)
TIMES = 3.0
GOODPUT_MIN = 0.8  # the faults issue
TOLD_MS_MAX = 50.0  # the same
TICK_SECONDS = 0.002
NICE = -15  # chosen: woken, it runs at once


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are requests a second; `late` are those that were due while no connection was free: the generator's own bound."""

    origin: Origin
    parts: list[str]
    peak: float
    offered: float
    sent: float
    goodput: float
    shed: float
    late: int
    others: dict[str, int]
    done_p50_ms: float
    done_p99_ms: float
    told_p50_ms: float
    told_p99_ms: float
    generator_cpu: float
    generator_nice: int

    @property
    def share(self) -> float:
        """Of the peak that is still done."""
        return self.goodput / self.peak


def overload(
    *, data: Path | None = None, only: str = "", name: str = "overload", window: float = 10.0, results: Path = RESULTS
) -> int:
    """Measure what is done of three times too much, and how soon the rest is told.

    Parameters
    ----------
    data
        The data folder of a running stack; without it one is started and thrown away.
    only
        Start only these parts, separated by commas: `postgres,redis,command` is what answers commands, without what else wants a processor.
    name
        What the result files are called, after the date.
    window
        Seconds of each window.
    results
        The folder for the result files.
    """
    with running(data, only=only) as folder:
        report = uvloop.run(_overloaded(folder, window))
    keep(report, to_markdown(report), name=name, measured_at=report.origin.measured_at, results=results)
    return Exit.DONE if report.share >= GOODPUT_MIN and report.told_p99_ms <= TOLD_MS_MAX else Exit.FAULT


async def _overloaded(folder: Path, window: float) -> Overload:
    """What the stack of this data folder makes of three times too much, for `window` seconds."""
    nice = _go_first()
    target = find_target(data=folder, command_url=None, query_url=None, token=None)
    ledger, token, host = f"bench-{secrets.token_hex(4)}", target.token("writer"), urlsplit(target.command_url).netloc
    with closing(Client(target.command_url, token)) as client:
        workloads.open_ledger(client, ledger)
    peak = await measure(
        target.command_url,
        workloads.singles(host, token, ledger, secrets.token_hex(4)),
        connections=PEAK_CONNECTIONS,
        window_seconds=window,
    )
    talk().print(f"peak: {peak.rate:,.0f}/s at {PEAK_CONNECTIONS} connections")
    workload = workloads.singles(host, token, ledger, secrets.token_hex(4))
    crowd = _Crowd(workload)
    await crowd.open(target.command_url)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        cpu = time.process_time()
        await crowd.send(peak.rate * TIMES, window)
        cpu = time.process_time() - cpu
    finally:
        gc.enable()
        crowd.close()
    done, told = crowd.latencies.pop(b"201", []), crowd.latencies.pop(b"503", [])
    if not done:
        raise CommandFailed("nothing was done", Exit.FAULT)
    stack = read(folder)
    return Overload(
        origin=Origin.here(server(stack.postgres_url)),
        parts=sorted(stack.pids.keys() - {"supervisor"}),
        peak=peak.rate,
        offered=round(peak.rate * TIMES, 1),
        sent=round(crowd.sent / window, 1),
        goodput=round(len(done) / window, 1),
        shed=round(len(told) / window, 1),
        late=crowd.late,
        others={status.decode(): len(found) for status, found in crowd.latencies.items()},
        done_p50_ms=round(percentile(done, 50), 1),
        done_p99_ms=round(percentile(done, 99), 1),
        told_p50_ms=round(percentile(told, 50), 1) if told else 0.0,
        told_p99_ms=round(percentile(told, 99), 1) if told else 0.0,
        generator_cpu=round(cpu / window, 2),
        generator_nice=nice,
    )


def _go_first() -> int:
    """Clients have processors of their own; these share ours, and must not take their own waiting for the service's. Answers how nice."""
    with suppress(PermissionError):
        os.nice(NICE)
    return os.getpriority(os.PRIO_PROCESS, 0)


def to_markdown(report: Overload) -> str:
    """The table, and beneath it what was measured on what."""
    return "\n".join(
        [
            f"# Overload, {report.origin.measured_at}",
            "",
            "| | requests/s | p50 ms | p99 ms |",
            "|---|---:|---:|---:|",
            f"| peak, {PEAK_CONNECTIONS} connections, closed loop | {report.peak:,.0f} | | |",
            f"| offered, open loop | {report.offered:,.0f} | | |",
            f"| sent | {report.sent:,.0f} | | |",
            f"| done (201) | {report.goodput:,.0f} | {report.done_p50_ms:.1f} | {report.done_p99_ms:.1f} |",
            f"| turned away (503) | {report.shed:,.0f} | {report.told_p50_ms:.1f} | {report.told_p99_ms:.1f} |",
            "",
            f"Done: **{report.share:.0%}** of the peak; at least {GOODPUT_MIN:.0%} is wanted, and that the rest is told within "
            f"{TOLD_MS_MAX:.0f} ms. {report.late:,} requests were due while none of {OPEN_CONNECTIONS:,} connections was free, and "
            f"were not sent. Other answers: {report.others or 'none'}. The generator took {report.generator_cpu:.2f} cores of the same "
            f"machine, at nice {report.generator_nice}.",
            "",
            f"Beside the generator: {', '.join(report.parts)}. {report.origin.told()}",
            "",
        ]
    )


class _Crowd:
    """Clients who know nothing of each other: each connection is one of them, and sends when a request is due."""

    def __init__(self, workload: Workload) -> None:
        self._make = workload.make
        self._opened: list[asyncio.Transport] = []
        self.idle: list[_Client] = []
        self.latencies: dict[bytes, list[float]] = {}
        self.sent = 0
        self.late = 0

    async def open(self, url: str) -> None:
        """All are connected."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        for _ in range(OPEN_CONNECTIONS):
            transport, _ = await loop.create_connection(
                lambda: _Client(self), parts.hostname or "127.0.0.1", parts.port or 80
            )
            self._opened.append(transport)

    async def send(self, rate: float, seconds: float) -> None:
        """So many requests a second leave, and those that were sent are answered."""
        began = time.perf_counter()
        due = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            now_due = int(rate * elapsed)
            for _ in range(now_due - due):
                if self.idle:
                    self.idle.pop().send(self._make())
                    self.sent += 1
                else:
                    self.late += 1
            due = now_due
            await asyncio.sleep(TICK_SECONDS)
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while len(self.idle) < len(self._opened) and sum(map(len, self.latencies.values())) < self.sent:
                await asyncio.sleep(TICK_SECONDS)

    def close(self) -> None:
        """Nobody is connected."""
        for transport in self._opened:
            transport.close()


class _Client(asyncio.Protocol):
    """One request in flight at most."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._sent_at = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._crowd.idle.append(self)

    def send(self, request: bytes) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if len(body) < int(length or 0):
            return
        self._crowd.latencies.setdefault(head[9:12], []).append(time.perf_counter() - self._sent_at)
        self._buffer = b""
        self._crowd.idle.append(self)
