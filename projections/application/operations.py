"""What operators are told of projections and of the relay: plain values, shaped as the API answers them.

Who may ask is the presentation's business; where it is kept, the infrastructure's.
"""

from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import msgspec

from projections.application.jobs import Job, JobList

ProjectionState = Literal["running", "paused", "stopped", "absent"]
"""stopped: its positions are of another incarnation of the log, or the process that answers has stopped feeding it (`trouble` says
why); absent: nothing was ever built."""
GenerationState = Literal["building", "built", "live", "former", "dropped"]
LedgerState = Literal["current", "behind", "waiting", "parked"]


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for something and why: what the trail says of it. `ledgers`: regular expressions of what they may see."""

    subject: str
    reason: str = ""
    ledgers: list[str] | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Since when a projection is paused, who asked for it and why."""

    since: datetime
    actor: str
    reason: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far something is behind the log. `lag_seconds`: the age of the oldest event that it does not have yet."""

    ledgers: int
    events: int
    applied: int
    lag_events: int
    lag_events_max: int
    lag_seconds: float
    events_per_second: float | None = None


class GenerationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One build of a projection."""

    generation: int
    version: int
    state: GenerationState
    is_of_this_log: bool
    created_at: datetime
    progress: Progress | None


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One ledger in the live generation, and what it stands still for if it does."""

    ledger: str
    state: LedgerState
    head: int
    position: int
    lag_events: int
    lag_seconds: float | None
    events_per_second: float | None
    error_class: str | None = None
    error: str | None = None
    attempts: int | None = None
    since: datetime | None = None
    last_attempt_at: datetime | None = None


class ProjectionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One projection in a list.

    `version` and `trouble` are of the process that answers: the version of its code (null: it does not know this projection), and
    what it waits out, if anything. `last_error`: why the ledger that failed last stands still.
    """

    projection: str
    state: ProjectionState
    version: int | None
    live_generation: int | None
    waiting: int
    parked: int
    last_error: str | None
    trouble: str | None
    progress: Progress | None
    pause: Pause | None


class ProjectionList(msgspec.Struct, frozen=True, kw_only=True):
    """All projections."""

    data: list[ProjectionSummary]


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One projection: its builds, and the ledgers that need a look first (those that stand still, then those most behind)."""

    projection: ProjectionSummary
    generations: list[GenerationStatus]
    ledgers: list[LedgerStatus]


class RelayLedger(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger as far as it is published."""

    ledger: str
    head: int
    position: int
    lag_events: int
    lag_seconds: float | None
    events_per_second: float | None


class RelayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The relay that holds the lease, and how far it is."""

    state: Literal["active", "no_relay"]
    owner: str
    epoch: int
    expires_at: datetime | None
    progress: Progress
    ledgers: list[RelayLedger]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did. `details`: what it changed."""

    id: int
    at: datetime
    actor: str
    action: str
    projection: str
    ledger: str | None
    reason: str
    details: dict[str, str | int | bool | list[int] | dict[str, int] | None]


class ActionList(msgspec.Struct, frozen=True, kw_only=True):
    """Actions, the newest first. The next page: `before` the id of the last."""

    data: list[Action]


@runtime_checkable  # Litestar looks at what it hands to a route
class Operations(Protocol):
    """What operators may see and change. Rejection `projection_not_found`, `ledger_not_found`: nobody knows it."""

    def projections(self) -> ProjectionList:
        """All, in the order of names; rates are measured meanwhile."""

    def projection(self, name: str, asker: Asker, *, ledger: str | None, limit: int) -> ProjectionStatus:
        """One of them; rates are measured meanwhile."""

    def relay(self, asker: Asker, *, ledger: str | None, limit: int) -> RelayStatus:
        """The relay; rates are measured meanwhile."""

    def pause(self, name: str, asker: Asker) -> ProjectionSummary:
        """No process feeds it within a second, until it is resumed. Paused twice, the first pause stands."""

    def resume(self, name: str, asker: Asker) -> ProjectionSummary:
        """It is fed again within a second."""

    def rebuild(self, name: str, asker: Asker, *, events_per_second_max: int | None) -> Job:
        """A new generation, and the job that builds it. Rejection `rebuild_running`, `log_restored`."""

    def verify(self, name: str, asker: Asker, *, generation: int | None) -> Job:
        """A job that compares a generation with the live one. Rejection `generation_not_found`, `generation_building`."""

    def reconcile(self, name: str, asker: Asker, *, ledger: str | None) -> Job:
        """A job that compares the live generation, or a ledger of it, with a fold of the log."""

    def repair(self, name: str, asker: Asker, *, ledger: str, account: str | None = None) -> Job:
        """A job that folds a ledger of the live generation anew, or one account of it.

        Rejection `account_not_found`; `no_rows_by_account`: the projection does not keep rows by account.
        """

    def swap(self, name: str, asker: Asker, *, generation: int | None, is_forced: bool) -> ProjectionSummary:
        """Readers see another generation. Rejection `not_verified`, `generation_behind`, `generation_building`."""

    def rollback(self, name: str, asker: Asker) -> ProjectionSummary:
        """Readers see the generation before. Rejection `nothing_to_roll_back`, `generation_behind`."""

    def drop(self, name: str, asker: Asker, *, generation: int) -> ProjectionSummary:
        """A generation is gone. Rejection `generation_live`."""

    def job(self, name: str, job: int) -> Job:
        """One job of a projection. Rejection `job_not_found`."""

    def jobs(self, name: str, *, limit: int) -> JobList:
        """The newest jobs of a projection."""

    def trail(
        self, asker: Asker, *, projection: str | None, ledger: str | None, before: int | None, limit: int
    ) -> ActionList:
        """What operators did, the newest first."""
