"""`python -m projections relay | projector`: one process, from its environment to SIGTERM; `rebuild`: after a restore; `job`: a
child of a projector.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.errors import Corruption, DaybookError
from shared_kernel.logs import configure
from shared_kernel.settings import SettingsError, exit_with, load_or_exit

# At run time each process imports its own: a job has neither HTTP nor Kafka, and starts in half the time.
if TYPE_CHECKING:
    from projections.application.together import Loop
    from projections.container import ProjectorContainer, ProjectorsContainer
    from projections.container_of_jobs import JobContainer
    from shared_kernel.health import Health, HealthServer

USAGE = """usage: python -m projections relay | projector | rebuild

relay      publishes the event log to Kafka; one is active, others stand by
projector  builds the read models from Kafka and the log, each in a thread and a consumer group of its own
rebuild    after `daybook restored`: running or later projectors build every read model anew from the log, then readers see that
"""

# Batches are many objects without cycles: looking for some cost 20 % (measured).
GC_THRESHOLD = (100_000, 20, 50)


def main() -> None:
    """Runs one process. Exit code 0 after SIGTERM, 1 with an alert, 2 with every fault where arguments or settings are wrong."""
    match sys.argv[1:]:
        case ["relay"]:
            from projections.container import RelayContainer

            settings = load_or_exit(RelaySettings, os.environ)
            configure("relay", level=settings.log_level, format=settings.log_format)
            relaying = RelayContainer(settings=settings)
            threading.Thread(target=relaying.watch().run, name="watch", daemon=True).start()
            _serve(relaying.relay(), relaying.health_server(), relaying.health(), relaying.stop())
        case ["projector"]:
            from projections.container import ProjectorsContainer

            its_settings = load_or_exit(ProjectorSettings, os.environ)
            configure("projector", level=its_settings.log_level, format=its_settings.log_format)
            _project(ProjectorsContainer(settings=its_settings), its_settings)
        case ["job", number, owner, *share] if number.isdecimal():
            from projections.container_of_jobs import JobContainer

            its_settings = load_or_exit(ProjectorSettings, os.environ)
            configure("job", level=its_settings.log_level, format=its_settings.log_format)
            raise SystemExit(_work(JobContainer(settings=its_settings), int(number), owner, share))
        case ["rebuild"]:
            from projections.container import ProjectorsContainer

            its_settings = load_or_exit(ProjectorSettings, os.environ)
            _rebuild(ProjectorsContainer(settings=its_settings))
        case _:
            print(USAGE, file=sys.stderr, end="")
            raise SystemExit(2)


def _serve(loop: "Loop", server: "HealthServer", health: "Health", stop: threading.Event) -> None:
    logger = structlog.get_logger("daybook")

    def asked_to_stop(signum: int, frame: object) -> None:
        health.stop()
        stop.set()

    signal.signal(signal.SIGTERM, asked_to_stop)
    signal.signal(signal.SIGINT, asked_to_stop)
    gc.set_threshold(*GC_THRESHOLD)
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


def _project(container: "ProjectorsContainer", settings: ProjectorSettings) -> None:
    _parts(container)
    try:
        app = container.app()
    except SettingsError as error:
        exit_with(error)
    for name, reason in container.refused().items():
        structlog.get_logger("daybook").error("projection_unusable", projection=name, reason=reason)
    from shared_kernel.serve import serve_or_exit

    serve_or_exit(app, settings, container.health())
    failure = container.together().failure
    if isinstance(failure, Corruption):
        structlog.get_logger("daybook").error("stopped_with_alert", code=failure.code, **failure.fields)
        raise SystemExit(1)
    if failure is not None:
        raise failure


def _work(container: "JobContainer", number: int, owner: str, share: Sequence[str]) -> int:
    def asked_to_stop(signum: int, frame: object) -> None:
        container.stop().set()

    signal.signal(signal.SIGTERM, asked_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the parent too, which then asks us to end
    gc.set_threshold(*GC_THRESHOLD)
    process = container.process()
    return process.run_share(number, share[0]) if share else process.run(number, owner)


def _parts(container: "ProjectorsContainer") -> "Mapping[str, ProjectorContainer]":
    try:
        return container.parts()
    except ValueError as error:
        print(f"Daybook cannot start: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _rebuild(container: "ProjectorsContainer") -> None:
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
