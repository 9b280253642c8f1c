"""The writer of one ledger: takes what is waiting, decides it, appends it in one round trip, answers it.

The deep function of the write side (design §4, executor.md §6). One task a ledger; one append in flight, or two while nobody
gets in between (ADR 0009). Completion is one synchronous, all-or-nothing step; any doubt throws the cached states away, and the
log is asked by key before anybody is told.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import structlog

from command_service.application.batch import TOLD_MAX, DecidedBatch, Ticket, Verdict, decide_batch, some_of
from command_service.application.cache import LedgerCache
from command_service.application.line import Line
from command_service.application.loading import Loader, snapshot
from command_service.application.locks import AGAIN_S, Locks, admit
from command_service.application.log import Log, LogSession
from command_service.application.outcome import Outcome
from shared_kernel.errors import Contention, Corruption, DaybookError, Unavailable
from shared_kernel.event_log.errors import LedgerNotFound, OutcomeUnknown
from shared_kernel.event_log.types import Appended, Tail

UNKNOWN_IDLE_S = 1.0  # chosen: a ledger that does not exist keeps nothing in memory
SHARED_FROM = 3  # chosen: times `follow_commands_min`; smaller batches than half of that cost more than they gain
CALM_BATCHES = 100  # design §4: so many batches without a conflict before one follows another unasked again
_logger = structlog.get_logger(__name__)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a writer takes on; each is a setting of the process."""

    batch_commands_max: int = 256
    batch_entries_max: int = 5_000
    queue_commands_max: int = 10_000
    queue_wait_s_max: float = 5.0
    tail: Tail = Tail()
    conflicts_before_slow_path: int = 2
    follow_commands_min: int = 16
    lock_wait_s: float = 0.2
    slow_s: float = 0.5
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

    def set_aside(self, *, commands: int) -> None:
        """Commands wait for a later batch, because others hold locks of theirs."""

    def went_without_lock(self, *, commands: int) -> None:
        """Commands had waited long enough and were decided without their locks."""

    def outcome_unknown(self) -> None:
        """A connection was lost with an append under way."""

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        """A command was answered: "accepted", or the code of its refusal or rejection."""


class _Flight(NamedTuple):
    """A batch whose append is on its way."""

    decided: DecidedBatch
    back: "asyncio.Task[Appended]"
    departed_at: float


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
        self._line = Line(
            commands_max=bounds.queue_commands_max,
            batch_commands_max=bounds.batch_commands_max,
            batch_entries_max=bounds.batch_entries_max,
            wait_s_max=bounds.queue_wait_s_max,
            lock_after=bounds.conflicts_before_slow_path,
            metrics=metrics,
        )
        self._loop = asyncio.get_running_loop()
        self._is_held_up = False  # nothing of the last batch could be done: others hold the locks
        self._unrest = 0  # batches still to go before one may follow another again
        self.is_closed = False
        """The task has ended for want of work; a new writer takes the next command."""

    def submit(self, ticket: Ticket) -> None:
        """Queues a command. Contention `overloaded` where the queue is full."""
        self._line.enter(ticket)

    @property
    def waiting(self) -> int:
        """Commands not yet decided."""
        return len(self._line)

    async def run(self) -> None:
        """Writes until nothing has come for `idle_s`. A fault of our own ends it, and tells whoever waits."""
        try:
            await self._run()
        except Exception:
            _logger.exception("writer_ended", ledger=self.ledger)
            self.is_closed = True
            self._line.fail_all(DaybookError("internal_error"))

    async def _run(self) -> None:
        while True:
            if not self._line:
                try:
                    async with asyncio.timeout(self._bounds.idle_s if self._cache.terms else UNKNOWN_IDLE_S):
                        await self._line.has(1)
                except TimeoutError:
                    if self._line:
                        continue
                    self.is_closed = True
                    return
            is_locked = self._line.next_needs_lock
            await self._write(self._line.take(None if is_locked else self._share(0)), is_locked=is_locked)
            if self._is_held_up:
                self._is_held_up = False
                await asyncio.sleep(AGAIN_S)

    async def _write(self, batch: list[Ticket], *, is_locked: bool) -> None:
        """Brings every ticket of the batch, and of those that follow it, to an answer or back into the queue."""
        if not batch:
            return
        is_shared = self._locks.touch(self.ledger, batch[0])
        taken = list(batch)  # whoever has no answer yet: of the batches that follow, too
        try:
            async with self._log.borrow() as session:
                if is_locked:
                    await self._write_locked(session, batch)
                elif is_shared:
                    await self._write_shared(session, batch)
                else:
                    await self._write_on(session, batch, taken)
        except DaybookError as error:
            await self._recover(taken, error)
        except Exception:
            _logger.exception("writer_fault", ledger=self.ledger)
            await self._recover(taken, OutcomeUnknown("writer_fault"))
        except BaseException:  # the process ends: the callers hear that they have to ask again
            for ticket in taken:
                self._line.fail(ticket, OutcomeUnknown("shutting_down"))
            raise

    async def _write_locked(self, session: LogSession, batch: list[Ticket]) -> None:
        """The slow path, where nobody can come between: for what no narrow fence watches, and for what fell too often."""
        self._metrics.took_slow_path()
        await self._loader.prefetch(session, self._cache, batch)
        departed_at = self._loop.time()
        locked_at: float | None = None
        try:
            async with session.transaction([self.ledger]):
                locked_at = self._loop.time()
                decided = await self._loader.decide(session, self._cache, batch, is_locked=True)
                self._tell_faults(decided)
                appended = await session.append(
                    self.ledger, seen=self._cache.seen, decisions=decided.decisions(), tail=self._bounds.tail
                )
                if self._is_overdue(decided):
                    raise Unavailable("deadline_passed")  # undone: who has time left comes again
                self._line.unsent = decided.deferred  # the commit goes out with the end of the block
        except (Contention, Unavailable) as error:
            tell_failed([self.ledger], batch, error, elapsed_s=self._loop.time() - departed_at)
            raise
        self._tell(decided, appended, departed_at, locked_at=locked_at)
        self._line.put_back(await self._complete(session, decided, appended))

    async def _write_shared(self, session: LogSession, batch: list[Ticket]) -> None:
        """Others write to this ledger too: under the locks of what the commands draw on. Those that are blocked wait for the next batch."""
        cache, self._unrest = self._cache, CALM_BATCHES  # nothing follows here, so a batch is all that waits
        await self._loader.prefetch(session, cache, batch)
        free, aside, grip = await admit(
            self._locks, self.ledger, batch, cache, wait_s=self._bounds.lock_wait_s, metrics=self._metrics
        )
        position, again = None, list[Ticket]()
        try:
            if free and grip.position > (
                cache.seen or 0
            ):  # what others did under these locks must be known, or fences fail
                await self._loader.prefetch(session, cache, free, is_refreshed=True)
            flight = await self._depart(session, free) if free else None
            if flight is not None:
                self._line.unsent = [*flight.decided.deferred, *aside]
                appended = await self._back(flight)
                position = appended.head if appended.head > appended.base else None
                grip.release(position)
                again = await self._complete(session, flight.decided, appended)
        finally:
            grip.release(position)
        self._is_held_up = not free
        self._line.put_back([*aside, *again])

    async def _write_on(self, session: LogSession, batch: list[Ticket], taken: list[Ticket]) -> None:
        """Writes the batch, and while enough others wait meanwhile, those behind it: each sent before the one ahead is back."""
        first = await self._depart(session, batch)
        if first is None:
            return
        flights, again = deque((first,)), list[Ticket]()
        try:
            while flights:
                ahead = flights[0]
                await asyncio.sleep(0)  # who was answered goes on, and who came is read, before the next are decided
                if len(flights) == 1 and not again and await self._may_follow(ahead):
                    behind = self._follow(session, ahead.decided, taken)
                    if behind is not None:
                        flights.append(behind)
                appended = await self._back(ahead)
                flights.popleft()
                again += await self._complete(session, ahead.decided, appended)
                self._line.unsent = [*self._line.unsent, *again]
                # Under load one follows another without an end: who is answered must not be kept until there is one.
                taken[:] = [ticket for ticket in taken if not ticket.is_answered]
        except Exception as error:
            raise await _worst(error, flights) from error
        self._line.put_back(again)

    async def _depart(self, session: LogSession, batch: list[Ticket]) -> _Flight | None:
        """Load what is missing, decide, send. None where there was nothing to append."""
        decided = await self._loader.decide(session, self._cache, batch, is_locked=False)
        self._tell_faults(decided)
        if self._is_overdue(decided):
            # The line turns away who is; the others are decided on the states that are here now.
            self._line.put_back([*(verdict.ticket for verdict in decided.verdicts), *decided.deferred])
            return None
        if self._cache.seen == 0 and decided.books.terms_now is None:  # no such ledger, so no key in it either
            for verdict in decided.verdicts:
                self._line.fail(verdict.ticket, verdict.error or Unavailable("outcome_unknown"))
            self._line.put_back(decided.deferred)
            return None
        if not decided.verdicts:
            self._line.put_back(decided.deferred)
            return None
        return self._send(session, decided, seen=self._cache.seen, is_following=False)

    def _is_overdue(self, decided: DecidedBatch) -> bool:
        """Somebody's time is over, or was told to be: the last moment to say so, for what is sent may be appended."""
        now = self._loop.time()
        return any(verdict.ticket.is_answered or verdict.ticket.deadline < now for verdict in decided.verdicts)

    async def _may_follow(self, ahead: _Flight) -> bool:
        """Enough commands wait while the append ahead is still on its way, and nothing speaks against deciding on what it will do.

        While others wait for a session none follows: this one's comes back, or a few busy ledgers would keep all of them.
        """
        fewest = self._bounds.follow_commands_min
        if not fewest or self._unrest or ahead.decided.deferred or self._log.is_contended:
            return False
        if len(self._line) < fewest:
            enough = self._loop.create_task(self._line.has(fewest))
            try:
                await asyncio.wait((ahead.back, enough), return_when=asyncio.FIRST_COMPLETED)
            finally:
                enough.cancel()
        return (
            not (ahead.back.done() or self._line.next_needs_lock or self._log.is_contended)
            and len(self._line) >= fewest
        )

    def _follow(self, session: LogSession, ahead: DecidedBatch, taken: list[Ticket]) -> _Flight | None:
        """Decides the next batch on what the one ahead will have done, and sends it. None where that needs a look at the log."""
        batch = self._line.take(self._share(len(ahead.verdicts)))
        taken += batch
        books = self._cache.books(after=ahead.books)
        decided = decide_batch(books, batch, seen=ahead.books.position, is_locked=False)
        self._tell_faults(decided)
        if not decided.verdicts:
            self._line.put_back(decided.deferred)
            return None
        return self._send(session, decided, seen=ahead.books.position, is_following=True)

    def _share(self, ahead: int) -> int | None:
        """How many of those that wait go in the next batch, so that it and the one ahead are alike. None: all of them.

        Clients that are answered together come back together. In one batch, all of them and the log would work turn about; in two,
        the log works on one while the other is answered and decided (ADR 0009).
        """
        fewest, all_of_them = self._bounds.follow_commands_min, ahead + len(self._line)
        is_worth_it = 0 < SHARED_FROM * fewest <= all_of_them and not self._unrest
        return -(-all_of_them // 2) if is_worth_it else None

    def _send(self, session: LogSession, decided: DecidedBatch, *, seen: int | None, is_following: bool) -> _Flight:
        append = session.append(
            self.ledger,
            seen=seen,
            decisions=decided.decisions(),
            tail=self._bounds.tail,
            is_following=is_following,
        )
        self._line.unsent = decided.deferred
        return _Flight(decided, self._loop.create_task(append), self._loop.time())

    async def _back(self, flight: _Flight) -> Appended:
        """What the append did, told to the log; how it failed, too."""
        try:
            appended = await flight.back
        except (Contention, Unavailable) as error:
            tickets = [verdict.ticket for verdict in flight.decided.verdicts]
            tell_failed([self.ledger], tickets, error, elapsed_s=self._loop.time() - flight.departed_at)
            raise
        self._tell(flight.decided, appended, flight.departed_at)
        return appended

    async def _complete(self, session: LogSession, decided: DecidedBatch, appended: Appended) -> list[Ticket]:
        """The append is committed: take over what it did, answer, and look up the keys that were there before.

        Gives the commands that are to be decided again, in their order.
        """
        if appended.is_unchained:
            self._unrest = CALM_BATCHES
            return [*(verdict.ticket for verdict in decided.verdicts), *decided.deferred]
        cache = self._cache
        try:
            repeated, again = self._take_over(decided, appended)
        except Corruption as error:  # committed, but not understood: only the log can say what became of each command
            _logger.error("completion_fault", ledger=self.ledger, code=error.code)
            raise OutcomeUnknown(error.code) from error
        if repeated:
            again += await self._answer_repeats(session, repeated)
        due = cache.take_unsaved()
        if due:
            await session.write_snapshots(self.ledger, [snapshot(account, cache.seen or 0) for account in due])
        cache.shrink(())
        return again

    def _take_over(self, decided: DecidedBatch, appended: Appended) -> tuple[list[Ticket], list[Ticket]]:
        """One synchronous step: fold what others did, fold what we did, then answer.

        Gives the commands whose key was in the log, and those that are to be decided again.
        """
        if appended.is_behind:
            self._cache.drop()
            return [], [*decided.deferred, *(verdict.ticket for verdict in decided.verdicts)]
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
        self._unrest = CALM_BATCHES if again or appended.tail else max(0, self._unrest - 1)
        if appended.head > appended.base:
            self._log.announce(self.ledger)
        return repeated, [*again, *decided.deferred]

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
        taken = verdict.taken(failed) if failed else None
        if taken is not None:
            self._line.fail(ticket, taken)
            return
        ticket.conflicts += 1
        again.append(ticket)

    async def _answer_repeats(self, session: LogSession, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Gives the first answer again to commands whose key stands in the log. Gives those whose key does not."""
        asked = list(tickets)
        loaded = await session.load(
            self.ledger, seen=None, tags=[ticket.key_tag for ticket in asked], tail=self._bounds.tail
        )
        self._metrics.loaded()
        absent = []
        for ticket in asked:
            found = loaded.events.get(ticket.key_tag)
            if found:
                self._line.answer_recorded(ticket, found[-1])
            else:
                absent.append(ticket)
        return absent

    async def _recover(self, batch: list[Ticket], error: DaybookError) -> None:
        """After a fault: forget the states, ask the log what became of the commands, decide the rest again, while they have time."""
        self._cache.drop()
        self._unrest = CALM_BATCHES
        if isinstance(error, OutcomeUnknown):
            self._metrics.outcome_unknown()
        # What is back in the queue already is decided again anyway: once, not twice.
        pending = [ticket for ticket in batch if not (ticket.is_answered or ticket.is_queued)]
        for ticket in pending:
            ticket.faults += 1
            ticket.held_up_by = error
            ticket.is_doubtful |= isinstance(error, OutcomeUnknown) and not error.is_settled
        if not isinstance(error, Contention | Unavailable):
            for ticket in pending:
                self._line.fail(ticket, error)
            return
        if pending:  # no longer than the first of them has time: then it is told
            pause_s = random.uniform(0.005, 0.05) * 2 ** min(pending[0].faults, 5)  # noqa: S311 - jitter, not a secret
            left_s = min(ticket.deadline for ticket in pending) - self._loop.time()
            await asyncio.sleep(max(0.0, min(pause_s, left_s)))
        if not pending or not isinstance(error, OutcomeUnknown):
            self._put_back_or_fail(pending)
            return
        try:
            async with self._log.borrow() as session:
                self._line.put_back(await self._answer_repeats(session, pending))
            self._log.announce(self.ledger)  # perhaps it was committed: whoever finds nothing new has lost nothing
        except LedgerNotFound:
            self._line.put_back(pending)
        except DaybookError:
            for ticket in pending:  # its backend may be seen gone, but what it did before was not looked at
                ticket.is_doubtful = True
            self._put_back_or_fail(pending)

    def _put_back_or_fail(self, tickets: Sequence[Ticket]) -> None:
        """Back into the queue while time is left; else the caller hears why."""
        now = self._loop.time()
        self._line.put_back([ticket for ticket in tickets if ticket.deadline > now])
        for ticket in tickets:
            if not (ticket.is_queued or ticket.is_answered):
                self._line.fail_overdue(ticket)

    def _answer_verdict(self, verdict: Verdict, *, position: int, appended: Appended) -> None:
        if verdict.error is not None:
            self._line.fail(verdict.ticket, verdict.error)
            return
        outcome = Outcome(
            event=verdict.decided[-1],
            metadata=verdict.metadata,
            position=position,
            recorded_at=appended.recorded_at,
        )
        self._line.answer(verdict.ticket, outcome)

    def _tell(
        self, decided: DecidedBatch, appended: Appended, departed_at: float, *, locked_at: float | None = None
    ) -> None:
        """Counts and logs an append that is committed; one that took long at warning, with its first commands."""
        elapsed_s = self._loop.time() - departed_at
        self._metrics.appended(commands=len(decided.verdicts), seconds=elapsed_s)
        _logger.info(
            "batch_appended",
            ledger=self.ledger,
            commands=len(decided.verdicts),
            events=appended.head - appended.base,
            failed=len(decided.verdicts) if appended.is_unchained else len(appended.failed),
            position=appended.head,
            elapsed_ms=round(elapsed_s * 1_000, 3),
        )
        is_slow = elapsed_s > self._bounds.slow_s
        if is_slow or _logger.is_enabled_for(logging.DEBUG):
            tickets = [verdict.ticket for verdict in decided.verdicts]
            wait_s = None if locked_at is None else locked_at - departed_at
            tell_done([self.ledger], tickets, elapsed_s=elapsed_s, wait_s=wait_s, is_slow=is_slow)

    def _tell_faults(self, decided: DecidedBatch) -> None:
        for fault in decided.faults:
            _logger.error("decision_fault", ledger=self.ledger, exc_info=fault)


def tell_done(
    ledgers: Sequence[str], tickets: Sequence[Ticket], *, elapsed_s: float, wait_s: float | None, is_slow: bool
) -> None:
    """An append, its wait for the ledgers' rows and its commit included. One that took long: most likely somebody held a row.

    `wait_s`: until the rows were locked, where they were locked before anything was decided.
    """
    (_logger.warning if is_slow else _logger.debug)(
        "append_slow" if is_slow else "append",
        ledgers=ledgers[:TOLD_MAX],
        elapsed_ms=round(elapsed_s * 1_000, 3),
        **({} if wait_s is None else {"wait_ms": round(wait_s * 1_000, 3)}),
        **some_of(tickets),
    )


def tell_failed(ledgers: Sequence[str], tickets: Sequence[Ticket], error: DaybookError, *, elapsed_s: float) -> None:
    """An append that was not done, or of which nobody knows; `reason` says why: that the wait for the row was over, say."""
    _logger.warning(
        "append_failed",
        ledgers=ledgers[:TOLD_MAX],
        code=error.code,
        reason=error.fields.get("reason"),
        elapsed_ms=round(elapsed_s * 1_000, 3),
        **some_of(tickets),
    )


async def _worst(error: Exception, flights: Iterable[_Flight]) -> Exception:
    """The error to go on with after one, when all that was on its way is back.

    What was appended behind it stands in the log and not in the cache, and what was lost may stand there: both have to be asked
    for by key, so both make the outcome unknown.
    """
    back = await asyncio.gather(*(flight.back for flight in flights), return_exceptions=True)
    for one in back:
        if isinstance(one, OutcomeUnknown) and not isinstance(error, OutcomeUnknown):
            return one
        if isinstance(one, Appended) and not one.is_unchained and not isinstance(error, OutcomeUnknown):
            return OutcomeUnknown("overtaken")
    return error
