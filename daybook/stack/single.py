"""One supervisor for one data folder: a lock that the kernel gives back when its holder dies."""

import fcntl
import os
import time
from pathlib import Path

from daybook.stack.layout import Layout

LOOKERS_GRACE_S = 0.3  # chosen: who only looks holds the lock for microseconds


def take_lock(layout: Layout) -> int | None:
    """A descriptor that holds the data folder's lock for this process, or None when another has it."""
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + LOOKERS_GRACE_S
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            os.close(descriptor)
            return None
        time.sleep(0.02)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def lock_holder(layout: Layout) -> int | None:
    """The pid of the supervisor of this data folder, or None when there is none."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _try(descriptor, fcntl.LOCK_SH):
            return None
        return _pid_in(layout.lock)
    finally:
        os.close(descriptor)


def _pid_in(path: Path) -> int | None:
    deadline = time.monotonic() + LOOKERS_GRACE_S
    while time.monotonic() < deadline:
        text = path.read_text().strip()
        if text:
            return int(text)
        time.sleep(0.02)  # taken this instant, and its pid not yet written
    return None


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
