"""The clock when Postgres falls silent on connections that nobody closes: it says so, leaves it alone, and goes on by itself."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services import Database
from tests.support.proxy import ThreadedProxy, proxied_in_thread

pytestmark = [pytest.mark.long, pytest.mark.thorough]

WITHIN_S = 60


@pytest.fixture
def wire(database: Database) -> Iterator[ThreadedProxy]:
    """The way to Postgres."""
    with proxied_in_thread(database.urls["command"]) as through:
        yield through


@pytest.fixture
def url(wire: ThreadedProxy, tmp_path: Path) -> Iterator[str]:
    """A clock as an operator starts it."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("DAYBOOK_")} | {
        "DAYBOOK_POSTGRES_URL": wire.url,
        "DAYBOOK_HEALTH_PORT": "0",
        "DAYBOOK_POLL_MS": "100",
        "DAYBOOK_LOG_STATEMENT_TIMEOUT_MS": "500",
        "DAYBOOK_LOG_CONNECT_TIMEOUT_MS": "2000",
        "DAYBOOK_POSTGRES_BREAKER_FAILURES_IN_ROW": "2",
    }
    log = tmp_path / "clock.log"
    with log.open("wb") as out:
        argv = [sys.executable, "-P", "-m", "command_service", "clock"]
        child = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: '"port":' in log.read_text() or child.poll() is not None)
        port = re.search(r'"port":(\d+)', log.read_text())
        assert port is not None, log.read_text()
        yield f"http://127.0.0.1:{port.group(1)}"
    finally:
        child.terminate()
        child.wait(30)


def until(is_so: Callable[[], Any]) -> None:
    """Returns once it is so."""
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_clock_says_that_postgres_does_not_answer_and_goes_on_when_it_does(url: str, wire: ThreadedProxy) -> None:
    def checks() -> Any:
        return httpx.get(f"{url}/health/ready", timeout=10).json()["checks"]

    until(lambda: checks() == {"clock": {"ok": True}, "postgres_breaker": {"ok": True}})
    wire.set(is_silent=True)
    until(lambda: not checks()["clock"]["ok"])
    until(lambda: checks()["postgres_breaker"].get("detail") in {"breaker open", "breaker half_open"})
    assert checks()["postgres_breaker"]["ok"] is True
    wire.set(is_silent=False)
    wire.cut()
    until(lambda: checks() == {"clock": {"ok": True}, "postgres_breaker": {"ok": True}})
