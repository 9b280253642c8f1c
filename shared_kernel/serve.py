"""Runs an ASGI application under Granian inside this process: one event loop for the server, the routes and what they use.

Embedded rather than as a worker of Granian's own supervisor, because group commit needs handlers and executor on one loop and
signals, exit codes and logs stay ours; it is as fast (docs/dependencies.md). More cores: start more processes.
"""

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress

import structlog
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.errors import FatalError
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from shared_kernel.health import Health
from shared_kernel.http_edge import Edge
from shared_kernel.settings import HttpSettings

BACKLOG = 1024  # connections the system holds before they are accepted; Granian's own default
HEADER_BYTES_MAX = 64 * 1024  # chosen: a token of 8 KiB and the rest many times over
HEADER_MS_MAX = 10_000  # chosen: a client that dribbles its headers for longer is cut off

log = structlog.get_logger(__name__)


class CannotServeError(Exception):
    """The application did not start, or its address cannot be listened on. The text is for the operator."""


def serve(app: Edge, settings: HttpSettings, health: Health) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in flight and returns.

    Raises CannotServeError if the port is taken or the start-up part of the lifespan failed.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, settings, health))


def serve_or_exit(app: Edge, settings: HttpSettings, health: Health) -> None:
    """As `serve`; a failed start is told on standard error and ends the process with exit code 1."""
    try:
        serve(app, settings, health)
    except CannotServeError as error:
        log.error("start_failed", reason=str(error))
        print(f"Daybook cannot start: {error}", file=sys.stderr)
        raise SystemExit(1) from None


async def _serve(app: Edge, settings: HttpSettings, health: Health) -> None:
    host, port, stop_seconds_max = settings.http_host, settings.http_port, settings.http_stop_seconds_max
    if not settings.http_port_shared:
        _require_free(host, port)
    lifespan = _Lifespan(app)
    await lifespan.start()
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,  # the lifespan is ours to run: its faults are our exit code
        http=HTTPModes.auto,
        websockets=False,
        backlog=BACKLOG,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_MS_MAX, max_buffer_size=HEADER_BYTES_MAX),
        http2_settings=HTTP2Settings(max_headers_size=HEADER_BYTES_MAX),
        log_enabled=False,
        log_level=LogLevels.error,
    )
    logging.getLogger("_granian").setLevel(logging.CRITICAL)  # it reports a client that left as an error
    server.workers_kill_timeout = stop_seconds_max
    loop = asyncio.get_running_loop()
    stop_at = loop.time() + stop_seconds_max

    def stop(name: str) -> None:
        nonlocal stop_at
        stop_at = loop.time() + stop_seconds_max
        log.info("stopping", signal=name)
        health.stop()
        server.stop()  # type: ignore[no-untyped-call]

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    try:
        log.info("listening", host=host, port=port)
        try:
            await server.serve()
        except (OSError, RuntimeError, FatalError) as error:  # Granian could not listen, or its worker died
            raise CannotServeError(f"{host}:{port}: {error}") from None
        await _drain(app, stop_at)
    finally:
        await lifespan.stop()
    log.info("stopped")


def _require_free(host: str, port: int) -> None:
    """Granian listens with SO_REUSEPORT, so a second process started by mistake would silently take half the requests."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotServeError(f"{host}:{port} cannot be listened on: {error.strerror}") from None


async def _drain(app: Edge, until: float) -> None:
    """Waits until the application has answered everything it took, at most until that time of the loop."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while app.in_flight:
                await asyncio.sleep(0.01)


class _Lifespan:
    """The lifespan part of ASGI: `start` and `stop` run the application's own beginnings and ends."""

    def __init__(self, app: Edge) -> None:
        self._app = app
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The application has started; raises CannotServeError if it has not."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._task = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app.put))
        answer = await self._ask("lifespan.startup")
        if answer != "lifespan.startup.complete":
            raise CannotServeError(await self._reason())

    async def stop(self) -> None:
        """The application has ended; what went wrong in that is logged."""
        if await self._ask("lifespan.shutdown") != "lifespan.shutdown.complete":
            log.error("stop_failed", reason=await self._reason())
        elif self._task is not None:
            await self._task

    async def _ask(self, message: str) -> str:
        """The type of the answer; empty if the application ended without one."""
        assert self._task is not None  # noqa: S101 - start made it
        await self._to_app.put({"type": message})
        answer = asyncio.create_task(self._from_app.get())
        await asyncio.wait((answer, self._task), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()["type"]
        answer.cancel()
        return ""

    async def _reason(self) -> str:
        """Class and first line of what ended the application; of a group, its first."""
        assert self._task is not None  # noqa: S101 - start made it
        await asyncio.wait((self._task,))
        error = self._task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            return "the application did not start"
        return f"{type(error).__name__}: {error}".partition("\n")[0]
