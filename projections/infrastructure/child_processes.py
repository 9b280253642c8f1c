"""Child processes for jobs: `python -m projections job <id> <owner>`, in this process's environment.

A child lives no longer than its parent: it reads a pipe that nobody writes to, and ends when that is closed.
"""

import subprocess
import sys

STOP_S_MAX = 6.0  # of the ten seconds that a process has after SIGTERM


class ChildProcess:
    """One of them."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def wait(self, wait_s: float) -> int | None:
        """Its exit code, or None if it still works after the time."""
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """It is asked to end, and has ended."""
        self._process.terminate()
        code = self.wait(STOP_S_MAX)
        if code is None:
            self._process.kill()
            code = self._process.wait()
        return code


class ChildProcesses:
    """Starts them."""

    def start(self, id: int, owner: str, *, share: str = "") -> ChildProcess:  # noqa: A002
        """One that works on this job in the name of this owner; `share`: on which part of it, as 1/2."""
        argv = [sys.executable, "-P", "-m", "projections", "job", str(id), owner, *([share] if share else [])]
        return ChildProcess(subprocess.Popen(argv, stdin=subprocess.PIPE))
