"""Which loopback ports a stack uses: counted from a base, or free ones kept between starts.

Kafka's ports must be known before it starts, and clients of a stack like to find it again, so the
choice is made once and written to the data folder.
"""

import random
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from daybook.stack.layout import write_whole
from daybook.terminal import CommandFailed

LOOPBACK = "127.0.0.1"

OFFSETS = {
    "command": 0,
    "query": 1,
    "relay": 2,
    "projector": 3,
    "clock": 4,
    "monitor": 5,
    "postgres": 10,
    "redis": 11,
    "kafka": 12,
    "kafka_controller": 13,
}

# Linux hands out 32768-60999 to outgoing connections: a port of ours there could be taken by any
# client of anything while the server behind it is down.
FREE_FROM, FREE_BELOW = 20_000, 32_000
TRIES_MAX = 500  # chosen: with half the range taken, the chance to fail is 2^-500


def settle_ports(path: Path, *, base: int | None, wanted: Iterable[str]) -> dict[str, int]:
    """A port for every name in `OFFSETS`, written to `path`; those in `wanted` are free now.

    With `base`, port = base + offset, and a taken port is an error that names it. Without, the
    ports of the last start are used again, and a taken one is replaced by a free one.
    """
    wanted = set(wanted)
    if base is not None:
        ports = ports_from(base)
        for name in sorted(wanted, key=lambda each: OFFSETS[each]):
            if not is_free(ports[name]):
                raise CommandFailed(
                    f"port {ports[name]} ({name}) is taken by another program: stop that, or choose "
                    f"another --port-base than {base}"
                )
    else:
        kept = _read(path)
        ports = {}
        for name in OFFSETS:
            port = kept.get(name)
            usable = port is not None and port not in ports.values()
            if port is None or not usable or (name in wanted and not is_free(port)):
                port = choose_free(taken=set(kept.values()) | set(ports.values()))
            ports[name] = port
    write_whole(path, msgspec.json.format(msgspec.json.encode(ports)) + b"\n")
    return ports


def ports_from(base: int) -> dict[str, int]:
    """The ports counted from `base`; refused when they would leave 1024-65535."""
    ports = {name: base + offset for name, offset in OFFSETS.items()}
    if base < 1024 or max(ports.values()) > 65_535:
        raise CommandFailed(f"--port-base {base} must be from 1024 to {65_535 - max(OFFSETS.values())}")
    return ports


def choose_free(*, taken: set[int]) -> int:
    """A loopback port that is free now and not in `taken`."""
    for _ in range(TRIES_MAX):
        port = random.randrange(FREE_FROM, FREE_BELOW)  # noqa: S311 - a port is no secret
        if port not in taken and is_free(port):
            return port
    raise CommandFailed(f"no free port found from {FREE_FROM} to {FREE_BELOW}")


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of the last run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _read(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{path} is damaged ({error}): remove it, and ports are chosen anew") from error
