"""One HTTP/1.1 connection: uvicorn's, with the bounds on heads, trailers and waiting that it leaves to a proxy.

Its neighbours are serve.py, which makes it and asks once a second whether it is overdue, and http_edge.py, which bounds bodies.
It stands on names inside uvicorn (`cycle`, `pipeline`, `flow`), so uvicorn is pinned to one minor version.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HEADER_BYTES_MAX = 64 * 1024  # chosen: a token of 8 KiB and the rest many times over; held to within one slice
HEADER_SECONDS_MAX = 10  # chosen: a client that dribbles its head for longer is cut off
KEEP_ALIVE_SECONDS = 75  # chosen: longer than the 60 s after which common load balancers give an idle connection up

_SLICE_BYTES = 16 * 1024  # chosen: what is handed to the parser at once; uvloop reads up to 256 KiB


class Connection(HttpToolsProtocol):
    """Serves the requests of one connection in their order.

    It ends with 431 when a head, trailers or the framing of chunks grow past HEADER_BYTES_MAX, and with 400 when what comes is
    not HTTP. Requests that were whole before that are answered first, so that no answer is taken for another's.
    """

    _unread_bytes = 0  # received, and neither the end of a head nor part of a body since
    _ended = False  # nothing that comes is read any more
    _wait: tuple[RequestResponseCycle | None, bool] | None = None  # the last request, and whether nothing came since
    _waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there. uvicorn writes head and body of an answer one after the other; they leave together."""
        super().connection_made(cast("asyncio.Transport", _OneWriteATurn(transport, self.loop)))

    def data_received(self, data: bytes) -> None:
        """Parses what came; never in larger pieces than a slice, because the parser keeps heads without a bound."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self._ended:
                return
            part = data[start : start + _SLICE_BYTES]  # the same object if it is all
            self._unread_bytes += len(part)
            HttpToolsProtocol.data_received(self, part)
            if self._unread_bytes > HEADER_BYTES_MAX:
                self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """A request begins. Trailers will go where nobody takes them for headers."""
        self._unread_bytes = 0
        HttpToolsProtocol.on_headers_complete(self)
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Part of a body; the bound of bodies is the application's."""
        self._unread_bytes = 0
        HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        """A request is whole, perhaps after its answer: then uvicorn would take no notice."""
        self._unread_bytes = 0
        HttpToolsProtocol.on_message_complete(self)
        self.cycle.more_body = False

    def on_response_complete(self) -> None:
        """As uvicorn's, but without its keep-alive timer: `end_if_overdue` does that work."""
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    def send_400_response(self, msg: str) -> None:
        """uvicorn's way to refuse what is not HTTP; it would write it before the answers that are still owed."""
        self._end(HTTPStatus.BAD_REQUEST)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade was asked for: the request is answered as it is, and what follows it belongs to no protocol we speak."""
        self._end(HTTPStatus.BAD_REQUEST)

    def end_if_overdue(self, now: float) -> None:
        """Closes a connection that has waited for its next request, or for the end of one's head, for too long.

        To be called once a second with the loop's time: that costs less than a timer a request, and makes the bounds exact to a
        second. One that is closing, but whose peer does not read, is cut off.
        """
        cycle = self.cycle
        if not _is_over(cycle):
            return
        is_idle = _is_read(cycle) and not self._unread_bytes
        if self._wait != (cycle, is_idle):
            self._wait, self._waits_since = (cycle, is_idle), now
        elif self.transport.is_closing():
            if now - self._waits_since >= KEEP_ALIVE_SECONDS:
                self.transport.abort()
        elif now - self._waits_since >= (KEEP_ALIVE_SECONDS if is_idle else HEADER_SECONDS_MAX):
            self.transport.close()

    def _end(self, status: HTTPStatus) -> None:
        """Reads no more; answers what was asked, or with this status if nothing is owed, and closes."""
        if self._ended:
            return
        self._ended = True
        cycle = self.cycle
        if not _is_over(cycle) and not cycle.more_body:
            cycle.keep_alive = False  # uvicorn closes after its answer
            return
        if _is_over(cycle) or not (cycle.response_started or self.pipeline):
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class _OneWriteATurn:
    """A transport that sends in one system call what one turn of the loop writes.

    A write to a socket is the dearest thing that an answer costs (18 % of the command process's time, measured), and so is being
    woken by it at the other end.
    """

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Sent at the end of this turn, or before the connection is closed."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        """No more comes after what was written."""
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


def _is_over(cycle: RequestResponseCycle | None) -> bool:
    return cycle is None or cycle.response_complete


def _is_read(cycle: RequestResponseCycle | None) -> bool:
    """The last request came whole. False before the first, and while a body still comes that was refused unread."""
    return cycle is not None and not cycle.more_body
