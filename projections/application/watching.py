"""Tells metrics how far the log and its readers are, whoever feeds them: also while nothing is fed, which no worker would notice."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from projections.application.figures import Figures, Reached, RelayFigures
from shared_kernel.errors import Contention, Unavailable


class Looks(Protocol):
    """Where the readers of the log are."""

    def reached(self, names: Sequence[str]) -> Mapping[str, Reached]:
        """By name, of those that are there: what the log has, what the reader has, and how old the oldest event between is."""


class Watch:
    """Looks again and again until it is told to stop; rates are those between two looks."""

    def __init__(
        self,
        figures: Mapping[str, Figures] | Mapping[str, RelayFigures],
        *,
        looks: Looks,
        every_ms: int,
        stop: threading.Event,
        monotonic: Callable[[], float],
    ) -> None:
        self._figures = figures
        self._looks = looks
        self._every_s = every_ms / 1_000
        self._stop = stop
        self._monotonic = monotonic
        self._looked_at = 0.0
        self._logger = structlog.get_logger("daybook.watch")

    def run(self) -> None:
        """Returns after `stop` was set."""
        while not self._stop.is_set():
            try:
                self.look()
            except (Unavailable, Contention) as error:
                self._logger.warning("watch_waits", code=error.code, **error.fields)
            self._stop.wait(self._every_s)

    def look(self) -> None:
        """Every figure is as of now."""
        found = self._looks.reached(list(self._figures))
        now = self._monotonic()
        for name, figures in self._figures.items():
            reached, before = found.get(name), figures.reached
            if reached is not None and before is not None and reached.generation == before.generation:
                moved = max(reached.position - before.position, 0)
                reached.events_per_second = moved / max(now - self._looked_at, 1e-3)
            figures.reached = reached
        self._looked_at = now
