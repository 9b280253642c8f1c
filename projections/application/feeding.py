"""Feeds what is whole but not followed: a generation that waits to be taken over, and those that a rollback would go back to.

From the log alone, beside the projector that follows Kafka, in a thread and with connections of its own: live lag does not wait for it.
"""

import threading
from collections.abc import Callable

import structlog

from projections.application.ports import Controls, ForeignGeneration, Generation, Generations, TooManyParked
from projections.application.worker import Worker
from shared_kernel.errors import Contention, Unavailable


class Feeder:
    """Keeps all generations beside the followed one near the head until it is told to stop."""

    def __init__(
        self,
        projection: str,
        *,
        generations: Generations,
        worker_of: Callable[[Generation], Worker],
        controls: Controls,
        feed_ms: int,
        stop: threading.Event,
    ) -> None:
        self._projection = projection
        self._generations = generations
        self._worker_of = worker_of
        self._controls = controls
        self._feed_s = feed_ms / 1_000
        self._stop = stop
        self._logger = structlog.get_logger("daybook.feeder").bind(projection=projection)

    def run(self) -> None:
        """Returns after `stop` was set and the batch in hand is done. Corruption of the log ends it at once."""
        seen = None
        workers: list[Worker] = []
        while not self._stop.is_set():
            wanted = self._controls.wanted(self._projection)
            if wanted is None or wanted.is_paused:
                seen, workers = None, []
                self._controls.wait(self._feed_s)
                continue
            try:
                if wanted != seen:
                    workers = self._begin()
                    seen = wanted
                for worker in workers:
                    worker.check(is_live=False)
                    while worker.catch_up() and not self._stop.is_set():
                        pass
            except (Unavailable, Contention, ForeignGeneration, TooManyParked) as error:
                seen = None
                self._logger.warning("feeding_waits", code=error.code, **error.fields)
                self._stop.wait(self._feed_s)
            if workers:
                self._stop.wait(self._feed_s)
            else:
                self._controls.wait(1.0)

    def _begin(self) -> list[Worker]:
        workers = []
        for generation in self._generations.beside():
            worker = self._worker_of(generation)
            worker.start()
            workers.append(worker)
            self._logger.info("feeding", generation=generation.number, state=generation.state)
        return workers
