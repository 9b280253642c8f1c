"""What the monitor sees at one moment, as data: sessions and who blocks whom, locks in Redis, lags, what processes say.

Pure. Times are UTC, durations in milliseconds. Query texts have lost their literals before they come here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

DAYBOOK_ROLE_PREFIX = "daybook_"  # shared_kernel/migrations/roles.sql


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session of Postgres that is inside a transaction. `began_at` of its transaction tells it from a later one.

    Pid 0 is no session but the transactions that are prepared, which wait for COMMIT PREPARED or ROLLBACK PREPARED.
    """

    pid: int
    user: str
    application: str
    database: str
    is_client: bool
    state: str
    began_at: datetime
    transaction_ms: int
    state_ms: int
    waiting_ms: int | None = None
    waits_for: str | None = None
    blocked_by: Sequence[int] = ()
    query: str = ""

    @property
    def name(self) -> str:
        """What it is called as long as this transaction lasts."""
        return f"{self.pid} since {self.began_at.isoformat(timespec='milliseconds')}"

    @property
    def is_ours(self) -> bool:
        """True if it is a process of Daybook's."""
        return self.user.startswith(DAYBOOK_ROLE_PREFIX)


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """One who waits behind a root. `depth` 1: for the root itself."""

    pid: int
    application: str
    waiting_ms: int
    waits_for: str
    depth: int
    query: str


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A session that waits for nobody, and all who wait for it, nearest first.

    `blocking_ms`: for how long it has held up anybody. Who waits gives up after a lock_timeout and another waits in its place.
    """

    root: Session
    waiters: Sequence[Waiter]
    blocking_ms: int

    @property
    def waiting_ms(self) -> int:
        """The longest that anybody waits now."""
        return max(waiter.waiting_ms for waiter in self.waiters)


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """A root, as the next look needs it. `is_resting`: nobody waited for it at this look, but somebody did at the one before."""

    pid: int
    began_at: datetime
    since: datetime
    is_resting: bool = False

    @property
    def transaction(self) -> tuple[int, datetime]:
        """What tells it from every other."""
        return self.pid, self.began_at


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """One lock in Redis (shared_kernel/lock_table.py), or the relay's lease in Postgres.

    `left_ms` None: it would never end by itself; below 0: it has ended. `held_ms` None: nobody knows since when.
    Kind `writers`: that the holder writes to the ledger has ended, and it did not give it back.
    """

    key: str
    kind: str
    ledger: str
    holder: str
    waiter: str = ""
    left_ms: int | None
    held_ms: int | None


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far relay or a projection is behind the log. `lag_ms`: since when the oldest event waits; `ledger`: the one most behind."""

    reader: str
    generation: int
    is_live: bool
    events: int
    ledgers: int
    ledger: str
    lag_ms: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that stands still in a projection."""

    projection: str
    ledger: str
    state: str
    position: int
    error_class: str
    since_ms: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What the metrics of one process say. `fault`: why they say nothing."""

    url: str
    queue_depth: int | None = None
    open_breakers: Sequence[str] = ()
    fault: str = ""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. `taken_at`: when it was begun. `skipped` says what was not looked at, and why."""

    taken_at: datetime
    taken_by: str
    sessions: Sequence[Session]
    chains: Sequence[Chain]
    blockers: Sequence[Blocker]
    locks: Sequence[Lock]
    lags: Sequence[Lag]
    standing: Sequence[Standing]
    processes: Sequence[Process]
    deadlocks: Mapping[str, int]
    skipped: Mapping[str, str]


def chains(sessions: Sequence[Session], at: datetime, before: Sequence[Blocker]) -> list[Chain]:
    """Every root with those who wait behind it, who has held others up for longest first. `before`: the blockers of the last look.

    A root waits for nobody we see. Where sessions wait in a circle, Postgres ends one of them within its deadlock_timeout; until
    then the one whose transaction began last, which Postgres would most likely choose, stands as root.
    """
    known = {session.pid: session for session in sessions}
    since = {blocker.transaction: blocker.since for blocker in before}
    blocked = {session.pid: [pid for pid in session.blocked_by if pid in known] for session in sessions}
    behind: dict[int, list[int]] = {}
    for pid, blockers in blocked.items():
        for blocker in blockers:
            behind.setdefault(blocker, []).append(pid)
    found: dict[int, Chain] = {}
    reached: set[int] = set()
    free = [pid for pid in behind if not blocked[pid]]
    circular = sorted((pid for pid in behind if blocked[pid]), key=lambda pid: known[pid].began_at, reverse=True)
    for root in [*free, *circular]:
        if root in reached:
            continue
        waiters = _behind(root, behind, known)
        reached.update(waiter.pid for waiter in waiters)
        found[root] = Chain(
            root=known[root], waiters=waiters, blocking_ms=_blocking_ms(known[root], waiters, at, since)
        )
    return sorted(found.values(), key=lambda chain: chain.blocking_ms, reverse=True)


def blockers(found: Sequence[Chain], at: datetime, before: Sequence[Blocker]) -> list[Blocker]:
    """The roots of these chains, and those of the last look whose next waiter may only not have come yet."""
    now = [
        Blocker(pid=chain.root.pid, began_at=chain.root.began_at, since=at - timedelta(milliseconds=chain.blocking_ms))
        for chain in found
    ]
    blocking = {blocker.transaction for blocker in now}
    rest = [each for each in before if each.transaction not in blocking and not each.is_resting]
    return [*now, *(msgspec.structs.replace(each, is_resting=True) for each in rest)]


def _blocking_ms(
    root: Session, waiters: Sequence[Waiter], at: datetime, since: Mapping[tuple[int, datetime], datetime]
) -> int:
    """From look to look; where this is the first, as long as somebody waits for it, which is no longer than its transaction lasts."""
    waiting_ms = max(waiter.waiting_ms for waiter in waiters if waiter.depth == 1)
    first = at - timedelta(milliseconds=min(waiting_ms, root.transaction_ms))
    return (at - min(first, since.get((root.pid, root.began_at), first))) // timedelta(milliseconds=1)


def _behind(root: int, behind: Mapping[int, Sequence[int]], known: Mapping[int, Session]) -> list[Waiter]:
    waiters: list[Waiter] = []
    seen, edge, depth = {root}, [root], 0
    while edge:
        depth += 1
        edge = sorted({pid for each in edge for pid in behind.get(each, ())} - seen)
        seen.update(edge)
        for pid in edge:
            session = known[pid]
            waiters.append(
                Waiter(
                    pid=pid,
                    application=session.application,
                    waiting_ms=session.waiting_ms or 0,
                    waits_for=session.waits_for or "",
                    depth=depth,
                    query=session.query,
                )
            )
    return waiters
