"""Where on this machine's processor a part of the stack runs: on which cores, whom it may interrupt there, and who gives way to it.

The command process decides on one thread and waits for one Postgres backend, turn about. Where the system puts both on one core,
each finds the other's data in its caches: measured on two cores, a core of its own for each makes 4,470 transactions a second of
3,500 (ADR 0006). Everything else runs where there is room.

What carries events to the read models works in rounds and waits between them. Where the machine is full, each of its wake-ups would
interrupt a command that is under way, and take its caches: as batch work (SCHED_BATCH) it waits until the core is free or its turn has
come, with the same share of the processor.

The command process goes first where the system lets us say so (as root). Where more is asked for than can be done it must still say no
at once, and what waits for it are clients; read models that are late say how late they are (ADR 0014).
"""

import os
from collections.abc import Collection
from typing import Final, NamedTuple

FIRST: Final = "command"
FIRST_NICE: Final = -10  # measured (ADR 0014)
IN_ROUNDS: Final = frozenset({"kafka", "relay", "projector", "clock", "monitor"})


class Place(NamedTuple):
    """Its cores (None: all), whether it is batch work to the scheduler, and how nice it is to others (0: as others are)."""

    cores: frozenset[int] | None = None
    is_batch: bool = False
    nice: int = 0


def place_of(part: str, chosen: Collection[str]) -> Place:
    """The place of a part in a stack with these parts; what the system has not is left out."""
    return Place(
        _cores_of(part, chosen), part in IN_ROUNDS and hasattr(os, "SCHED_BATCH"), FIRST_NICE if part == FIRST else 0
    )


def _cores_of(part: str, chosen: Collection[str]) -> frozenset[int] | None:
    """The first core for the command process, the others for Postgres, all for the rest.

    All too where there is one core only, where the system cannot be told (macOS), or where no command process runs.
    """
    if not hasattr(os, "sched_getaffinity") or not {"command", "postgres"} <= set(chosen):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    return {"command": frozenset((first,)), "postgres": frozenset(others)}.get(part)
