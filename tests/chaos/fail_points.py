"""`python -m tests.chaos.fail_points NAME NTH MODULE…`: a process that dies, as by kill -9, the NTH time it comes to one step of the write path.

The steps are named here and nowhere else: each is where one function of the product is entered or left, and the product knows nothing
of it. Together they are the way of a command from the queue to its answer, of the group commit as of the transaction under locks.
"""

import os
import runpy
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from command_service.application.executor import Executor
from command_service.application.line import Line
from command_service.infrastructure.account_locks import AccountLocks
from shared_kernel.event_log import fast
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.pipeline import Pipeline

OF_SINGLES = (
    "received",  # nothing was done yet
    "loading",  # the log is asked, and has not answered
    "loaded",
    "locked",  # Redis has given the locks
    "decided",  # nothing is sent yet
    "appending",  # the append has left; nobody knows whether it is committed
    "appended",  # it is committed, and nobody was told
    "answered",  # the answer stands, and has not left
)
OF_ATOMIC_BATCHES = (
    "heads locked",
    "appended under locks",  # of the first ledger; nothing is committed
    "committing",  # COMMIT has left; nobody knows
    "committed",  # and nobody was told
)
POINTS = (*OF_SINGLES, *OF_ATOMIC_BATCHES)


def main() -> None:
    """Runs the module with its points in place."""
    name, nth, module, *arguments = sys.argv[1:]
    _arm(_Point(name, int(nth)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Point:
    def __init__(self, name: str, nth: int) -> None:
        assert name in POINTS, name
        self._name = name
        self._left = nth
        self.is_live = False
        """A command has come: what the process asks at its start is not the write path."""

    def reach(self, name: str) -> None:
        """The process is here; it ends if this is the point, and the time has come."""
        if self.is_live and name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _arm(point: _Point) -> None:
    enqueue, submit_atomic = Executor.enqueue, Executor.submit_atomic
    answer, take = Line.answer, AccountLocks.take
    execute, load, append, transaction = (
        Pipeline.execute,
        LogConnection.load,
        LogConnection.append,
        LogConnection.transaction,
    )

    def enqueued(self: Executor, *arguments: Any) -> Any:
        point.is_live = True
        point.reach("received")
        return enqueue(self, *arguments)

    def submitted(self: Executor, *arguments: Any) -> Any:
        point.is_live = True
        return submit_atomic(self, *arguments)

    def answered(self: Line, *arguments: Any) -> None:
        answer(self, *arguments)
        point.reach("answered")

    async def taken(self: AccountLocks, *arguments: Any) -> Any:
        grip = await take(self, *arguments)
        point.reach("locked")
        return grip

    def executed(self: Pipeline, *statements: tuple[bytes, Any], is_write: bool) -> Any:
        asked = {name for name, _ in statements}
        if fast._APPEND in asked and is_write:
            point.reach("decided")
        future = execute(self, *statements, is_write=is_write)
        for statement, name in ((fast._LOAD, "loading"), (fast._COMMIT, "committing")):
            if statement in asked:
                point.reach(name)
        if fast._APPEND in asked and is_write:
            point.reach("appending")
        return future

    def then(of: Callable[..., Awaitable[Any]], free: str, locked: str) -> Callable[..., Awaitable[Any]]:
        async def done(self: LogConnection, *arguments: Any, **named: Any) -> Any:
            found = await of(self, *arguments, **named)
            point.reach(locked if self._in_transaction else free)
            return found

        return done

    @asynccontextmanager
    async def committed(self: LogConnection, ledgers: Sequence[str]) -> AsyncIterator[None]:
        async with transaction(self, ledgers):
            yield
        point.reach("committed")

    patched: dict[type, dict[str, Any]] = {
        Executor: {"enqueue": enqueued, "submit_atomic": submitted},
        Line: {"answer": answered},
        AccountLocks: {"take": taken},
        Pipeline: {"execute": executed},
        LogConnection: {
            "load": then(load, "loaded", "heads locked"),
            "append": then(append, "appended", "appended under locks"),
            "transaction": committed,
        },
    }
    for owner, functions in patched.items():
        for name, function in functions.items():
            setattr(owner, name, function)


if __name__ == "__main__":
    main()
