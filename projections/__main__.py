"""`python -m projections relay | projector`: one process, from its environment to SIGTERM; `rebuild`: after a restore."""

import gc
import os
import signal
import sys
import threading
from typing import Protocol

import structlog

from projections.container import ProjectorContainer, RelayContainer
from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.errors import Corruption, DaybookError
from shared_kernel.health import Health, HealthServer
from shared_kernel.logs import configure
from shared_kernel.settings import load_or_exit

USAGE = """usage: python -m projections relay | projector | rebuild

relay      publishes the event log to Kafka; one is active, others stand by
projector  builds the read model `books` from Kafka and the log
rebuild    after `daybook restored`: a running or later projector builds `books` anew from the log, then readers see that
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
            projecting = ProjectorContainer(settings=its_settings)
            _serve(projecting.projector(), projecting.health_server(), projecting.health(), projecting.stop())
        case ["rebuild"]:
            its_settings = load_or_exit(ProjectorSettings, os.environ)
            _rebuild(ProjectorContainer(settings=its_settings))
        case _:
            print(USAGE, file=sys.stderr, end="")
            raise SystemExit(2)


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


def _rebuild(container: ProjectorContainer) -> None:
    try:
        generation = container.generations().begin()
    except DaybookError as error:
        print(f"Daybook cannot rebuild: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(
        f"generation {generation.number} of {generation.projection} will be built; projectors take it up by themselves"
    )


if __name__ == "__main__":
    main()
