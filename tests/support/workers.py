"""Workers on a log in memory, for unit tests of the executor and what goes beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from command_service.application.executor import Executor
from command_service.application.judging import Submission
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds
from command_service.domain.commands import Command
from command_service.infrastructure.locks import NoLocks
from shared_kernel.events import CommandRefused
from tests.support.commands import DECISIONS, Client
from tests.support.memory_log import MemoryLog
from tests.support.refold import Refold


class Counts:
    """Metrics that only count."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.conflicts = self.loads = self.slow = self.unknown = self.aside = self.without_lock = 0
        self.answers: list[tuple[str, str, bool]] = []

    def appended(self, *, commands: int, seconds: float) -> None:
        self.batches.append(commands)

    def conflicted(self, *, commands: int) -> None:
        self.conflicts += commands

    def loaded(self) -> None:
        self.loads += 1

    def took_slow_path(self) -> None:
        self.slow += 1

    def set_aside(self, *, commands: int) -> None:
        self.aside += commands

    def went_without_lock(self, *, commands: int) -> None:
        self.without_lock += commands

    def outcome_unknown(self) -> None:
        self.unknown += 1

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        self.answers.append((command, outcome, is_replay))


class Bank:
    """A log, and workers on it."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.counts = Counts()
        self.workers: list[Executor] = []

    def worker(self, bounds: Bounds | None = None, deadline_s: float = 60.0, *, ledger: str = "bank") -> Client:
        """A client of a worker of its own."""
        executor = Executor(
            log=self.log, locks=NoLocks(), metrics=self.counts, bounds=bounds or Bounds(), deadline_s=deadline_s
        )
        self.workers.append(executor)
        return Client(executor, ledger=ledger)

    def refold(self, ledger: str = "bank") -> Refold:
        """Replays the ledger's log; nothing may be found."""
        events = self.log.events[ledger]
        refold = Refold().replay((e.position, e.type, e.data, e.metadata) for e in events)
        assert refold.findings == []
        return refold


class Held:
    """An append that waits in the log until it is let go, and meanwhile something else may happen."""

    def __init__(self, bank: Bank) -> None:
        self.is_there = asyncio.Event()
        self.may_go = asyncio.Event()
        bank.log.before_append = self._hold

    async def _hold(self) -> None:
        self.is_there.set()
        await self.may_go.wait()


@asynccontextmanager
async def open_bank() -> AsyncIterator[Bank]:
    """A bank whose workers are stopped at the end."""
    made = Bank()
    yield made
    for worker in made.workers:
        await worker.stop()


def asked(client: Client, command: Command, key: str | None = None) -> Submission:
    """The command as one of several that are sent together."""
    return Submission(DECISIONS[type(command)], command, client.context(command, key))  # type: ignore[arg-type]


def code(outcome: Outcome) -> str:
    """`accepted`, or the code of the refusal."""
    return outcome.event.code if isinstance(outcome.event, CommandRefused) else "accepted"
