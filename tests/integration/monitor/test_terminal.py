"""`daybook locks` against a monitor process: what a person and what a program is shown."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from joserfc import jwt

from tests.integration.monitor.conftest import KEY
from tests.services import Database, Servers, daybook, free_port

READY_WITHIN_S = 60
CLAIMS = {"iss": "i", "aud": "a", "sub": "o", "exp": 4_000_000_000, "roles": ["operator"], "ledgers": ["**"]}


@pytest.fixture
def url(database: Database, stack: Servers, tmp_path: Path) -> Iterator[str]:
    """A monitor process that has looked."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")} | {
        "DAYBOOK_POSTGRES_URL": database.urls["monitor"],
        "DAYBOOK_REDIS_URL": stack.redis_url,
        "DAYBOOK_HTTP_PORT": str(port),
        "DAYBOOK_JWT_KEYS_FILE": str(keys),
        "DAYBOOK_JWT_ISSUER": "i",
        "DAYBOOK_JWT_AUDIENCE": "a",
        "DAYBOOK_LOOK_MS": "200",
        "DAYBOOK_TRANSACTION_MS_MAX": "1",
    }
    child = subprocess.Popen([sys.executable, "-P", "-m", "daybook.monitor"], env=environment)
    made = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + READY_WITHIN_S
        while not _has_looked(made):
            assert child.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield made
    finally:
        child.terminate()
        assert child.wait(30) == 0


def _has_looked(url: str) -> bool:
    try:
        metrics = httpx.get(f"{url}/metrics").text
    except httpx.TransportError:
        return False
    return "daybook_monitor_look_seconds_count 0" not in metrics


def test_locks_are_shown_as_a_table_and_as_json_now_and_before(url: str, database: Database) -> None:
    token = jwt.encode({"alg": "ES256", "kid": "k"}, CLAIMS, KEY, algorithms=["ES256"])
    ask = ("locks", "--monitor-url", url, "--token", token)
    with psycopg.connect(database.admin_url, application_name="a person's psql") as person:
        person.execute("select 1")
        until = time.monotonic() + READY_WITHIN_S
        while "a person's psql" not in (shown := daybook(*ask).stdout):
            assert time.monotonic() < until, shown
        assert "behind the log" in shown
        look = json.loads(daybook(*ask, "--json").stdout)["look"]
        assert "a person's psql" in {session["application"] for session in look["sessions"]}
        while "long_transaction" not in (shown := daybook(*ask, "--history").stdout):
            assert time.monotonic() < until, shown
    found = json.loads(daybook(*ask, "--history", "--json", "--limit", "1").stdout)
    assert len(found["data"]) == 1
