"""The executor: one door for every command of this process, one writer a ledger behind it.

`submit` names the decision at the call; the writers group-commit (writer.py). Beside them go atomic batches (atomic.py) and dry
runs (rehearsal.py). Knows no HTTP and no driver.
"""

import asyncio
import contextvars
from collections.abc import Coroutine, Sequence
from typing import TypeVar

from command_service.application.atomic import AtomicBatches, AtomicOutcome
from command_service.application.batch import Decide, Ticket
from command_service.application.deadline import Deadline
from command_service.application.judging import Submission
from command_service.application.locks import Locks
from command_service.application.log import Log
from command_service.application.outcome import Outcome
from command_service.application.rehearsal import Rehearsal, Rehearsals
from command_service.application.writer import Bounds, LedgerWriter, Metrics
from command_service.domain.asking import Context
from command_service.domain.commands import Command
from shared_kernel import tags
from shared_kernel.errors import Contention, Rejection, Unavailable
from shared_kernel.event_log.errors import LogUnavailable

LEDGERS_MAX = 10_000  # chosen: writers at a time; beyond it commands to further ledgers are turned away as overload
ASIDE_MAX = 3  # chosen: each has a connection of its own and may wait with it for a lock; the writers need the others
T = TypeVar("T")


class Executor:
    """Brings each command to its outcome. To be made and used on one event loop."""

    def __init__(
        self,
        *,
        log: Log,
        locks: Locks,
        metrics: Metrics,
        bounds: Bounds,
        deadline_s: float,
        aside_max: int = ASIDE_MAX,
    ) -> None:
        self._log = log
        self._locks = locks
        self._metrics = metrics
        self._bounds = bounds
        self._deadline_s = deadline_s
        self._atomic = AtomicBatches(log=log, locks=locks, metrics=metrics, bounds=bounds)
        self._rehearsals = Rehearsals(log=log, metrics=metrics, bounds=bounds)
        self._aside = asyncio.Semaphore(aside_max)
        self._aside_commands = 0
        self._writers: dict[str, LedgerWriter] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False
        self._in_flight = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def submit(self, decide: Decide, command: Command, context: Context) -> Outcome:
        """The command's outcome, first or repeated; committed when it is given.

        A refusal is an outcome whose event is CommandRefused (raised as Refusal where the ledger keeps no record of refusals). Raises
        Rejection (404, 409), Contention `overloaded`, Unavailable: `deadline_passed` (not applied), `outcome_unknown` (ask again
        with the same key), `shutting_down`. A caller who stops waiting does not stop the command.
        """
        return await self.enqueue(
            decide, command, context
        )  # a caller who goes away cancels the future, not the command

    def enqueue(self, decide: Decide, command: Command, context: Context) -> "asyncio.Future[Outcome]":
        """As `submit`, for callers with many commands: queued in the order of the calls, without a task for each.

        The future is the command's own: wait for it, never cancel it. `overloaded`, `shutting_down` and `dependency_unavailable`
        are raised at once.
        """
        if self._is_stopping:
            raise Unavailable("shutting_down")
        if (
            away := self._log.unavailable()
        ) is not None:  # those who wait already go on trying until their time is over
            raise away
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        future.add_done_callback(self._settled)
        ticket = Ticket(decide, command, context, future=future, deadline=loop.time() + self._deadline_s)
        self._writer(context.ledger).submit(ticket)
        self._count_in()
        return future

    async def submit_atomic(self, asked: Sequence[Submission]) -> AtomicOutcome:
        """All of these commands are done, in their order, or none; in one ledger or across ledgers. Committed when it is given.

        Where a rule turns one down, that refusal alone is recorded and given (`refused`). Raises as `AtomicBatches.submit`, and
        `overloaded`, `shutting_down`. A caller who stops waiting does not stop the batch. No `open_ledger`: there is no such
        ledger yet, and so a 404.
        """
        deadline = Deadline(asyncio.get_running_loop().time() + self._deadline_s)
        return await self._go_aside(self._atomic.submit(asked, deadline=deadline), deadline, commands=len(asked))

    async def rehearse(self, asked: Sequence[Submission], *, is_atomic: bool = False) -> Rehearsal:
        """What these commands would come to, each for itself or all or nothing: decided on a fresh look, without lock or write.

        Errors of single commands are results; `is_atomic` raises as `submit_atomic`. `overloaded` and `shutting_down` besides.
        """
        deadline = Deadline(asyncio.get_running_loop().time() + self._deadline_s)
        work = self._rehearsals.rehearse(asked, is_atomic=is_atomic)
        return await self._go_aside(work, deadline, commands=len(asked))

    async def find(self, *, ledger: str, actor: str, key: str) -> Outcome:
        """What became of a caller's command. Rejection `command_not_found` with the head looked at: not in the log yet."""
        tag = tags.key_tag(actor, key)
        try:
            async with asyncio.timeout(self._deadline_s), self._log.borrow() as session:
                loaded = await session.load(ledger, seen=None, tags=[tag], tail=self._bounds.tail)
        except TimeoutError:
            raise LogUnavailable("no_answer") from None
        found = loaded.events.get(tag)
        if not found:
            raise Rejection("command_not_found", head=loaded.head)
        return Outcome.of(found[-1])

    @property
    def waiting(self) -> int:
        """Commands not yet decided, over all ledgers."""
        return sum(writer.waiting for writer in self._writers.values())

    async def stop(self) -> None:
        """Takes no more commands, answers those it has, ends its writers."""
        self._is_stopping = True
        await self._is_idle.wait()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _go_aside(self, work: Coroutine[None, None, T], deadline: Deadline, *, commands: int) -> T:
        """What the work gives; few at a time, sent before the deadline or not at all. It goes on if its caller leaves."""
        away = Unavailable("shutting_down") if self._is_stopping else self._log.unavailable()
        if away is not None or self._aside_commands >= self._bounds.queue_commands_max:
            work.close()
            raise away or Contention("overloaded", retry_after_ms=1_000)

        async def in_turn() -> T:
            async with self._aside:
                if asyncio.get_running_loop().time() > deadline.at:
                    work.close()
                    raise Unavailable("deadline_passed")
                return await work

        def settled(ended: "asyncio.Task[T]") -> None:
            self._aside_commands -= commands
            self._settled(ended)

        task = asyncio.create_task(in_turn(), name="aside")
        task.add_done_callback(settled)
        self._aside_commands += commands
        self._count_in()
        await asyncio.wait((task,), timeout=deadline.at - asyncio.get_running_loop().time())
        if not (task.done() or deadline.is_sent):
            deadline.give_up()
        return await asyncio.shield(task)

    def _writer(self, ledger: str) -> LedgerWriter:
        writer = self._writers.get(ledger)
        if writer is None or writer.is_closed:
            if len(self._writers) >= LEDGERS_MAX:
                raise Contention("overloaded", retry_after_ms=1_000)
            writer = self._writers[ledger] = LedgerWriter(
                ledger, log=self._log, locks=self._locks, bounds=self._bounds, metrics=self._metrics
            )
            # A context of its own: it outlives the request that happened to come first.
            task = self._tasks[ledger] = asyncio.create_task(
                writer.run(), name=f"writer {ledger}", context=contextvars.Context()
            )
            task.add_done_callback(lambda ended: self._ended(ledger, ended))
        return writer

    def _ended(self, ledger: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(ledger) is task:
            del self._tasks[ledger], self._writers[ledger]

    def _count_in(self) -> None:
        self._in_flight += 1
        if self._in_flight == 1:
            self._is_idle.clear()

    def _settled(self, future: "asyncio.Future[T]") -> None:
        if not future.cancelled():
            future.exception()  # taken note of: the caller may have gone
        self._in_flight -= 1
        if self._in_flight == 0:
            self._is_idle.set()
