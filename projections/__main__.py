"""`python -m projections relay | projector`: one process, from its environment to SIGTERM; `rebuild`: after a restore."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Protocol

import structlog

from projections.container import ProjectorContainer, ProjectorsContainer, RelayContainer
from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.errors import Corruption, DaybookError
from shared_kernel.health import Health, HealthServer
from shared_kernel.logs import configure
from shared_kernel.settings import load_or_exit

USAGE = """usage: python -m projections relay | projector | rebuild

relay      publishes the event log to Kafka; one is active, others stand by
projector  builds the read models from Kafka and the log, each in a thread and a consumer group of its own
rebuild    after `daybook restored`: running or later projectors build every read model anew from the log, then readers see that
"""


class Loop(Protocol):
    """What runs until it is told to stop."""

    def run(self) -> None:
        """Returns when the batch in hand is done."""


def main() -> None:
    """Runs one process. Exit code 0 after SIGTERM, 1 with an alert, 2 with every fault where arguments or settings are wrong."""
    match sys.argv[1:]:
        case ["relay"]:
            settings = load_or_exit(RelaySettings, os.environ)
            configure("relay", level=settings.log_level, format=settings.log_format)
            relaying = RelayContainer(settings=settings)
            _serve(relaying.relay(), relaying.health_server(), relaying.health(), relaying.stop())
        case ["projector"]:
            its_settings = load_or_exit(ProjectorSettings, os.environ)
            configure("projector", level=its_settings.log_level, format=its_settings.log_format)
            projecting = ProjectorsContainer(settings=its_settings)
            loops = {name: part.projector() for name, part in _parts(projecting).items()}
            for name, reason in projecting.refused().items():
                structlog.get_logger("daybook").error("projection_unusable", projection=name, reason=reason)
            _serve(
                Together(loops, projecting.stop()), projecting.health_server(), projecting.health(), projecting.stop()
            )
        case ["rebuild"]:
            its_settings = load_or_exit(ProjectorSettings, os.environ)
            _rebuild(ProjectorsContainer(settings=its_settings))
        case _:
            print(USAGE, file=sys.stderr, end="")
            raise SystemExit(2)


class Together:
    """Several loops, each in a thread; when one fails all end, and its error is this one's."""

    def __init__(self, loops: Mapping[str, Loop], stop: threading.Event) -> None:
        self._loops = loops
        self._stop = stop
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Returns when all have ended. Raises what ended the first that failed."""
        threads = [threading.Thread(target=self._run, args=(loop,), name=name) for name, loop in self._loops.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, loop: Loop) -> None:
        try:
            loop.run()
        except BaseException as error:
            self._failures.append(error)
            self._stop.set()


def _serve(loop: Loop, server: HealthServer, health: Health, stop: threading.Event) -> None:
    logger = structlog.get_logger("daybook")

    def asked_to_stop(signum: int, frame: object) -> None:
        health.stop()
        stop.set()

    signal.signal(signal.SIGTERM, asked_to_stop)
    signal.signal(signal.SIGINT, asked_to_stop)
    gc.set_threshold(100_000, 20, 50)  # batches are many objects without cycles: looking for some cost 20 % (measured)
    server.start()
    logger.info("started", port=server.port, pid=os.getpid())
    try:
        loop.run()
    except Corruption as error:
        logger.error("stopped_with_alert", code=error.code, **error.fields)
        raise SystemExit(1) from None
    finally:
        server.stop()
    logger.info("stopped")


def _parts(container: ProjectorsContainer) -> Mapping[str, ProjectorContainer]:
    try:
        return container.parts()
    except ValueError as error:
        print(f"Daybook cannot start: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _rebuild(container: ProjectorsContainer) -> None:
    is_refused = False
    for name, part in _parts(container).items():
        try:
            generation = part.generations().begin()
        except DaybookError as error:
            is_refused = True
            print(f"Daybook cannot rebuild {name}: {error}", file=sys.stderr)
        else:
            print(f"generation {generation.number} of {name} will be built; projectors take it up by themselves")
    if is_refused:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
