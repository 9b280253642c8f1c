"""What one connection does with an answer: whole ones leave in one piece, and every other goes the server's way."""

import asyncio
from typing import Any

import pytest
from uvicorn.server import ServerState

from shared_kernel import http_protocol
from shared_kernel.http_context import BODY_KEY, SURPLUS_KEY, WHOLE
from shared_kernel.http_protocol import STARTED_A_TURN, STARTED_OF, Config, Connection

Messages = list[dict[str, Any]]
GET = b"GET /a%20b?c HTTP/1.1\r\nhost: here\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\nbody"
PLAIN = [(b"content-length", b"2"), (b"x-kind", b"plain")]


class Wire(asyncio.Transport):
    """The client's side: what was written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def start(headers: list[tuple[bytes, bytes]], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def answered(request: bytes, *answer: dict[str, Any], later: bytes = b"") -> tuple[Wire, dict[str, Any]]:
    """The wire after the application sent these messages, and the scope it was given, with the body as it came."""
    seen: Messages = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        scope["received"] = [] if BODY_KEY in scope else [await receive()]
        for message in answer:
            await send(message)
        scope["received"].append(await receive())

    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    config = Config(app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
    config.connections_max, config.head_seconds_max, config.send_seconds_max = 10, 10.0, 10.0
    wire = Wire()
    connection = Connection(config, state, {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    connection.data_received(request)
    if later:
        await asyncio.sleep(0)  # the application begins
        connection.data_received(later)
    await asyncio.gather(*state.tasks)
    await asyncio.sleep(0)  # what a turn writes leaves at its end
    return wire, seen[0]


async def test_a_whole_answer_leaves_in_one_piece() -> None:
    wire, scope = await answered(GET, start(PLAIN), body(b"ok"))
    assert wire.written == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nx-kind: plain\r\n\r\nok"]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c")
    assert not wire.is_closed


def whole(content: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": WHOLE, "status": 200, "headers": headers, "body": content}


async def test_an_answer_in_one_message_leaves_in_one_piece() -> None:
    wire, scope = await answered(GET, whole(b"ok", PLAIN))
    assert scope[WHOLE]
    assert wire.written == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nx-kind: plain\r\n\r\nok"]
    assert not wire.is_closed


async def test_an_answer_in_one_message_ends_the_connection_of_an_old_client() -> None:
    wire, _ = await answered(GET.replace(b"1.1", b"1.0"), whole(b"ok", PLAIN))
    sent = b"".join(wire.written)
    assert b"connection: close\r\n" in sent
    assert sent.endswith(b"\r\n\r\nok")
    assert wire.is_closed


async def test_an_answer_in_one_message_has_no_body_for_head() -> None:
    wire, _ = await answered(GET.replace(b"GET", b"HEAD"), whole(b"ok", PLAIN))
    assert b"".join(wire.written).endswith(b"content-length: 2\r\nx-kind: plain\r\n\r\n")


async def test_a_body_that_came_with_its_head_lies_in_the_scope_and_is_not_received_again() -> None:
    _, scope = await answered(POST, start(PLAIN), body(b"ok"))
    assert scope[BODY_KEY] == b"body"
    assert scope["received"] == [{"type": "http.disconnect"}]


async def test_addresses_are_read_anew_where_they_differ() -> None:
    for url, path, query in ((b"/a", "/a", b""), (b"/a?b", "/a", b"b"), (b"/%C3%A4", "/ä", b""), (b"/a", "/a", b"")):
        _, scope = await answered(GET.replace(b"/a%20b?c", url), start(PLAIN), body(b"ok"))
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, url.partition(b"?")[0], query)


async def test_a_body_that_was_waited_for_is_received() -> None:
    _, scope = await answered(POST[:-2], start(PLAIN), body(b"ok"), later=POST[-2:])
    parts = [message["body"] for message in scope["received"] if message["type"] == "http.request"]
    assert b"".join(parts)[:2] == b"bo"
    assert BODY_KEY not in scope


async def test_a_head_without_a_length_does_not_wait_for_its_body() -> None:
    wire, _ = await answered(GET, start([]), body(b"", more=True), body(b""))
    assert wire.written[0].startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n")


async def test_a_body_in_parts_is_sent_as_it_comes() -> None:
    wire, _ = await answered(GET, start(PLAIN), body(b"o", more=True), body(b"k"))
    assert b"".join(wire.written).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("request_", [GET.replace(b"GET", b"HEAD"), GET.replace(b"1.1", b"1.0")])
async def test_answers_to_head_and_to_old_clients_go_the_servers_way(request_: bytes) -> None:
    wire, _ = await answered(request_, start(PLAIN), body(b"" if b"HEAD" in request_ else b"ok"))
    sent = b"".join(wire.written)
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sent.endswith(b"\r\n\r\n" if b"HEAD" in request_ else b"ok")
    assert wire.is_closed == (b"1.0" in request_)


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"])
async def test_a_header_that_would_be_two_is_never_sent(value: bytes, is_whole: bool) -> None:
    headers = [(b"content-length", b"2"), (b"x-kind", value)]
    wire, _ = await answered(GET, *([whole(b"ok", headers)] if is_whole else [start(headers), body(b"ok")]))
    sent = b"".join(wire.written)
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert value not in sent


async def test_an_answer_of_another_length_than_it_states_breaks_the_connection() -> None:
    wire, _ = await answered(GET, start([(b"content-length", b"3")]), body(b"ok"))
    assert wire.is_closed


class Crowd:
    """Connections of one server, whose application waits, and which lets in who is told to."""

    def __init__(self) -> None:
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.seen: Messages = []
        self.asked: list[tuple[str, int]] = []
        self.is_full = False
        self.config = Config(self._app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
        self.config.connections_max, self.config.head_seconds_max = 2_000, 10.0
        self.config.send_seconds_max = 10.0
        self.config.refusal = self._refusal
        self.release = asyncio.Event()

    def _refusal(self, path: str, waiting: int) -> bytes | None:
        self.asked.append((path, waiting))
        return b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno" if self.is_full else None

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        await self.release.wait()
        await send(start(PLAIN))
        await send(body(b"ok"))

    def connect(self) -> tuple[Connection, Wire]:
        """One more client."""
        wire = Wire()
        connection = Connection(self.config, self.state, {}, asyncio.get_running_loop())
        connection.connection_made(wire)
        return connection, wire


async def test_who_is_turned_away_is_told_before_anything_else_is_done_and_may_ask_again() -> None:
    crowd = Crowd()
    connection, wire = crowd.connect()
    crowd.is_full = True
    connection.data_received(POST[:-4])
    assert wire.written == [b"HTTP/1.1 503 No\r\ndate: today\r\ncontent-length: 2\r\n\r\nno"]
    connection.data_received(b"body")  # nobody reads it
    connection.data_received(GET + GET)
    assert len(wire.written) == 3
    crowd.is_full = False
    crowd.release.set()
    connection.data_received(GET)
    await asyncio.gather(*crowd.state.tasks)
    await asyncio.sleep(0)
    assert (len(crowd.seen), wire.written[3].endswith(b"\r\n\r\nok"), wire.is_closed) == (1, True, False)


@pytest.mark.parametrize("odd", [GET.replace(b"1.1", b"1.0"), GET.replace(b"GET", b"HEAD")], ids=["old", "head"])
async def test_an_odd_request_is_left_to_the_application_to_turn_away(odd: bytes) -> None:
    crowd = Crowd()
    connection, wire = crowd.connect()
    crowd.is_full = True
    connection.data_received(odd)
    assert wire.written == []
    await asyncio.sleep(0)
    assert len(crowd.seen) == 1


async def test_many_at_once_begin_in_their_order_so_many_a_turn() -> None:
    crowd = Crowd()
    opened = [crowd.connect() for _ in range(2 * STARTED_A_TURN + 1)]
    for number, (connection, _) in enumerate(opened):
        connection.data_received(GET.replace(b"/a", b"/%d" % number))
    assert [waiting for _, waiting in crowd.asked] == list(range(len(opened)))  # begun is not there yet: it counts
    begun = []
    for _ in range(4):
        await asyncio.sleep(0)
        begun.append(len(crowd.seen))
    assert begun == [STARTED_A_TURN, 2 * STARTED_A_TURN, len(opened), len(opened)]
    assert [scope["path"] for scope in crowd.seen] == [f"/{number} b" for number in range(len(opened))]
    assert crowd.config.starts.waiting == 0
    crowd.release.set()
    await asyncio.gather(*crowd.state.tasks)
    await asyncio.sleep(0)
    assert all(wire.written for _, wire in opened)


async def test_of_very_many_so_large_a_part_begins_a_turn_that_nobody_waits_for_long() -> None:
    crowd = Crowd()
    for _ in range(STARTED_A_TURN + 3 * STARTED_A_TURN * STARTED_OF):
        crowd.connect()[0].data_received(GET)
    await asyncio.sleep(0)
    assert len(crowd.seen) == STARTED_A_TURN
    await asyncio.sleep(0)
    assert len(crowd.seen) == 4 * STARTED_A_TURN
    crowd.release.set()
    while crowd.config.starts.waiting:
        await asyncio.sleep(0)
    await asyncio.gather(*crowd.state.tasks)


async def test_who_could_not_be_begun_for_too_long_is_marked_as_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    for _ in range(STARTED_A_TURN + 2):
        crowd.connect()[0].data_received(GET)
    monkeypatch.setattr(http_protocol, "WAIT_SECONDS_MAX", 0.0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert [scope.get(SURPLUS_KEY) for scope in crowd.seen] == [None] * STARTED_A_TURN + [False] * 2
    crowd.release.set()
    await asyncio.gather(*crowd.state.tasks)
