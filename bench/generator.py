"""An HTTP load generator that costs little: it shares its cores with what it measures.

Every connection is kept and has one request in flight. Closed loop: the next is sent when the answer is complete. Open loop: so
many a second fall due, whatever the service does; one that finds no connection free waits, and its wait counts. Requests are
bytes made by the workload (`workloads.py`), answers are looked at for their status only. Anything but the expected
status ends the measurement: a figure with refusals or errors in it would be none.
"""

import asyncio
import gc
import re
import time
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec

from bench.processor import Seconds, spent_us

ANSWER_SECONDS_MAX = 30.0
LOOKS = 10  # chosen: how often in a window the read side is asked how far it is; a look costs about a millisecond
TICK_SECONDS = 0.001  # chosen: how late a request may be sent in an open loop
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Workload(msgspec.Struct, frozen=True):
    """`make` gives the next request; `count` the transactions that an answer acknowledges, or raises UnexpectedAnswer."""

    make: Callable[[], bytes]
    count: Callable[[bytes], int]


class Gauges(msgspec.Struct, frozen=True):
    """What is read beside the answers: `processor`, the time that each process has taken so far; `behind_ms`, the age of the
    newest event that every read model shows, against the newest in the log.
    """

    processor: Callable[[], Seconds]
    behind_ms: Callable[[], float]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One window. `acknowledged` counts the warm-up and the last answers too: what the log must hold.

    Rates are transactions a second; latencies are of requests, in milliseconds; `generator_cpu` is its share of a core.
    `processor_us`: time of each process for a transaction. `behind_ms_max`: how far the read models were behind at the most.
    """

    connections: int
    transactions: int
    acknowledged: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    generator_cpu: float
    processor_us: dict[str, float] = {}
    behind_ms_max: float = 0.0


class UnexpectedAnswer(Exception):
    """The service answered with something else than a posted transaction."""


async def measure(
    url: str,
    workload: Workload,
    *,
    connections: int,
    a_second: float | None = None,
    warm_up_seconds: float = 2.0,
    window_seconds: float = 5.0,
    gauges: Gauges | None = None,
) -> Measured:
    """What the service does with so many connections, in a window after a warm-up. `a_second`: requests of an open loop."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop = asyncio.get_running_loop()
    run = _Run(workload, loop)
    opened = [await loop.create_connection(lambda: _Connection(run), host, port) for _ in range(connections)]
    gc.collect()
    gc.freeze()
    gc.disable()  # a pause of the generator would be counted as one of the service
    try:
        run.begin([connection for _, connection in opened], a_second)
        await run.wait(warm_up_seconds)
        before, behind = gauges.processor() if gauges else {}, [0.0]
        counted, began, cpu = run.begin_window(), time.perf_counter(), time.process_time()
        for _ in range(LOOKS):
            await run.wait(window_seconds / LOOKS)
            if gauges:
                behind.append(gauges.behind_ms())
        transactions, seconds = run.acknowledged - counted, time.perf_counter() - began
        cpu = time.process_time() - cpu
        after = gauges.processor() if gauges else {}
        latencies = run.end_window()
        run.stop()
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await asyncio.gather(*(connection.finished for _, connection in opened))
        await run.wait(0)
    finally:
        gc.enable()
        gc.unfreeze()
        for transport, _ in opened:
            transport.close()
    if not latencies:
        raise UnexpectedAnswer(f"no answer within {window_seconds} s")
    return Measured(
        connections=connections,
        transactions=transactions,
        acknowledged=run.acknowledged,
        seconds=round(seconds, 3),
        rate=round(transactions / seconds, 1),
        p50_ms=round(percentile(latencies, 50), 3),
        p99_ms=round(percentile(latencies, 99), 3),
        longest_ms=round(max(latencies) * 1000, 3),
        generator_cpu=round(cpu / seconds, 3),
        processor_us=spent_us(before, after, transactions),
        behind_ms_max=round(max(behind), 1),
    )


def percentile(seconds: list[float], percent: int) -> float:
    """The smallest latency, in milliseconds, that so many percent do not pass (nearest rank)."""
    ordered = sorted(seconds)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[rank - 1] * 1000


class _Run:
    """What all connections of one measurement share."""

    def __init__(self, workload: Workload, loop: asyncio.AbstractEventLoop) -> None:
        self.make = workload.make
        self.count = workload.count
        self.acknowledged = 0
        self.is_stopping = False
        self.latencies: list[float] | None = None
        self.fault: asyncio.Future[None] = loop.create_future()
        self._free: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._ticking: asyncio.Task[None] | None = None

    def begin(self, connections: "list[_Connection]", a_second: float | None) -> None:
        """Requests are sent from now on; so many a second, or as fast as answers come."""
        if a_second is not None:
            self._free = deque(connections)
            self._ticking = asyncio.create_task(self._tick(a_second))
            return
        for connection in connections:
            connection.start(time.perf_counter())

    def stop(self) -> None:
        """No further request is sent; what is in flight is answered still."""
        self.is_stopping = True
        self._due.clear()
        if self._ticking is not None:
            self._ticking.cancel()
        for connection in self._free:
            connection.finish()

    def serve(self, connection: "_Connection", now: float) -> None:
        """The connection, free again, takes what is due; in a closed loop the next request at once."""
        if self.is_stopping:
            connection.finish()
        elif self._ticking is None:
            connection.start(now)
        elif self._due:
            connection.start(self._due.popleft())
        else:
            self._free.append(connection)

    async def _tick(self, a_second: float) -> None:
        due = time.perf_counter()
        while True:
            while due <= time.perf_counter():
                if self._free:
                    self._free.popleft().start(due)  # in turn: a service cuts off who has said nothing for long
                else:
                    self._due.append(due)
                due += 1 / a_second
            await asyncio.sleep(max(TICK_SECONDS, due - time.perf_counter()))

    async def wait(self, seconds: float) -> None:
        """The time passes, or a fault of any connection is raised."""
        done, _ = await asyncio.wait([self.fault], timeout=seconds)
        for fault in done:
            fault.result()

    def begin_window(self) -> int:
        self.latencies = []
        return self.acknowledged

    def end_window(self) -> list[float]:
        found, self.latencies = self.latencies or [], None
        return found

    def fail(self, error: Exception) -> None:
        if not self.fault.done():
            self.fault.set_exception(error)


class _Connection(asyncio.Protocol):
    """One request in flight; `finished` is done when the last one was answered."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._length = 0  # of the whole answer, once its head is there
        self._sent_at = 0.0
        self.finished: asyncio.Future[None] = run.fault.get_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is one in all but its class

    def start(self, due: float) -> None:
        """The next request is sent; its latency counts from when it was due."""
        self._sent_at = due
        self._transport.write(self._run.make())

    def finish(self) -> None:
        """No more requests."""
        if not self.finished.done():
            self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if not self._length:
            head = buffer.find(_HEAD_END)
            if head < 0:
                return
            found = _LENGTH.search(buffer, 0, head + 2)
            if found is None:
                self._fail(UnexpectedAnswer(f"no length: {buffer[:200]!r}"))
                return
            self._length = head + len(_HEAD_END) + int(found[1])
        if len(buffer) < self._length:
            return
        run = self._run
        now = time.perf_counter()
        try:
            run.acknowledged += run.count(buffer)
        except UnexpectedAnswer as error:
            self._fail(error)
            return
        if run.latencies is not None:
            run.latencies.append(now - self._sent_at)
        self._buffer, self._length = b"", 0
        run.serve(self, now)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._fail(UnexpectedAnswer(f"the service closed a connection: {exc}"))

    def _fail(self, error: Exception) -> None:
        self._run.fail(error)
        self.finish()
        self._transport.close()
