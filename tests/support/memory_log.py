"""The event log in memory, for unit tests of the executor: same contract as the fast client, and it can be disturbed.

`before_append` runs just before the next append (another worker gets in between), `before_lock` before the next transaction
takes its locks, `before_commit` before the next one commits, `before_load[ledger]` before the next load from it. `lose` makes the next append outside a transaction, `lose_commit` the next commit fail as a lost connection does:
applied or not. `rolls_back` makes the server roll the next transactions back. `is_down` and `goes_down` take the log away.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from shared_kernel.event_log.errors import LedgerNotFound, LogUnavailable, OutcomeUnknown, RolledBack
from shared_kernel.event_log.types import (
    Appended,
    Decision,
    Loaded,
    Page,
    RecordedEvent,
    Snapshot,
    SnapshotKey,
    Tail,
)

UNCHAINED = Appended(
    is_behind=False,
    is_unchained=True,
    base=0,
    head=0,
    recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
    failed=(),
    tail=(),
)


class MemoryLog:
    """A log that several executors may share."""

    def __init__(self) -> None:
        self.events: dict[str, list[RecordedEvent]] = {}
        self.tags: dict[str, dict[str, list[int]]] = {}
        self.snapshots: dict[tuple[str, str, int], Snapshot] = {}
        self.appends: list[Sequence[Decision]] = []
        self.loads: list[Sequence[str]] = []
        self.announced: list[str] = []
        self.transactions = 0
        self.pages = 0
        self.locked: list[list[str]] = []  # the ledgers of each transaction, in the order their heads were locked
        self.before_append: Callable[[], Awaitable[None]] | None = None
        self.before_lock: Callable[[], Awaitable[None]] | None = None
        self.before_commit: Callable[[], Awaitable[None]] | None = None
        self.before_load: dict[str, Callable[[], Awaitable[None]]] = {}
        self.lose: str | None = None  # "applied" or "not applied"
        self.lose_commit: str | None = None
        self.rolls_back = 0
        self.loses_snapshots = False  # with the next write of them
        self.is_contended = False  # others wait for a session
        self.is_down = False  # nobody can look
        self.is_settled = False  # the backends of lost appends are seen gone
        self.goes_down = False  # with the next lost append or commit
        self._heads: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator["MemorySession"]:
        try:
            yield MemorySession(self)
        except OutcomeUnknown as unknown:
            unknown.is_settled = self.is_settled
            raise

    def unavailable(self) -> None:
        """It is there, or says so when asked."""

    def announce(self, ledger: str) -> None:
        self.announced.append(ledger)

    async def page(self, ledger: str, key: SnapshotKey, *, events_max: int) -> Page:
        self.pages += 1
        snapshot = self.snapshots.get((ledger, key.address, key.fold_version))
        after = 0 if snapshot is None else snapshot.position
        positions = [p for p in self.tags.get(ledger, {}).get(f"account:{key.address}", ()) if p > after]
        found = [self.events[ledger][position - 1] for position in positions[:events_max]]
        return Page(snapshot=snapshot if found else None, events=found)

    async def write_snapshots(self, ledger: str, snapshots: Sequence[Snapshot]) -> None:
        if self.loses_snapshots:
            self.loses_snapshots = False
            raise LogUnavailable("connection_lost")
        for snapshot in snapshots:
            self.snapshots[ledger, snapshot.address, snapshot.fold_version] = snapshot

    async def append(self, ledger: str, *, seen: int | None, decisions: Sequence[Decision], tail: Tail) -> Appended:
        await self.disturb()
        async with self._heads[ledger]:
            return self._append_or_lose(ledger, seen=seen, decisions=decisions, tail=tail)

    async def disturb(self) -> None:
        """What was to happen before the next append happens."""
        if self.before_append is not None:
            disturb, self.before_append = self.before_append, None
            await disturb()

    def _append_or_lose(self, ledger: str, *, seen: int | None, decisions: Sequence[Decision], tail: Tail) -> Appended:
        lost, self.lose = self.lose, None
        self.is_down |= self.goes_down and lost is not None
        if lost == "not applied":
            raise OutcomeUnknown("connection_lost")
        appended = self.append_now(ledger, seen=seen, decisions=decisions, tail=tail)
        if lost == "applied":
            raise OutcomeUnknown("connection_lost")
        return appended

    def append_now(self, ledger: str, *, seen: int | None, decisions: Sequence[Decision], tail: Tail) -> Appended:
        new = [event for decision in decisions for event in decision.events]
        if ledger not in self.events:
            if not new or not new[0].type.startswith("LedgerOpened.v"):
                raise LedgerNotFound
            self.events[ledger], self.tags[ledger] = [], {}
        events, tags = self.events[ledger], self.tags[ledger]
        base, recorded_at = len(events), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self.appends))
        behind = seen is not None and base - seen > tail.events_max
        if behind:
            return Appended(is_behind=True, base=base, head=base, recorded_at=recorded_at, failed=(), tail=())
        self.appends.append(decisions)
        failed = [
            (index, at)
            for index, decision in enumerate(decisions)
            for at, fence in enumerate(decision.fences)
            if tags.get(fence.tag, [0])[-1] > fence.after
        ]
        fallen = {decisions[index].group for index, _ in failed}
        for decision in decisions:
            for event in () if decision.group in fallen else decision.events:
                position = len(events) + 1
                events.append(
                    RecordedEvent(
                        ledger=ledger,
                        position=position,
                        type=event.type,
                        data=event.data,
                        metadata=event.metadata,
                        recorded_at=recorded_at,
                    )
                )
                for tag in event.tags:
                    tags.setdefault(tag, []).append(position)
        return Appended(
            is_behind=False,
            base=base,
            head=len(events),
            recorded_at=recorded_at,
            failed=failed,
            tail=[] if seen is None else events[seen:base],
        )

    async def load(
        self, ledger: str, *, seen: int | None, tags: Sequence[str], snapshots: Sequence[SnapshotKey] = (), tail: Tail
    ) -> Loaded:
        self.loads.append(tags)
        if self.is_down:
            raise LogUnavailable("connect_failed")
        if ledger not in self.events:
            raise LedgerNotFound
        events = self.events[ledger]
        found = {}
        for key in snapshots:
            snapshot = self.snapshots.get((ledger, key.address, key.fold_version))
            if snapshot is not None:
                found[key.address] = snapshot
        after = {f"account:{address}": snapshot.position for address, snapshot in found.items()}
        behind = seen is not None and len(events) - seen > tail.events_max
        return Loaded(
            is_behind=behind,
            head=len(events),
            recorded_at=events[-1].recorded_at,
            tail=[] if behind or seen is None else events[seen:],
            events={
                tag: [events[p - 1] for p in self.tags[ledger].get(tag, ()) if p > after.get(tag, 0)] for tag in tags
            },
            snapshots=found,
        )


class MemorySession:
    """One connection to the log. In a transaction it sees what it appended, others see it after the commit."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._own: MemoryLog | None = None  # the log as this transaction sees it
        self._turn = asyncio.Lock()
        self._stands = False  # the append before appended all it had, directly after its own `seen`
        self._is_lost = False

    @asynccontextmanager
    async def transaction(self, ledgers: Sequence[str]) -> AsyncIterator[None]:
        log = self._log
        if log.before_lock is not None:
            disturb, log.before_lock = log.before_lock, None
            await disturb()
        async with AsyncExitStack() as locks:
            for ledger in sorted(set(ledgers)):
                if ledger not in log.events:
                    raise LedgerNotFound
                await locks.enter_async_context(log._heads[ledger])
            log.transactions += 1
            log.locked.append(sorted(set(ledgers)))
            self._own = own = MemoryLog()
            own.events = {ledger: list(events) for ledger, events in log.events.items()}
            own.tags = {ledger: {tag: list(at) for tag, at in tags.items()} for ledger, tags in log.tags.items()}
            own.snapshots, own.loads, own.appends = log.snapshots, log.loads, list(log.appends)
            try:
                yield
            finally:
                self._own = None
            if log.before_commit is not None:
                disturb, log.before_commit = log.before_commit, None
                await disturb()
            self._commit(own, ledgers)

    def _commit(self, own: MemoryLog, ledgers: Sequence[str]) -> None:
        log = self._log
        if log.rolls_back:
            log.rolls_back -= 1
            raise RolledBack("40P01")
        lost, log.lose_commit = log.lose_commit, None
        log.is_down |= log.goes_down and lost is not None
        if lost != "not applied":
            for ledger in ledgers:
                log.events[ledger], log.tags[ledger] = own.events[ledger], own.tags[ledger]
            log.appends += own.appends[len(log.appends) :]
        if lost is not None:
            raise OutcomeUnknown("connection_lost")

    async def append(
        self,
        ledger: str,
        *,
        seen: int | None,
        decisions: Sequence[Decision],
        tail: Tail,
        is_following: bool = False,
    ) -> Appended:
        async with self._turn:  # as on a wire: what was sent first is done first
            if self._is_lost:
                raise OutcomeUnknown("connection_lost")
            if is_following and not self._stands:
                return UNCHAINED
            self._stands = False
            try:
                if self._own is None:
                    appended = await self._log.append(ledger, seen=seen, decisions=decisions, tail=tail)
                else:
                    await self._log.disturb()
                    appended = self._own.append_now(ledger, seen=seen, decisions=decisions, tail=tail)
            except OutcomeUnknown:
                self._is_lost = True
                raise
            self._stands = not (appended.is_behind or appended.failed or appended.tail)
            return appended

    async def page(self, ledger: str, key: SnapshotKey, *, events_max: int) -> Page:
        return await (self._own or self._log).page(ledger, key, events_max=events_max)

    async def load(
        self, ledger: str, *, seen: int | None, tags: Sequence[str], snapshots: Sequence[SnapshotKey] = (), tail: Tail
    ) -> Loaded:
        if self._log.is_down:
            raise LogUnavailable("connect_failed")
        if ledger in self._log.before_load:
            await self._log.before_load.pop(ledger)()
        return await (self._own or self._log).load(ledger, seen=seen, tags=tags, snapshots=snapshots, tail=tail)

    async def write_snapshots(self, ledger: str, snapshots: Sequence[Snapshot]) -> None:
        await self._log.write_snapshots(ledger, snapshots)
