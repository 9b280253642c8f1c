"""Atomic batches: all commands of a request or none, in one ledger or across ledgers, in one transaction (design §4, slow path).

States are loaded and judged before any lock; under the locks of all heads, taken in sorted order, only what was appended since is
read, everything is judged again, and each ledger's part appended. Other writers meet the events in their tails like any others.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from command_service.application.batch import Ticket, Verdict
from command_service.application.deadline import Deadline
from command_service.application.judging import (
    Judgement,
    Submission,
    View,
    is_accepted,
    judge_all_or_nothing,
    look_up_keys,
    of_command,
    refuse_key_twice,
    refuse_unknown_ledgers,
    repeated,
    tickets_of,
    views_of,
    with_states,
)
from command_service.application.line import overdue
from command_service.application.locks import Locks, holding, wanted_together
from command_service.application.log import Log, LogSession
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds, Metrics, tell_done, tell_failed
from shared_kernel.errors import Contention, Corruption, DaybookError, Unavailable
from shared_kernel.event_log.errors import OutcomeUnknown
from shared_kernel.event_log.types import Appended, Decision, RecordedEvent
from shared_kernel.events import CommandRefused

_logger = structlog.get_logger(__name__)


class AtomicOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an atomic batch: an outcome for each command, in their order.

    `refused`: the index of the command that a rule turned down. Nothing of the batch was done then, and `outcomes` holds that
    refusal alone.
    """

    outcomes: Sequence[Outcome]
    refused: int | None = None


class _Run:
    """One batch on its way."""

    def __init__(self, tickets: Sequence[Ticket], *, deadline: Deadline) -> None:
        self.tickets = tickets
        self.deadline = deadline
        self.is_doubtful = False  # a commit of it was lost, and its keys were not looked up under the locks since


class AtomicBatches:
    """Brings each batch to its outcome. Keeps nothing between two of them."""

    def __init__(self, *, log: Log, locks: Locks, metrics: Metrics, bounds: Bounds) -> None:
        self._log = log
        self._locks = locks
        self._metrics = metrics
        self._bounds = bounds

    async def submit(self, asked: Sequence[Submission], *, deadline: Deadline) -> AtomicOutcome:
        """The outcome, first or repeated; committed when it is given. `deadline`: after it nothing is committed.

        Raises, with the index of the command it is about in `command`: Rejection 400 (a key twice), 404, 409 (`batch_partly_known`
        names the first command that is known), Refusal where its ledger keeps no record of refusals. And Contention,
        Unavailable: `deadline_passed` (not applied), `outcome_unknown` (ask again with the same keys).
        """
        run = _Run(tickets_of(asked, deadline=deadline.at), deadline=deadline)
        refuse_key_twice(run.tickets)
        try:
            done = await self._persist(run)
        except DaybookError as error:
            self._count(run.tickets, error.code, is_replay=False)
            raise
        if done.refused is None:
            self._count(run.tickets, "accepted", is_replay=done.outcomes[0].is_replay)
        else:
            (refusal,) = done.outcomes
            name = refusal.event.code if isinstance(refusal.event, CommandRefused) else "accepted"
            self._count([run.tickets[done.refused]], name, is_replay=refusal.is_replay)
        return done

    async def _persist(self, run: _Run) -> AtomicOutcome:
        """Tries until there is an outcome, or its time is over. What a lost commit did is looked up by key at the next try."""
        now = asyncio.get_running_loop().time
        fault = 0
        while True:
            fault += 1
            try:
                return await self._try(run)
            except (Contention, Unavailable) as error:
                if isinstance(error, OutcomeUnknown):
                    self._metrics.outcome_unknown()
                    run.is_doubtful = True
                run.deadline.is_sent, run.deadline.held_up_by = run.is_doubtful, error
                pause_s = random.uniform(0.005, 0.05) * 2 ** min(fault, 5)  # noqa: S311 - jitter, not a secret
                if now() + pause_s > run.deadline.at:
                    raise (Unavailable("outcome_unknown") if run.is_doubtful else overdue(error)) from error
                _logger.info("atomic_batch_again", code=error.code, ledgers=len(_ledgers(run.tickets)))
                await asyncio.sleep(pause_s)

    async def _try(self, run: _Run) -> AtomicOutcome:
        views = views_of(run.tickets, tail=self._bounds.tail, metrics=self._metrics)
        shared = [ledger for ledger, view in views.items() if self._locks.touch(ledger, view.tickets[0])]
        async with self._log.borrow() as session:
            known = await look_up_keys(session, views)
            refuse_unknown_ledgers(run.tickets, views)
            if known and (len(views) == 1 or len(known) == len(run.tickets)):
                if run.is_doubtful:
                    self._announce(views)
                return _repeated(run.tickets, known)
            # Some known of several ledgers: refused, sent otherwise, or committed between the looks at two of them. Which,
            # is certain under the locks alone.
            await with_states(session, views, lambda: _walk(views, run.tickets))
            self._metrics.took_slow_path()
            wanted = {ledger: wanted_together(views[ledger].tickets, views[ledger].cache) for ledger in shared}
            async with holding(self._locks, wanted, wait_s=self._bounds.lock_wait_s) as ends:
                done = await self._apply_locked(session, run, views)
                ends.update(_ends(run.tickets, done))
        self._announce(views)
        return done

    def _announce(self, ledgers: Iterable[str]) -> None:
        for ledger in ledgers:
            self._log.announce(ledger)

    async def _apply_locked(self, session: LogSession, run: _Run, views: Mapping[str, View]) -> AtomicOutcome:
        """In one transaction that holds the heads of all ledgers."""
        now = asyncio.get_running_loop().time
        began_at = now()
        try:
            async with session.transaction(list(views)):
                locked_at = now()
                done = await self._apply(session, run, views)
        except (Contention, Unavailable) as error:
            tell_failed(sorted(views), run.tickets, error, elapsed_s=now() - began_at)
            raise
        elapsed_s = now() - began_at
        is_slow = elapsed_s > self._bounds.slow_s
        tell_done(sorted(views), run.tickets, elapsed_s=elapsed_s, wait_s=locked_at - began_at, is_slow=is_slow)
        return done

    async def _apply(self, session: LogSession, run: _Run, views: Mapping[str, View]) -> AtomicOutcome:
        """Under the locks: what is found now stays true until the commit, and with it what is decided."""
        known = await look_up_keys(session, views)
        # An earlier try held these locks when it committed: it has by now, or never will.
        run.is_doubtful = run.deadline.is_sent = False
        if known:
            return _repeated(run.tickets, known)
        _, verdicts = await with_states(session, views, lambda: _walk(views, run.tickets))
        last = verdicts[-1]
        is_whole = is_accepted(last)
        appended: dict[str, Appended] = {}
        faults: list[tuple[int, DaybookError]] = []
        for ledger, view in views.items():
            own = [(index, one) for index, one in enumerate(verdicts) if one.ticket.context.ledger == ledger]
            appended[ledger] = await self._append(session, view, own, keeps=lambda one: is_whole or one is last)
            faults += _fallen(own, appended[ledger])
        if faults:
            index, error = min(faults, key=lambda fault: fault[0])
            raise of_command(error, index)
        if (
            last.error is not None
        ):  # judged beside the fences of those before it: had one of them fallen, that would be the answer
            raise of_command(last.error, len(verdicts) - 1)
        outcomes = _outcomes(verdicts if is_whole else [last], appended)
        run.deadline.send()  # the commit goes out with the end of the transaction's block
        return AtomicOutcome(outcomes=outcomes, refused=None if is_whole else len(verdicts) - 1)

    async def _append(
        self, session: LogSession, view: View, verdicts: list[tuple[int, Verdict]], *, keeps: Callable[[Verdict], bool]
    ) -> Appended:
        """One ledger's part: the fences of all its commands, the events of those that are kept."""
        decisions = [
            Decision(group=0, events=verdict.recorded if keeps(verdict) else (), fences=verdict.fences)
            for _, verdict in verdicts
        ]
        loop = asyncio.get_running_loop()
        started = loop.time()
        appended = await session.append(view.ledger, seen=view.head, decisions=decisions, tail=self._bounds.tail)
        events = 0 if appended.failed else sum(len(decision.events) for decision in decisions)
        if appended.is_behind or appended.base != view.head or appended.head != view.head + events:
            # Cannot be under the lock; raised before the commit, so nothing is applied.
            raise Corruption("head_moved_under_lock", seen=view.head, base=appended.base, head=appended.head)
        self._metrics.appended(commands=len(verdicts), seconds=loop.time() - started)
        _logger.info(
            "batch_appended", ledger=view.ledger, commands=len(verdicts), events=events, position=appended.head
        )
        return appended

    def _count(self, tickets: Sequence[Ticket], outcome: str, *, is_replay: bool) -> None:
        for ticket in tickets:
            self._metrics.answered(command=type(ticket.command).__name__, outcome=outcome, is_replay=is_replay)


def _walk(views: Mapping[str, View], tickets: Sequence[Ticket]) -> tuple[Judgement, list[Verdict]]:
    judgement = Judgement(views)
    return judgement, judge_all_or_nothing(judgement, tickets)


def _repeated(tickets: Sequence[Ticket], known: Mapping[Ticket, RecordedEvent]) -> AtomicOutcome:
    outcomes, refused = repeated(tickets, known)
    return AtomicOutcome(outcomes=outcomes, refused=refused)


def _ends(tickets: Sequence[Ticket], done: AtomicOutcome) -> dict[str, int]:
    """The position of the batch's last event in each ledger. Nothing moved where it was refused."""
    pairs = zip(tickets, done.outcomes, strict=True) if done.refused is None else ()
    return {ticket.context.ledger: outcome.position for ticket, outcome in pairs}


def _outcomes(verdicts: Sequence[Verdict], appended: Mapping[str, Appended]) -> list[Outcome]:
    """The outcome of each verdict whose events were appended, in their order."""
    position = {ledger: part.base for ledger, part in appended.items()}
    outcomes = []
    for verdict in verdicts:
        ledger = verdict.ticket.context.ledger
        position[ledger] += len(verdict.recorded)
        outcomes.append(
            Outcome(
                event=verdict.decided[-1],
                metadata=verdict.metadata,
                position=position[ledger],
                recorded_at=appended[ledger].recorded_at,
            )
        )
    return outcomes


def _fallen(verdicts: list[tuple[int, Verdict]], appended: Appended) -> list[tuple[int, DaybookError]]:
    """The commands whose id or reference is taken: under the lock no other fence can fail."""
    failed: dict[int, list[str]] = {}
    for at, fence in appended.failed:
        failed.setdefault(at, []).append(verdicts[at][1].fences[fence].tag)
    return [
        (verdicts[at][0], verdicts[at][1].taken(tags) or Corruption("fence_failed_under_lock"))
        for at, tags in failed.items()
    ]


def _ledgers(tickets: Sequence[Ticket]) -> set[str]:
    return {ticket.context.ledger for ticket in tickets}
