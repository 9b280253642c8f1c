"""Hears which ledgers' logs have grown (NOTIFY daybook_appended) and wakes who follows them.

One connection a process. While it is down nobody is woken and everybody polls; what it says is a hint, never an answer.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection

from shared_kernel.event_log.calls import APPENDED_CHANNEL

RECONNECT_MS: Final = 500  # chosen: those who follow poll meanwhile
SILENCE_S: Final = 30.0  # chosen: after this long without a word the connection is tried

_log = structlog.get_logger(__name__)


class _Growth:
    """As in `application.query_handler.Arrival`."""

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def wake(self) -> None:
        """The log has grown."""
        self._heard.set()

    async def wait(self, timeout_ms: float) -> None:
        """Each announcement wakes once; one that came since the last wait wakes at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._heard.wait()
        self._heard.clear()


class AppendedListener:
    """Who follows which ledger, and the connection that tells. `open` starts listening, `close` ends it."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._followed: dict[str, set[_Growth]] = {}
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    async def open(self) -> None:
        """Listening has begun in the background; the database need not be there yet."""
        self._task = asyncio.create_task(self._listen(), name="appended-listener")

    async def close(self) -> None:
        """The connection is closed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @contextmanager
    def expect(self, ledger: str) -> Iterator[_Growth]:
        """As in `application.log_reader.Announcements`."""
        growth = _Growth()
        self._followed.setdefault(ledger, set()).add(growth)
        try:
            yield growth
        finally:
            following = self._followed[ledger]
            following.discard(growth)
            if not following:
                del self._followed[ledger]

    def wake_all(self) -> None:
        """Everybody looks once: what was announced while nobody listened is lost."""
        for following in self._followed.values():
            for growth in following:
                growth.wake()

    async def _listen(self) -> None:
        while True:
            try:
                async with await AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute(f"listen {APPENDED_CHANNEL}".encode())
                    self.listening.set()
                    self.wake_all()
                    while True:
                        async for notice in connection.notifies(timeout=SILENCE_S):
                            for growth in self._followed.get(notice.payload, ()):
                                growth.wake()
                        await connection.execute(b"select 1")
            except psycopg.Error as error:
                _log.warning("not_listening", error_class=type(error).__name__)
            finally:
                self.listening.clear()
            await asyncio.sleep(RECONNECT_MS / 1000)
