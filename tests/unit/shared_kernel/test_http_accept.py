"""How connections are taken in: many a turn of the loop, and none is lost for want of something."""

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
import uvloop

from shared_kernel import http_accept
from shared_kernel.http_accept import ACCEPTED_A_TURN, Acceptor

CLIENTS = 300
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Taken(asyncio.Protocol):
    def __init__(self, made: list[asyncio.Transport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._made.append(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@asynccontextmanager
async def accepting(listener: socket.socket) -> AsyncIterator[tuple[Acceptor, list[asyncio.Transport]]]:
    """What takes in connections, and those that it has taken in."""
    made: list[asyncio.Transport] = []
    acceptor = Acceptor(asyncio.get_running_loop(), listener, lambda: Taken(made))
    try:
        yield acceptor, made
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        for transport in made:
            transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(CLIENTS)
        yield listener


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[], socket.socket]]:
    """A client that the system has connected, whether anybody takes it in or not."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_connection(listener.getsockname(), timeout=10))


async def turns_until(is_so: Callable[[], bool]) -> int:
    turns = 0
    async with asyncio.timeout(30):
        while not is_so():
            turns += 1
            await asyncio.sleep(0)
    return turns


def test_clients_that_come_together_are_taken_in_within_a_few_turns(
    listener: socket.socket, connect: Callable[[], socket.socket]
) -> None:
    async def turns() -> int:
        for _ in range(CLIENTS):
            connect()
        async with accepting(listener) as (_, made):
            return await turns_until(lambda: len(made) == CLIENTS)

    assert uvloop.run(turns()) < 4 * CLIENTS / ACCEPTED_A_TURN  # uvloop's own server takes more than CLIENTS


def test_a_client_is_served_without_delay(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    async def told() -> tuple[bytes, Any]:
        loop = asyncio.get_running_loop()
        async with accepting(listener) as (_, made), asyncio.timeout(30):
            client = connect()
            client.setblocking(False)
            await loop.sock_sendall(client, b"ping")
            answer = await loop.sock_recv(client, 4)
            return answer, made[0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    answer, nodelay = uvloop.run(told())
    assert answer == b"ping"
    assert nodelay


def test_who_has_left_again_disturbs_nobody(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    async def others() -> None:
        gone = connect()
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        gone.close()
        address = connect().getsockname()
        async with accepting(listener) as (_, made):
            await turns_until(lambda: address in [each.get_extra_info("peername") for each in made])

    uvloop.run(others())


@contextmanager
def no_more_files() -> Iterator[None]:
    """The process may open none meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)  # the lowest number that is free: the limit that forbids it forbids all
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_comes_while_files_are_short_is_taken_in_later(
    listener: socket.socket, connect: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_accept, "PAUSE_SECONDS", 0.01)

    async def taken() -> tuple[int, int]:
        paused: list[OSError] = []
        pause = Acceptor._pause
        monkeypatch.setattr(Acceptor, "_pause", lambda self, error: (paused.append(error), pause(self, error)))
        connect()
        async with accepting(listener) as (_, made):
            with no_more_files():
                await turns_until(lambda: len(paused) > 1)
                meanwhile = len(made)
            await turns_until(lambda: bool(made))
            return meanwhile, len(made)

    assert uvloop.run(taken()) == (0, 1)


def test_nobody_is_taken_in_once_it_is_closed(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    async def taken() -> int:
        async with accepting(listener) as (acceptor, made):
            acceptor.close()
            connect()
            for _ in range(20):
                await asyncio.sleep(0)
            return len(made)

    assert uvloop.run(taken()) == 0
