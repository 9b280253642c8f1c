"""What would be said many times a second is said now and then; counters have all of it."""

import time
from collections.abc import Callable, Hashable
from typing import Final

SAY_S: Final = 10.0  # chosen: often enough to be seen, seldom enough to be read


class Seldom:
    """One of a kind in SAY_S, by a monotonic clock in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._said_at: dict[Hashable, float] = {}

    def is_due(self, kind: Hashable) -> bool:
        """True: to be said now, and counted as said."""
        now = self._monotonic()
        if now - self._said_at.get(kind, -SAY_S) < SAY_S:
            return False
        self._said_at[kind] = now
        return True
