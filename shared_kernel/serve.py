"""Runs an ASGI application under uvicorn inside this process: one event loop for the server, the routes and what they use.

Embedded, because group commit needs handlers and executor on one loop, and because signals, exit codes, lifespan and logs stay
ours. What one connection may do is in http_protocol.py. More cores: start more processes.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
import uvicorn
import uvloop

from shared_kernel.health import Health
from shared_kernel.http_accept import Acceptor
from shared_kernel.http_edge import Edge
from shared_kernel.http_protocol import Config, Connection
from shared_kernel.settings import HttpSettings

BACKLOG = 1024  # chosen: connections the system holds before they are accepted
# Measured: p99 of commands 31 → 12 ms at 64 connections. What start-up made is never looked at again, young garbage less often.
GC_THRESHOLDS = (50_000, 50, 50)
LOOKED_AT_A_TURN = 64  # chosen: connections, a millisecond's work
TICK_SECONDS = 1  # how often the date header is made anew, which counts seconds, and overdue connections are looked for

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
    """As `serve`, for a process that does nothing else: garbage is collected accordingly.

    A failed start is told on standard error and ends the process with exit code 1.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        serve(app, settings, health)
    except CannotServeError as error:
        log.error("start_failed", reason=str(error))
        print(f"Daybook cannot start: {error}", file=sys.stderr)
        raise SystemExit(1) from None


async def _serve(app: Edge, settings: HttpSettings, health: Health) -> None:
    host, port = settings.http_host, settings.http_port
    with _bind(host, port, is_shared=settings.http_port_shared) as listener:
        lifespan = _Lifespan(app)
        await lifespan.start()
        server = _Server(app, settings)

        def stop(name: str) -> None:
            log.info("stopping", signal=name)
            health.stop()
            server.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        try:
            await server.serve(sockets=[listener])
        except OSError as error:
            raise CannotServeError(_cannot_listen(host, port, error)) from None
        finally:
            await lifespan.stop()
    log.info("stopped")


def _bind(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """A socket that has the address and does not listen yet: before the start-up is over a client is better refused than left waiting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise CannotServeError(_cannot_listen(host, port, error)) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    return f"{host}:{port} cannot be listened on: {error.strerror}"


class _Server(uvicorn.Server):
    """uvicorn's server without its own signals, lifespan, logs and environment."""

    def __init__(self, app: Edge, settings: HttpSettings) -> None:
        self._address: dict[str, str | int] = {"host": settings.http_host, "port": settings.http_port}
        self._stopping = asyncio.Event()
        config = Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",  # the lifespan is ours to run: its faults are our exit code
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,  # not given, they come from the environment; so do the addresses
            forwarded_allow_ips=[],
            timeout_graceful_shutdown=settings.http_stop_seconds_max,
        )
        config.connections_max = settings.http_connections_max
        config.head_seconds_max = settings.http_head_seconds_max
        config.send_seconds_max = settings.http_send_seconds_max
        config.refusal = app.refusal
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each client that does not speak HTTP
        super().__init__(config)
        app.watch_connections(lambda: len(self.server_state.connections))

    def stop(self) -> None:
        """`serve` will return once the requests in flight are answered, or after http_stop_seconds_max."""
        self.should_exit = True
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none: the signal handlers of this process are `_serve`'s."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Connections are accepted, and it says so; uvicorn's own would take one a turn."""
        loop = asyncio.get_running_loop()
        self.servers: list[Any] = []  # `shutdown` closes them
        for listener in sockets or []:
            listener.listen(BACKLOG)
            self.servers.append(Acceptor(loop, listener, self._make_connection))
            self._address["port"] = listener.getsockname()[1]  # of port 0: the one that the system gave
        self.started = True
        log.info("listening", **self._address, pid=os.getpid())

    def _make_connection(self) -> Connection:
        return Connection(config=self.config, server_state=self.server_state, app_state={})

    async def main_loop(self) -> None:
        """Ticks until it is to stop; uvicorn's own looks ten times a second whether it is."""
        now = asyncio.get_running_loop().time
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopping.wait()
            for seen, connection in enumerate(tuple(self.server_state.connections)):
                if isinstance(connection, Connection):
                    connection.end_if_overdue(now())
                if seen % LOOKED_AT_A_TURN == 0:
                    await asyncio.sleep(0)


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
