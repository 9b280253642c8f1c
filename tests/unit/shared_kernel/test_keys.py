"""Keys from a URL: fetched in the background, again for an unknown key, kept when the source fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from shared_kernel.errors import Unavailable
from shared_kernel.keys import FETCH_APART_SECONDS, FileKeys, UrlKeys, open_keys
from shared_kernel.settings import HttpSettings, Secret, SettingsError

SECONDS_MAX = 10
FIRST = ECKey.generate_key("P-256", {"kid": "first"})
SECOND = ECKey.generate_key("P-256", {"kid": "second"})


def jwks(*keys: ECKey) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


class Source:
    """An identity provider's key endpoint. `served` is released once for each request."""

    def __init__(self) -> None:
        self.status = 200
        self.content = jwks(FIRST)
        self.count = 0
        self.served = threading.Semaphore(0)
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.count += 1
                self.send_response(source.status)
                self.send_header("Content-Length", str(len(source.content)))
                self.end_headers()
                self.wfile.write(source.content)
                source.served.release()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(source: Source, clock: Clock) -> Iterator[UrlKeys]:
    keys = UrlKeys(source.url, timeout_ms=5_000, clock=clock)
    yield keys
    keys.close()


def kids(keys: UrlKeys) -> list[str | None]:
    return [key.kid for key in keys.key_set(None).keys]


def test_keys_are_fetched_at_the_start(keys: UrlKeys) -> None:
    assert keys.wait(1, SECONDS_MAX)
    assert keys.version() == 1
    assert kids(keys) == ["first"]


def test_an_unknown_key_brings_the_new_ones_in(keys: UrlKeys, source: Source, clock: Clock) -> None:
    assert keys.wait(1, SECONDS_MAX)
    source.content = jwks(FIRST, SECOND)
    clock.now += FETCH_APART_SECONDS

    keys.key_set("second")

    assert keys.wait(2, SECONDS_MAX)
    assert kids(keys) == ["first", "second"]


def test_unknown_keys_do_not_make_it_fetch_more_often_than_allowed(keys: UrlKeys, source: Source, clock: Clock) -> None:
    assert keys.wait(1, SECONDS_MAX)
    clock.now += FETCH_APART_SECONDS - 1
    for index in range(100):
        keys.key_set(f"unknown-{index}")
    keys.close()  # its thread has ended: nothing is fetched any more

    assert source.count == 1


@pytest.mark.parametrize(("status", "content"), [(500, b""), (200, b"<html>"), (200, b'{"keys": []}')])
def test_a_failing_source_leaves_the_keys_as_they_were(
    keys: UrlKeys, source: Source, clock: Clock, status: int, content: bytes
) -> None:
    assert keys.wait(1, SECONDS_MAX)
    source.served.acquire()
    source.status, source.content = status, content
    clock.now += FETCH_APART_SECONDS

    keys.key_set("unknown")

    assert source.served.acquire(timeout=SECONDS_MAX)
    keys.close()
    assert keys.version() == 1
    assert kids(keys) == ["first"]


def test_before_the_first_fetch_nobody_can_be_checked(source: Source) -> None:
    source.status = 503
    keys = UrlKeys(source.url, timeout_ms=5_000)
    try:
        with pytest.raises(Unavailable):
            keys.key_set("first")
    finally:
        keys.close()


def settings(**keys: str) -> HttpSettings:
    return HttpSettings(postgres_url=Secret(""), http_port=1, jwt_issuer="i", jwt_audience="a", **keys)


def test_a_source_that_cannot_be_used_is_a_fault_of_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(FIRST))

    assert isinstance(open_keys(settings(jwt_keys_file=str(file))), FileKeys)
    with pytest.raises(SettingsError, match="DAYBOOK_JWT_KEYS_FILE"):
        open_keys(settings(jwt_keys_file=str(tmp_path / "none")))
    file.write_bytes(b"{}")
    with pytest.raises(SettingsError, match="DAYBOOK_JWT_KEYS_FILE: not a JWKS"):
        open_keys(settings(jwt_keys_file=str(file)))
    with pytest.raises(SettingsError, match="DAYBOOK_JWT_KEYS_URL: is neither"):
        open_keys(settings(jwt_keys_url="file:///etc/passwd"))
