"""Several commands of one request judged together, on states loaded for just them: what atomic batches and dry runs share.

Each command sees what the earlier ones did, whatever their ledgers. Looks and judges; never locks, never writes, never answers.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from command_service.application.batch import Decide, Ticket, Verdict, decide_batch
from command_service.application.cache import LedgerCache
from command_service.application.loading import CountsLoads, Loader, needs_of
from command_service.application.log import LogSession
from command_service.application.outcome import Outcome
from command_service.domain.asking import Context
from command_service.domain.books import Books, Need, NotLoaded, moved, taken
from command_service.domain.commands import Command
from command_service.domain.transactions import known_totals
from shared_kernel.errors import Contention, DaybookError, Rejection
from shared_kernel.event_log.errors import LedgerNotFound
from shared_kernel.event_log.types import RecordedEvent, Tail
from shared_kernel.events import CommandRefused, Event, Known, encode

ROUNDS_MAX = 20  # chosen: three or four are needed (accounts, transactions, their accounts, totals), more under a storm
_logger = structlog.get_logger(__name__)
T = TypeVar("T")
Balances = Mapping[str, Mapping[str, Known]]
"""By account and asset."""


class Submission(NamedTuple):
    """One command of a request, and the decision it asks for. The context names its ledger."""

    decide: Decide
    command: Command
    context: Context


class View:
    """What is known of one ledger for one request: complete as of `head`, which nothing else in this process sees."""

    def __init__(self, ledger: str, tickets: Sequence[Ticket], *, tail: Tail, metrics: CountsLoads) -> None:
        self.ledger = ledger
        self.tickets = tickets
        self.cache = LedgerCache()
        self.recorded_at: datetime | None = None
        """Recorded time of the head at the last look; None: there was no such ledger."""
        self._looked_at: int | None = None
        self._tail = tail
        self._metrics = metrics
        self._loader = Loader(ledger, tail=tail, metrics=metrics)

    @property
    def head(self) -> int:
        """The position that the states are complete as of; 0: there is no such ledger."""
        return self.cache.seen or 0

    @property
    def is_dated(self) -> bool:
        """True if `recorded_at` is that of `head`: nothing was loaded since the last look."""
        return self.cache.seen == self._looked_at

    async def look(self, session: LogSession, tags: Iterable[str]) -> dict[str, Sequence[RecordedEvent]]:
        """The events that bear each tag, where there are any. The states are as of the head now."""
        cache = self.cache
        self._metrics.loaded()
        try:
            loaded = await session.load(self.ledger, seen=cache.seen, tags=list(dict.fromkeys(tags)), tail=self._tail)
        except LedgerNotFound:
            cache.drop()
            cache.seen = self._looked_at = 0
            self.recorded_at = None
            return {}
        if loaded.is_behind or cache.seen is None:
            cache.drop()
            cache.seen = loaded.head
        else:
            cache.follow(loaded.tail, upto=loaded.head)
        self._looked_at, self.recorded_at = loaded.head, loaded.recorded_at
        return {tag: found for tag, found in loaded.events.items() if found}

    async def know(self, session: LogSession, wanted: Iterable[str | Need]) -> None:
        """The states include these."""
        await self._loader.fill(session, self.cache, wanted)

    def books(self) -> Books:
        """The states under an overlay of their own. Nothing else is decided beside it, so positions are certain."""
        return self.cache.books(is_certain=True)


class Judgement:
    """One walk over commands in their order. Pure: the views are read, what the commands did stays in here.

    `had`: tags of ids and references, by ledger, that somebody has already. `knows_balances`: accepted commands count only with
    the balances of all accounts that they touch.
    """

    def __init__(
        self, views: Mapping[str, View], *, had: Mapping[str, set[str]] | None = None, knows_balances: bool = False
    ) -> None:
        self._views = views
        self._knows_balances = knows_balances
        self._books = {ledger: view.books() for ledger, view in views.items()}
        self._had = {ledger: set((had or {}).get(ledger, ())) for ledger in views}
        self.claimed: dict[str, set[str]] = {ledger: set() for ledger in views}
        """Tags of the ids and references that accepted commands take, by ledger."""
        self.missing: dict[str, set[Need]] = {}
        """What the views lack, by ledger; the verdicts count only where it is empty."""
        self.balances: dict[Ticket, Balances] = {}
        """Where balances are to be known: those after each accepted command."""

    def judge(self, ticket: Ticket) -> Verdict | None:
        """The verdict on the next command; None where something is missing for it."""
        ledger = ticket.context.ledger
        books = self._books[ledger]
        trial = Ticket(
            self._claiming(ticket), ticket.command, ticket.context, future=ticket.future, deadline=ticket.deadline
        )
        decided = decide_batch(books, [trial], seen=self._views[ledger].head)
        for fault in decided.faults:
            _logger.error("decision_fault", ledger=ledger, exc_info=fault)
        if not decided.verdicts:
            self.missing.setdefault(ledger, set()).update(decided.missing)
            return None
        (verdict,) = decided.verdicts
        verdict.ticket = ticket
        if is_accepted(verdict):
            self.claimed[ledger].update(verdict.claims)
            if self._knows_balances:
                self.balances[ticket] = _balances(books, verdict.decided)
        return verdict

    def _claiming(self, ticket: Ticket) -> Decide:
        """The decision, and then what the log's fences would say of its id and reference."""

        def decide(books: Books, command: Command, context: Context) -> list[Event]:
            decided = ticket.decide(books, command, context)
            ledger = context.ledger
            for tag, claim in books.unique.items():
                if tag in self._had[ledger] or tag in self.claimed[ledger]:
                    raise taken(*claim)
            if self._knows_balances:
                moved_on = {entry.account for event in decided for entry in moved(event)}
                unknown = [address for address in sorted(moved_on) if books.account(address).totals is None]
                if unknown:
                    raise NotLoaded(*(Need("in_full", address) for address in unknown))
            return decided

        return decide


def _balances(books: Books, decided: Sequence[Event]) -> Balances:
    """The totals, after these events, of all accounts and assets that they moved."""
    found: dict[str, dict[str, Known]] = {}
    for event in decided:
        for entry in moved(event):
            totals = known_totals(books.account(entry.account), entry.asset)
            found.setdefault(entry.account, {})[entry.asset] = totals
    return found


def views_of(tickets: Sequence[Ticket], *, tail: Tail, metrics: CountsLoads) -> dict[str, View]:
    """A view for each ledger of these commands, in the order in which heads are locked."""
    by_ledger: dict[str, list[Ticket]] = {}
    for ticket in tickets:
        by_ledger.setdefault(ticket.context.ledger, []).append(ticket)
    return {ledger: View(ledger, by_ledger[ledger], tail=tail, metrics=metrics) for ledger in sorted(by_ledger)}


def tickets_of(asked: Iterable[Submission], *, deadline: float) -> list[Ticket]:
    """The commands as the batch's decisions take them. Nobody waits for their futures."""
    loop = asyncio.get_running_loop()
    return [
        Ticket(one.decide, one.command, one.context, future=loop.create_future(), deadline=deadline) for one in asked
    ]


async def look_up_keys(session: LogSession, views: Mapping[str, View]) -> dict[Ticket, RecordedEvent]:
    """The commands whose key is in the log, with the event that answered it. Every view is as of its head now."""
    known: dict[Ticket, RecordedEvent] = {}
    for view in views.values():
        found = await view.look(session, (ticket.key_tag for ticket in view.tickets))
        known |= {ticket: found[ticket.key_tag][-1] for ticket in view.tickets if ticket.key_tag in found}
    return known


async def with_states(
    session: LogSession, views: Mapping[str, View], walk: Callable[[], tuple[Judgement, T]]
) -> tuple[Judgement, T]:
    """A walk for which nothing is missing. Contention `conflict` where others append faster than we can load."""
    for view in views.values():
        await view.know(session, {need for ticket in view.tickets for need in needs_of(ticket.command)})
    for _ in range(ROUNDS_MAX):
        judgement, found = walk()
        if not judgement.missing:
            return judgement, found
        for ledger, missing in judgement.missing.items():
            await views[ledger].know(session, missing)
    raise Contention("conflict")


def judge_all_or_nothing(judgement: Judgement, tickets: Sequence[Ticket]) -> list[Verdict]:
    """Verdicts up to and with the first that is not accepted, which then is the last."""
    verdicts: list[Verdict] = []
    for index, ticket in enumerate(tickets):
        verdict = judgement.judge(ticket)
        if verdict is None or judgement.missing:
            continue  # the walk goes on for what else is missing
        verdicts.append(_after(verdict, index))
        if not is_accepted(verdict):
            break
    return verdicts


def refuse_key_twice(tickets: Sequence[Ticket]) -> None:
    """Raises Rejection where two commands to one ledger have one key: two commands, or one of them told twice?"""
    seen: set[tuple[str, str]] = set()
    for index, ticket in enumerate(tickets):
        place = (ticket.context.ledger, ticket.key_tag)
        if place in seen:
            raise Rejection("invalid_request", detail="The key is there twice", path=f"$.commands[{index}].key")
        seen.add(place)


def refuse_unknown_ledgers(tickets: Sequence[Ticket], views: Mapping[str, View]) -> None:
    """Raises Rejection for the first command whose ledger is not there."""
    for index, ticket in enumerate(tickets):
        if views[ticket.context.ledger].head == 0:
            raise Rejection("ledger_not_found", ledger=ticket.context.ledger, command=index)


def repeated(tickets: Sequence[Ticket], known: Mapping[Ticket, RecordedEvent]) -> tuple[Sequence[Outcome], int | None]:
    """The first answer of an atomic batch of which some command is in the log: its outcomes; or its one refusal, and whose it was.

    Rejection `idempotency_key_reused`, or `batch_partly_known` (with the first command that is known) where they were sent
    otherwise than together.
    """
    found: dict[int, Outcome] = {}
    for index, ticket in enumerate(tickets):
        if ticket in known:
            try:
                found[index] = recorded_answer(ticket, known[ticket])
            except Rejection as reused:
                raise of_command(reused, index) from None
    refused = [index for index, outcome in found.items() if isinstance(outcome.event, CommandRefused)]
    if refused and len(refused) == len(found):  # a refused batch records one of them
        return [found[refused[0]]], refused[0]
    if refused or len(found) < len(tickets):
        raise Rejection("batch_partly_known", command=min(found))
    return list(found.values()), None


def recorded_answer(ticket: Ticket, recorded: RecordedEvent) -> Outcome:
    """The first answer again. Rejection `idempotency_key_reused` where the key was used for something else."""
    outcome = Outcome.of(recorded)
    if outcome.metadata.fingerprint != ticket.context.fingerprint:
        raise Rejection("idempotency_key_reused", position=recorded.position)
    return outcome


def is_accepted(verdict: Verdict) -> bool:
    """True if the command does what it asks for."""
    return verdict.error is None and not isinstance(verdict.decided[-1], CommandRefused)


def of_command(error: DaybookError, index: int) -> DaybookError:
    """The error with the index of the command that it is about."""
    error.fields.setdefault("command", index)
    return error


def _after(verdict: Verdict, index: int) -> Verdict:
    """A refusal says after how many commands of its batch it was judged: of those, nothing will be recorded beside it."""
    if index and verdict.decided and isinstance(refusal := verdict.decided[-1], CommandRefused):
        refusal = msgspec.structs.replace(refusal, after_commands=index)
        verdict.decided = [refusal]
        verdict.recorded = [msgspec.structs.replace(verdict.recorded[-1], data=encode(refusal))]
    return verdict
