"""A query process of its own for tests of what only a server shows: streams, slow readers, stopping."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.integration.query_service.conftest import KEY, token
from tests.services import Database, free_port

STARTS_WITHIN_S = 60
STOPS_WITHIN_S = 30  # three times what is promised


class Process:
    """A running query process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, role: str = "auditor") -> httpx.Client:
        """Asks it as one caller."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {token(role)}"}, timeout=30)

    def resident_bytes(self) -> int:
        """The memory it holds."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def stop(self) -> str:
        """Its output, after it ended well."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=STOPS_WITHIN_S)
        assert self.process.returncode == 0, output
        return output


@contextmanager
def query_process(database: Database, folder: Path, **settings: str) -> Iterator[Process]:
    """A query process that is ready; killed at the end if it still runs."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    environment = inherited | {
        "DAYBOOK_POSTGRES_URL": database.urls["query"],
        "DAYBOOK_HTTP_PORT": str(port),
        "DAYBOOK_JWT_KEYS_FILE": str(keys),
        "DAYBOOK_JWT_ISSUER": "i",
        "DAYBOOK_JWT_AUDIENCE": "a",
        **{f"DAYBOOK_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "query_service"]
    output = (folder / "query.log").open("w+")
    with (
        output,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=output, text=True) as started,
    ):
        process = Process(started, port)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not _is_live(process.url):
            assert started.poll() is None, (folder / "query.log").read_text()
            assert time.monotonic() < deadline
        yield process
        started.kill()


def _is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
