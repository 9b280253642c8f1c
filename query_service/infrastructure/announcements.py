"""What Postgres announces (NOTIFY), for all who listen in this process. One connection; while it is down nobody hears anything.

What is announced is a hint, never an answer. psycopg's own `notifies()` sets up and takes down its waiting for each of them, which under
load costs more than what they say: here the event loop calls when something has come.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import psycopg
import structlog
from psycopg import Notify, pq

from query_service.infrastructure.background import Background
from shared_kernel.postgres import Bounded, connect_async

RECONNECT_MS: Final = 500  # chosen: who listens polls meanwhile
TRIED_S: Final = 30.0  # chosen: the connection is tried so often, since one that is dead says nothing

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who wants to hear what is announced on a channel."""

    channel: str

    def begin(self) -> None:
        """From now on everything is heard. What was announced before may have been missed."""
        ...

    def hear(self, payload: str) -> None:
        """This was announced."""
        ...

    def end(self) -> None:
        """From now on nothing is heard."""
        ...


class Announcements:
    """The connection. `open` starts listening, `close` ends it."""

    def __init__(self, conninfo: Bounded, listeners: Sequence[Listener]) -> None:
        self._conninfo = conninfo
        self._by_channel = {listener.channel: listener for listener in listeners}
        self._background = Background()

    async def open(self) -> None:
        """Listening has begun in the background; the database need not be there yet."""
        self._background.begin(self._listen(), name="announcements")

    async def close(self) -> None:
        """The connection is closed."""
        await self._background.end()

    async def _listen(self) -> None:
        while True:
            try:
                async with await connect_async(self._conninfo) as connection:
                    connection.add_notify_handler(self._hear)  # of what comes with an answer
                    await connection.execute("; ".join(f"listen {channel}" for channel in self._by_channel).encode())
                    for listener in self._by_channel.values():
                        listener.begin()
                    while True:
                        await self._hear_for(TRIED_S, connection.pgconn)
                        await connection.execute(b"select 1")
            except psycopg.Error as error:
                _log.warning("not_listening", error_class=type(error).__name__)
            finally:
                for listener in self._by_channel.values():
                    listener.end()
            await asyncio.sleep(RECONNECT_MS / 1000)

    async def _hear_for(self, seconds: float, pgconn: pq.abc.PGconn) -> None:
        """Tells what comes. OperationalError once the connection is lost."""
        loop, socket = asyncio.get_running_loop(), pgconn.socket
        lost: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                self._read(pgconn)
            except psycopg.OperationalError as error:
                loop.remove_reader(socket)  # now: libpq has closed it, and what is opened next may get its number
                lost.set_exception(error)

        self._read(pgconn)  # what came behind an answer
        loop.add_reader(socket, read)
        try:
            await asyncio.wait((lost,), timeout=seconds)
        finally:
            if not lost.done():
                loop.remove_reader(socket)
        if lost.done():
            lost.result()

    def _read(self, pgconn: pq.abc.PGconn) -> None:
        pgconn.consume_input()
        while (notice := pgconn.notifies()) is not None:
            self._by_channel[notice.relname.decode()].hear(notice.extra.decode())

    def _hear(self, notice: Notify) -> None:
        self._by_channel[notice.channel].hear(notice.payload)
