"""Hears which positions become visible (NOTIFY daybook_visible) and wakes who waits for them.

While nothing is heard nobody is woken and everybody polls.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from query_service.infrastructure.figures import QueryFigures

PROJECTIONS: Final = ("books", "periods")  # a question may need both: what one announces is a hint like any other
LEDGERS_KEPT_MAX: Final = 10_000  # chosen: of so many ledgers the newest position is remembered


class _Arrival:
    """As in `application.query_handler.Arrival`."""

    __slots__ = ("_heard", "is_waiting", "of_periods", "position")

    def __init__(self, position: int, *, of_periods: bool) -> None:
        self.position = position
        self.of_periods = of_periods
        self.is_waiting = False
        self._heard = asyncio.Event()

    def wake(self) -> None:
        """The position was announced."""
        self._heard.set()

    async def wait(self, timeout_ms: float) -> None:
        """Each announcement wakes once: it may have been of a generation that is not the live one."""
        self.is_waiting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._heard.wait()
        self.is_waiting = False
        self._heard.clear()


class VisibleListener:
    """Who waits for what."""

    channel: Final = "daybook_visible"

    def __init__(self, figures: QueryFigures) -> None:
        self._expected: dict[str, set[_Arrival]] = {}
        self._newest: dict[str, int] = {}
        self._heard: dict[str, int] = {}  # what was announced last, of ledgers that were announced lately
        self.listening = asyncio.Event()
        figures.watch_waiting(self.waiting)

    def begin(self) -> None:
        """As in `infrastructure.announcements.Listener`."""
        self.listening.set()

    def end(self) -> None:
        """As in `infrastructure.announcements.Listener`."""
        self.listening.clear()
        self._newest.clear()
        self._heard.clear()

    @contextmanager
    def expect(self, ledger: str, position: int, *, of_periods: bool) -> Iterator[_Arrival]:
        """As in `application.query_handler.Visible`."""
        arrival = _Arrival(position, of_periods=of_periods)
        self._expected.setdefault(ledger, set()).add(arrival)
        try:
            yield arrival
        finally:
            waiting = self._expected[ledger]
            waiting.discard(arrival)
            if not waiting:
                del self._expected[ledger]

    def is_behind(self, ledger: str, position: int) -> bool:
        """As in `application.query_handler.Visible`."""
        return self._heard.get(ledger, position) < position

    def waiting(self) -> int:
        """How many wait now."""
        return sum(arrival.is_waiting for arrivals in self._expected.values() for arrival in arrivals)

    def newest(self, ledger: str) -> int | None:
        """As in `infrastructure.cached_books.Newest`: none later was announced. None while nobody listens."""
        return self._newest.get(ledger) if self.listening.is_set() else None

    def learn(self, ledger: str, position: int) -> None:
        """As in `infrastructure.cached_books.Newest`. Whatever becomes visible from now on will be announced."""
        if not self.listening.is_set():
            return
        _keep(self._newest, ledger, max(self._newest.get(ledger, 0), position))

    def hear(self, payload: str) -> None:
        """Wakes who waits for what was announced: `<projection>/<ledger>/<position>`."""
        projection, _, rest = payload.partition("/")
        ledger, _, digits = rest.rpartition("/")
        if projection not in PROJECTIONS or not digits.isdigit():
            return
        is_books, position = projection == "books", int(digits)
        if is_books:
            if position > self._newest.get(ledger, position):
                self._newest[ledger] = position
            _keep(self._heard, ledger, position)
        for arrival in self._expected.get(ledger, ()):
            if arrival.position <= position and (is_books or arrival.of_periods):
                arrival.wake()


def _keep(positions: dict[str, int], ledger: str, position: int) -> None:
    """Remembers it, at the end: of too many ledgers the one longest unused goes first."""
    positions.pop(ledger, None)
    if len(positions) >= LEDGERS_KEPT_MAX:
        del positions[next(iter(positions))]
    positions[ledger] = position
