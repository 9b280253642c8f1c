"""The line of commands that wait at one ledger: who is next, who comes again, and what each is told in the end.

Every ticket that enters is answered exactly once, by `answer`, `answer_recorded` or `fail`: in time as long as it is not sent,
wherever it is held up. Knows no state and no log.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import msgspec

from command_service.application.batch import Ticket
from command_service.application.outcome import Outcome
from shared_kernel.errors import Contention, DaybookError, Rejection, Unavailable
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import CommandRefused


def overdue(held_up_by: DaybookError | None) -> Unavailable:
    """Time is over and nothing was applied; `reason` and `dependency` say what it was spent on, where that is known."""
    if held_up_by is None or held_up_by.code == "deadline_passed":
        return Unavailable("deadline_passed")
    fields = held_up_by.fields
    named = {"dependency": fields["dependency"]} if "dependency" in fields else {}
    return Unavailable("deadline_passed", reason=fields.get("reason", held_up_by.code), **named)


class CountsAnswers(Protocol):
    """Hears of every answer."""

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        """A command was answered: "accepted", or the code of its refusal or rejection."""


class Line:
    """Commands in the order in which they are to be decided."""

    def __init__(
        self,
        *,
        commands_max: int,
        batch_commands_max: int,
        batch_entries_max: int,
        wait_s_max: float,
        lock_after: int,
        metrics: CountsAnswers,
    ) -> None:
        self._commands_max = commands_max
        self._wait_s_max = wait_s_max
        self._batch_commands_max = batch_commands_max
        self._batch_entries_max = batch_entries_max
        self._lock_after = lock_after
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Ticket] = deque()
        self._wanted = 1
        self._has_wanted = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self.unsent: Sequence[Ticket] = ()
        """Taken, and not sent to the log yet: told in time too, and then never to be sent. Whoever sends some leaves the others here."""

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, ticket: Ticket) -> None:
        """The command comes last. Contention `overloaded` where the line is full, or who is first has waited too long."""
        if self._waiting:
            # All may wait equally long, so between two deadlines lies as much time as between two arrivals.
            waited_s = ticket.deadline - self._waiting[0].deadline
            if len(self._waiting) >= self._commands_max or waited_s > self._wait_s_max:
                raise Contention("overloaded", retry_after_ms=1_000)
        if self._expiry is None:
            self._expiry = self._loop.call_at(ticket.deadline, self._turn_away)
        ticket.is_queued = True
        self._waiting.append(ticket)
        if len(self._waiting) >= self._wanted:
            self._has_wanted.set()

    def put_back(self, tickets: Sequence[Ticket]) -> None:
        """These come first again, in this order."""
        for ticket in reversed(tickets):
            if not ticket.is_answered:
                ticket.is_queued = True
                self._waiting.appendleft(ticket)
        if self._waiting and (self._expiry is None or self._expiry.when() > self._waiting[0].deadline):
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_at(self._waiting[0].deadline, self._turn_away)

    async def has(self, commands: int) -> None:
        """Returns once so many commands wait."""
        self._wanted = commands
        if len(self._waiting) < commands:
            self._has_wanted.clear()
            await self._has_wanted.wait()

    @property
    def next_needs_lock(self) -> bool:
        """The first command is to be decided under the head's lock: it says so, or fell too often."""
        return bool(self._waiting) and self._needs_lock(self._waiting[0])

    def take(self, commands_max: int | None = None) -> list[Ticket]:
        """The next batch: arrival order, bounded, expired ones turned away, repeated keys joined. `commands_max`: still fewer.

        Either all of it needs the head's lock or nothing of it, as `next_needs_lock` said.
        """
        most = min(commands_max or self._batch_commands_max, self._batch_commands_max)
        batch: dict[str, Ticket] = {}
        others: list[Ticket] = []
        entries = 0
        now = self._loop.time()
        is_locked = self.next_needs_lock
        while self._waiting and len(batch) < most:
            ticket = self._waiting[0]
            if batch and (entries >= self._batch_entries_max or self._needs_lock(ticket) != is_locked):
                break
            self._waiting.popleft()
            ticket.is_queued = False
            if ticket.deadline < now:
                self.fail_overdue(ticket)
                is_locked = is_locked if batch else self.next_needs_lock
                continue
            first = batch.setdefault(ticket.key_tag, ticket)
            if first is ticket:
                entries += len(getattr(ticket.command, "entries", ()) or ()) or 1  # UNSET: all that is held
            elif first.context.fingerprint == ticket.context.fingerprint:
                first.followers.append(ticket)
            else:  # another command under the same key: judged when the log has the first
                others.append(ticket)
        self.put_back(others)
        self.unsent = list(batch.values())
        return list(self.unsent)

    def answer(self, ticket: Ticket, outcome: Outcome) -> None:
        """The caller, and whoever sent the same, hears the outcome."""
        name = outcome.event.code if isinstance(outcome.event, CommandRefused) else "accepted"
        self._metrics.answered(command=type(ticket.command).__name__, outcome=name, is_replay=outcome.is_replay)
        ticket.is_answered = True
        if not ticket.future.done():
            ticket.future.set_result(outcome)
        for follower in ticket.followers:
            self.answer(follower, msgspec.structs.replace(outcome, is_replay=True))

    def answer_recorded(self, ticket: Ticket, recorded: RecordedEvent) -> None:
        """The first answer again; or 409 where the key was used for something else."""
        outcome = Outcome.of(recorded)
        if outcome.metadata.fingerprint != ticket.context.fingerprint:
            self.fail(ticket, Rejection("idempotency_key_reused", position=recorded.position))
        else:
            self.answer(ticket, outcome)

    def fail(self, ticket: Ticket, error: DaybookError) -> None:
        """The caller, and whoever sent the same, hears why there is no outcome."""
        self._metrics.answered(command=type(ticket.command).__name__, outcome=error.code, is_replay=False)
        ticket.is_answered = True
        if not ticket.future.done():
            ticket.future.set_exception(error)
        for follower in ticket.followers:
            self.fail(follower, error)

    def fail_all(self, error: DaybookError) -> None:
        """Nobody decides here any more: whoever waits hears why."""
        while self._waiting:
            self.fail(self._waiting.popleft(), error)

    def _turn_away(self) -> None:
        """Who has waited too long hears it now, not when the append ahead is back. One timer for all, so that it costs nothing."""
        self._expiry = None
        now = self._loop.time()
        while self._waiting and self._waiting[0].deadline <= now:
            ticket = self._waiting.popleft()
            ticket.is_queued = False
            self.fail_overdue(ticket)
        held_up = [ticket for ticket in self.unsent if not (ticket.is_answered or ticket.is_queued)]
        for ticket in held_up:
            if ticket.deadline <= now and not ticket.is_answered:
                self.fail_overdue(ticket)
        ahead = [ticket.deadline for ticket in (*held_up, *islice(self._waiting, 1)) if not ticket.is_answered]
        if ahead:
            self._expiry = self._loop.call_at(min(ahead), self._turn_away)

    def fail_overdue(self, ticket: Ticket) -> None:
        """Its time is over: the caller hears so, and what held it up; or that nobody knows, where an append of it was lost."""
        self.fail(ticket, Unavailable("outcome_unknown") if ticket.is_doubtful else overdue(ticket.held_up_by))

    def _needs_lock(self, ticket: Ticket) -> bool:
        return ticket.needs_lock or ticket.conflicts >= self._lock_after
