"""The writer of one ledger: takes what is waiting, decides it, appends it in one round trip, answers it.

The deep function of the write side (design §4, executor.md §6). One task a ledger; one append in flight. Completion is one
synchronous, all-or-nothing step; any doubt throws the cached states away, and the log is asked by key before anybody is told.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
import structlog

from command_service.application.batch import DecidedBatch, Ticket, Verdict, decide_batch
from command_service.application.cache import LedgerCache
from command_service.application.loading import Loader, snapshot
from command_service.application.log import Locks, Log, LogSession
from command_service.application.outcome import Outcome
from command_service.domain.books import Books
from shared_kernel import events
from shared_kernel.errors import Contention, Corruption, DaybookError, Rejection, Unavailable
from shared_kernel.event_log.errors import LedgerNotFound, OutcomeUnknown
from shared_kernel.event_log.types import Appended, RecordedEvent, Tail

UNKNOWN_IDLE_S = 1.0  # chosen: a ledger that does not exist keeps nothing in memory
_logger = structlog.get_logger(__name__)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a writer takes on; each is a setting of the process."""

    batch_commands_max: int = 256
    batch_entries_max: int = 5_000
    queue_commands_max: int = 10_000
    tail: Tail = Tail()
    faults_max: int = 40
    conflicts_before_slow_path: int = 2
    idle_s: float = 300.0


class Metrics(Protocol):
    """What a writer counts (prometheus objects in the process, plain ones in unit tests)."""

    def appended(self, *, commands: int, seconds: float) -> None:
        """One append came back."""

    def conflicted(self, *, commands: int) -> None:
        """Commands fell with a failed fence and are decided again."""

    def loaded(self) -> None:
        """States or keys were read from the log."""

    def took_slow_path(self) -> None:
        """A command was decided under the head's lock."""

    def outcome_unknown(self) -> None:
        """A connection was lost with an append under way."""

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        """A command was answered: "accepted", or the code of its refusal or rejection."""


class LedgerWriter:
    """Owns everything this process knows of one ledger. `submit` from the event loop; `run` is its task."""

    def __init__(self, ledger: str, *, log: Log, locks: Locks, bounds: Bounds, metrics: Metrics) -> None:
        self.ledger = ledger
        self._log = log
        self._locks = locks
        self._bounds = bounds
        self._metrics = metrics
        self._cache = LedgerCache()
        self._loader = Loader(ledger, tail=bounds.tail, metrics=metrics)
        self._waiting: deque[Ticket] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.is_closed = False
        """The task has ended for want of work; a new writer takes the next command."""

    def submit(self, ticket: Ticket) -> None:
        """Queues a command. Contention `overloaded` where the queue is full."""
        if len(self._waiting) >= self._bounds.queue_commands_max:
            raise Contention("overloaded", retry_after_ms=1_000)
        ticket.is_queued = True
        self._waiting.append(ticket)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Commands not yet decided."""
        return len(self._waiting)

    async def run(self) -> None:
        """Writes until nothing has come for `idle_s`."""
        while True:
            if not self._waiting:
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._bounds.idle_s if self._cache.terms else UNKNOWN_IDLE_S):
                        await self._wake.wait()
                except TimeoutError:
                    if self._waiting:
                        continue
                    self.is_closed = True
                    return
            await self._write(self._take())

    def _take(self) -> list[Ticket]:
        """The next batch: arrival order, bounded, expired ones turned away, repeated keys joined."""
        batch: dict[str, Ticket] = {}
        others: list[Ticket] = []
        entries = 0
        now = self._loop.time()
        while self._waiting and len(batch) < self._bounds.batch_commands_max:
            if batch and entries >= self._bounds.batch_entries_max:
                break
            ticket = self._waiting.popleft()
            ticket.is_queued = False
            if ticket.deadline < now:
                self._fail(ticket, Unavailable("outcome_unknown" if ticket.is_doubtful else "deadline_passed"))
                continue
            first = batch.setdefault(ticket.key_tag, ticket)
            if first is ticket:
                entries += len(getattr(ticket.command, "entries", ())) or 1
            elif first.context.fingerprint == ticket.context.fingerprint:
                first.followers.append(ticket)
            else:  # another command under the same key: judged when the log has the first
                others.append(ticket)
        self._requeue(others)
        return list(batch.values())

    async def _write(self, batch: list[Ticket]) -> None:
        """Brings every ticket of the batch to an answer or back into the queue."""
        if not batch:
            return
        self._locks.touch(self.ledger)
        try:
            async with self._log.borrow() as session:
                if any(ticket.conflicts >= self._bounds.conflicts_before_slow_path for ticket in batch):
                    self._metrics.took_slow_path()
                    appended = await self._decide_under_lock(session, batch)
                else:
                    appended = await self._decide_and_append(session, batch)
                if appended is not None:
                    await self._complete(session, *appended)
        except DaybookError as error:
            await self._recover(batch, error)
        except Exception:
            _logger.exception("writer_fault", ledger=self.ledger)
            await self._recover(batch, OutcomeUnknown("writer_fault"))
        except BaseException:  # the process ends: the callers hear that they have to ask again
            for ticket in batch:
                self._fail(ticket, OutcomeUnknown("shutting_down"))
            raise

    async def _decide_under_lock(
        self, session: LogSession, batch: list[Ticket]
    ) -> tuple[DecidedBatch, Appended] | None:
        """The same where nobody can come between: the slow path of what fell too often."""
        async with session.transaction([self.ledger]):
            return await self._decide_and_append(session, batch, is_locked=True)

    async def _decide_and_append(
        self, session: LogSession, batch: list[Ticket], *, is_locked: bool = False
    ) -> tuple[DecidedBatch, Appended] | None:
        """Load what is missing, decide, append. None where nothing was there to append."""
        cache = self._cache
        addresses = {address for ticket in batch for address in ticket.command.addresses()}
        await self._loader.fill(session, cache, addresses, is_refreshed=is_locked)
        books = Books(terms=cache.terms, accounts=cache.accounts)
        decided = decide_batch(books, batch, seen=cache.seen or 0)
        for fault in decided.faults:
            _logger.error("decision_fault", ledger=self.ledger, exc_info=fault)
        if cache.seen == 0 and books.terms_now is None:  # no such ledger, so no key in it either
            for verdict in decided.verdicts:
                self._fail(verdict.ticket, verdict.error or Unavailable("outcome_unknown"))
            self._requeue(decided.deferred)
            return None
        if not decided.verdicts:
            await self._loader.fill(session, cache, decided.missing)
            self._requeue(decided.deferred)
            return None
        started = self._loop.time()
        appended = await session.append(
            self.ledger, seen=cache.seen, decisions=decided.decisions(), tail=self._bounds.tail
        )
        elapsed_s = self._loop.time() - started
        self._metrics.appended(commands=len(decided.verdicts), seconds=elapsed_s)
        _logger.info(
            "batch_appended",
            ledger=self.ledger,
            commands=len(decided.verdicts),
            events=appended.head - appended.base,
            failed=len(appended.failed),
            position=appended.head,
            elapsed_ms=round(elapsed_s * 1_000, 3),
        )
        return decided, appended

    async def _complete(self, session: LogSession, decided: DecidedBatch, appended: Appended) -> None:
        """The append is committed: take over what it did, answer, and look up the keys that were there before."""
        cache = self._cache
        try:
            repeated = self._take_over(decided, appended)
        except Corruption as error:  # committed, but not understood: only the log can say what became of each command
            _logger.error("completion_fault", ledger=self.ledger, code=error.code)
            raise OutcomeUnknown(error.code) from error
        if repeated:
            await self._answer_repeats(session, repeated)
        due = cache.take_unsaved()
        if due:
            await session.write_snapshots(self.ledger, [snapshot(account, cache.seen or 0) for account in due])
        cache.shrink(())

    def _take_over(self, decided: DecidedBatch, appended: Appended) -> list[Ticket]:
        """One synchronous step: fold what others did, fold what we did, then answer. Gives the tickets whose key was in the log."""
        if appended.is_behind:
            self._cache.drop()
            self._requeue([*decided.deferred, *(verdict.ticket for verdict in decided.verdicts)])
            return []
        fell = {decided.verdicts[index].group for index, _ in appended.failed}
        failed: dict[int, list[str]] = {}
        for index, fence in appended.failed:
            failed.setdefault(index, []).append(decided.verdicts[index].fences[fence].tag)
        answers = self._fold(decided, appended, fell)

        repeated: list[Ticket] = []
        again: list[Ticket] = []
        for index, verdict in enumerate(decided.verdicts):
            if verdict.group in fell:
                self._settle_fallen(verdict, failed.get(index, []), repeated=repeated, again=again)
        for verdict, at in answers:
            self._answer_verdict(verdict, position=at, appended=appended)
        if again:
            self._metrics.conflicted(commands=len(again))
        self._requeue([*again, *decided.deferred])
        if appended.head > appended.base:
            self._log.announce(self.ledger)
        return repeated

    def _fold(self, decided: DecidedBatch, appended: Appended, fell: set[int]) -> list[tuple[Verdict, int]]:
        """The cache is as of the new head. Gives the verdicts that stand, each with the position of its last event."""
        cache = self._cache
        cache.follow(appended.tail, upto=appended.base)
        is_whole = not fell and not appended.tail  # nothing came between, nothing fell: the batch's books are the state
        position = appended.base
        stand: list[tuple[Verdict, int]] = []
        for verdict in decided.verdicts:
            if verdict.group not in fell:
                for event in () if is_whole else verdict.decided:
                    cache.fold(event)
                position += len(verdict.decided)
                stand.append((verdict, position))
        if is_whole:
            cache.adopt(decided.books)
        if position != appended.head:
            raise OutcomeUnknown("head_differs")  # cannot be; if it is, the log knows better
        cache.seen = appended.head
        return stand

    def _settle_fallen(
        self, verdict: Verdict, failed: list[str], *, repeated: list[Ticket], again: list[Ticket]
    ) -> None:
        """Why a verdict fell decides what becomes of it: its key is known, its id or reference is taken, or others were first."""
        ticket = verdict.ticket
        if ticket.key_tag in failed:
            repeated.append(ticket)
            return
        for tag in failed:
            if tag.startswith("reference:"):
                self._fail(ticket, Rejection("reference_taken", reference=getattr(ticket.command, "reference", None)))
                return
            if tag.startswith("transaction:"):
                self._fail(ticket, Rejection("transaction_exists", transaction=getattr(ticket.command, "id", None)))
                return
        ticket.conflicts += 1
        again.append(ticket)

    async def _answer_repeats(self, session: LogSession, tickets: Iterable[Ticket]) -> None:
        """Gives the first answer again to commands whose key stands in the log; puts the others back."""
        asked = list(tickets)
        loaded = await session.load(
            self.ledger, seen=None, tags=[ticket.key_tag for ticket in asked], tail=self._bounds.tail
        )
        self._metrics.loaded()
        absent = []
        for ticket in asked:
            found = loaded.events.get(ticket.key_tag)
            if found:
                self._answer_recorded(ticket, found[-1])
            else:
                absent.append(ticket)
        self._requeue(absent)

    async def _recover(self, batch: list[Ticket], error: DaybookError) -> None:
        """After a fault: forget the states, ask the log what became of the commands, decide the rest again, within bounds."""
        self._cache.drop()
        if isinstance(error, OutcomeUnknown):
            self._metrics.outcome_unknown()
        # What the completion put back before the fault is decided again anyway: once, not twice.
        pending = [ticket for ticket in batch if not (ticket.future.done() or ticket.is_queued)]
        for ticket in pending:
            ticket.faults += 1
            ticket.is_doubtful |= isinstance(error, OutcomeUnknown) and not error.is_settled
        if not isinstance(error, Contention | Unavailable):
            for ticket in pending:
                self._fail(ticket, error)
            return
        await asyncio.sleep(random.uniform(0.005, 0.05) * 2 ** min(pending[0].faults, 5) if pending else 0)  # noqa: S311
        if not pending or not isinstance(error, OutcomeUnknown):
            self._requeue_or_fail(pending, error)
            return
        try:
            async with self._log.borrow() as session:
                await self._answer_repeats(session, pending)
        except LedgerNotFound:
            self._requeue(pending)
        except DaybookError as again:
            self._requeue_or_fail(pending, OutcomeUnknown(again.code))

    def _requeue_or_fail(self, tickets: Sequence[Ticket], error: DaybookError) -> None:
        """Back into the queue while tries and time are left; else the caller hears why."""
        now = self._loop.time()
        retry = [t for t in tickets if t.faults < self._bounds.faults_max and t.deadline > now]
        kept = set(map(id, retry))
        self._requeue(retry)
        for ticket in tickets:
            if id(ticket) not in kept:
                self._fail(ticket, Unavailable("outcome_unknown") if ticket.is_doubtful else error)

    def _requeue(self, tickets: Sequence[Ticket]) -> None:
        """To the front, in order."""
        for ticket in reversed(tickets):
            ticket.is_queued = True
            self._waiting.appendleft(ticket)

    def _answer_verdict(self, verdict: Verdict, *, position: int, appended: Appended) -> None:
        if verdict.error is not None:
            self._fail(verdict.ticket, verdict.error)
            return
        outcome = Outcome(
            event=verdict.decided[-1],
            metadata=verdict.metadata,
            position=position,
            recorded_at=appended.recorded_at,
        )
        self._answer(verdict.ticket, outcome)

    def _answer_recorded(self, ticket: Ticket, recorded: RecordedEvent) -> None:
        """The first answer again; or 409 where the key was used for something else."""
        outcome = Outcome.of(recorded)
        if outcome.metadata.fingerprint != ticket.context.fingerprint:
            self._fail(ticket, Rejection("idempotency_key_reused", position=recorded.position))
        else:
            self._answer(ticket, outcome)

    def _answer(self, ticket: Ticket, outcome: Outcome) -> None:
        name = outcome.event.code if isinstance(outcome.event, events.CommandRefused) else "accepted"
        self._metrics.answered(command=type(ticket.command).__name__, outcome=name, is_replay=outcome.is_replay)
        if not ticket.future.done():
            ticket.future.set_result(outcome)
        for follower in ticket.followers:
            self._answer(follower, msgspec.structs.replace(outcome, is_replay=True))

    def _fail(self, ticket: Ticket, error: DaybookError) -> None:
        self._metrics.answered(command=type(ticket.command).__name__, outcome=error.code, is_replay=False)
        if not ticket.future.done():
            ticket.future.set_exception(error)
        for follower in ticket.followers:
            self._fail(follower, error)
