"""The HTTP server of a process as the system sees it: ports, signals, exit codes, what a kill leaves unanswered."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30

# A process like ours: its one route waits until the test lets it go on.
PROGRAM = """
import asyncio, os, sys
from contextlib import asynccontextmanager
from pathlib import Path
from litestar import get
from shared_kernel import logs
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

@get("/docs/wait", include_in_schema=False)
async def wait() -> str:
    print("waiting", flush=True)
    while not gate.exists():
        await asyncio.sleep(0.01)
    return "answered"

@asynccontextmanager
async def lifespan(app):
    if os.environ.get("FAIL"):
        raise RuntimeError("no database")
    print("begun", flush=True)
    yield
    print("ended", flush=True)

health = Health()
app = create_app(
    title="t", description="d", route_handlers=[wait], lifespan=[lifespan], health=health, registry=new_registry(),
    verifier=TokenVerifier(FileKeys(Path(settings.jwt_keys_file)), issuer="i", audience="a"), settings=settings,
)
serve_or_exit(app, settings, health)
writer.close()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
            env={"PATH": os.environ["PATH"], "GATE": str(self.gate)}
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
        transport = httpx.HTTPTransport(retries=20)  # it has said "listening" just before it does
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS_MAX) as client:
            return client.get(path)


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

    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS_MAX) as connection:
        connection.sendall(b"GET /docs/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        served.read_until("waiting")
        served.process.send_signal(signal.SIGTERM)
        served.read_until("stopping")
        served.gate.touch()
        answer = b""
        while not answer.endswith(b"answered"):
            part = connection.recv(4096)
            assert part, answer
            answer += part

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
