"""The event log in memory, for unit tests of the executor: same contract as the fast client, and it can be disturbed.

`before_append` runs just before the next append (another worker gets in between). `lose` makes the next append fail as a
lost connection does: applied or not. `is_down` and `goes_down` take the log away.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from shared_kernel.event_log.errors import LedgerNotFound, LogUnavailable, OutcomeUnknown
from shared_kernel.event_log.types import (
    Appended,
    Decision,
    Loaded,
    RecordedEvent,
    Snapshot,
    SnapshotKey,
    Tail,
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
        self.before_append: Callable[[], Awaitable[None]] | None = None
        self.lose: str | None = None  # "applied" or "not applied"
        self.loses_snapshots = False  # with the next write of them
        self.is_down = False  # nobody can look
        self.goes_down = False  # with the next lost append

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator["MemoryLog"]:
        yield self

    def announce(self, ledger: str) -> None:
        self.announced.append(ledger)

    @asynccontextmanager
    async def transaction(self, ledgers: Sequence[str]) -> AsyncIterator[None]:
        self.transactions += 1
        yield

    async def write_snapshots(self, ledger: str, snapshots: Sequence[Snapshot]) -> None:
        if self.loses_snapshots:
            self.loses_snapshots = False
            raise LogUnavailable("connection_lost")
        for snapshot in snapshots:
            self.snapshots[ledger, snapshot.address, snapshot.fold_version] = snapshot

    async def append(self, ledger: str, *, seen: int | None, decisions: Sequence[Decision], tail: Tail) -> Appended:
        if self.before_append is not None:
            disturb, self.before_append = self.before_append, None
            await disturb()
        lost, self.lose = self.lose, None
        self.is_down |= self.goes_down and lost is not None
        if lost == "not applied":
            raise OutcomeUnknown("connection_lost")
        appended = self._append(ledger, seen=seen, decisions=decisions, tail=tail)
        if lost == "applied":
            raise OutcomeUnknown("connection_lost")
        return appended

    def _append(self, ledger: str, *, seen: int | None, decisions: Sequence[Decision], tail: Tail) -> Appended:
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
