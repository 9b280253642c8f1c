"""Takes in the connections of a listening socket, many a turn of the loop.

libuv, and with it uvloop's own server, takes one a turn. Where a turn takes ten milliseconds, because there is much to do, the last of
two thousand clients that come at once would be heard after twenty seconds, and whoever comes after them later still.
"""

import asyncio
import socket
from collections.abc import Callable

import structlog

ACCEPTED_A_TURN = 64  # chosen: some 4 ms of work
PAUSE_SECONDS = 1.0  # chosen: until the system may have what it lacked: files, memory

log = structlog.get_logger(__name__)


class Acceptor:
    """Of one listening socket, which stays its owner's; in uvicorn's list of servers it stands for asyncio's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        listener.setblocking(False)
        self._loop = loop
        self._listener = listener
        self._make_protocol = make_protocol
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_closed = False
        loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """No more are taken in."""
        self._is_closed = True
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Those that were being taken in have their protocol."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # it has left already
                continue
            except OSError as error:
                self._pause(error)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._take_in(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take_in(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, client)
        except OSError as error:
            client.close()
            log.warning("connection_not_taken", error=str(error))

    def _pause(self, error: OSError) -> None:
        """What is wrong would be so at once again: those that wait are taken in later."""
        log.error("accept_failed", error=str(error))
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)
