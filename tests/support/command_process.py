"""Command processes as an operator starts them, and one blocking client of each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from joserfc.jwk import ECKey

from tests.services import Database, Servers, free_port

READY_WITHIN_S = 60.0


class CommandProcess:
    """One running process. `http` asks it as whoever `authorization` says."""

    def __init__(self, child: "subprocess.Popen[bytes]", url: str, output: Path, authorization: str) -> None:
        self.child = child
        self.url = url
        self.log_file = output
        self.http = httpx.Client(
            base_url=url, headers={"authorization": authorization, "content-type": "application/json"}, timeout=60
        )

    def wait_ready(self) -> "CommandProcess":
        """Returns once it says so itself."""
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            assert self.child.poll() is None, self.output()
            try:
                if self.http.get("/health/ready").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready within {READY_WITHIN_S} s:\n{self.output()}")

    def output(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text()

    def metrics(self) -> dict[str, float]:
        """Every line of /metrics, by name and labels."""
        lines = [line for line in self.http.get("/metrics").text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def end(self) -> None:
        """Whatever it does, it is over."""
        self.http.close()
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


@contextmanager
def command_processes(
    count: int, *, database: Database, servers: Servers, folder: Path, key: ECKey, authorization: str, **settings: str
) -> Iterator[list[CommandProcess]]:
    """So many of them on one database, ready; all are ended afterwards."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    made: list[CommandProcess] = []
    try:
        for number in range(count):
            port = free_port()
            environment: dict[str, Any] = clean | {
                "DAYBOOK_POSTGRES_URL": database.urls["command"],
                "DAYBOOK_REDIS_URL": servers.redis_url,
                "DAYBOOK_HTTP_PORT": str(port),
                "DAYBOOK_JWT_KEYS_FILE": str(keys),
                "DAYBOOK_JWT_ISSUER": "i",
                "DAYBOOK_JWT_AUDIENCE": "a",
                "DAYBOOK_QUERY_PUBLIC_URL": "https://query.example",
                **settings,
            }
            output = folder / f"command-{number}.log"
            with output.open("wb") as out:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "command_service"],
                    env=environment,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            made.append(CommandProcess(child, f"http://127.0.0.1:{port}", output, authorization))
        yield [process.wait_ready() for process in made]
    finally:
        for process in made:
            process.end()
