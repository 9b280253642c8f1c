"""What goes into the event log and what comes out of it.

Plain values shared by the log's clients (fast, slow, synchronous) and by everything that reads it.
No I/O and no knowledge of what events mean: that is `shared_kernel.events`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to append. `data` and `metadata` are JSON text, kept byte for byte."""

    type: str
    data: str
    metadata: str
    tags: Sequence[str]


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the log holds it. `position` counts from 1 within its ledger; `recorded_at` is UTC."""

    ledger: str
    position: int
    type: str
    data: str
    metadata: str
    recorded_at: datetime


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """A condition: no event tagged `tag` may stand after position `after` (0: none at all)."""

    tag: str
    after: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision to append: its events if none of its fences fails, nothing otherwise.

    `group`: decisions of one append that bear the same number stand or fall together, wherever they stand in the order. A
    decision may have fences and no events: nothing is written, the fences are still judged. Events keep the order of the decisions.
    """

    group: int
    events: Sequence[NewEvent]
    fences: Sequence[Fence]


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on the foreign events an append or a load may return: how many, and how many bytes."""

    events_max: int = 2_000
    bytes_max: int = 4_000_000


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What one append did. It is committed: the sync point of its pipeline has come back.

    `is_behind`: head - seen exceeded the tail's bounds; nothing was judged or appended, drop the cache.
    `is_unchained`: the append before it, on which it was decided, did not stand as it was; nothing was judged or appended, and
    nothing else here says anything.
    `base` is the head before this append. Kept events have the positions base + 1, base + 2, … in the order
    of the decisions and of their events. `failed` holds, for each failed fence, (decision index, fence index), sorted;
    every decision of a group with a failed fence fell.
    `tail` holds the events after `seen` up to and including `base`, in order.
    """

    is_behind: bool
    is_unchained: bool = False
    base: int
    head: int
    recorded_at: datetime
    failed: Sequence[tuple[int, int]]
    tail: Sequence[RecordedEvent]


class SnapshotKey(msgspec.Struct, frozen=True, kw_only=True):
    """Which snapshot of an account may be used: the one of this fold version."""

    address: str
    fold_version: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A cached fold of one account's events up to and including `position`. `state` is JSON text."""

    address: str
    fold_version: int
    position: int
    state: str


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The latest snapshot of an account and the first events about it after that, in order. No snapshot is told without events."""

    snapshot: Snapshot | None
    events: Sequence[RecordedEvent]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One consistent look at a ledger: everything here is as of `head`.

    `is_behind`: as in `Appended`; then `events` is still complete and `tail` is empty.
    `events` maps each asked tag to the events that bear it, in order; where a snapshot of that account was asked for and
    found, only those after its position.
    """

    is_behind: bool
    head: int
    recorded_at: datetime
    tail: Sequence[RecordedEvent]
    events: Mapping[str, Sequence[RecordedEvent]]
    snapshots: Mapping[str, Snapshot]
