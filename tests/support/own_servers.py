"""Servers of a test's own, which it may stop: nobody else is on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.services import START_WITHIN_S, STOP_WITHIN_S, Servers, daybook, folder_for_servers


class OwnServers:
    """Some of PostgreSQL, Redis and Kafka, from packages; each stop loses what a stopped machine loses, and no more."""

    def __init__(self, folder: Path, only: str) -> None:
        self._folder = folder
        self._only = only
        kept = ("DAYBOOK_KAFKA_JARS", "DAYBOOK_RUN_AS")
        self._env = {name: text for name, text in os.environ.items() if name[:8] != "DAYBOOK_" or name in kept}

    def start(self) -> Servers:
        """They answer, on the ports they had before."""
        owner = str(os.getpid())
        up = ("up", "--only", self._only, "--detach", "--owner", owner)
        daybook(*up, data=self._folder, within_s=START_WITHIN_S, env=self._env)
        return msgspec.json.decode((self._folder / "stack.json").read_bytes(), type=Servers)

    def stop(self) -> None:
        """Nothing listens any more."""
        daybook("down", data=self._folder, within_s=STOP_WITHIN_S, env=self._env)


@contextmanager
def own_servers(only: str) -> Iterator[OwnServers]:
    """Not started yet; gone at the end."""
    with folder_for_servers() as folder:
        servers = OwnServers(folder, only)
        try:
            yield servers
        finally:
            servers.stop()
