"""A door before a server that others use too: shut, the server seems to stand still, but only to who came through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Door:
    """Passes bytes on in both directions while it is open; connections are taken either way."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self._place = (host, port)
        self._is_open = asyncio.Event()
        self._passing: set[asyncio.Task[None]] = set()
        self.open()

    async def stand(self) -> None:
        """It is there, at `port` of this machine."""
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """It is gone, and all connections through it are cut."""
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def open(self) -> None:
        """What was held back is passed on."""
        self._is_open.set()

    def shut(self) -> None:
        """Nothing passes from now on."""
        self._is_open.clear()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._place)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pass(source, target))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(65_536):
                await self._is_open.wait()
                target.write(some)
                await target.drain()
        except ConnectionError:  # as good as an end
            pass
        finally:
            target.close()


@asynccontextmanager
async def door_to(url: str) -> AsyncIterator[Door]:
    """An open door to the server of this URL, until the block ends."""
    place = urlsplit(url)
    door = Door(place.hostname or "", place.port or 0)
    await door.stand()
    try:
        yield door
    finally:
        await door.close()
