"""Whether a process lives and is ready, and a small HTTP server that says so where there is no other.

Command and query answer `/health/...` on their HTTP port by the routes of `shared_kernel.http`; relay and projector run
a `HealthServer`. A check tells what stands in the way; it never repairs anything.
"""

import asyncio
import inspect
import io
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from prometheus_client import CollectorRegistry

from shared_kernel.errors import DaybookError
from shared_kernel.metrics import CONTENT_TYPE, render

CHECK_SECONDS_MAX = 2.0  # chosen: a probe gives up after a few seconds; a check that slow is as good as failed
REQUEST_SECONDS_MAX = (
    5.0  # chosen: how long a probe may take to send its request, all of it, and then to take its answer
)
CONNECTIONS_MAX = 100  # chosen: probes and whoever reads the figures are a handful; later ones are turned away

# None: all is well. A text: what is wrong. Plain callables must answer at once, from what the process knows already.
Check = Callable[[], str | None] | Callable[[], Awaitable[str | None]]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check found."""

    ok: bool
    detail: str | UnsetType = UNSET


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The document of /health/ready: `ready` (200) or `not_ready` (503)."""

    status: str
    checks: dict[str, CheckResult]

    @property
    def is_ready(self) -> bool:
        """True if every check was ok."""
        return self.status == "ready"


class Health:
    """The checks of one process, by name. Ready means that all are ok and the process is not stopping."""

    def __init__(self, check_seconds_max: float = CHECK_SECONDS_MAX) -> None:
        self._check_seconds_max = check_seconds_max
        self._checks: dict[str, Check] = {}
        self._notes: dict[str, Callable[[], str | None]] = {}
        self._at_stop: list[Callable[[], None]] = []

    def register(self, name: str, check: Check) -> None:
        """`check` counts from now on; one of the same name is replaced."""
        self._checks[name] = check

    def note(self, name: str, tell: Callable[[], str | None]) -> None:
        """What `tell` says is shown beside the checks, and never stands in the way: the process has another way to go on."""
        self._notes[name] = tell

    def stop(self) -> None:
        """Never ready again, so that load balancers turn away while requests in flight finish."""
        self.register("running", lambda: "the process is stopping")
        for act in self._at_stop:
            act()

    def when_stopping(self, act: Callable[[], None]) -> None:
        """`act` runs when the process begins to stop: for what would not end by itself in the time there is."""
        self._at_stop.append(act)

    async def ready(self) -> Readiness:
        """Runs all checks at once, each within its time."""
        names = list(self._checks)
        found = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        checks = {
            name: CheckResult(ok=detail is None, detail=UNSET if detail is None else detail)
            for name, detail in zip(names, found, strict=True)
        }
        for name, tell in self._notes.items():
            told = tell()
            checks[name] = CheckResult(ok=True, detail=UNSET if told is None else told)
        return Readiness(status="not_ready" if any(found) else "ready", checks=checks)

    async def _run(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(self._check_seconds_max):
                answer = check()
                return await answer if inspect.isawaitable(answer) else answer
        except TimeoutError:
            return f"no answer within {self._check_seconds_max:g} s"
        except DaybookError as error:
            return error.code
        except Exception as error:  # whatever it is, the process is not ready
            return type(error).__name__  # the text of a driver's error may quote addresses and secrets


LIVE_DOCUMENT = b'{"status":"live"}'


class HealthServer:
    """Serves /health/live, /health/ready and /metrics from threads of its own, until it is stopped.

    Asynchronous checks run on `loop` where one is given (the process's own), otherwise on one made for each request.
    Port 0 takes a free one; `port` tells which. Raises OSError if the port is taken.
    """

    def __init__(
        self,
        health: Health,
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        def answer(path: str) -> tuple[int, str, bytes] | None:
            if path == "/health/live":
                return 200, "application/json", LIVE_DOCUMENT
            if path == "/health/ready":
                found = _readiness(health, loop)
                return 200 if found.is_ready else 503, "application/json", msgspec.json.encode(found)
            if path == "/metrics":
                return 200, CONTENT_TYPE, render(registry)
            return None

        self._server = _Server((host, port), _handler(answer))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="health", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def start(self) -> None:
        """It answers from now on."""
        self._thread.start()

    def stop(self) -> None:
        """It answers no more and its port is free."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and so not more of them than `CONNECTIONS_MAX`."""

    request_queue_size = CONNECTIONS_MAX  # waiting to be accepted
    daemon_threads = True
    block_on_close = False  # a probe that hangs must not hold up the end of the process

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """One too many is closed at once."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one connection and makes room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A probe that went away is not our concern."""


def _readiness(health: Health, loop: asyncio.AbstractEventLoop | None) -> Readiness:
    if loop is None:
        return asyncio.run(health.ready())
    future = asyncio.run_coroutine_threadsafe(health.ready(), loop)
    try:
        return future.result(CHECK_SECONDS_MAX + 1)
    except TimeoutError:
        future.cancel()
        stuck = CheckResult(ok=False, detail="the event loop does not answer")
        return Readiness(status="not_ready", checks={"event_loop": stuck})


class _Incoming(io.RawIOBase):
    """What a client sends until its time is over, however small the pieces that it comes in. TimeoutError then."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        """As the buffer above it asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Waits for the next piece, no longer than the time that is left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _handler(answer: Callable[[str], tuple[int, str, bytes] | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "daybook"
        sys_version = ""

        def setup(self) -> None:
            super().setup()
            self.rfile = io.BufferedReader(_Incoming(self.connection, REQUEST_SECONDS_MAX))

        def do_GET(self) -> None:
            self.connection.settimeout(REQUEST_SECONDS_MAX)
            found = answer(self.path.partition("?")[0]) or (404, "application/json", b'{"status":"not_found"}')
            status, content_type, body = found
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Probes come every few seconds: no line for each."""

    return Handler
