"""Long answers: sent piece by piece at the client's pace, each in a slot of its own, and ended before the process is.

A piece is made only when the one before it has left for the client, so a slow reader costs its slot and one piece. What
breaks a stream after its head was sent can only be told by breaking the connection: an answer that ends well is whole.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import structlog
from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from shared_kernel.errors import DaybookError, Unavailable

_log = structlog.get_logger(__name__)

Pieces = AsyncGenerator[bytes, None]


class Streams:
    """The streams of one process; `stop` ends them."""

    def __init__(self, *, streams_max: int, stall_seconds_max: float, stop_seconds_max: float) -> None:
        self._streams_max = streams_max
        self._stop_seconds_max = stop_seconds_max / 2  # the rest is for the end of the process
        self.stall_seconds_max = stall_seconds_max
        self._running: dict[asyncio.Task[None], bool] = {}
        self._is_stopping = False

    @property
    def running(self) -> int:
        """How many there are now."""
        return len(self._running)

    def require_room(self) -> None:
        """Unavailable `overloaded` where no slot is free, `shutting_down` at the end: asked before anything is read."""
        if self._is_stopping:
            raise Unavailable("shutting_down")
        if len(self._running) >= self._streams_max:
            raise Unavailable("overloaded")

    @contextmanager
    def slot(self, sending: asyncio.Task[None], *, is_endless: bool) -> Iterator[None]:
        """The task is one of the streams until the block ends."""
        self._running[sending] = is_endless
        try:
            yield
        finally:
            del self._running[sending]

    def stop(self) -> None:
        """None begin any more. Those without an end of their own end now; the others have a while to come to theirs."""
        self._is_stopping = True
        for sending, is_endless in list(self._running.items()):
            if is_endless:
                sending.cancel()
        if self._running:
            asyncio.get_running_loop().call_later(self._stop_seconds_max, self._break_off)

    def _break_off(self) -> None:
        for sending in list(self._running):
            sending.cancel()


class StreamedAnswer(Response[Any]):
    """An answer made of pieces. `is_endless`: it has no end of its own, so it may end after any of them."""

    def __init__(
        self,
        pieces: Pieces,
        streams: Streams,
        *,
        media_type: str,
        headers: Mapping[str, str],
        is_endless: bool = False,
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        self._pieces = pieces
        self._streams = streams
        self._is_endless = is_endless

    def to_asgi_response(self, *_: Any, headers: Mapping[str, str] | None = None, **__: Any) -> ASGIResponse:
        """What Litestar calls with the answer."""
        return _Sent(
            self._pieces,
            self._streams,
            media_type=str(self.media_type),
            headers={**(headers or {}), **self.headers},
            is_endless=self._is_endless,
        )


class _Sent(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self, pieces: Pieces, streams: Streams, *, media_type: str, headers: dict[str, str], is_endless: bool
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        self._pieces = pieces
        self._streams = streams
        self._is_endless = is_endless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises before anything is sent where there is no room."""
        self._streams.require_room()
        await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """All pieces were sent, or the client left, or the connection is to be broken: then the last message is missing."""
        sending = asyncio.create_task(self._send_pieces(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            with self._streams.slot(sending, is_endless=self._is_endless):
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if sending.cancelled():
            if self._is_endless:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        match sending.exception():
            case DaybookError() as error:
                _log.warning("stream_broken", reason=error.code)
            case TimeoutError():
                _log.info("stream_broken", reason="the client reads nothing")
            case None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            case error:
                raise error

    async def _send_pieces(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                # The server takes a piece when the client has taken most of those before it.
                async with asyncio.timeout(self._streams.stall_seconds_max):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
