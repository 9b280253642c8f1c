"""Child processes that cannot outlive us, and what is left of those that did.

On Linux the kernel ends a child when its parent dies (PR_SET_PDEATHSIG). Everywhere, the children's
pids and start times lie in a file, so that the next start can end leftovers of a killed supervisor.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from daybook.stack.layout import Layout, write_whole
from daybook.stack.parts import Launch, Part

PR_SET_PDEATHSIG = 1
LEFTOVER_GRACE_S = 10.0
POLL_S = 0.05

# Loaded before any fork: in the child, after the change of user, Python's own library folder may be
# unreadable, and an import there would fail.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Recorded(msgspec.Struct, frozen=True):
    """A child as the children file names it; `started` tells it from a later process of that pid."""

    pid: int
    started: str
    stop_signal: int


async def start_child(
    part: Part, launch: Launch, *, log: int, cores: frozenset[int] | None = None, is_batch: bool = False
) -> asyncio.subprocess.Process:
    """A running child of the part on these cores (None: all), batch work to the scheduler or not; its output goes to the descriptor `log`.

    Must be called on the main thread: the kernel ends a child when the *thread* that forked it ends.
    """
    return await asyncio.create_subprocess_exec(
        *launch.argv,
        env=dict(launch.env),
        cwd=launch.cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        user=None if launch.user is None else launch.user.uid,
        group=None if launch.user is None else launch.user.gid,
        extra_groups=None if launch.user is None else [],
        start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor only
        preexec_fn=_in_the_child(part.stop_signal, cores, is_batch=is_batch),
    )


def record_children(layout: Layout, children: dict[str, tuple[int, signal.Signals]]) -> None:
    """The children file names exactly these (pid and stop signal by name of the part)."""
    recorded = {
        name: Recorded(pid=pid, started=start_time(pid) or "", stop_signal=int(stop))
        for name, (pid, stop) in children.items()
    }
    write_whole(layout.children_file, msgspec.json.encode(recorded))


def end_leftovers(layout: Layout, report: Callable[[str], None]) -> None:
    """No child of an earlier supervisor of this data folder runs any more."""
    try:
        recorded = msgspec.json.decode(layout.children_file.read_bytes(), type=dict[str, Recorded])
    except (FileNotFoundError, msgspec.DecodeError):
        return
    alive = {name: child for name, child in recorded.items() if _is_same(child)}
    for name, child in alive.items():
        report(f"ending {name} (pid {child.pid}), left over from a stack that was killed")
        _send(child.pid, child.stop_signal)
    deadline = time.monotonic() + LEFTOVER_GRACE_S
    while any(_is_same(child) for child in alive.values()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for child in alive.values():
        if _is_same(child):
            _send(child.pid, signal.SIGKILL)
    layout.children_file.unlink(missing_ok=True)


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque word; None when there is none or it is a zombie."""
    try:
        # Field 22 of proc(5) stat, counted after the name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        if sys.platform == "linux":
            return None
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], check=False, capture_output=True, text=True)
    state, _, started = asked.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _is_same(child: Recorded) -> bool:
    return start_time(child.pid) == child.started


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself in between


def _in_the_child(
    stop_signal: signal.Signals, cores: frozenset[int] | None, *, is_batch: bool
) -> Callable[[], None] | None:
    """What the child does before its program starts: die with its parent, keep to its cores, interrupt nobody."""
    if _LIBC is None:
        return None
    prctl, number, parent = _LIBC.prctl, int(stop_signal), os.getpid()

    def in_the_child() -> None:
        prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the call above
            os._exit(1)
        if cores is not None:
            os.sched_setaffinity(0, cores)
        if is_batch:
            with suppress(OSError):  # a container may forbid it: the same work, a little dearer
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    return in_the_child
