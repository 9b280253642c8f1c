"""The HTTP server of a process as the system sees it: ports, signals, exit codes, what a kill leaves unanswered."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey

from shared_kernel.http_protocol import SEND_BYTES_MIN
from tests.services import free_port

pytestmark = [pytest.mark.long, pytest.mark.thorough]
ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30
LARGE_BYTES = 64 * 1024 * 1024  # of an answer that no system's buffers hold

# A process like ours: its one route waits until the test lets it go on.
PROGRAM = """
import asyncio, os, sys
from contextlib import asynccontextmanager
from pathlib import Path
from litestar import get
from shared_kernel import http_protocol, logs
from shared_kernel.health import Health
from shared_kernel.http import create_app
from shared_kernel.keys import FileKeys
from shared_kernel.metrics import new_registry
from shared_kernel.security import TokenVerifier
from shared_kernel.serve import serve_or_exit
from shared_kernel.settings import HttpSettings, load_or_exit

settings = load_or_exit(HttpSettings, os.environ)
writer = logs.configure("test", level=settings.log_level)
gate = Path(os.environ["GATE"])
http_protocol.KEEP_ALIVE_SECONDS = float(os.environ.get("KEEP_ALIVE", http_protocol.KEEP_ALIVE_SECONDS))

@get("/docs/wait", include_in_schema=False)
async def wait() -> str:
    print("waiting", flush=True)
    while not gate.exists():
        await asyncio.sleep(0.01)
    print("let go", flush=True)
    return "answered"

@get("/docs/large", include_in_schema=False, media_type="text/plain")
async def large() -> bytes:
    return b"x" * int(os.environ["LARGE_BYTES"])

@asynccontextmanager
async def lifespan(app):
    if os.environ.get("FAIL"):
        raise RuntimeError("no database")
    print("begun", flush=True)
    yield
    print("ended", flush=True)

health = Health()
app = create_app(
    title="t", description="d", route_handlers=[wait, large], lifespan=[lifespan], health=health, registry=new_registry(),
    verifier=TokenVerifier(FileKeys(Path(settings.jwt_keys_file)), issuer="i", audience="a"), settings=settings,
)
serve_or_exit(app, settings, health)
writer.close()
"""


LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /docs/large HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /docs/wait HTTP/1.1\r\nHost: x\r\n\r\n"


class Served:
    def __init__(self, folder: Path, port: int, **environ: str) -> None:
        keys = folder / "keys.json"
        keys.write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
        self.gate = folder / "gate"
        self.port = port
        settings = {
            "POSTGRES_URL": "unused",
            "HTTP_PORT": str(port),
            "JWT_ISSUER": "i",
            "JWT_AUDIENCE": "a",
            "JWT_KEYS_FILE": str(keys),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "GATE": str(self.gate), "LARGE_BYTES": str(LARGE_BYTES)}
            | {f"DAYBOOK_{name}": value for name, value in settings.items()}
            | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """The first line that holds the text; fails at the end of output."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"no line with {text!r}: {self.process.communicate()[1]}")

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=SECONDS_MAX)
        return self.process.returncode, out, err

    def get(self, path: str) -> httpx.Response:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS_MAX) as client:
            return client.get(path)

    def figure(self, name: str) -> float:
        """What /metrics says of a name without labels."""
        [line] = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS_MAX)


def read_until_closed(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(4096):
        received += part
    return received


def read_answer(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to those bytes, which are the last of an answer."""
    received = b""
    while not received.endswith(end):
        part = connection.recv(4096)
        assert part, received
        received += part
    return received


@pytest.fixture
def started() -> Iterator[list[Served]]:
    processes: list[Served] = []
    yield processes
    for served in processes:
        served.process.kill()
        served.process.communicate()


def test_sigterm_answers_what_is_in_flight_then_ends_with_0(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, free_port())
    started.append(served)
    served.read_until("listening")
    idle = httpx.Client(base_url=f"http://127.0.0.1:{served.port}")
    served.get("/health/live")
    assert idle.get("/health/live").status_code == 200  # keeps its connection open: that must not hold up the end

    with served.connect() as connection:
        connection.sendall(WAIT)
        served.read_until("waiting")
        served.process.send_signal(signal.SIGTERM)
        served.read_until("stopping")
        served.gate.touch()
        answer = read_until_closed(connection)

    assert answer.endswith(b"answered")
    assert answer.startswith(b"HTTP/1.1 200")
    code, out, err = served.end()
    idle.close()
    assert code == 0, err
    assert "ended" in out
    assert "stopped" in out
    assert err == ""


def test_a_port_in_use_ends_the_second_process_with_1(tmp_path: Path, started: list[Served]) -> None:
    first = Served(tmp_path, free_port())
    started.append(first)
    first.read_until("listening")
    assert first.get("/health/ready").status_code == 200

    second = Served(tmp_path, first.port)
    started.append(second)
    code, out, err = second.end()

    assert code == 1
    assert f"127.0.0.1:{first.port} cannot be listened on" in err
    assert "begun" not in out
    assert first.get("/health/ready").status_code == 200


def test_several_processes_may_share_a_port_on_purpose(tmp_path: Path, started: list[Served]) -> None:
    port = free_port()
    for _ in range(2):
        served = Served(tmp_path, port, DAYBOOK_HTTP_PORT_SHARED="true")
        started.append(served)
        served.read_until("listening")

    assert all(served.process.poll() is None for served in started)


def test_a_failed_start_ends_with_1_and_says_why(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, free_port(), FAIL="1")
    started.append(served)
    code, out, err = served.end()

    assert code == 1
    assert "Daybook cannot start: RuntimeError: no database" in err
    assert "Traceback" not in err
    assert "begun" not in out


def test_wrong_settings_end_with_2(tmp_path: Path, started: list[Served]) -> None:
    served = Served(tmp_path, free_port(), DAYBOOK_HTTP_PORT="x", DAYBOOK_TYPO="1")
    started.append(served)
    code, _, err = served.end()

    assert code == 2
    assert "DAYBOOK_HTTP_PORT" in err
    assert "DAYBOOK_TYPO" in err


@pytest.fixture
def served(tmp_path: Path, started: list[Served]) -> Served:
    """A process that listens."""
    return start(tmp_path, started)


def start(folder: Path, started: list[Served], **environ: str) -> Served:
    served = Served(folder, free_port(), **environ)
    started.append(served)
    served.read_until("listening")
    return served


def test_requests_on_one_connection_are_answered_in_their_order(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(LIVE)
        assert read_answer(connection, b"}").startswith(b"HTTP/1.1 200")
        connection.sendall(WAIT + LIVE + LIVE.replace(b"live", b"none"))  # sent before the first is answered
        served.read_until("waiting")
        served.gate.touch()
        answers = read_answer(connection, b"}")
        while answers.count(b"HTTP/1.1 ") < 3:
            answers += read_answer(connection, b"}")

    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"401"]
    assert answers.index(b"answered") < answers.index(b'"status"')
    assert b"server:" not in answers.lower()


def test_a_head_that_does_not_end_in_time_is_cut_off_and_an_idle_connection_is_not(
    tmp_path: Path, started: list[Served]
) -> None:
    served = start(tmp_path, started, DAYBOOK_HTTP_HEAD_SECONDS_MAX="1")
    with served.connect() as idle, served.connect() as silent, served.connect() as slow, served.connect() as later:
        idle.sendall(LIVE)
        read_answer(idle, b"}")
        later.sendall(LIVE)
        read_answer(later, b"}")
        later.sendall(LIVE[:-2])  # a second request whose head does not end
        slow.sendall(LIVE[:-2])

        assert read_until_closed(slow) == b""
        assert read_until_closed(later) == b""
        assert read_until_closed(silent) == b""
        idle.sendall(LIVE)
        assert read_answer(idle, b"}").startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_in_time_and_a_busy_one_is_not(tmp_path: Path, started: list[Served]) -> None:
    served = start(tmp_path, started, KEEP_ALIVE="0.5", DAYBOOK_HTTP_HEAD_SECONDS_MAX="1")
    with served.connect() as idle, served.connect() as busy:
        busy.sendall(WAIT)
        served.read_until("waiting")
        idle.sendall(LIVE)
        assert read_until_closed(idle).startswith(b"HTTP/1.1 200")
        served.gate.touch()
        assert read_answer(busy, b"answered").startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_its_answer_is_cut_off_and_a_slow_one_is_not(
    tmp_path: Path, started: list[Served]
) -> None:
    served = start(tmp_path, started, DAYBOOK_HTTP_SEND_SECONDS_MAX="2")
    with served.connect() as stuck, served.connect() as slow:
        for connection in (stuck, slow):
            connection.sendall(LARGE)
        stuck.recv(1)
        while served.figure("daybook_http_connections") != 2:  # the slow one and this look
            part = slow.recv(8 * SEND_BYTES_MIN, socket.MSG_WAITALL)  # and never stops for long
            assert part
        assert len(slow.recv(1024 * 1024, socket.MSG_WAITALL)) == 1024 * 1024  # it is still being answered
        assert bytes_until_it_ends(stuck) < LARGE_BYTES


def bytes_until_it_ends(connection: socket.socket) -> int:
    """How many still come, whether it ends in peace or not."""
    received = 0
    with suppress(ConnectionResetError):
        while part := connection.recv(1024 * 1024):
            received += len(part)
    return received


def test_a_storm_of_connections_is_shed_and_health_is_still_told(tmp_path: Path, started: list[Served]) -> None:
    served = start(tmp_path, started, DAYBOOK_HTTP_CONNECTIONS_MAX="60", DAYBOOK_HTTP_REQUESTS_MAX="20")
    with ExitStack() as opened:
        storm = [opened.enter_context(served.connect()) for _ in range(100)]
        for connection in storm:
            connection.sendall(WAIT)
        shed = 0
        while shed < 80:  # 40 of the first 60, and all of the others
            shed = served.figure("daybook_http_requests_shed_total")
        assert served.get("/health/live").status_code == 200
        served.gate.touch()
        answers = [connection.recv(65_536) for connection in storm]  # each was written at once
        assert Counter(answer.split()[1] for answer in answers) == {b"200": 20, b"503": 80}
        assert sum(b"connection: close" in answer.lower() for answer in answers) == 40
        storm[0].sendall(WAIT)
        assert read_answer(storm[0], b"answered").startswith(b"HTTP/1.1 200")
    assert served.get("/docs/wait").status_code == 200


def test_trailers_are_no_headers(served: Served) -> None:
    head = (
        b"POST /docs/wait HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with served.connect() as connection:
        connection.sendall(head + b"2\r\n{}\r\n0\r\nX-Request-Id: smuggled\r\n\r\n" + LIVE)
        answers = read_answer(connection, b"}")
        while answers.count(b"HTTP/1.1 ") < 2:
            answers += read_answer(connection, b"}")

    assert answers.startswith(b"HTTP/1.1 405")
    assert b"smuggled" not in answers


@pytest.mark.parametrize(
    "part",
    [b"X-Long: " + b"x" * 200_000, b"X: y\r\n" * 40_000, b"\r\n" * 100_000],
    ids=["one long value", "many headers", "nothing but empty lines"],
)
def test_a_head_past_its_bound_is_refused_with_431(served: Served, part: bytes) -> None:
    with served.connect() as connection:
        try:
            connection.sendall((b"" if part.startswith(b"\r") else LIVE[:-2]) + part)
            answer = read_until_closed(connection)
        except ConnectionError:  # it was closed while we were still sending, so that the answer may be lost
            answer = b"HTTP/1.1 431"

    assert answer.startswith(b"HTTP/1.1 431")
    assert served.get("/health/live").status_code == 200


def test_a_head_within_its_bound_is_taken(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(LIVE[:-2] + b"X-Long: " + b"x" * 40_000 + b"\r\n\r\n")
        assert read_answer(connection, b"}").startswith(b"HTTP/1.1 200")


def test_what_is_not_http_is_refused_after_the_answers_that_are_owed(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert read_until_closed(connection).startswith(b"HTTP/1.1 400")
    with served.connect() as connection:
        connection.sendall(WAIT + b"nonsense\r\n\r\n")
        served.read_until("waiting")
        served.gate.touch()
        answer = read_until_closed(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"answered")


def test_a_client_that_leaves_cancels_nothing(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(WAIT)
        served.read_until("waiting")
    assert served.get("/health/live").status_code == 200  # the server has looked at its sockets since
    served.gate.touch()

    served.read_until("let go")


def test_a_request_that_does_not_end_holds_up_the_end_no_longer_than_set(tmp_path: Path, started: list[Served]) -> None:
    served = start(tmp_path, started, DAYBOOK_HTTP_STOP_SECONDS_MAX="1")
    with served.connect() as connection:
        connection.sendall(WAIT)
        served.read_until("waiting")
        served.process.send_signal(signal.SIGTERM)
        code, out, _ = served.end()

    assert code == 0
    assert "ended" in out
    assert "let go" not in out
