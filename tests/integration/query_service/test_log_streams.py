"""Streams of the log from a real process: following, resuming, readers that do not read, and the end of the process."""

import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.integration.query_service.conftest import token
from tests.integration.query_service.serving import Process, query_process
from tests.services import Database
from tests.support.histories import account, append, books, opened, transfer

pytestmark = [pytest.mark.long, pytest.mark.thorough]

STREAM = {"accept": "text/event-stream"}
LINES = {"accept": "application/x-ndjson"}
SLOW_READERS = 20
STALLED_S = 2


class Message(msgspec.Struct, frozen=True):
    """One server-sent event; `line` is its canonical line, read."""

    id: str
    type: str
    line: dict[str, object]

    @property
    def position(self) -> object:
        return self.line["position"]


@pytest.fixture(scope="module")
def query(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for the module; its readers may stall for two seconds."""
    with query_process(database, tmp_path_factory.mktemp("query"), stream_stall_seconds_max=str(STALLED_S)) as process:
        yield process


@pytest.fixture
def ledger(database: Database) -> str:
    """A ledger with its opening, two accounts and a transaction: head 4."""
    name = f"l-{secrets.token_hex(4)}"
    append(database.urls["command"], name, [opened(name), account("bank:cash"), account("users:1"), transfer("t4", 7)])
    return name


@contextmanager
def following(query: Process, path: str, **headers: str) -> Iterator[Iterator[Message]]:
    """The messages of a stream as they come, until the block ends."""
    with query.client() as client, client.stream("GET", path, headers=STREAM | headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield _messages(response)


def _messages(response: httpx.Response) -> Iterator[Message]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield Message(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def take(messages: Iterator[Message], count: int) -> list[Message]:
    return [next(messages) for _ in range(count)]


def test_a_follower_gets_the_history_and_then_what_is_appended(query: Process, database: Database, ledger: str) -> None:
    with following(query, f"/v1/ledgers/{ledger}/events") as messages:
        history = take(messages, 4)
        assert [message.position for message in history] == [1, 2, 3, 4]
        assert [message.type for message in history][-1] == "TransactionPosted.v1"
        for number in (5, 6, 7):
            append(database.urls["command"], ledger, [transfer(f"t{number}", 1)])
            (message,) = take(messages, 1)
            assert (message.position, message.line["ledger"]) == (number, ledger)


def test_a_stream_resumed_with_the_last_id_neither_repeats_nor_skips(
    query: Process, database: Database, ledger: str
) -> None:
    received: list[object] = []
    last = ""
    for number in range(5, 11):
        with following(query, f"/v1/ledgers/{ledger}/events", **{"last-event-id": last}) as messages:
            append(database.urls["command"], ledger, [transfer(f"t{number}", 1)])
            for message in take(messages, 2 if last else 3):
                received.append(message.position)
                last = message.id
            append(database.urls["command"], ledger, [transfer(f"u{number}", 1)])  # while nobody reads any more
    assert received == list(range(1, len(received) + 1))
    assert len(received) == 13


def test_a_stream_filters_by_account_and_type(query: Process, database: Database, ledger: str) -> None:
    path = f"/v1/ledgers/{ledger}/events?account=users:2&type=TransactionPosted.v1"
    with following(query, path) as messages:
        wanted = [transfer("x1", 1, credit="users:2"), transfer("x2", 1, debit="users:2")]
        append(
            database.urls["command"],
            ledger,
            [account("users:2"), wanted[0], transfer("other", 1), transfer("more", 1), wanted[1]],
        )
        assert [message.position for message in take(messages, 2)] == [6, 9]


@pytest.fixture(scope="module")
def large(database: Database) -> tuple[str, int]:
    """A ledger of about 13 MB, and its head."""
    name = f"large-{secrets.token_hex(4)}"
    return name, append(database.urls["command"], name, list(books(name, 20_000)))


def test_readers_that_do_not_read_cost_little_hold_nobody_up_and_are_cut_off(
    query: Process, large: tuple[str, int]
) -> None:
    ledger, head = large
    with query.client() as client:
        assert _whole(client, ledger) == head  # what a reader costs at most is in the memory from now on
        before = query.resident_bytes()
        slow = [_asking(query, f"/v1/ledgers/{ledger}/events", LINES) for _ in range(SLOW_READERS)]
        assert _whole(client, ledger) == head
        assert client.get(f"/v1/ledgers/{ledger}/events/7").json()["event"]["position"] == 7
        grown = query.resident_bytes() - before
        assert grown < SLOW_READERS * 2_000_000, f"{grown:,} bytes for {SLOW_READERS} readers"
        deadline = time.monotonic() + 15 * STALLED_S
        while _streams(client) > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for connection in slow:
        with closing(connection):
            assert not _read_all(connection).endswith(b"\r\n0\r\n\r\n")  # broken off, and seen to be


def test_a_reader_that_is_only_slow_gets_every_line(query: Process, large: tuple[str, int]) -> None:
    ledger, head = large
    with closing(_asking(query, f"/v1/ledgers/{ledger}/events?to_position=3000", LINES)) as connection:
        body = bytearray()
        while not body.endswith(b"\r\n0\r\n\r\n"):
            body += connection.recv(16_384)
            time.sleep(0.002)
    assert body.count(b',"recorded_at":"') == 3_000
    assert head > 3_000


def test_the_end_of_the_process_ends_the_streams(database: Database, ledger: str, tmp_path: Path) -> None:
    with query_process(database, tmp_path) as process:
        with following(process, f"/v1/ledgers/{ledger}/events") as messages:
            assert len(take(messages, 4)) == 4
            began = time.monotonic()
            process.stop()
            assert list(messages) == []  # ended well: a client goes on with the last id elsewhere
        assert time.monotonic() - began < 15


def _whole(client: httpx.Client, ledger: str) -> int:
    with client.stream("GET", f"/v1/ledgers/{ledger}/events", headers=LINES) as response:
        count = 0
        for position, line in enumerate(response.iter_lines(), start=1):
            assert f'"position":{position},' in line[:100]
            count = position
        assert response.headers["daybook-position"] == str(count)
        return count


def _asking(query: Process, path: str, headers: dict[str, str]) -> socket.socket:
    """A connection that has sent a request and reads nothing of the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", query.port))
    lines = [f"GET {path} HTTP/1.1", "host: x", f"authorization: Bearer {token('auditor')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def _read_all(connection: socket.socket) -> bytes:
    """What arrived before the connection ended."""
    connection.settimeout(30)
    body = b""
    try:
        while part := connection.recv(65_536):
            body = body[-16:] + part
    except ConnectionResetError:
        pass
    return body


def _streams(client: httpx.Client) -> int:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("daybook_query_streams "):
            return int(float(line.split()[1]))
    raise AssertionError("no such metric")
