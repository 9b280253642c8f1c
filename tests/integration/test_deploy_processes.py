"""Every process starts with the command and the environment that docker-compose.yml and deploy/kubernetes declare for it.

Only places are exchanged (servers, files, ports), for those of this test run; no variable is added or left out.
"""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daybook.stack.jars import SWAGGER_FILES
from daybook.stack.layout import Layout
from daybook.stack.tokens import ensure_signing_key
from scripts.generate_docs import figures_of_processes
from tests.services import ROLES_PASSWORD, Database, Servers, free_port
from tests.support.declared import ONCE, PROCESSES, ROOT, Declared, from_compose, from_kubernetes

pytestmark = pytest.mark.thorough

READY_WITHIN_S = 90  # some three times what all at once take on two busy cores
STOP_WITHIN_S = 30  # a process ends within 10 s of SIGTERM; three times that
DECLARED = {"compose": from_compose(), "kubernetes": from_kubernetes()}


@pytest.fixture
def places(database: Database, stack: Servers, kafka_topic: str, tmp_path: Path) -> Iterator["Places"]:
    """Where this test's servers, files and keys are."""
    layout = Layout.at(tmp_path)
    layout.make()
    ensure_signing_key(layout)
    swagger = tmp_path / "swagger"
    swagger.mkdir()
    for name in SWAGGER_FILES:
        (swagger / name).write_text("")
    jwks = layout.jwks_file.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(jwks)))
            self.end_headers()
            self.wfile.write(jwks)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/jwks.json"
            yield Places(database, stack, kafka_topic, tmp_path, jwks_url=url, jwks_file=layout.jwks_file)
        finally:
            server.shutdown()
            thread.join()


class Places:
    """Exchanges the declared places for those of this run."""

    def __init__(
        self, database: Database, stack: Servers, topic: str, folder: Path, *, jwks_url: str, jwks_file: Path
    ) -> None:
        self._database = database
        self._folder = folder
        group = f"t{secrets.token_hex(6)}"
        self._values = {
            "DAYBOOK_REDIS_URL": stack.redis_url,
            "DAYBOOK_REDIS_URL_FILE": self._file("redis_url", stack.redis_url),
            "DAYBOOK_ROLES_PASSWORD_FILE": self._file("roles_password", ROLES_PASSWORD),
            "DAYBOOK_HTTP_HOST": "127.0.0.1",
            "DAYBOOK_HEALTH_HOST": "127.0.0.1",
            "DAYBOOK_JWT_KEYS_URL": jwks_url,
            "DAYBOOK_JWT_KEYS_FILE": str(jwks_file),
            "DAYBOOK_SWAGGER_DIR": str(folder / "swagger"),
            "DAYBOOK_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
            "DAYBOOK_KAFKA_TOPIC": topic,
            "DAYBOOK_KAFKA_REPLICAS": "1",
            "DAYBOOK_KAFKA_GROUP_PREFIX": group,
        }

    def environment(self, declared: Declared) -> dict[str, str]:
        """The declared variables, and of this machine's only what is not Daybook's."""
        urls = dict(self._database.urls) | {
            "roles": self._database.admin_url,
            "migrate": self._database.urls["migrator"],
            "clock": self._database.urls["command"],
        }
        here = self._values | {
            "DAYBOOK_POSTGRES_URL_FILE": self._file(f"url_{declared.name}", urls[declared.name]),
            "DAYBOOK_HTTP_PORT": str(free_port()),
            "DAYBOOK_HEALTH_PORT": str(free_port()),
        }
        ours = {name: here.get(name, value) for name, value in declared.environment.items()}
        return {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")} | ours

    def _file(self, name: str, content: str) -> str:
        path = self._folder / name
        path.write_text(content + "\n")
        return str(path)


class Running:
    """One started process."""

    def __init__(self, declared: Declared, environment: Mapping[str, str], folder: Path) -> None:
        self.name = declared.name
        self.environment = dict(environment)
        port = environment.get("DAYBOOK_HTTP_PORT") or environment["DAYBOOK_HEALTH_PORT"]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"{declared.name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                _argv(declared), env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while (fault := _fault(f"{self.url}/health/ready")) is not None:
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}\n{self.said()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready: {fault}\n{self.said()}"
            time.sleep(0.05)

    def container_is_healthy(self) -> bool:
        """What the image's own health check says of it."""
        check = [sys.executable, ROOT / "deploy" / "docker" / "healthcheck.py"]
        return subprocess.run(check, env=self.environment, capture_output=True, check=False).returncode == 0

    def metrics(self) -> set[str]:
        """The names of what it shows of its own."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{self.url}/metrics") as answer:
            names = {family.name for family in text_string_to_metric_families(answer.read().decode())}
        # The client library adds a `_created` to each counter and histogram.
        return {name for name in names if name.startswith("daybook_") and not name.endswith("_created")}

    def said(self) -> str:
        return self._log.read_text()


@pytest.mark.parametrize("place", DECLARED)
def test_declared_processes_become_ready_and_stop_when_told(place: str, places: Places, tmp_path: Path) -> None:
    for name in ONCE:
        if (once := DECLARED[place].get(name)) is not None:
            outcome = subprocess.run(
                _argv(once), env=places.environment(once), capture_output=True, text=True, timeout=60, check=False
            )
            assert outcome.returncode == 0, outcome.stderr
    running: list[Running] = []
    try:
        for name in PROCESSES:
            declared = DECLARED[place][name]
            running.append(Running(declared, places.environment(declared), tmp_path))
        for process in running:
            process.wait_until_ready()
            assert process.container_is_healthy()
            assert process.metrics() == {family.name for family in figures_of_processes()[process.name]}
        for process in running:
            process.process.send_signal(signal.SIGTERM)
        for process in running:
            assert process.process.wait(STOP_WITHIN_S) == 0, process.said()
            assert not process.container_is_healthy()
    finally:
        for process in running:
            process.process.kill()
            process.process.wait()


def _argv(declared: Declared) -> list[str]:
    """The declared command with this interpreter: `python -m …` as it stands, `daybook …` as the module it is."""
    program, *arguments = declared.command
    return [sys.executable, "-P", *(arguments if program == "python" else ["-m", program, *arguments])]


def _fault(url: str) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except OSError as error:
        return str(error)
