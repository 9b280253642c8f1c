"""Dry runs: what commands would come to if they were sent now (design §7 rule 5). The same decisions, on a fresh look; no lock, no write.

One command, an independent batch, an atomic one, across ledgers too. What is in the log already under the same key is answered
as recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from command_service.application.batch import Ticket, Verdict
from command_service.application.judging import (
    ROUNDS_MAX,
    Balances,
    Judgement,
    Submission,
    View,
    is_accepted,
    judge_all_or_nothing,
    look_up_keys,
    of_command,
    recorded_answer,
    refuse_key_twice,
    refuse_unknown_ledgers,
    repeated,
    tickets_of,
    views_of,
    with_states,
)
from command_service.application.log import Log, LogSession
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds, Metrics
from shared_kernel.errors import Contention, DaybookError, Rejection
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Event, Metadata

T = TypeVar("T")


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a command would come to. `event` is CommandRefused where a rule turns it down.

    `as_of`: the position it was judged at, recorded at `as_of_at`; 0 and None before there is such a ledger. `balances`: by account
    and asset, those of the accounts it touches, after it. The event is not recorded, and nothing says it will be.
    """

    event: Event
    metadata: Metadata
    as_of: int
    as_of_at: datetime | None
    balances: Balances = {}


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands of a request would come to, in their order: rehearsed, as recorded, or an error of their own.

    `refused`: of an atomic batch, the index of the command that a rule turns down; `results` then holds that one alone.
    """

    results: Sequence[Rehearsed | Outcome | DaybookError]
    refused: int | None = None


class Rehearsals:
    """Rehearses. Keeps nothing between two of them."""

    def __init__(self, *, log: Log, metrics: Metrics, bounds: Bounds) -> None:
        self._log = log
        self._metrics = metrics
        self._bounds = bounds

    async def rehearse(self, asked: Sequence[Submission], *, is_atomic: bool) -> Rehearsal:
        """What the commands would come to. `is_atomic`: all or nothing; raises and refuses then as `AtomicBatches.submit`."""
        tickets = tickets_of(asked, deadline=0)
        if is_atomic:
            refuse_key_twice(tickets)
        views = views_of(tickets, tail=self._bounds.tail, metrics=self._metrics)
        async with self._log.borrow() as session:
            known = await look_up_keys(session, views)
            if is_atomic:
                return await _atomic(session, views, tickets, known)
            return await _independent(session, views, tickets, known)


async def _atomic(
    session: LogSession, views: Mapping[str, View], tickets: Sequence[Ticket], known: Mapping[Ticket, RecordedEvent]
) -> Rehearsal:
    refuse_unknown_ledgers(tickets, views)
    if known:
        outcomes, refused = repeated(tickets, known)
        return Rehearsal(results=outcomes, refused=refused)

    def walk(had: Mapping[str, set[str]]) -> tuple[Judgement, tuple[list[Verdict], list[Rehearsed]]]:
        judgement = Judgement(views, had=had, knows_balances=True)
        verdicts = judge_all_or_nothing(judgement, tickets)
        return judgement, (verdicts, [_rehearsed(judgement, views, one) for one in verdicts if one.error is None])

    verdicts, rehearsed = await _settled(session, views, walk)
    last = verdicts[-1]
    if last.error is not None:
        raise of_command(last.error, len(verdicts) - 1)
    if is_accepted(last):
        return Rehearsal(results=rehearsed)
    return Rehearsal(results=rehearsed[-1:], refused=len(verdicts) - 1)


async def _independent(
    session: LogSession, views: Mapping[str, View], tickets: Sequence[Ticket], known: Mapping[Ticket, RecordedEvent]
) -> Rehearsal:
    def walk(had: Mapping[str, set[str]]) -> tuple[Judgement, list[Rehearsed | Outcome | DaybookError]]:
        judgement = Judgement(views, had=had, knows_balances=True)
        results: list[Rehearsed | Outcome | DaybookError] = []
        joined: dict[tuple[str, str, str], Rehearsed | Outcome | DaybookError] = {}
        used: set[tuple[str, str]] = set()
        for ticket in tickets:
            place, fingerprint = (ticket.context.ledger, ticket.key_tag), ticket.context.fingerprint
            # As in the writer: a repetition joins the first; another command under its key is judged once it is known whether
            # the first is recorded.
            result = joined.get((*place, fingerprint))
            if result is None and place in used:
                result = Rejection("idempotency_key_reused")
            elif result is None:
                result = _alone(judgement, views, ticket, known.get(ticket))
                if result is None:
                    continue
                joined[*place, fingerprint] = result
                if isinstance(result, Rehearsed):
                    used.add(place)
            results.append(result)
        return judgement, results

    return Rehearsal(results=await _settled(session, views, walk))


def _alone(
    judgement: Judgement, views: Mapping[str, View], ticket: Ticket, recorded: RecordedEvent | None
) -> Rehearsed | Outcome | DaybookError | None:
    """What becomes of one command of an independent batch; None where something is missing for it."""
    if recorded is not None:
        try:
            return recorded_answer(ticket, recorded)
        except Rejection as reused:
            return reused
    verdict = judgement.judge(ticket)
    if verdict is None:
        return None
    return verdict.error or _rehearsed(judgement, views, verdict)


async def _settled(
    session: LogSession, views: Mapping[str, View], walk: Callable[[Mapping[str, set[str]]], tuple[Judgement, T]]
) -> T:
    """What a walk finds on states of which the time is known, with no id or reference that somebody had by then."""
    had: dict[str, set[str]] = {ledger: set() for ledger in views}
    for _ in range(ROUNDS_MAX):
        judgement, found = await with_states(session, views, lambda: walk(had))
        is_settled = all(view.is_dated for view in views.values())
        for ledger, view in views.items():
            head = view.head
            bearers = await view.look(session, judgement.claimed[ledger])
            new = {tag for tag, events in bearers.items() if events[0].position <= head} - had[ledger]
            had[ledger] |= new
            is_settled &= not new
        if is_settled:
            return found
    raise Contention("conflict")


def _rehearsed(judgement: Judgement, views: Mapping[str, View], verdict: Verdict) -> Rehearsed:
    view = views[verdict.ticket.context.ledger]
    return Rehearsed(
        event=verdict.decided[-1],
        metadata=verdict.metadata,
        as_of=view.head,
        as_of_at=view.recorded_at,
        balances=judgement.balances.get(verdict.ticket, {}),
    )
