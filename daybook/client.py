"""The HTTP client of the command line: one kept connection a service, time-outs, bounded retries under one key.

Knows where a local stack says its addresses and tokens are (DIR/stack.json). Never decides what an answer means to
a person: that is `daybook/cli/`. Not for other programs: it answers raw bytes and the errors of `shared_kernel.errors`.
"""

import http.client
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from daybook.terminal import CommandFailed, Exit
from shared_kernel.errors import DaybookError, Field, Unavailable

ANSWER_SECONDS_MAX = 30.0  # chosen: above the longest wait that either service offers
ATTEMPTS_MAX = 8  # chosen: with the waits below some 15 s, longer than a restart of any process takes
FIRST_WAIT_SECONDS = 0.1
DOWNLOAD_BYTES = 256 * 1024
WAIT_SECONDS_MAX = 4.0
ShapeT = TypeVar("ShapeT")
RETRIED = {429, 502, 503, 504}
LASTING_CODES = {"dependency_unavailable", "read_model_parked"}  # not cured by asking again in a moment


class AnsweredProblem(DaybookError):
    """The service answered with a problem document."""

    def __init__(self, code: str, *, status: int, members: Mapping[str, Field]) -> None:
        super().__init__(code)
        self.status = status
        self.fields = dict(members)

    def __str__(self) -> str:
        told = self.fields.get("detail") or self.fields.get("title") or f"the service answered {self.status}"
        return f"{self.code}: {told}"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two services are, and a token by role."""

    command_url: str
    query_url: str
    tokens: dict[str, str]
    is_local: bool

    def token(self, *roles: str) -> str:
        """The token of the first of the roles that there is one for; the given one where it was given by hand."""
        found = next((self.tokens[role] for role in (*roles, "") if role in self.tokens), None)
        if found is None:
            raise CommandFailed(f"no token for the role {roles[0]}: give one with --token or DAYBOOK_TOKEN", Exit.USAGE)
        return found


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A successful answer: status 2xx, the body as it came, and what its headers say."""

    status: int
    body: bytes
    position: int | None
    is_replay: bool

    def read(self, shape: type[ShapeT]) -> ShapeT:
        """The body as the shape; what the shape does not name is left out."""
        try:
            return msgspec.json.decode(self.body, type=shape)
        except msgspec.MsgspecError as fault:
            raise CommandFailed(f"the service answered what this version does not understand: {fault}") from fault


class _Stack(msgspec.Struct):
    command_url: str
    query_url: str
    projector_url: str = ""
    tokens: dict[str, str] = {}


def find_target(*, data: Path, command_url: str | None, query_url: str | None, token: str | None) -> Target:
    """The services to talk to: what was given by hand, else what the stack in the folder `data` says."""
    if command_url and query_url and token:
        return Target(command_url=command_url, query_url=query_url, tokens={"": token}, is_local=False)
    stack = _read_stack(data, "--command-url, --query-url and --token")
    return Target(
        command_url=command_url or stack.command_url,
        query_url=query_url or stack.query_url,
        tokens={"": token} if token else stack.tokens,
        is_local=not (command_url or query_url),
    )


def find_operations(*, data: Path, operations_url: str | None, token: str | None) -> tuple[str, str]:
    """Address and token of the operators' API: what was given by hand, else what the stack in the folder `data` says."""
    if operations_url and token:
        return operations_url, token
    stack = _read_stack(data, "--operations-url and --token")
    token = token or stack.tokens.get("operator")
    if token is None:
        raise CommandFailed("no token for the role operator: give one with --token or DAYBOOK_TOKEN", Exit.USAGE)
    return operations_url or stack.projector_url, token


def _read_stack(data: Path, options: str) -> _Stack:
    stack_file = data / "stack.json"
    try:
        return msgspec.json.decode(stack_file.read_bytes(), type=_Stack)
    except FileNotFoundError:
        message = (
            f"no local stack in {data} (no {stack_file.name} there): `daybook up` starts one, --data names another"
        )
        raise CommandFailed(f"{message}, or give {options}", Exit.UNAVAILABLE) from None
    except PermissionError:
        raise CommandFailed(f"{stack_file} is readable only by who started the stack") from None
    except msgspec.MsgspecError as fault:
        raise CommandFailed(f"{stack_file} is damaged: {fault}") from fault


class Client:
    """One service of a target, over one kept connection. Every command must carry a key, so that repeating it is safe.

    `on_wait` is told why and for how many seconds before each wait. `answer_seconds_max` bounds each of `attempts_max` attempts.
    """

    def __init__(
        self,
        url: str,
        token: str,
        on_wait: Callable[[str, float], None] | None = None,
        *,
        attempts_max: int = ATTEMPTS_MAX,
        answer_seconds_max: float = ANSWER_SECONDS_MAX,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandFailed(f"{url} is no http or https address", Exit.USAGE)
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=answer_seconds_max, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=answer_seconds_max)
        )
        self._url = url
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._on_wait = on_wait
        self._attempts_max = attempts_max

    def get(self, path: str, *, position: int | None = None, **parameters: str | int | None) -> Answer:
        """The answer to a query, at or after `position` of the ledger. Parameters that are None are left out."""
        present = {name: value for name, value in parameters.items() if value is not None}
        headers = {} if position is None else {"Daybook-Position": str(position)}
        return self._send("GET", path + ("?" + urlencode(present) if present else ""), None, headers)

    def post(self, path: str, body: bytes, *, key: str | None) -> Answer:
        """The answer to a command, or to a batch whose elements have keys of their own (`key` None)."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._send("POST", path, body, headers)

    def download(
        self, path: str, write: Callable[[bytes], object], *, accept: str, **parameters: str | int | None
    ) -> int | None:
        """Everything that the path answers, written piece by piece; gives the position that it is as of.

        Never repeated: a part of it may be written already. Unavailable `incomplete` where the connection ended before the answer.
        """
        present = {name: value for name, value in parameters.items() if value is not None}
        target = self._prefix + path + ("?" + urlencode(present) if present else "")
        try:
            self._connection.request("GET", target, headers={**self._headers, "Accept": accept})
            response = self._connection.getresponse()
            if response.status >= 300:
                raise read_problem(response.status, response.read())
            while piece := response.read1(DOWNLOAD_BYTES):
                write(piece)
        except BrokenPipeError:
            raise
        except (OSError, http.client.HTTPException) as lost:
            self._connection.close()
            raise Unavailable("incomplete", url=self._url, detail=str(lost) or type(lost).__name__) from lost
        return _whole(response.headers.get("Daybook-Position"))

    def close(self) -> None:
        """The connection is closed; the next request opens another."""
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        for attempt in range(self._attempts_max):  # POSTs are repeated too: a key makes that safe (design §4)
            is_last = attempt == self._attempts_max - 1
            try:
                self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as lost:
                self._connection.close()
                if is_last:
                    raise Unavailable("unreachable", url=self._url, detail=str(lost) or type(lost).__name__) from lost
                self._wait(attempt, None, f"{self._url} does not answer")
                continue
            if response.status < 300:
                return Answer(
                    status=response.status,
                    body=content,
                    position=_whole(response.headers.get("Daybook-Position")),
                    is_replay=response.headers.get("Idempotent-Replay") == "true",
                )
            error = read_problem(response.status, content)
            if is_last or response.status not in RETRIED or error.code == "read_model_parked":
                raise error
            self._wait(attempt, _whole(response.headers.get("Retry-After")), error.code)
        raise AssertionError("the last attempt answers or raises")

    def _wait(self, attempt: int, asked_seconds: int | None, why: str) -> None:
        seconds = wait_seconds(attempt, asked_seconds)
        if self._on_wait is not None:
            self._on_wait(why, seconds)
        time.sleep(seconds)


def wait_seconds(attempt: int, asked_seconds: int | None = None) -> float:
    """How long to wait after attempt 0, 1, …: doubling, half of it by chance, at least what the service asked, bounded."""
    longest = min(WAIT_SECONDS_MAX, FIRST_WAIT_SECONDS * 2.0**attempt)
    chosen: float = longest * (0.5 + random.random() / 2)  # noqa: S311 - spreads clients, guards nothing
    return min(WAIT_SECONDS_MAX, max(chosen, asked_seconds or 0.0))


def read_problem(status: int, document: bytes) -> AnsweredProblem:
    """The error that a problem document (RFC 9457) stands for; `http_<status>` where the body is none."""
    try:
        members = msgspec.json.decode(document, type=dict[str, Field])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        members = {}
    code = members.pop("code", None)
    members.pop("status", None)
    return AnsweredProblem(code if isinstance(code, str) else f"http_{status}", status=status, members=members)


def exit_of(error: DaybookError) -> Exit:
    """The exit code of an error: a 409 turns a wish down as a refusal does, a 400 is the caller's mistake."""
    if isinstance(error, Unavailable):
        return Exit.UNAVAILABLE
    if not isinstance(error, AnsweredProblem):
        return Exit.FAULT
    if error.status == 429 or error.code == "conflict":
        return Exit.TRY_AGAIN
    if error.status in RETRIED:
        return Exit.UNAVAILABLE if error.code in LASTING_CODES else Exit.TRY_AGAIN
    return {400: Exit.USAGE, 409: Exit.REFUSED, 422: Exit.REFUSED}.get(error.status, Exit.FAULT)


def ledger_path(ledger: str, *rest: str) -> str:
    """`/v1/ledgers/{ledger}/…`, each part made safe for a path."""
    return "/".join(("/v1/ledgers", quote(ledger, safe=":"), *(quote(part, safe=":") for part in rest)))


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
