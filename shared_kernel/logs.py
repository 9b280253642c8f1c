"""Structured logs of every process: one event, one line, on standard output.

An event has a name in snake case and fields from the allow-list below; what is not listed shows as `withheld`, so no
body and no secret gets out by accident. Lines of the standard library and of librdkafka come the same way. Lines are
buffered for at most `FLUSH_SECONDS`; a warning or worse is written at once.
"""

import atexit
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

FLUSH_SECONDS = 0.1  # chosen: nobody reads faster; one write for hundreds of request lines
LINES_BUFFERED_MAX = 5_000  # chosen: about 2 MB; past it the writer waits for the reader instead of losing lines
TEXT_LENGTH_MAX = 500

# The fields that lines may have. Add a name here when its values can never be a secret, a body or free text of a client.
FIELDS = frozenset(
    """
    address against attempt attempts batch batches behind bytes cause check checks code command commands conflicts
    correlation_id count database dependency detail differences elapsed_ms epoch error error_class event event_type
    events exception failed from_position generation group groups head held_ms holder host incarnation interval_ms job
    key keys kind lag ledger ledgers level limit lock locks logger method ms name offset operation outcome owner partition path
    paused pid port position positions process projection query reason refused replica retries retry_after_ms role
    route rows schema signal since state status subject tables_differed timestamp to_position topic trace_id
    trace_ids transaction transaction_id url version wait_ms worker
    """.split()  # noqa: SIM905 - as a list it would be eighty lines
)

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)

CREDENTIALS_LENGTH_MIN = 12  # the shortest text that can hold a URL with a password, `password=` or a token

_SPELLED = {"warn": "warning", "err": "error", "exception": "error"}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@|(?<=Bearer )\S+|(?i:(?<=password=))[^\s&]+")


class LineWriter:
    """Collects lines and writes many at once to a file descriptor, in order, from a thread of its own.

    `write` may be called from any thread. `flush` returns when all lines so far have been handed to the system.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Takes a line without its line feed."""
        self._lines.append(line)
        if len(self._lines) >= LINES_BUFFERED_MAX:
            self.flush()

    def flush(self) -> None:
        """Writes what has been taken. A reader that went away is no reason to stop working."""
        with self._lock:
            taken = [self._lines.popleft() for _ in range(len(self._lines))]  # others append meanwhile
            if not taken:
                return
            content = memoryview(b"\n".join([*taken, b""]))
            try:
                while content:
                    content = content[os.write(self._fd, content) :]
            except OSError:
                return

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        self._stop.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()


class _BufferedLogger:
    """What structlog hands rendered lines to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def debug(self, line: bytes) -> None:
        self._writer.write(line)

    info = debug

    def warning(self, line: bytes) -> None:
        self._writer.write(line)
        self._writer.flush()

    error = critical = exception = fatal = warn = err = warning


class _StandardHandler(logging.Handler):
    """Sends records of the standard library's loggers, librdkafka's among them, down our way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger(record.name)
            fields = {"exc_info": record.exc_info} if record.exc_info else {}
            log.log(min(record.levelno // 10 * 10, 40) or 10, record.getMessage(), **fields)
        except Exception:
            self.handleError(record)


def configure(
    process: str,
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["json", "console"] = "json",  # noqa: A002 - the setting's own name
    fd: int | None = None,
) -> LineWriter:
    """All log lines of this process go to `fd` (standard output by default) from now on. Call it once, in `main`.

    Close the returned writer last; it also closes by itself at exit.
    """
    fd = sys.stdout.fileno() if fd is None else fd
    writer = LineWriter(fd)
    atexit.register(writer.close)
    renderer: Callable[..., Any] = _render_json if format == "json" else _ConsoleRenderer(fd)
    structlog.configure(
        processors=[_shorten_exception, _only_listed, _Stamp(process), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_Factory(writer, process if format == "json" and level in {"debug", "info"} else None),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardHandler()]
    root.setLevel(_LEVELS[level])
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(_LEVELS[level], logging.WARNING))
    return writer


class RequestLine(msgspec.Struct, kw_only=True):
    """The line of an answered request, fields in the order of every other line. Whoever writes it stamps it."""

    timestamp: str = ""
    level: str = "info"
    event: str = "request"
    process: str = ""
    correlation_id: str
    method: str
    route: str
    status: int
    ms: float
    subject: str | None


class _Factory:
    """Makes loggers; `direct` names the process if lines at info need no more than JSON."""

    def __init__(self, writer: LineWriter, direct: str | None) -> None:
        self.writer = writer
        self.direct = direct
        self._logger = _BufferedLogger(writer)

    def __call__(self, *names: str) -> _BufferedLogger:
        return self._logger


def request_logger() -> Callable[[RequestLine], None]:
    """Writes the line of a request.

    Its fields are ours or were bounded by the edge, so they need not pass the processors, which cost more than encoding the
    line: for JSON it goes straight to the writer (a twentieth of the command process's time, measured).
    """
    factory = structlog.get_config()["logger_factory"]
    if isinstance(factory, _Factory) and factory.direct is not None:
        write, process = factory.writer.write, factory.direct

        def direct(line: RequestLine) -> None:
            line.timestamp, line.process = _now(), process
            write(_encoder.encode(line))

        return direct
    log = structlog.get_logger(__name__)

    def processed(line: RequestLine) -> None:
        log.info(line.event, method=line.method, route=line.route, status=line.status, ms=line.ms, subject=line.subject)

    return processed


class _Second:
    """The second that was written last, as text: a process writes many lines in one."""

    number = -1
    text = ""


def _now() -> str:
    seconds, microseconds = divmod(time.time_ns() // 1_000, 1_000_000)
    if seconds != _Second.number:
        _Second.text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _Second.number = seconds
    return f"{_Second.text}.{microseconds:06d}Z"


class _Stamp:
    """Puts time, level, process and correlation first in the line. Ours, or bounded by the edge: nothing to look through."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        stamped: EventDict = {
            "timestamp": _now(),
            "level": _SPELLED.get(method, method),
            "event": event.pop("event"),
            "process": self._process,
        }
        correlation = correlation_id.get()
        if correlation is not None:
            stamped["correlation_id"] = correlation
        stamped.update(event)
        return stamped


def _shorten_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Of an exception: class, the message's first line and where; driver errors quote whole rows further down."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames))
        event["error_class"] = type(error).__name__
        event["error"] = str(error).partition("\n")[0]
        event["exception"] = where
    return event


def _only_listed(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name not in FIELDS:
            event[name] = "withheld"
        elif isinstance(value, str):
            event[name] = _bounded(value)
        elif isinstance(value, list):
            event[name] = [_bounded(each) if isinstance(each, str) else each for each in value]
        elif isinstance(value, Exception):
            event[name] = type(value).__name__
    return event


def _bounded(value: str) -> str:
    if len(value) > TEXT_LENGTH_MAX:
        value = value[:TEXT_LENGTH_MAX] + "…"
    if type(value) is not str:
        return repr(value)  # a Secret shows ***
    return _CREDENTIALS.sub("***", value) if len(value) > CREDENTIALS_LENGTH_MIN else value


_encoder = msgspec.json.Encoder(enc_hook=repr, decimal_format="string")


def _render_json(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    return _encoder.encode(event)


class _ConsoleRenderer:
    """Lines for people, coloured on a terminal unless NO_COLOR is set."""

    def __init__(self, fd: int) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=os.isatty(fd) and "NO_COLOR" not in os.environ)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        event.pop("process", None)
        return self._render(logger, method, event).encode()
