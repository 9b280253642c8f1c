"""How a command talks: data on standard output, talk on standard error, and its exit codes.

Every command of `daybook` uses these; none prints or exits in another way. NO_COLOR is honoured by
rich; in a pipe nothing is coloured, wrapped or cut.
"""

import os
import shutil
import sys
from enum import IntEnum
from pathlib import Path

from rich.console import Console

PIPE_WIDTH = 100_000  # chosen: wider than any line we print, so that a pipe never gets a cut one


class Exit(IntEnum):
    """What the exit codes of every command mean."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    REFUSED = 3
    TRY_AGAIN = 4
    UNAVAILABLE = 5
    VERIFICATION_FAILED = 6
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


class CommandFailed(Exception):
    """Ends a command: `message` goes to standard error, `exit_code` to the shell."""

    def __init__(self, message: str, exit_code: Exit = Exit.FAULT) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


def out() -> Console:
    """Standard output, for data."""
    return _console(stderr=False)


def talk() -> Console:
    """Standard error, for everything a program that reads our output must not see."""
    return _console(stderr=True)


def own_command() -> str:
    """How a person would call this very program again, from the current folder."""
    program = Path(sys.argv[0])
    if program.name != "daybook":  # run as a module, as a detached stack is
        program = Path(sys.executable).with_name("daybook")
        if not program.exists():
            return f"{sys.executable} -m daybook"
    found = shutil.which("daybook")
    if found is not None and os.path.realpath(found) == os.path.realpath(program):
        return "daybook"
    absolute = program.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)
