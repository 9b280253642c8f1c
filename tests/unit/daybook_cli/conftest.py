"""A small service on loopback that answers as a test scripts it, so that the client meets real HTTP."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple

import pytest


class Request(NamedTuple):
    method: str
    path: str
    key: str | None
    body: bytes


class Reply(NamedTuple):
    """`status` 0 drops the connection without an answer."""

    status: int
    body: object
    headers: Mapping[str, str] = MappingProxyType({})


Script = Callable[[Request], Reply]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle of an answer is part of some tests."""


class Service:
    """`script` answers each request; `requests` are those that came."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: Script = lambda request: Reply(404, {"code": "not_found", "status": 404})
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, self.headers["Idempotency-Key"], self.rfile.read(length))
                service.requests.append(request)
                reply = service.script(request)
                if reply.status == 0:
                    self.close_connection = True
                    return
                content = json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - as above

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybook.client.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr("daybook.client.WAIT_SECONDS_MAX", 0.002)
