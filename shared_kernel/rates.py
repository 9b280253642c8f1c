"""How often each token's subject may ask: a leaky bucket in memory, one number a subject, no round trip (ADR 0014).

Of one process: behind several, each gives its own share. Source of the rule: GCRA, ITU-T I.371.
"""

import time
from collections.abc import Callable
from math import ceil
from typing import Final

from shared_kernel.errors import Contention

SUBJECTS_MAX: Final = 10_000  # chosen: about a megabyte; beyond it those longest unheard of begin anew


class Rates:
    """`per_second` requests of each subject in the long run, and `burst` of them at once."""

    def __init__(
        self,
        per_second: int,
        *,
        burst: int,
        subjects_max: int = SUBJECTS_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._apart_s = 1 / per_second
        self._ahead_s = burst / per_second
        self._subjects_max = subjects_max
        self._monotonic = monotonic
        self._free_at: dict[str, float] = {}  # when all that a subject has asked for so far would have been due

    def take(self, subject: str) -> None:
        """One request of the subject is let through, or Contention `rate_limited` says when the next would be."""
        now = self._monotonic()
        free_at = max(self._free_at.pop(subject, now), now) + self._apart_s
        late_s = free_at - now - self._ahead_s - 1e-9  # many small steps add up to a little more than one
        self._free_at[subject] = (
            free_at if late_s <= 0 else free_at - self._apart_s
        )  # at the end: who asks is not forgotten
        if len(self._free_at) > self._subjects_max:
            del self._free_at[next(iter(self._free_at))]
        if late_s > 0:
            raise Contention("rate_limited", retry_after_ms=ceil(late_s * 1_000))
