"""The clients of chaos runs: what they are told and must not be told."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.chaos.load import Load

OPENED_AND_FUNDED = 2


class _Conflicts(BaseHTTPRequestHandler):
    """Whoever comes after the ledger was opened is told that others were there first."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        status, body = (201, b"{}") if self.asked <= OPENED_AND_FUNDED else (409, b'{"code":"conflict"}')
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Conflicts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_conflict_where_nobody_else_writes_is_told() -> None:
    with serving() as url:
        load = Load(url, "token", name="x", rng=random.Random(1), ledgers=1, writers=1)
        load.start()
        until = time.monotonic() + 10
        while not load.surprises and time.monotonic() < until:
            time.sleep(0.01)
        load.stop()
    assert "409" in load.surprises[0]
