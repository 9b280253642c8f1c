"""`python -m daybook.monitor`: one monitor, from its environment to SIGTERM."""

import os

from daybook.monitor.container import Container
from daybook.monitor.settings import MonitorSettings
from shared_kernel import logs
from shared_kernel.serve import serve_or_exit
from shared_kernel.settings import SettingsError, exit_with, load_or_exit


def main() -> None:
    """Watches until SIGTERM; exit code 2 and every fault by name where the settings are wrong."""
    settings = load_or_exit(MonitorSettings, os.environ)
    logs.configure("monitor", level=settings.log_level, format=settings.log_format)
    container = Container(settings=settings)
    try:
        app = container.app()
    except SettingsError as error:
        exit_with(error)
    serve_or_exit(app, settings, container.health())


if __name__ == "__main__":
    main()
