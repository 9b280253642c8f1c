"""The lock table in Redis: how its keys are named and what their values say. Command workers write it, the monitor reads it.

Every key of a ledger begins with `daybook:{<incarnation>:<ledger>}:`, so all of them share one hash slot of a cluster and none
outlives a restored database. What follows:

`lease`        `held <worker> <since>`: this worker writes to the ledger alone, and takes no account locks.
`writers`      a sorted set: every worker that writes, with when its presence ends. Two or more that last: account locks are taken.
               One that has ended was not given back: its worker was killed or stands still. It is kept for `OVER_KEPT_MS`.
`lock:<tag>`   `held <worker> <since> [<waiter>]`: this worker decides on what the fence `<tag>` watches, and `<waiter>` is next.
               `free <worker> <position> [<waiter>]`: given back by this worker, whose work is in the log up to the position.

`<worker>` is `<host>-<pid>-<random>`. Times are milliseconds since 1970 by the clock of Redis. What is left of a lease, of a held
lock and of a waiter's mark is the key's time to live (PTTL). Help, never truth: every key may be lost at any moment (ADR 0004).
"""

import os
import re
import secrets
import socket
from typing import Literal, NamedTuple

PATTERN = "daybook:{*}:*"
"""For SCAN: every key of the table, of all ledgers and incarnations."""
LEASE = "lease"
WRITERS = "writers"
LOCK = "lock:"
OVER_KEPT_MS = 60_000  # chosen: several looks of the monitor, which tells of it

_KEY = re.compile(r"daybook:\{([^:}]+):([^}]+)\}:(.+)", re.DOTALL)
_VALUE = re.compile(r"(held|free) (\S+) (\d+)(?: (\S+))?")
_HOST_LENGTH_MAX = 60


class LockKey(NamedTuple):
    """A key of the table, taken apart. `name`: `lease`, `writers`, or `lock:` and the tag of a fence."""

    incarnation: str
    ledger: str
    name: str


class LockValue(NamedTuple):
    """What a lease or a lock says. `number`: since when it is held (ms), or the position it was given back at."""

    state: Literal["held", "free"]
    worker: str
    number: int
    waiter: str | None


def key(incarnation: object, ledger: str, name: str) -> str:
    """The key in Redis. A ledger's name has no braces (its grammar), so the hash tag is the whole of incarnation and ledger."""
    return f"daybook:{{{incarnation}:{ledger}}}:{name}"


def read_key(text: str) -> LockKey | None:
    """The parts of a key; None where it is none of the table."""
    found = _KEY.fullmatch(text)
    return None if found is None else LockKey(*found.groups())


def read_value(text: str) -> LockValue | None:
    """What a lease's or a lock's value says; None where it says nothing that is known here."""
    found = _VALUE.fullmatch(text)
    if found is None:
        return None
    return LockValue("held" if found[1] == "held" else "free", found[2], int(found[3]), found[4])


def worker_name() -> str:
    """A name for this worker that no other has and that an operator finds the process by: host, pid, and a random part."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:_HOST_LENGTH_MAX] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
