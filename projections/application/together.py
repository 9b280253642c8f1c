"""Several loops of one process, each in a thread: they begin together, and when one fails all end."""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol


class Loop(Protocol):
    """What runs until it is told to stop."""

    def run(self) -> None:
        """Returns when the batch in hand is done."""


class Together:
    """The loops, and the error of the first that failed."""

    def __init__(self, loops: Mapping[str, Loop], stop: threading.Event) -> None:
        self._loops = loops
        self._stop = stop
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None

    def start(self, *, on_failure: Callable[[], object]) -> None:
        """All run. `on_failure` is called when the first has failed, from its thread."""
        self._threads = [
            threading.Thread(target=self._run, args=(loop, on_failure), name=name) for name, loop in self._loops.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """All have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, loop: Loop, on_failure: Callable[[], object]) -> None:
        try:
            loop.run()
        except BaseException as error:
            is_first = self.failure is None
            self.failure = self.failure or error
            self._stop.set()
            if is_first:
                on_failure()
