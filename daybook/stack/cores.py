"""Which processor cores a part of the stack may run on.

The command process decides on one thread and waits for one Postgres backend, turn about. Where the system puts both on one core,
each finds the other's data in its caches: measured on two cores, a core of its own for each makes 4,470 transactions a second of
3,500 (ADR 0006). Everything else runs where there is room.
"""

import os
from collections.abc import Collection


def cores_of(part: str, chosen: Collection[str]) -> frozenset[int] | None:
    """The cores for a part of a stack with these parts; None: all.

    The command process gets the first core, Postgres the others. None too where there is one core only, where the system cannot
    be told (macOS), or where no command process runs.
    """
    if not hasattr(os, "sched_getaffinity") or not {"command", "postgres"} <= set(chosen):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    return {"command": frozenset((first,)), "postgres": frozenset(others)}.get(part)
