"""The figures of one process that matter first: plain counters that the loop adds to and the metrics page shows."""

import msgspec


class Reached(msgspec.Struct, kw_only=True):
    """How far a reader of the log is, all ledgers together: the live generation of a projection, or the relay (generation 0)."""

    generation: int
    head: int
    position: int
    lag_events_max: int
    lag_seconds: float
    events_per_second: float = 0.0

    @property
    def lag_events(self) -> int:
        """Events that it does not have yet."""
        return self.head - self.position


class Figures(msgspec.Struct, kw_only=True):
    """Of a projector. Counters only grow; `lag_*`, `waiting`, `parked`, flags and `trouble` are as of the last look of whoever
    feeds it, `reached` as of the last look at readers.
    """

    applied: int = 0
    batches: int = 0
    batch_seconds: float = 0.0
    from_log: int = 0
    gaps: int = 0
    healed: int = 0
    renewed: int = 0
    duplicates: int = 0
    foreign: int = 0
    malformed: int = 0
    lost_races: int = 0
    faults: int = 0
    retries: int = 0
    skipped: int = 0
    dead_letters: int = 0
    lag_events: int = 0
    lag_events_max: int = 0
    lag_seconds: float = 0.0
    waiting: int = 0
    parked: int = 0
    generation: int = 0
    is_building: bool = False
    is_paused: bool = False
    rebuild_events_done: int = 0
    rebuild_events_total: int = 0
    rebuild_events_per_second: float = 0.0
    is_different: bool = False
    is_stopped: bool = False
    is_ready: bool = False
    trouble: str | None = None
    reached: Reached | None = None


class RelayFigures(msgspec.Struct, kw_only=True):
    """Of a relay."""

    published: int = 0
    batches: int = 0
    batch_seconds: float = 0.0
    failures: int = 0
    lost_leases: int = 0
    lag_events: int = 0
    lag_events_max: int = 0
    epoch: int = 0
    is_active: bool = False
    is_ready: bool = False
    trouble: str | None = None
    reached: Reached | None = None
