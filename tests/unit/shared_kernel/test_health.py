"""Live and ready: the checks, their time, and the small server of relay and projector."""

import asyncio
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from prometheus_client import Counter

from shared_kernel import health as health_module
from shared_kernel.errors import Unavailable
from shared_kernel.health import Check, CheckResult, Health, HealthServer
from shared_kernel.metrics import new_registry


async def fine() -> None:
    return None


async def broken() -> str | None:
    raise ConnectionError("postgresql://user:canary@host")


async def away() -> str | None:
    raise Unavailable("dependency_unavailable")


async def stuck() -> str | None:
    await asyncio.Event().wait()
    return None


async def test_ready_when_every_check_is_ok() -> None:
    health = Health()
    health.register("postgres", fine)
    health.register("kafka", lambda: None)

    found = await health.ready()

    assert found.is_ready
    assert found.checks == {"postgres": CheckResult(ok=True), "kafka": CheckResult(ok=True)}


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        (lambda: "behind", "behind"),
        (broken, "ConnectionError"),
        (away, "dependency_unavailable"),
        (stuck, "no answer within 0.01 s"),
    ],
)
async def test_one_failed_check_is_enough_to_be_not_ready(check: Check, detail: str) -> None:
    health = Health(check_seconds_max=0.01)
    health.register("fine", fine)
    health.register("other", check)

    found = await health.ready()

    assert found.status == "not_ready"
    assert found.checks["fine"].ok
    assert found.checks["other"] == CheckResult(ok=False, detail=detail)


async def test_a_stopping_process_is_not_ready() -> None:
    health = Health()
    health.stop()

    assert not (await health.ready()).is_ready


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    registry = new_registry()
    Counter("daybook_test", "A test", registry=registry).inc(3)
    server = HealthServer(health, registry, host="127.0.0.1", port=0)
    server.start()
    yield server
    server.stop()


def test_the_server_answers_health_and_metrics(server: HealthServer, health: Health) -> None:
    health.register("kafka", fine)

    assert get(server.port, "/health/live") == (200, '{"status":"live"}')
    assert get(server.port, "/health/ready?x=1") == (200, '{"status":"ready","checks":{"kafka":{"ok":true}}}')
    assert "daybook_test_total 3.0" in get(server.port, "/metrics")[1]
    assert get(server.port, "/other")[0] == 404
    health.register("kafka", lambda: "away")
    assert get(server.port, "/health/ready") == (
        503,
        '{"status":"not_ready","checks":{"kafka":{"ok":false,"detail":"away"}}}',
    )


async def test_checks_run_on_the_loop_that_is_given(health: Health) -> None:
    loop = asyncio.get_running_loop()

    async def same_loop() -> str | None:
        return None if asyncio.get_running_loop() is loop else "another loop"

    health.register("loop", same_loop)
    server = HealthServer(health, new_registry(), host="127.0.0.1", port=0, loop=loop)
    server.start()
    try:
        assert (await asyncio.to_thread(get, server.port, "/health/ready"))[0] == 200
    finally:
        await asyncio.to_thread(server.stop)


def test_a_client_that_drips_its_head_is_cut_off(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REQUEST_SECONDS_MAX", 1.0)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as client, suppress(ConnectionError):
        client.sendall(b"GET /health/live HTTP/1.1\r\nx: ")
        client.settimeout(0.05)  # between two drops
        while time.monotonic() - began < 30:
            client.sendall(b"x")
            with suppress(TimeoutError):
                assert client.recv(1) == b""
                break
    assert time.monotonic() - began < 30
    assert get(server.port, "/health/live")[0] == 200


def test_one_connection_too_many_is_closed_and_the_others_are_answered(server: HealthServer) -> None:
    with ExitStack() as opened:
        held = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            for _ in range(health_module.CONNECTIONS_MAX)
        ]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as surplus:
            assert surplus.recv(1) == b""
        held[0].sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
        assert held[0].recv(12) == b"HTTP/1.0 200"
        while held[0].recv(1_000):
            pass
    deadline = time.monotonic() + 10
    while not answers(server.port):
        assert time.monotonic() < deadline


def answers(port: int) -> bool:
    """False while there is no room."""
    try:
        return get(port, "/health/live")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_stopped_server_frees_its_port(health: Health) -> None:
    first = HealthServer(health, new_registry(), host="127.0.0.1", port=0)
    first.start()
    port = first.port
    with pytest.raises(OSError, match="in use"):
        HealthServer(health, new_registry(), host="127.0.0.1", port=port)
    get(port, "/health/live")
    first.stop()

    second = HealthServer(health, new_registry(), host="127.0.0.1", port=port)
    second.start()
    assert get(port, "/health/live")[0] == 200
    second.stop()
