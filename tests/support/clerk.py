"""The plainest writer: one worker on a log in memory that loads, decides, appends and takes over, one batch at a time.

For tests of decisions, states and loads, without queues, faults or clients (those are the executor's tests).
"""

from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from command_service.application.batch import Ticket, Verdict
from command_service.application.cache import LedgerCache
from command_service.application.decisions import DECISIONS
from command_service.application.loading import Loader
from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.commands import SYSTEM_COMMANDS, TYPE_OF_COMMAND, Command
from shared_kernel.errors import DaybookError, Rejection
from shared_kernel.event_log.types import Tail
from shared_kernel.events import Event
from tests.support.commands import transfer
from tests.support.memory_log import MemoryLog

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
AHEAD = timedelta(days=366)
T = TypeVar("T")
_numbers = count(1)


class Clerk:
    """`send` brings commands to their answers: the events that were decided, or the error that the caller hears."""

    def __init__(self, log: MemoryLog, *, ledger: str = "bank") -> None:
        self.log = log
        self.ledger = ledger
        self.now = NOW
        self.cache = LedgerCache()
        self.loads = 0
        self.loader = Loader(ledger, tail=Tail(), metrics=self)

    def loaded(self) -> None:
        """As the metrics of a loader."""
        self.loads += 1

    def context(self, command: Command) -> Context:
        """Who asks: the teller, or the clock where only the clock may."""
        number, asked, is_system = next(_numbers), canonical(command), type(command) in SYSTEM_COMMANDS
        return Context(
            ledger=self.ledger,
            actor="clock" if is_system else "teller",
            key=f"k{number}",
            correlation_id="c",
            now=self.now,
            effective_at_max=self.now + AHEAD,
            transaction_id=f"made-{number}",
            fingerprint=fingerprint(self.ledger, TYPE_OF_COMMAND[type(command)], asked),
            asked=asked,
            is_system=is_system,
        )

    def ticket(self, command: Command) -> Ticket:
        """The command on its way."""
        command.check()
        future: Any = None  # nobody waits
        return Ticket(DECISIONS[type(command)], command, self.context(command), future=future, deadline=0)

    def send(self, *commands: Command) -> list[Sequence[Event] | DaybookError]:
        """What became of each."""
        return self.settle([self.ticket(command) for command in commands])

    def settle(self, tickets: Sequence[Ticket]) -> list[Sequence[Event] | DaybookError]:
        """What became of each, all of them in as few batches as it takes, under the lock where one of them needs it."""
        waiting = list(tickets)
        answers: dict[Ticket, Sequence[Event] | DaybookError] = {}
        while waiting:
            waiting = self._write(waiting, answers)
        return [answers[ticket] for ticket in tickets]

    def ask(self, command: Command) -> Sequence[Event] | DaybookError:
        """The same for one."""
        (answer,) = self.send(command)
        return answer

    def _write(self, tickets: list[Ticket], answers: dict[Ticket, Sequence[Event] | DaybookError]) -> list[Ticket]:
        """One batch; gives those to be decided again."""
        is_locked = any(ticket.needs_lock for ticket in tickets)
        decided = run(self.loader.decide(self.log, self.cache, tickets, is_locked=is_locked))
        for fault in decided.faults:
            raise fault
        assert decided.verdicts
        if self.ledger not in self.log.events and decided.books.terms_now is None:
            answers.update({one.ticket: one.error or DaybookError("no_error") for one in decided.verdicts})
            return decided.deferred
        appended = run(self.log.append(self.ledger, seen=self.cache.seen, decisions=decided.decisions(), tail=Tail()))
        failed: dict[int, list[str]] = {}
        for index, fence in appended.failed:
            failed.setdefault(index, []).append(decided.verdicts[index].fences[fence].tag)
        fell = {decided.verdicts[index].group for index in failed}
        self.cache.follow(appended.tail, upto=appended.base)
        again = []
        for index, verdict in enumerate(decided.verdicts):
            if verdict.group in fell:
                self._fallen(verdict, failed.get(index, []), answers, again)
                continue
            for event in () if not fell and not appended.tail else verdict.decided:
                self.cache.fold(event)
            answers[verdict.ticket] = verdict.error or verdict.decided
        if not fell and not appended.tail:
            self.cache.adopt(decided.books)
            self.cache.seen = appended.head
        assert self.cache.seen == appended.head
        return [*again, *decided.deferred]

    def _fallen(
        self,
        verdict: Verdict,
        failed: Sequence[str],
        answers: dict[Ticket, Sequence[Event] | DaybookError],
        again: list[Ticket],
    ) -> None:
        taken = verdict.taken(failed) if failed else None
        if taken is not None:
            answers[verdict.ticket] = taken
        else:
            verdict.ticket.conflicts += 1
            again.append(verdict.ticket)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of something that never waits for anything: a log in memory answers at once."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


def is_rejected(answer: Sequence[Event] | DaybookError, code: str) -> bool:
    """True if the caller hears this 404 or 409."""
    return isinstance(answer, Rejection) and answer.code == code


def some_ticket() -> Ticket:
    """A command of which nothing but its name matters."""
    return Clerk(MemoryLog()).ticket(transfer("world", "a", 1))
