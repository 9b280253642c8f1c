"""Hears which ledgers' logs have grown (NOTIFY daybook_appended) and wakes who follows them.

While nothing is heard nobody is woken and everybody polls.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from shared_kernel.event_log.calls import APPENDED_CHANNEL


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
    """Who follows which ledger."""

    channel: Final = APPENDED_CHANNEL

    def __init__(self) -> None:
        self._followed: dict[str, set[_Growth]] = {}
        self.listening = asyncio.Event()

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

    def begin(self) -> None:
        """As in `infrastructure.announcements.Listener`. Everybody looks once, for what was missed."""
        self.listening.set()
        for following in self._followed.values():
            for growth in following:
                growth.wake()

    def hear(self, payload: str) -> None:
        """Wakes who follows the ledger that was named."""
        for growth in self._followed.get(payload, ()):
            growth.wake()

    def end(self) -> None:
        """As in `infrastructure.announcements.Listener`."""
        self.listening.clear()
