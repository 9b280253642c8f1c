"""When a child that crashed is started again, and when the stack gives up. Pure.

The clock comes in as an argument: monotonic seconds.
"""

from collections import deque

CRASHES_MAX = 5  # issue: after five crashes in a minute the stack stops
WINDOW_S = 60.0
FIRST_DELAY_S = 0.2  # measured: PostgreSQL needs about this long to notice that its parent is gone
LAST_DELAY_S = 5.0


class CrashHistory:
    """The crashes of one child within the last minute."""

    def __init__(self) -> None:
        self._crashes = deque[float]()

    def next_delay_s(self, now: float) -> float | None:
        """Count a crash at `now`: seconds to wait before the restart, or None to give up.

        The wait doubles with every crash of the last minute, up to `LAST_DELAY_S`.
        """
        while self._crashes and self._crashes[0] <= now - WINDOW_S:
            self._crashes.popleft()
        self._crashes.append(now)
        if len(self._crashes) >= CRASHES_MAX:
            return None
        return min(LAST_DELAY_S, FIRST_DELAY_S * 2.0 ** (len(self._crashes) - 1))
