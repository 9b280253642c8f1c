"""`python -m query_service`: one query process, from its environment to SIGTERM."""

import os

from query_service.container import Container
from query_service.settings import QuerySettings
from shared_kernel import logs
from shared_kernel.serve import serve_or_exit
from shared_kernel.settings import SettingsError, exit_with, load_or_exit


def main() -> None:
    """Serves queries until SIGTERM; exit code 2 and every fault by name where the settings are wrong."""
    settings = load_or_exit(QuerySettings, os.environ)
    logs.configure("query", level=settings.log_level, format=settings.log_format)
    container = Container(settings=settings)
    try:
        app = container.app()
    except SettingsError as error:
        exit_with(error)
    serve_or_exit(app, settings, container.health())


if __name__ == "__main__":
    main()
