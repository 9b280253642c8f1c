"""The outermost part of both HTTP processes: a plain ASGI wrapper that every request passes before Litestar sees it.

Too many at once are turned away first. Then in this order: correlation id, address, token, the subject's rate, media type, size, body. Afterwards: amounts as strings where they are asked for,
headers, one log line, metrics. It knows no route and no rule. Pure ASGI, because it runs for every posted transaction (about
15 µs in all, measured).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import structlog
from litestar.types import Message, Receive, Send
from msgspec import json
from prometheus_client import CollectorRegistry, Gauge

from shared_kernel import amounts, logs
from shared_kernel.errors import Contention, DaybookError, Rejection
from shared_kernel.http_context import BODY_KEY, SCOPE_KEY, SURPLUS_KEY, WHOLE, RequestContext, read_context
from shared_kernel.http_errors import PROBLEM_TYPE, ProblemAnswer, log_error, problem_answer
from shared_kernel.json_text import invalid
from shared_kernel.metrics import LATENCY_BUCKETS, Counts, Times
from shared_kernel.rates import Rates
from shared_kernel.security import TokenVerifier

OPEN_PATHS = frozenset(("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"))  # no token needed
QUIET_PATHS = frozenset(("/health/live", "/health/ready", "/metrics"))  # logged at debug: probes every few seconds
BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))
CLIENT_GONE = 499  # nginx's number for a client that left; only in logs and metrics, nobody receives it

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_JSON = re.compile(rb'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")

Headers = list[tuple[bytes, bytes]]
Whole = tuple[int, bytes, Headers]
"""An answer at once: status, body, and headers without its length."""
App = Callable[[Any, Any, Any], Awaitable[Whole | None]]
"""An ASGI application, or one that gives the answer instead of sending it: a hot route need not make two messages of it."""

log = structlog.get_logger(__name__)


class HttpMetrics:
    """Requests by method, route template and status; their time by method and route; how many are in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counts(
            "daybook_http_requests", "Requests answered", ("method", "route", "status"), registry=registry
        )
        self._seconds = Times(
            "daybook_http_request_seconds",
            "Time from a request's head to its answer's end",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.shed = Counts(
            "daybook_http_requests_shed", "Requests turned away unread: too many at once", (), registry=registry
        )
        self.connections = Gauge("daybook_http_connections", "Connections that are open now", registry=registry)
        self.in_flight = Gauge("daybook_http_requests_in_flight", "Requests being answered now", registry=registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request."""
        self._requests.add(method, route, str(status))
        self._seconds.add(seconds, method, route)


class Edge:
    """An ASGI application round another. `in_flight` is the number of requests being answered."""

    def __init__(
        self,
        app: App,
        *,
        verifier: TokenVerifier,
        metrics: HttpMetrics,
        body_bytes_max: int,
        body_seconds_max: float,
        requests_max: int,
        rates: Rates | None,
    ) -> None:
        self.app = app
        self._requests_max = requests_max
        self._rates = rates
        self._overloaded = problem_answer(Contention("overloaded", retry_after_ms=1_000), None)
        self._overloaded_body = json.encode(self._overloaded.document)
        lines = [
            b"HTTP/1.1 503 Service Unavailable",
            *map(b": ".join, _headers(self._overloaded, self._overloaded_body)),
        ]
        self._refusal = b"\r\n".join((*lines, b"", self._overloaded_body))
        self.in_flight = 0
        self._verifier = verifier
        self._metrics = metrics
        self._metrics.in_flight.set_function(lambda: self.in_flight)
        self._log_request = logs.request_logger()
        self._body_bytes_max = body_bytes_max
        self._body_seconds_max = body_seconds_max

    def watch_connections(self, count: Callable[[], int]) -> None:
        """From now on it is shown how many connections the server has."""
        self._metrics.connections.set_function(count)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI 3: HTTP requests are guarded, the lifespan goes straight through."""
        if scope["type"] == "http":
            if (self.in_flight >= self._requests_max or SURPLUS_KEY in scope) and scope["path"] not in QUIET_PATHS:
                await self._shed(scope, send)
                return
            self.in_flight += 1
            try:
                await self._answer(scope, receive, send)
            finally:
                self.in_flight -= 1
        else:
            await self.app(scope, receive, send)

    def refusal(self, path: str, waiting: int) -> bytes | None:
        """What a request for this address is answered at once, for the server to send: as `_shed`. None: it is let in.

        `waiting`: how many the server has let in that have not come here yet.
        """
        if self.in_flight + waiting < self._requests_max or path in QUIET_PATHS:
            return None
        self._metrics.shed.add()
        return self._refusal

    async def _shed(self, scope: Any, send: Send) -> None:
        """503 at once: no token is looked at, no body read, no line written, or turning away would cost as much as answering."""
        self._metrics.shed.add()
        headers = _headers(self._overloaded, self._overloaded_body)
        if scope.get(SURPLUS_KEY):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self._overloaded.status, "headers": headers})
        await send({"type": "http.response.body", "body": self._overloaded_body, "more_body": False})

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers = dict(scope["headers"])
        id_header = b"x-correlation-id" if b"x-correlation-id" in headers else b"x-request-id"
        context = read_context(headers, id_header=id_header)
        scope[SCOPE_KEY] = context
        correlation = logs.correlation_id.set(context.correlation_id)
        stamps = ((id_header, context.correlation_id.encode()), _NO_SNIFFING)
        status = 0

        async def send_stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *stamps]
            await send(message)

        answered: Send = send_stamped
        try:
            if scope["query_string"] or b"prefer" in headers:
                preferences = [value for name, value in scope["headers"] if name == b"prefer"]
                if amounts.are_texts_asked(preferences, scope["query_string"]):
                    context.has_text_amounts = True
                    answered = _TextAmounts(send_stamped)
            self._admit(scope, context)
            if scope["method"] in BODY_METHODS:
                receive = _Replay(await self._body_of(scope, receive, headers), receive)
            answer = await self.app(scope, receive, answered)
            if answer is not None:
                if answered is send_stamped and WHOLE in scope:
                    status, body, own = answer
                    own += ((b"content-length", b"%d" % len(body)), *stamps)
                    message: Any = {"type": WHOLE, "status": status, "headers": own, "body": body}
                    await send(message)
                else:
                    await _send_all(answered, *answer)
        except DaybookError as error:
            log_error(error)
            await _send_problem(answered, error, context)
        except asyncio.CancelledError:  # the client left before its body was whole, or the time to stop is up
            status = CLIENT_GONE
        except Exception as error:
            log.error("request_failed", exc_info=error)
            if status == 0:
                await _send_problem(send_stamped, DaybookError("internal_error"), context)
        finally:
            self._report(scope, context, status or CLIENT_GONE, perf_counter() - started)
            logs.correlation_id.reset(correlation)

    def _admit(self, scope: Any, context: RequestContext) -> None:
        """Lets a request in but for its body, or raises what keeps it out."""
        path = scope["path"]
        if "\0" in path or b"%00" in scope["query_string"]:
            raise invalid("$", "The address holds the character NUL")
        if path not in OPEN_PATHS and not path.startswith("/docs/"):
            context.principal = self._verifier.verify(context.headers.get(b"authorization"))
            scope["user"] = context.principal
            if self._rates is not None:
                self._rates.take(context.principal.subject)

    async def _body_of(self, scope: Any, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        """The whole body, in the scope too, or raises why it is not taken."""
        if not _is_json(headers):
            raise Rejection("unsupported_media_type")
        body: bytes | None = scope.get(BODY_KEY)
        if body is None:
            body = scope[BODY_KEY] = await self._body(receive, headers.get(b"content-length", b""))
        elif len(body) > self._body_bytes_max:
            raise self._too_large()
        return body

    async def _body(self, receive: Receive, length: bytes) -> bytes:
        if length.isdigit() and (len(length) > 18 or int(length) > self._body_bytes_max):
            raise self._too_large()
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        # asyncio.timeout does the same for four times the price, and this runs for every command.
        overdue = loop.call_later(self._body_seconds_max, task.cancel)
        try:
            message: Any = await receive()
            body: bytes = message.get("body", b"")
            if message.get("more_body", False):
                parts, size = [body], len(body)
                while message.get("more_body", False):
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body_bytes_max:
                        raise self._too_large()
                body = b"".join(parts)
        except asyncio.CancelledError:
            if loop.time() < overdue.when():  # somebody else's
                raise
            task.uncancel()
            raise Rejection("request_timeout", seconds=int(self._body_seconds_max)) from None
        finally:
            overdue.cancel()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        if len(body) > self._body_bytes_max:
            raise self._too_large()
        return body

    def _too_large(self) -> Rejection:
        return Rejection("body_too_large", bytes_max=self._body_bytes_max)

    def _report(self, scope: Any, context: RequestContext, status: int, seconds: float) -> None:
        route = scope.get("path_template") or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.answered(method, route, status, seconds)
        subject = context.principal.subject if context.principal else None
        ms = round(seconds * 1000, 3)
        if route in QUIET_PATHS:
            log.debug("request", method=method, route=route, status=status, ms=ms, subject=subject)
            return
        self._log_request(
            logs.RequestLine(
                correlation_id=context.correlation_id, method=method, route=route, status=status, ms=ms, subject=subject
            )
        )


def body_of(scope: Any) -> bytes:
    """The whole body of a POST, PUT or PATCH, from its ASGI scope: no need to wait for it in a hot route."""
    body: bytes = scope[BODY_KEY]
    return body


def _is_json(headers: dict[bytes, bytes]) -> bool:
    """A POST without a body needs no type for it: what some commands have to say is all in their address."""
    if b"content-encoding" in headers:
        return False
    kind = headers.get(b"content-type")
    if kind == b"application/json":
        return True
    if kind is None:
        return headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
    return _JSON.fullmatch(kind) is not None


class _TextAmounts:
    """A `send` for those who asked for amounts as strings: JSON is rewritten when it is whole, all else goes straight through."""

    __slots__ = ("_parts", "_send", "_start")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Any = None
        self._parts: list[bytes] = []

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"").partition(b";")[0]
            if kind in (b"application/json", PROBLEM_TYPE.encode()):
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        start, self._start = self._start, None
        body = b"".join(self._parts)
        if body:  # an answer to HEAD has none
            body = amounts.with_texts(body)
            headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
            start["headers"] = [*headers, (b"content-length", b"%d" % len(body)), (b"vary", b"prefer")]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class _Replay:
    """A `receive` that gives the body that was read already, then whatever comes: the disconnect."""

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _send_problem(send: Send, error: DaybookError, context: RequestContext) -> None:
    answer = problem_answer(error, context.trace_id)
    body = json.encode(answer.document)
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer, body)})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_all(send: Send, status: int, body: bytes, headers: Headers) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _headers(answer: ProblemAnswer, body: bytes) -> Headers:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    return [*headers, (b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode())]
