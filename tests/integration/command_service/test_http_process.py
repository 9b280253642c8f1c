"""`python -m command_service` as an operator starts it: its settings, its readiness, its end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.integration.command_service.conftest import KEY, QUERY_URL, token
from tests.services import Database, Servers, free_port

pytestmark = pytest.mark.thorough

WRITER = {"authorization": f"Bearer {token('writer')}", "content-type": "application/json"}
TRANSFER = {
    "entries": [
        {"account": "a", "direction": "debit", "amount": 1, "asset": "X"},
        {"account": "b", "direction": "credit", "amount": 1, "asset": "X"},
    ]
}
Environment = dict[str, str]


def clean_environment() -> Environment:
    return {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}


@pytest.fixture
def environment(database: Database, stack: Servers, tmp_path: Path) -> Environment:
    """Everything the process needs, and nothing else of Daybook's."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    return clean_environment() | {
        "DAYBOOK_POSTGRES_URL": database.urls["command"],
        "DAYBOOK_REDIS_URL": stack.redis_url,
        "DAYBOOK_HTTP_PORT": str(free_port()),
        "DAYBOOK_JWT_KEYS_FILE": str(keys),
        "DAYBOOK_JWT_ISSUER": "i",
        "DAYBOOK_JWT_AUDIENCE": "a",
        "DAYBOOK_QUERY_PUBLIC_URL": QUERY_URL + "/",
    }


class Process:
    """One process and what it says."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{environment['DAYBOOK_HTTP_PORT']}"
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "command_service"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    async def wait_ready(self) -> None:
        async with httpx.AsyncClient() as http, asyncio.timeout(60):
            while True:
                assert self.child.poll() is None, self.output()
                try:
                    if (await http.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    def output(self) -> str:
        return self._output.read_text()

    def ends_with(self) -> int:
        return self.child.wait(timeout=30)


@pytest.fixture
def process(environment: Environment, tmp_path: Path) -> Iterator[Process]:
    made = Process(environment, tmp_path)
    yield made
    made.child.kill()
    made.child.wait()


def run(environment: Environment) -> subprocess.CompletedProcess[str]:
    """A process that is expected not to start."""
    return subprocess.run(
        [sys.executable, "-m", "command_service"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_faults_of_the_settings_are_listed_by_name() -> None:
    faulty = clean_environment() | {
        "DAYBOOK_HTTP_PORT": "eighty",
        "DAYBOOK_QUERY_PUBLIC_URL": "query.example",
        "DAYBOOK_REDIS_TIMOUT_MS": "5",
        "DAYBOOK_LOCKS": "sometimes",
    }
    ended = run(faulty)
    assert ended.returncode == 2
    for name in (
        "POSTGRES_URL",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "HTTP_PORT",
        "QUERY_PUBLIC_URL",
        "REDIS_TIMOUT_MS",
        "LOCKS",
    ):
        assert f"DAYBOOK_{name}:" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"DAYBOOK_LOCKS": "always", "DAYBOOK_REDIS_URL": "", "DAYBOOK_LEASE_MS": "200"},
            ["DAYBOOK_LOCKS", "DAYBOOK_REDIS_TIMEOUT_MS"],
        ),
        ({"DAYBOOK_JWT_KEYS_FILE": "/nowhere/keys.json"}, ["DAYBOOK_JWT_KEYS_FILE"]),
        ({"DAYBOOK_JWT_KEYS_URL": "http://127.0.0.1:1/"}, ["DAYBOOK_JWT_KEYS_FILE", "DAYBOOK_JWT_KEYS_URL"]),
    ],
)
def test_settings_that_do_not_fit_together_stop_the_start(
    environment: Environment, changes: Environment, names: list[str]
) -> None:
    ended = run(environment | changes)
    assert ended.returncode == 2, ended.stderr
    for name in names:
        assert name in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_it_serves_until_sigterm_and_finishes_what_it_took(process: Process) -> None:
    await process.wait_ready()
    async with httpx.AsyncClient(base_url=process.url, headers=WRITER) as http:
        assert (await http.post("/v1/ledgers", json={"ledger": "bank"})).status_code == 201
        keys = [f"batch/{number}" for number in range(20)]

        async def post(key: str) -> httpx.Response:
            return await http.post("/v1/ledgers/bank/transactions", json=TRANSFER, headers={"idempotency-key": key})

        answers = await asyncio.gather(*map(post, keys))
        assert {answer.status_code for answer in answers} == {201}
        location = answers[0].headers["location"]
        assert location.startswith(f"{QUERY_URL}/v1/ledgers/bank/transactions/")

        for key in ("batch/0", "batch//0"):  # also the server leaves the address as it is
            found = await http.get(f"/v1/ledgers/bank/commands/{quote(key, safe='')}")
            assert found.status_code == (201 if key in keys else 404)
        assert (await http.get("/v1/ledgers/bank/commands/batch/0")).status_code == 201

        under_way = [asyncio.create_task(post(f"late/{number}")) for number in range(50)]
        await asyncio.sleep(0)
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        process.child.send_signal(signal.SIGTERM)
        ended = await asyncio.gather(*under_way, return_exceptions=True)
    assert await asyncio.to_thread(process.ends_with) == 0, process.output()
    told = [answer.status_code for answer in ended if isinstance(answer, httpx.Response)]
    assert 201 in told
    assert set(told) <= {201, 503}
    assert all(isinstance(answer, httpx.Response | httpx.TransportError) for answer in ended)


async def test_its_lines_are_json_and_tell_no_secrets(process: Process, environment: Environment) -> None:
    await process.wait_ready()
    bearer = WRITER["authorization"].removeprefix("Bearer ")
    async with httpx.AsyncClient(base_url=process.url, headers=WRITER) as http:
        answer = await http.post("/v1/ledgers/none/transactions", json=TRANSFER, headers={"x-correlation-id": "c-17"})
        assert answer.headers["x-correlation-id"] == "c-17"
        await http.post("/v1/ledgers/none/transactions", content=b"{secret")
    process.child.terminate()
    assert await asyncio.to_thread(process.ends_with) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in process.output().splitlines()]
    assert {line["process"] for line in lines} == {"command"}
    assert [line["status"] for line in lines if line["event"] == "request" and line["route"].startswith("/v1")] == [
        404,
        400,
    ]
    assert any(line.get("correlation_id") == "c-17" for line in lines)
    for secret in (bearer, "{secret", environment["DAYBOOK_POSTGRES_URL"]):
        assert secret not in process.output()


async def test_a_second_process_on_the_same_port_is_told(process: Process, environment: Environment) -> None:
    await process.wait_ready()
    ended = await asyncio.to_thread(run, environment)
    assert ended.returncode == 1
    assert "cannot be listened on" in ended.stderr
