"""`python -m query_service` as an operator starts it: settings checked at once, requests served, SIGTERM clean."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import KEY, token
from tests.services import Database, free_port

pytestmark = pytest.mark.thorough

STARTS_WITHIN_S = 60
STOPS_WITHIN_S = 30  # three times what is promised


@pytest.fixture
def environment(database: Database, tmp_path: Path) -> dict[str, str]:
    """What the process needs."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return inherited | {
        "DAYBOOK_POSTGRES_URL": database.urls["query"],
        "DAYBOOK_HTTP_PORT": str(free_port()),
        "DAYBOOK_JWT_KEYS_FILE": str(keys),
        "DAYBOOK_JWT_ISSUER": "i",
        "DAYBOOK_JWT_AUDIENCE": "a",
    }


@pytest.fixture
def process(environment: dict[str, str], keeper: Bookkeeper) -> Iterator[subprocess.Popen[str]]:
    """A running query process on a ledger with one transaction."""
    keeper.append("bank", opened("bank"), account("cash"), account("till"), posting("t1", "cash", "till", 7))
    keeper.project("bank")
    command = [sys.executable, "-m", "query_service"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        yield started
        started.kill()


def test_process_answers_waits_and_stops_cleanly(
    process: subprocess.Popen[str], environment: dict[str, str], keeper: Bookkeeper
) -> None:
    url = f"http://127.0.0.1:{environment['DAYBOOK_HTTP_PORT']}"
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not _is_ready(url):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
    headers = {"authorization": f"Bearer {token('reader')}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        balances = client.get("/v1/ledgers/bank/accounts/till/balances")
        assert balances.json()["balances"]["EUR/2"]["posted"] == 7
        keeper.append("bank", posting("t2", "cash", "till", 5))
        keeper.project("bank")
        newer = client.get("/v1/ledgers/bank/accounts/till/balances", headers={"Daybook-Position": "5"})
        assert newer.json()["balances"]["EUR/2"]["posted"] == 12
        assert client.get("/openapi.json").json()["openapi"].startswith("3.")
        assert client.get("/docs").status_code == 200
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=STOPS_WITHIN_S)
    assert process.returncode == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    assert {"listening", "request", "stopped"} <= {line["event"] for line in lines}
    assert "daybook-tests" not in output


def test_wrong_settings_are_all_named_at_once(environment: dict[str, str]) -> None:
    del environment["DAYBOOK_JWT_ISSUER"]
    wrong = {"DAYBOOK_WAIT_MS": "soon", "DAYBOOK_POSTGRES_STATEMENT_MS": "0", "DAYBOOK_NONSENSE": "1"}
    output = _exit(environment | wrong)
    for name in ("DAYBOOK_JWT_ISSUER", *wrong):
        assert name in output


def test_settings_that_contradict_each_other_are_refused(environment: dict[str, str]) -> None:
    assert "DAYBOOK_WAIT_MS" in _exit(environment | {"DAYBOOK_WAIT_MS": "5000", "DAYBOOK_WAIT_MS_MAX": "4000"})
    assert "DAYBOOK_JWT_KEYS_FILE" in _exit(environment | {"DAYBOOK_JWT_KEYS_FILE": "/nowhere"})


def _exit(environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "query_service"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=STARTS_WITHIN_S, check=False
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
