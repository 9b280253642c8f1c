"""Notices a source from which nothing comes any more though there is something to come.

A consumer of Kafka can be lost without a word: of a topic that was deleted and made anew before it looked, it waits for what will
never come (confluent-kafka-python 1787), and the read model then lives by what is healed from the log, seconds late.
"""

from typing import Final

LONGER_MAX: Final = 32  # chosen: who is silent because no relay publishes is disturbed every few minutes at the most


class Silence:
    """How long the log has had to fill in what should have come, while nothing came. Times are of one monotonic clock, in seconds."""

    def __init__(self, *, silent_ms: int) -> None:
        self._silent_s = self._bound_s = silent_ms / 1_000
        self._since: float | None = None

    def broken(self) -> None:
        """Something came."""
        self._since, self._bound_s = None, self._silent_s

    def healed(self, now: float) -> bool:
        """The log has filled something in. True: a source begun anew may hear more; each time twice as late as the last."""
        if self._since is None:
            self._since = now
        if now - self._since < self._bound_s:
            return False
        self._since, self._bound_s = now, min(self._bound_s * 2, self._silent_s * LONGER_MAX)
        return True
