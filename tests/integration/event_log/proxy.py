"""A wire between a client and Postgres that can be cut, or lied on, at a chosen frame from the server.

Plain TCP on loopback; the client's URL must switch TLS and GSS off, or the first answer is not a frame.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

Rule = Callable[[bytes], bytes | None]
"""Takes a frame's type and answers what to send before it; None: cut the wire instead of passing it on."""


class Proxy:
    """Passes everything on until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._wires: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.rule: Rule | None = None
        self.is_silent = False

    async def accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One client's connection."""
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
        self._wires |= {to_client, to_server}
        up = asyncio.create_task(self._up(from_client, to_server))
        self._tasks.add(up)
        try:
            await self._down(from_server, to_client)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            to_client.close()

    async def _up(self, from_client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        try:
            while sent := await from_client.read(65_536):
                to_server.write(sent)
                await to_server.drain()
        except ConnectionError:
            pass
        to_server.close()

    async def _down(self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while True:
            kind = await from_server.readexactly(1)
            size = await from_server.readexactly(4)
            body = await from_server.readexactly(struct.unpack("!I", size)[0] - 4)
            before = b"" if self.rule is None else self.rule(kind)
            if before is None:
                return
            if self.is_silent:
                continue
            to_client.write(before + kind + size + body)
            await to_client.drain()

    async def stop(self) -> None:
        """Cuts every wire."""
        for task in self._tasks:
            task.cancel()
        for wire in self._wires:
            wire.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy in front of this URL's server, and the URL through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials = parts.netloc.rpartition("@")[0]
    netloc = f"{credentials}@127.0.0.1:{port}"
    try:
        yield proxy, urlunsplit(parts._replace(netloc=netloc, query="sslmode=disable&gssencmode=disable"))
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


def notice(**fields: str) -> bytes:
    """A NoticeResponse with these one-letter fields."""
    body = b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    return b"N" + struct.pack("!I", len(body) + 4) + body
