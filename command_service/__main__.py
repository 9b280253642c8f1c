"""`python -m command_service`: one command process, from its environment to SIGTERM; `… clock`: one clock."""

import os
import sys

import structlog

from command_service.container import ClockContainer, Container
from command_service.settings import ClockSettings, CommandSettings
from shared_kernel import logs
from shared_kernel.errors import Corruption
from shared_kernel.serve import serve_or_exit
from shared_kernel.settings import SettingsError, exit_with, load_or_exit

USAGE = """usage: python -m command_service [clock]

without a word: serves commands over HTTP
clock           ends holds whose time is over, posts scheduled transactions whose time has come
"""


def main() -> None:
    """Runs one process until SIGTERM. Exit code 1 with an alert, 2 with every fault where arguments or settings are wrong."""
    match sys.argv[1:]:
        case []:
            _serve()
        case ["clock"]:
            _run_clock()
        case _:
            print(USAGE, file=sys.stderr, end="")
            raise SystemExit(2)


def _serve() -> None:
    settings = load_or_exit(CommandSettings, os.environ)
    logs.configure("command", level=settings.log_level, format=settings.log_format)
    container = Container(settings=settings)
    try:
        app = container.app()
    except SettingsError as error:
        exit_with(error)
    serve_or_exit(app, settings, container.health())


def _run_clock() -> None:
    settings = load_or_exit(ClockSettings, os.environ)
    logs.configure("clock", level=settings.log_level, format=settings.log_format)
    process = ClockContainer(settings=settings).process()
    try:
        process.run()
    except Corruption as error:
        structlog.get_logger("daybook").error("stopped_with_alert", code=error.code, **error.fields)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
