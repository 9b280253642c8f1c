"""The clock: ends holds whose time is over and posts scheduled transactions whose time has come, by commands like any other.

Asks the read model what is due and sends each the command for it; the log decides. So any number of clocks may run, a late read
model only makes them late, and what they ask for twice is answered as a repetition.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple, Protocol
from uuid import uuid4

import msgspec
import structlog

from command_service.application.batch import Decide
from command_service.application.executor import Executor
from command_service.application.outcome import Outcome
from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.commands import TYPE_OF_COMMAND, Command, ExpireHold, PostScheduled
from shared_kernel.errors import Contention, DaybookError, Refusal, Rejection, Unavailable
from shared_kernel.event_log.errors import IncarnationChanged
from shared_kernel.events import CommandRefused, HoldExpired, ScheduledRefused

ACTOR = "clock"
READ_MODEL_MISSING = "read_model_missing"
_logger = structlog.get_logger(__name__)


class Due(NamedTuple):
    """A transaction whose time has come. `due_at`: the end of a hold, the effective time of a scheduled one."""

    due_at: datetime
    ledger: str
    transaction: str
    status: Literal["pending", "scheduled"]


class DueTransactions(Protocol):
    """What the read model knows to be due. Implemented by `infrastructure.due` and, for unit tests, in memory."""

    async def page(self, *, now: datetime, after: Due | None) -> Sequence[Due]:
        """The next ones that are due at `now`, by time, ledger and id, beginning after `after`; none: that was all.

        Unavailable: the database is away (`event_log_unavailable`), or there is no read model to ask (READ_MODEL_MISSING).
        """


class ClockMetrics(Protocol):
    """What can be seen of the clock from outside."""

    def ended(self, outcome: str) -> None:
        """A transaction is off the list: expired, posted, refused, or settled by somebody else before."""

    def looked(self, *, due: int, late_s: float) -> None:
        """A round is over: so many are still due, the longest of them for so long."""

    def failed(self) -> None:
        """A round, or one of its commands, failed and will be tried again."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often the clock looks; each is a setting of the process."""

    poll_ms: int = 500
    retry_max_ms: int = 2_000


class Clock:
    """Looks and sends until `stop` is set. `trouble`: what keeps it from its work now, None if nothing does."""

    def __init__(
        self,
        *,
        due: DueTransactions,
        executor: Executor,
        decisions: Mapping[type, Decide],
        metrics: ClockMetrics,
        pace: Pace,
        now: Callable[[], datetime],
        stop: asyncio.Event,
    ) -> None:
        self._due = due
        self._executor = executor
        self._decisions = decisions
        self._metrics = metrics
        self._pace = pace
        self._now = now
        self._stop = stop
        self._ended: set[Due] = set()  # settled in the log, and perhaps not yet in the read model
        self.trouble: str | None = "starting"

    async def run(self) -> None:
        """Returns when told to stop and the commands under way are answered. IncarnationChanged: begin afresh."""
        failures = 0
        while not self._stop.is_set():
            try:
                await self.round()
                failures, self.trouble = 0, None
            except IncarnationChanged:
                raise
            except DaybookError as error:
                failures += 1
                # Without a read model there is nothing to do yet, and nothing wrong with the clock.
                self.trouble = None if error.code == READ_MODEL_MISSING else error.code
                self._metrics.failed()
                _logger.warning("clock_round_failed", code=error.code, attempts=failures)
            wait_ms = min(self._pace.poll_ms * 2 ** min(failures, 10), max(self._pace.retry_max_ms, self._pace.poll_ms))
            with suppress(TimeoutError):
                # Apart from each other, several clocks do less twice.
                async with asyncio.timeout(wait_ms / 1_000 * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._stop.wait()

    async def round(self) -> None:
        """Every transaction that the read model lists as due has been sent its command once, and is ended if that was possible."""
        now = self._now()
        listed: set[Due] = set()
        after: Due | None = None
        while not self._stop.is_set() and (page := await self._due.page(now=now, after=after)):
            after = page[-1]
            listed.update(page)
            await self._send([one for one in page if one not in self._ended])
        self._ended &= listed  # what the list has dropped need not be remembered
        left = listed - self._ended
        self._metrics.looked(due=len(left), late_s=max(((now - one.due_at).total_seconds() for one in left), default=0))

    async def _send(self, due: Sequence[Due]) -> None:
        """Sends a page of commands together; they group in the writers as clients' do."""
        sent: dict[Due, asyncio.Future[Outcome]] = {}
        for one in due:
            command, context = self._command(one)
            sent[one] = self._executor.enqueue(self._decisions[type(command)], command, context)
        for one, future in sent.items():
            if not future.done():
                await asyncio.wait((future,))
            self._take(one, future)

    def _command(self, due: Due) -> tuple[Command, Context]:
        command: ExpireHold | PostScheduled
        if due.status == "pending":
            command, name = ExpireHold(transaction=due.transaction), "expire"
        else:
            command, name = PostScheduled(transaction=due.transaction), "due"
        now = self._now()
        asked = canonical(command)
        context = Context(
            ledger=due.ledger,
            actor=ACTOR,
            key=f"{name}:{due.transaction}",
            correlation_id=str(uuid4()),
            now=now,
            effective_at_max=now,
            transaction_id=due.transaction,
            fingerprint=fingerprint(due.ledger, TYPE_OF_COMMAND[type(command)], asked),
            asked=asked,
            is_system=True,
        )
        return command, context

    def _take(self, due: Due, future: "asyncio.Future[Outcome]") -> None:
        """Notes what became of one command. What is not ended stays on the list, and is sent again in the next round."""
        error = future.exception()
        match error:
            case None:
                self._end(due, _name(future.result()))
            case IncarnationChanged():
                raise error
            case Rejection() if (
                error.code != "not_due"
            ):  # ended by somebody else, and the read model does not know it yet
                self._end(due, "settled_before")
            case Rejection():  # another machine's time is ahead of ours
                pass
            case Refusal():  # its ledger keeps no record of refusals
                self._end(due, "refused")
            case _:
                self._metrics.failed()
                code = error.code if isinstance(error, DaybookError) else type(error).__name__
                level = _logger.warning if isinstance(error, Contention | Unavailable) else _logger.error
                level("clock_command_failed", ledger=due.ledger, transaction_id=due.transaction, code=code)

    def _end(self, due: Due, outcome: str) -> None:
        self._ended.add(due)
        self._metrics.ended(outcome)
        _logger.info("clock_ended", ledger=due.ledger, transaction_id=due.transaction, status=outcome)


def _name(outcome: Outcome) -> str:
    """The outcome as a label."""
    match outcome.event:
        case HoldExpired():
            return "expired"
        case ScheduledRefused() | CommandRefused():
            return "refused"
    return "posted"
