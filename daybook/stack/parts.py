"""What the supervisor is told about each part of a stack: data and four functions.

A part is a server, one of Daybook's processes, or a task done once between them. The modules that
make parts know their service; the supervisor knows only this.
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daybook.stack.jars import Report
from daybook.stack.users import ServerUser

EXIT_SETTINGS_WRONG = 2  # what our own processes exit with when a setting is wrong: no restart heals that


@dataclass(frozen=True)
class Launch:
    """How a child process is started; `env` is all that it sees."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    user: ServerUser | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part; it is started when all it `needs` are ready, and ready when `fault` returns None.

    `prepare` and `fault` are called from threads and may block for a few seconds; `launch` is called
    on the main thread and must not. A part without `launch` starts no process of its own.
    """

    name: str
    address: str = ""
    needs: tuple[str, ...] = ()
    prepare: Callable[[Report], None] = lambda report: None
    launch: Callable[[], Launch] | None = None
    fault: Callable[[], str | None] = lambda: None
    is_ours: bool = False  # one of Daybook's own processes
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 30.0
