"""One libpq connection in pipeline mode on the running event loop: statements go out, results come back in order.

Owns the socket, the queue of requests in flight and the judgement of how each ended; knows nothing of ledgers.
A request has succeeded only when the sync point of its own pipeline has come back: its transaction commits there, so
a row alone proves nothing. A request never times out silently: past its deadline the connection is given up.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg import pq

from shared_kernel.event_log import errors
from shared_kernel.event_log.errors import LogUnavailable, OutcomeUnknown
from shared_kernel.postgres import begin_connecting, conninfo

Results = list[pq.abc.PGresult]
Parameters = Sequence[bytes | None]

_BINARY: Final = pq.Format.BINARY
_SYNCHRONOUS_WAIT: Final = b"SyncRepWaitForLSN"  # the server function that warns; the text itself is translated


class _Request:
    """Statements up to one sync point."""

    __slots__ = ("future", "is_unconfirmed", "is_write", "results", "sqlstate")

    def __init__(self, future: asyncio.Future[Results], *, is_write: bool) -> None:
        self.future = future
        self.is_write = is_write
        self.results: Results = []
        self.sqlstate: str | None = None
        self.is_unconfirmed = False


class Pipeline:
    """An open connection. Requests may overlap; they are answered in the order they were sent."""

    def __init__(self, pgconn: pq.abc.PGconn, reply_timeout_ms: int) -> None:
        self._pgconn = pgconn
        self._reply_timeout_s = reply_timeout_ms / 1_000
        self._loop = asyncio.get_running_loop()
        self._in_flight: deque[_Request] = deque()
        self._deadline: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._socket = pgconn.socket
        self._lost: str | None = None
        pgconn.nonblocking = 1
        pgconn.enter_pipeline_mode()
        pgconn.notice_handler = self._on_notice
        self._loop.add_reader(self._socket, self._on_readable)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str = "daybook",
        connect_timeout_ms: int,
        silence_timeout_ms: int,
        reply_timeout_ms: int,
    ) -> "Pipeline":
        """A connection to a server that takes writes. Raises `LogUnavailable` if there is none in time."""
        bounded = conninfo(
            url,
            name=name,
            connect_ms=connect_timeout_ms,
            silence_ms=silence_timeout_ms,
            client_encoding="UTF8",
            target_session_attrs="read-write",
        )
        pgconn = begin_connecting(bounded)
        try:
            async with asyncio.timeout(connect_timeout_ms / 1_000):
                while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
                    if status == pq.PollingStatus.FAILED:
                        reason = psycopg.OperationalError(pgconn.get_error_message())  # for the log, never for a client
                        raise LogUnavailable("connect_failed") from reason
                    await _socket_ready(pgconn.socket, for_write=status == pq.PollingStatus.WRITING)
            return cls(pgconn, reply_timeout_ms)
        except BaseException as error:
            pgconn.finish()
            if isinstance(error, TimeoutError):
                raise LogUnavailable("connect_timeout") from None
            raise

    @property
    def server_version(self) -> int:
        """As libpq says it: 180006 is 18.6."""
        return self._pgconn.server_version

    @property
    def is_open(self) -> bool:
        """Further requests can be sent."""
        return self._lost is None

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight and no transaction is open."""
        return not self._in_flight and self._pgconn.transaction_status == pq.TransactionStatus.IDLE

    async def prepare(self, statements: Mapping[bytes, tuple[str, Sequence[int]]]) -> None:
        """Each named statement can be executed from now on; its parameters have the given type numbers."""
        self._check_open()
        for name, (sql, types) in statements.items():
            self._pgconn.send_prepare(name, sql.encode(), types)
        await self._sync(is_write=False)

    def execute(self, *statements: tuple[bytes, Parameters], is_write: bool) -> asyncio.Future[Results]:
        """Prepared statements in one transaction (outside of an explicit one); answers a result for each.

        Sent before this returns. `is_write`: if no sync point comes back the outcome is unknown, not merely failed.
        """
        self._check_open()
        try:
            for name, parameters in statements:
                self._pgconn.send_query_prepared(name, parameters, [_BINARY] * len(parameters), _BINARY)
            return self._sync(is_write=is_write)
        except psycopg.Error:
            self._lose("send_failed")
            # Nothing counts before its sync point was sent; whether that left is not known here.
            raise errors.lost("send_failed", is_write=is_write) from None

    def close(self) -> None:
        """The connection is closed; requests in flight fail."""
        self._lose("closed")

    def _check_open(self) -> None:
        if self._lost is not None:
            raise errors.lost(self._lost, is_write=False)

    def _sync(self, *, is_write: bool) -> asyncio.Future[Results]:
        self._pgconn.pipeline_sync()
        request = _Request(self._loop.create_future(), is_write=is_write)
        self._in_flight.append(request)
        if len(self._in_flight) == 1:
            self._set_deadline()
        self._flush()
        return request.future

    def _flush(self) -> None:
        try:
            is_done = self._pgconn.flush() == 0
        except psycopg.Error:
            self._lose("send_failed")
            return
        if is_done and self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket)
        elif not is_done and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._socket, self._flush)

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            self._take_results()
            if self._is_writing:
                self._flush()
        except psycopg.Error:
            self._lose("connection_lost")

    def _take_results(self) -> None:
        while self._in_flight and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                if self._pgconn.status == pq.ConnStatus.BAD:
                    self._lose("connection_lost")
                continue
            request = self._in_flight[0]
            match result.status:
                case pq.ExecStatus.PIPELINE_SYNC:
                    self._complete(request)
                case pq.ExecStatus.FATAL_ERROR:
                    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
                    severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
                    if sqlstate is None or severity != b"ERROR":
                        self._lose("connection_lost" if sqlstate is None else sqlstate.decode())
                        return
                    request.sqlstate = sqlstate.decode()
                case pq.ExecStatus.PIPELINE_ABORTED:
                    pass
                case _:
                    request.results.append(result)
        if not self._in_flight and self._pgconn.status == pq.ConnStatus.BAD:
            self._lose("connection_lost")

    def _complete(self, request: _Request) -> None:
        self._in_flight.popleft()
        self._set_deadline()
        if request.future.done():  # its caller was cancelled
            return
        if request.sqlstate is not None:
            request.future.set_exception(errors.from_sqlstate(request.sqlstate))
        elif request.is_unconfirmed and request.is_write:
            request.future.set_exception(OutcomeUnknown("not_replicated"))
        else:
            request.future.set_result(request.results)

    def _on_notice(self, notice: pq.abc.PGresult) -> None:
        # "canceling wait for synchronous replication": committed here, but no standby has confirmed it.
        if self._in_flight and notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == _SYNCHRONOUS_WAIT:
            self._in_flight[0].is_unconfirmed = True

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = (
            self._loop.call_later(self._reply_timeout_s, self._lose, "reply_timeout") if self._in_flight else None
        )

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._loop.remove_reader(self._socket)
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket)
        if self._deadline is not None:
            self._deadline.cancel()
        self._pgconn.finish()
        while self._in_flight:
            request = self._in_flight.popleft()
            if not request.future.done():
                request.future.set_exception(errors.lost(reason, is_write=request.is_write))


async def _socket_ready(socket: int, *, for_write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if for_write else (loop.add_reader, loop.remove_reader)
    add(socket, ready.set)
    try:
        await ready.wait()
    finally:
        remove(socket)
