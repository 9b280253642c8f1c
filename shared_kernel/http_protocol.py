"""One HTTP/1.1 connection: uvicorn's, with the bounds on heads, trailers and waiting that it leaves to a proxy.

Its neighbours are serve.py, which makes it and asks once a second whether it is overdue, and http_edge.py, which bounds bodies.
It stands on names inside uvicorn (`cycle`, `pipeline`, `flow`), so uvicorn is pinned to one minor version.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, parse_url
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from shared_kernel.http_context import BODY_KEY, SURPLUS_KEY, WHOLE

HEADER_BYTES_MAX = 64 * 1024  # chosen: a token of 8 KiB and the rest many times over; held to within one slice
KEEP_ALIVE_SECONDS = 75  # chosen: longer than the 60 s after which common load balancers give an idle connection up

# Chosen: whoever takes less within `send_seconds_max` has stopped reading, or wishes to hold us.
SEND_BYTES_MIN = 16 * 1024

# Chosen: some 5 ms of work. What came meanwhile is read between two turns of the loop, and told if it is too much.
STARTED_A_TURN = 16
STARTED_OF = 24  # chosen: or one in so many of those that wait, so that none of them waits for the second below
WAIT_SECONDS_MAX = 1.0  # chosen: whoever could not be begun for this long is rather told to come again, as soon

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_CONTROLS = bytes((*range(9), *range(10, 32), 127))  # all but the tab: RFC 9110 §5.5
_BODILESS = frozenset((*range(100, 200), 204, 304))
_URL_KEPT_MAX = 256  # chosen: longer addresses are parsed each time, so that those that are kept are small
_SLICE_BYTES = 16 * 1024  # chosen: what is handed to the parser at once; uvloop reads up to 256 KiB


class Config(uvicorn.Config):
    """uvicorn's configuration with the bounds that are ours.

    `refusal` gives for an address, and how many requests were let in that are not there yet, the answer that turns one away, as it is sent but for the
    server's own headers; None: it is let in.
    """

    connections_max: int
    head_seconds_max: float
    send_seconds_max: float
    refusal: Callable[[str, int], bytes | None]

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(app, **settings)
        self.starts = _Starts(app)
        self.refusal = lambda _path, _waiting: None
        self._stamped: tuple[Any, bytes, bytes] = (None, b"", b"")

    def stamped(self, answer: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The answer with these headers of the server's own, which are the same list for a second."""
        if self._stamped[0] is not headers or self._stamped[1] is not answer:
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
            self._stamped = (headers, answer, answer.replace(b"\r\n", b"\r\n" + lines, 1))
        return self._stamped[2]


class Connection(HttpToolsProtocol):
    """Serves the requests of one connection in their order.

    It ends with 431 when a head, trailers or the framing of chunks grow past HEADER_BYTES_MAX, and with 400 when what comes is
    not HTTP. Requests that were whole before that are answered first, so that no answer is taken for another's.
    """

    _unread_bytes = 0  # received, and neither the end of a head nor part of a body since
    _ended = False  # nothing that comes is read any more
    _wait: tuple[RequestResponseCycle | None, bool] | None = None  # the last request, and whether nothing came since
    _waits_since = 0.0
    _is_surplus = False  # there were as many as there may be: what it asks for is turned away by the application
    _taken_bytes = 0  # of answers, by the client's system, when it was last looked at and some were left
    _stalls_since: float | None = None
    _is_refusing = False  # the request that comes was turned away, and nobody wants the rest of it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there.

        One too many is heard, so that it can be told why, and so that a health check gets through; of such too there are not
        more than of the others.
        """
        self._writer = _OneWriteATurn(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._writer))
        connections_max = cast("Config", self.config).connections_max
        if len(self.connections) > connections_max:
            self._is_surplus = True
            if len(self.connections) > 2 * connections_max:
                self._end(HTTPStatus.SERVICE_UNAVAILABLE)

    def data_received(self, data: bytes) -> None:
        """Parses what came; never in larger pieces than a slice, because the parser keeps heads without a bound."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self._ended:
                return
            part = data[start : start + _SLICE_BYTES]  # the same object if it is all
            self._unread_bytes += len(part)
            try:
                self.parser.feed_data(part)
            except HttpParserError:
                self.send_400_response("")
            except HttpParserUpgrade:
                self._unsupported_upgrade_warning()
            if self._unread_bytes > HEADER_BYTES_MAX:
                self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """The next head comes. uvicorn's scope is made when it is whole."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """A request begins; it waits for those before it. Trailers will go where nobody takes them for headers."""
        self._unread_bytes = 0
        version = self.parser.get_http_version()
        path, raw_path, query = (_address if len(self.url) <= _URL_KEPT_MAX else _parsed)(self.url)
        if self._is_turned_away(path, version):
            return
        scope: Any = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": {},
            WHOLE: True,
        }
        if self._is_surplus:
            scope[SURPLUS_KEY] = True
        self.headers = []
        ahead = self.cycle
        cycle = self.cycle = _Cycle(self, scope, keep_alive=version != "1.0" and self.parser.should_keep_alive())
        if not _is_over(ahead):
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._start_asgi_task(cycle, self.app)

    def _is_turned_away(self, path: str, version: str) -> bool:
        """True if it was told so: at once, past all that waits for its turn. What is odd is left to the application to turn away."""
        is_plain = version == "1.1" and self.parser.should_keep_alive() and self.parser.get_method() != b"HEAD"
        if (
            not is_plain
            or self._is_surplus
            or self.expect_100_continue
            or self.flow.write_paused
            or not _is_over(self.cycle)
        ):
            return False
        config = cast("Config", self.config)
        answer = config.refusal(path, config.starts.waiting)
        if answer is None:
            return False
        self._is_refusing = True
        self.headers = []
        self._writer.send_now(config.stamped(answer, self.server_state.default_headers))
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """In its turn."""
        starts = cast("Config", self.config).starts
        starts.add(self.loop, cycle.scope, partial(super()._start_asgi_task, cycle, starts.arrive))

    def on_body(self, body: bytes) -> None:
        """Part of a body; the bound of bodies is the application's."""
        self._unread_bytes = 0
        cycle = self.cycle
        if not (self._is_refusing or cycle.response_complete):
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cast("_Cycle", cycle).tell()

    def on_message_complete(self) -> None:
        """A request is whole, perhaps after its answer: then uvicorn would take no notice."""
        self._unread_bytes = 0
        if self._is_refusing:
            self._is_refusing = False
            return
        cycle = self.cycle
        cycle.more_body = False
        if not cycle.response_complete:
            cast("_Cycle", cycle).give_body()

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
        second. One whose peer does not read what it asked for is cut off, and so is one that is closing and cannot end.
        """
        if self._is_stalled(now):
            self.transport.abort()
            return
        cycle = self.cycle
        if not _is_over(cycle):
            return
        is_idle = _is_read(cycle) and not self._unread_bytes and not self._is_refusing
        if self._wait != (cycle, is_idle):
            self._wait, self._waits_since = (cycle, is_idle), now
        elif self.transport.is_closing():
            if now - self._waits_since >= KEEP_ALIVE_SECONDS:
                self.transport.abort()
        elif now - self._waits_since >= (
            KEEP_ALIVE_SECONDS if is_idle else cast("Config", self.config).head_seconds_max
        ):
            self.transport.close()

    def _is_stalled(self, now: float) -> bool:
        """Part of an answer waits here, and the client has taken next to nothing for too long."""
        unsent = self._writer.unsent
        if not unsent:
            self._stalls_since = None
            return False
        taken = self._writer.written - unsent
        if self._stalls_since is None or taken - self._taken_bytes >= SEND_BYTES_MIN:
            self._stalls_since, self._taken_bytes = now, taken
        return now - self._stalls_since >= cast("Config", self.config).send_seconds_max

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


class _Starts:
    """Begins the requests of all connections, first come first served, so many a turn of the loop.

    All that came together in one turn would hold up for as long whoever comes next, and only wants to be told that it is too much.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._waiting: deque[tuple[float, Any, Callable[[], None]]] = deque()
        self._left = STARTED_A_TURN
        self._is_turning = False
        self.waiting = 0
        """How many were let in that have not come to the application yet: what is begun comes there a turn later."""

    def arrive(self, scope: Any, receive: Any, send: Any) -> Any:
        """The application, for a request that was begun."""
        self.waiting -= 1
        return self._app(scope, receive, send)

    def add(self, loop: asyncio.AbstractEventLoop, scope: Any, begin: Callable[[], None]) -> None:
        """It is begun now, or in one of the next turns. If that takes too long, the scope says so."""
        self.waiting += 1
        if self._left:
            self._left -= 1
            begin()
        else:
            self._waiting.append((loop.time(), scope, begin))
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = max(STARTED_A_TURN, len(self._waiting) // STARTED_OF)
        self._is_turning = bool(self._waiting)
        while self._left and self._waiting:
            self._left -= 1
            since, scope, begin = self._waiting.popleft()
            if loop.time() - since >= WAIT_SECONDS_MAX:
                scope[SURPLUS_KEY] = False
            begin()
        if self._is_turning:
            loop.call_soon(self._turn, loop)


class _Cycle(RequestResponseCycle):
    """One request and its answer. A body that is there is given, and an answer that is whole is sent, without uvicorn's detours.

    BODY_KEY in the scope holds the body, if it was whole before anybody asked for it; then none is received.

    uvicorn looks at every header of an answer three times, waits for a body that came with its head, and writes head and body
    apart: about a tenth of what a request without its append costs in this process (measured). Everything else goes uvicorn's way.
    """

    # As uvicorn has it at the start of each; few of them ever change.
    access_log = False
    disconnected = False
    waiting_for_100_continue = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0

    _held: Any = None  # the start of an answer that states its length: its body follows at once
    _is_given = False  # the body lies in the scope
    _asked: asyncio.Event | None = None  # made when somebody waits for what comes

    def __init__(self, connection: Connection, scope: Any, *, keep_alive: bool) -> None:
        self.scope = scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.keep_alive = keep_alive
        self.body = bytearray()
        if connection.expect_100_continue:
            self.waiting_for_100_continue = True

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Whoever waits for a message is woken by it."""
        if self._asked is None:
            self._asked = asyncio.Event()
            if not self._is_given and (self.body or not self.more_body):
                self._asked.set()
        return self._asked

    def tell(self) -> None:
        """There is something new for who waits, if anybody does."""
        if self._asked is not None:
            self._asked.set()

    def give_body(self) -> None:
        """The body is whole. Before the application asked for it: it lies in the scope, and only the end is left to be received."""
        if self._asked is None and not self.waiting_for_100_continue:
            self.scope[BODY_KEY] = bytes(self.body)  # type: ignore[literal-required]  # ours, beside ASGI's
            self._is_given = True
        self.tell()

    async def send(self, message: Any) -> None:
        """Head and body of an answer that is whole leave in one piece."""
        if message["type"] == WHOLE:
            await self._send_whole(message["status"], message["headers"], message["body"])
            return
        if not self.response_started and self._held is None and self._has_plain_head(message):
            self._held = message
            return
        start, self._held = self._held, None
        if start is None:
            await super().send(message)
        elif self._may_write() and self._is_whole(start, message):
            self._write(start["status"], start["headers"], message["body"])
        else:
            await super().send(start)
            await super().send(message)

    async def _send_whole(self, status: int, headers: Any, body: bytes) -> None:
        """The headers state the length of the body, and nothing else about how the connection goes on."""
        if self._may_write() and not self.response_started and self.scope["method"] != "HEAD":
            self._write(status, headers, body)
        else:
            await super().send({"type": "http.response.start", "status": status, "headers": headers})
            await super().send({"type": "http.response.body", "body": body})

    def _may_write(self) -> bool:
        return self.keep_alive and not self.disconnected and not self.flow.write_paused

    def _has_plain_head(self, start: Any) -> bool:
        """It states the length of its body, and nothing else about how the connection goes on."""
        if self.scope["method"] == "HEAD" or start.get("status") in _BODILESS:
            return False
        return [name for name, _ in start.get("headers", ()) if name in _FRAMING] == [b"content-length"]

    def _is_whole(self, start: Any, message: Any) -> bool:
        if message.get("more_body", False):
            return False
        return (b"content-length", b"%d" % len(message.get("body", b""))) in start["headers"]

    def _write(self, status: int, headers: Any, body: bytes) -> None:
        lines = (*self.default_headers, *headers)
        head = b"\r\n".join(map(b": ".join, lines))
        if len(head.translate(None, _CONTROLS)) != len(head) - 2 * (len(lines) - 1):  # more than the lines' own ends
            raise RuntimeError("a header of the answer holds a control character")
        self.response_started = self.response_complete = True
        self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n\r\n", body)))
        self.tell()
        self.on_response()


class _OneWriteATurn:
    """A transport that sends at the end of a turn of the loop what the turn wrote, in one system call.

    A write to a socket is the dearest thing that an answer costs (18 % of the command process's time, measured), and so is being
    woken by it at the other end: the answers to one batch leave one after the other, not between work for the next.
    """

    __slots__ = ("_loop", "_parts", "_transport", "written")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self.written = 0
        """Bytes that were given to the transport so far."""

    @property
    def unsent(self) -> int:
        """Bytes of these that the system has not taken yet, because the client does not."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Sent at the end of this turn, or before the connection is closed."""
        if not self._parts:
            self._loop.call_soon(self.send)
        self._parts.append(data)

    def close(self) -> None:
        """No more comes after what was written."""
        self.send()
        self._transport.close()

    def is_closing(self) -> bool:
        """As the transport's own."""
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def send_now(self, data: bytes) -> None:
        """It leaves without waiting for the end of this turn, behind what was written."""
        if self._parts:
            self._parts.append(data)
            self.send()
        else:
            self.written += len(data)
            self._transport.write(data)

    def send(self) -> None:
        """What was written leaves."""
        parts, self._parts = self._parts, []
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self.written += len(data)
            self._transport.write(data)


def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    """The path as text and as it came, and the query. HttpParserInvalidURLError, UnicodeDecodeError: it is no address."""
    parsed = parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


_address = lru_cache(maxsize=1_024)(_parsed)  # a client asks for few addresses, again and again


def _is_over(cycle: RequestResponseCycle | None) -> bool:
    return cycle is None or cycle.response_complete


def _is_read(cycle: RequestResponseCycle | None) -> bool:
    """The last request came whole. False before the first, and while a body still comes that was refused unread."""
    return cycle is not None and not cycle.more_body
