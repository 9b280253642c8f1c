"""A wire between clients and a server that can be cut, delayed, silenced, refused, or lied on at a chosen frame: one proxy for all tests.

Plain TCP on loopback. Before Postgres it reads the frames of both sides (`is_postgres`): the client's URL must switch TLS and GSS off,
or the first answer is not a frame. Before any other server it passes bytes on as they come.
"""

import asyncio
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit, urlunsplit

SENT_AGAIN_S = 0.2  # Linux: how long TCP waits at least before it sends again (RFC 6298 says a second); it doubles
SENT_MAX = 5  # chosen: Linux sends 16 times, which lasts a quarter of an hour

Rule = Callable[[bytes], bytes | None]
"""Takes a frame's type and answers what to send before it; None: cut the wire instead of passing it on."""


class Proxy:
    """Passes everything on until told otherwise.

    `rule` looks at each frame of Postgres, on wires of the role `rule_for` only where that is set. So do `is_reply_lost`, which is asked
    at the end of each answer whether the wire is cut instead, and `sync_late_s`, which says by how much each Sync comes later than what
    stands before it (a transaction ends with its Sync); both are told what the client sent since the Sync before. `is_silent`: nothing comes back,
    as on a half-open connection. `is_refusing`: new connections end at once. `delay_s`: called for each piece, how late it comes.
    `is_lost`: called for each time a piece is sent, True if it gets lost: TCP then sends it again, ever later, and in the end gives up.
    """

    def __init__(self, host: str, port: int, *, is_postgres: bool = True) -> None:
        self._host = host
        self.port = port
        self._is_postgres = is_postgres
        self._wires: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.rule: Rule | None = None
        self.rule_for = ""
        self.is_reply_lost: Callable[[bytes], bool] | None = None
        self.sync_late_s: Callable[[bytes], float] | None = None
        self.is_silent = False
        self.is_refusing = False
        self.delay_s: Callable[[], float] | None = None
        self.is_lost: Callable[[], bool] | None = None
        self.cuts = 0

    async def accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One client's connection."""
        if self.is_refusing:
            to_client.close()
            return
        try:
            from_server, to_server = await asyncio.open_connection(self._host, self.port)
        except OSError:
            to_client.close()
            return
        wires = {to_client, to_server}
        self._wires |= wires
        greeting = await from_client.read(65_536)
        to_server.write(greeting)
        asked = deque([b""])  # what each answer that is still to come is to; the first is to the greeting
        up = asyncio.create_task(self._up(from_client, to_server, greeting, asked))
        self._tasks.add(up)
        up.add_done_callback(self._tasks.discard)
        try:
            await self._down(from_server, to_client, greeting, asked)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for wire in wires:
                wire.close()
            self._wires -= wires

    def cut(self) -> None:
        """Every wire there is ends now; new ones are accepted."""
        for wire in tuple(self._wires):
            wire.close()

    async def _up(
        self, from_client: asyncio.StreamReader, to_server: asyncio.StreamWriter, greeting: bytes, asked: deque[bytes]
    ) -> None:
        rest = request = b""
        try:
            while sent := await from_client.read(65_536):
                if not await self._arrives():
                    await _swallow(from_client)
                    break
                if self._is_postgres:
                    frames, rest = _frames(rest + sent)
                    for frame in frames:
                        request += frame
                        if frame[:1] in b"SQ":
                            asked.append(request)
                            await self._end_late(request, greeting, to_server)
                            request = b""
                        to_server.write(frame)
                else:
                    to_server.write(sent)
                await to_server.drain()
        except ConnectionError:
            pass
        to_server.close()

    async def _end_late(self, request: bytes, greeting: bytes, to_server: asyncio.StreamWriter) -> None:
        """Returns when the Sync of this request may be sent."""
        if self.sync_late_s is not None and self.rule_for.encode() in greeting:
            late_s = self.sync_late_s(request)
            if late_s:
                await to_server.drain()
                await asyncio.sleep(late_s)

    async def _down(
        self,
        from_server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        greeting: bytes,
        asked: deque[bytes],
    ) -> None:
        while True:
            before: bytes | None = b""
            if self._is_postgres:
                kind = await from_server.readexactly(1)
                size = await from_server.readexactly(4)
                piece = kind + size + await from_server.readexactly(struct.unpack("!I", size)[0] - 4)
                is_ruled = self.rule_for.encode() in greeting
                before = self.rule(kind) if self.rule is not None and is_ruled else b""
                if kind == b"Z":
                    request = asked.popleft() if asked else b""  # COPY is asked with a Sync that is not answered
                    if is_ruled and self.is_reply_lost is not None and self.is_reply_lost(request):
                        before = None
            elif not (piece := await from_server.read(65_536)):
                return
            if before is None:
                self.cuts += 1
                return
            if self.is_silent:
                continue
            is_whole = not self._is_postgres or piece[:1] == b"Z"  # once an answer, not once a frame
            if is_whole and not await self._arrives():
                await _swallow(from_server)
                return
            to_client.write(before + piece)
            await to_client.drain()

    async def _arrives(self) -> bool:
        """Returns when a piece has arrived. False: the wire is dead, and neither side will ever hear so."""
        if self.delay_s is not None:
            await asyncio.sleep(self.delay_s())
        for attempt in range(SENT_MAX):
            if self.is_lost is None or not self.is_lost():
                return True
            await asyncio.sleep(SENT_AGAIN_S * 2**attempt)
        return False

    async def stop(self) -> None:
        """Cuts every wire."""
        for task in self._tasks:
            task.cancel()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Until its other side has gone, nothing that it says is heard."""
    while await reader.read(65_536):
        pass


def _frames(sent: bytes) -> tuple[list[bytes], bytes]:
    """A client's whole frames, and what is there of the next."""
    found, at = [], 0
    while len(sent) >= at + 5:
        end = at + 1 + int(struct.unpack_from("!I", sent, at + 1)[0])
        if len(sent) < end:
            break
        found.append(sent[at:end])
        at = end
    return found, sent[at:]


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy in front of this URL's server, and the URL through it."""
    parts = urlsplit(url)
    is_postgres = parts.scheme.startswith("postgres")
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432, is_postgres=is_postgres)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials, at, _ = parts.netloc.rpartition("@")
    through = parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}")
    if is_postgres:
        through = through._replace(query="sslmode=disable&gssencmode=disable")
    try:
        yield proxy, urlunsplit(through)
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


class ThreadedProxy:
    """A proxy on a loop of its own, for those who have none. What it is told holds when the call returns."""

    def __init__(self, proxy: Proxy, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self._proxy = proxy
        self._loop = loop

    def set(self, **attributes: object) -> None:
        """`rule`, `rule_for`, `is_reply_lost`, `sync_late_s`, `is_silent`, `is_refusing`, `delay_s`, `is_lost`; `port`: where it leads from now on."""

        def work() -> None:
            for name, value in attributes.items():
                setattr(self._proxy, name, value)

        self._call(work)

    def cut(self) -> None:
        """Every wire there is ends now."""
        self._call(self._proxy.cut)

    @property
    def cuts(self) -> int:
        """Wires that a rule has cut."""
        return self._proxy.cuts

    def _call(self, work: Callable[[], object]) -> None:
        done = threading.Event()

        def do() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(10)


@contextmanager
def proxied_in_thread(url: str) -> Iterator[ThreadedProxy]:
    """As `proxied`, for who has no event loop."""
    ready = threading.Event()
    made: list[ThreadedProxy] = []
    ends: list[asyncio.Event] = []

    async def serve() -> None:
        end = asyncio.Event()
        ends.append(end)
        async with proxied(url) as (proxy, through):
            made.append(ThreadedProxy(proxy, through, asyncio.get_running_loop()))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="proxy", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0]
    finally:
        made[0]._loop.call_soon_threadsafe(ends[0].set)
        thread.join(10)


def notice(**fields: str) -> bytes:
    """A NoticeResponse with these one-letter fields."""
    return _told(b"N", fields)


def fatal(sqlstate: str) -> bytes:
    """The ErrorResponse that a server ends a session with."""
    return _told(b"E", {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": "on purpose"})


def _told(kind: bytes, fields: Mapping[str, str]) -> bytes:
    body = b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    return kind + struct.pack("!I", len(body) + 4) + body
