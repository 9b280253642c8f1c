"""Which processor cores a part of the stack may run on, and whether it may interrupt another there.

The command process decides on one thread and waits for one Postgres backend, turn about. Where the system puts both on one core,
each finds the other's data in its caches: measured on two cores, a core of its own for each makes 4,470 transactions a second of
3,500 (ADR 0006). Everything else runs where there is room.

What carries events to the read models works in rounds and waits between them. Where the machine is full, each of its wake-ups would
interrupt a command that is under way, and take its caches: as batch work (SCHED_BATCH) it waits until the core is free or its turn has
come, with the same share of the processor.
"""

import os
from collections.abc import Collection
from typing import Final

IN_ROUNDS: Final = frozenset({"kafka", "relay", "projector", "clock", "monitor"})


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


def interrupts_nobody(part: str) -> bool:
    """Whether the part is batch work to the scheduler, where the system has that (Linux)."""
    return part in IN_ROUNDS and hasattr(os, "SCHED_BATCH")
