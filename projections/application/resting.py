"""How long relay and projector rest between two batches.

The first event goes at once. Behind it many wait for one batch, which costs far less an event than many small ones. Up to the rate
that readers are promised fresh books at, rests are short; beyond it whoever works hard rests long, so that on a busy machine the read
side takes its share in large pieces and leaves the rest to the commands.
"""

from typing import Final

FRESH_A_SECOND: Final = 1_500  # chosen: half as many again as the rate that the promise of 100 ms is made for
REST_RATIO: Final = (
    3  # measured (ADR 0009): a quarter of a core at the most for small batches, all of it once batches are full
)


class Resting:
    """Remembers when the last batch began, and so how fast events come."""

    def __init__(self, *, round_ms: int, rest_ms_max: int) -> None:
        self._round_s = round_ms / 1_000
        self._rest_s_max = rest_ms_max / 1_000
        self._began: float | None = None

    def after(self, events: int, *, began: float, ended: float) -> float:
        """Seconds to rest after a batch: until `round_ms` from its beginning; where more than FRESH_A_SECOND come, REST_RATIO
        times the work, up to `rest_ms_max`.
        """
        since, self._began = self._began, began
        worked_s = ended - began
        is_busy = since is not None and events > FRESH_A_SECOND * (began - since)
        long_s = min(worked_s * REST_RATIO, self._rest_s_max) if is_busy else 0.0
        return max(self._round_s - worked_s, long_s, 0.0)
