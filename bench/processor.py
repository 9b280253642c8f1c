"""What the processes of a stack take of the processor for a transaction: the figure that holds on a machine that others use too.

Read from /proc, so on Linux only; elsewhere nothing is told.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

Seconds = dict[str, float]
"""Processor time since a process began, by its name in the stack; backends of Postgres by the role they serve."""

_BACKEND = b"postgres: "
_ROLE_PREFIX = "daybook_"


def reader(pids: Mapping[str, int]) -> Callable[[], Seconds]:
    """A function that reads the time of these processes, of this one as `generator`, and of what the server `postgres` began."""
    return partial(_read, {**pids, "generator": os.getpid()})


def spent_us(before: Seconds, after: Seconds, transactions: int) -> dict[str, float]:
    """Microseconds a transaction of who was there before and after, the dearest first."""
    spent = {name: (seconds - before[name]) * 1e6 / transactions for name, seconds in after.items() if name in before}
    return {name: round(us, 1) for name, us in sorted(spent.items(), key=lambda item: -item[1])}


def elsewhere(pids: Mapping[str, int]) -> Callable[[], float]:
    """A function that gives the seconds that this machine's processors have given to others than these processes; 0 without /proc."""
    own = reader(pids)

    def others() -> float:
        try:
            line = Path("/proc/stat").read_text().partition("\n")[0]
        except OSError:
            return 0.0
        user, nice, system, _idle, _waiting, *rest = (int(ticks) for ticks in line.split()[1:9])
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - sum(own().values())

    return others


def _read(pids: Mapping[str, int]) -> Seconds:
    seconds: Seconds = {}
    for name, pid in pids.items():
        if (own := _stat(pid)) is not None:
            seconds[name] = own[1]
    for folder in Path("/proc").glob("[0-9]*") if "postgres" in seconds else ():
        pid = int(folder.name)
        found = _stat(pid)
        if found is not None and found[0] == pids["postgres"]:
            name = f"postgres {_task(pid)}"
            seconds[name] = seconds.get(name, 0.0) + found[1]
    return seconds


def _stat(pid: int) -> tuple[int, float] | None:
    """The parent and the seconds of a process; None where there is none, or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _task(pid: int) -> str:
    """Whom a backend serves, by its title: the role without our prefix, or what the server does for itself."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().removeprefix(_BACKEND)
    except OSError:
        return "gone"
    words = title.replace(b"\0", b" ").decode("utf-8", "replace").split()
    if not words:
        return "gone"
    return words[0].removeprefix(_ROLE_PREFIX) if words[0].startswith(_ROLE_PREFIX) else "itself"
