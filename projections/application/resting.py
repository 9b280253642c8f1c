"""How long relay and projector rest between two batches.

The first event goes at once. Behind it many wait for one batch, which costs far less an event than many small ones. Up to the rate
that readers are promised fresh books at, rests are short; beyond it whoever works hard rests long, so that on a busy machine the read
side takes its share in large pieces and leaves the rest to the commands.
"""

import math
from typing import Final

FRESH_A_SECOND: Final = 1_200  # chosen: a fifth more than the rate that the promise of 100 ms is made for
REST_RATIO: Final = (
    3  # measured (ADR 0009): a quarter of a core at the most for small batches, all of it once batches are full
)


RECENT_S: Final = 1.0  # chosen: as many rounds as make a rate of what comes in lumps; a stall before a batch is no rush


class Resting:
    """Remembers how many events came a second lately, and when the last batch began."""

    def __init__(self, *, round_ms: int, rest_ms_max: int) -> None:
        self._round_s = round_ms / 1_000
        self._rest_s_max = rest_ms_max / 1_000
        self._began: float | None = None
        self._a_second = 0.0  # of RECENT_S; what came before counts for a third

    def after(self, events: int, *, began: float, ended: float) -> float:
        """Seconds to rest after a batch: until `round_ms` from its beginning; where more than FRESH_A_SECOND come, REST_RATIO
        times the work, up to `rest_ms_max`.
        """
        since, self._began = self._began, began
        if since is not None and since < began:  # nobody knows how long those of the first batch took to come
            # They came evenly since then: counted as if all came now, a rate of rare lumps would seem higher than it is, and long
            # rests would make the lumps that they follow from.
            faded = math.exp((since - began) / RECENT_S)
            self._a_second = self._a_second * faded + events / (began - since) * (1 - faded)
        worked_s = ended - began
        is_busy = self._a_second > FRESH_A_SECOND
        long_s = min(worked_s * REST_RATIO, self._rest_s_max) if is_busy else 0.0
        return max(self._round_s - worked_s, long_s, 0.0)
