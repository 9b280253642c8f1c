"""Jobs: what operators ask for that takes long. Kept in Postgres; a projector process takes one and has a child process do it.

A child, so that neither the interpreter's lock nor the memory of the live side feels it. It ends with its parent, and another
projector goes on with the job.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

import msgspec
import structlog

from projections.application.figures import Figures
from projections.application.ports import Controls
from shared_kernel.errors import Contention, Unavailable

JobKind = Literal["rebuild", "verify", "repair", "reconcile"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
SCHEDULE_S = 60.0
LOOK_S = 1.0  # the net under notifications: how soon an abandoned job is seen once its lease is over


class TableFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One table of one ledger that differs. `ours` and `theirs`: the first rows that only one of them has, as JSON."""

    table: str
    ledger: str
    ours_rows: int
    theirs_rows: int
    ours: list[str]
    theirs: list[str]


class TableDigest(msgspec.Struct, frozen=True, kw_only=True):
    """One table as a whole: rows, and a number that depends on each of them and not on their order."""

    table: str
    rows: int
    digest: str
    is_equal: bool


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found, each ledger at a position that both sides have. `ledgers_differ`: in how many something differs."""

    ledgers: int
    events: int
    tables: list[TableDigest]
    ledgers_differ: int
    differences: list[TableFinding]
    not_compared: list[str] = []

    def passed(self) -> bool:
        """All was compared and nothing differs."""
        return not self.ledgers_differ and not self.not_compared


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job: of a repair the findings are those before it, and it has passed if they are mended."""

    has_passed: bool | None = None
    findings: Findings | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as operators see it. `generation`: what is built, compared or mended; `against`: what it was compared with;
    `account`: of a repair that is of one account only.
    """

    id: int
    kind: JobKind
    projection: str
    generation: int
    ledger: str | None
    account: str | None
    events_per_second_max: int | None
    state: JobState
    actor: str
    reason: str
    asked_at: datetime
    began_at: datetime | None
    ended_at: datetime | None
    attempts: int
    events_done: int
    events_total: int
    events_per_second: float | None
    seconds_left: float | None
    against: int | None
    has_passed: bool | None
    findings: Findings | None
    error: str | None


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a projection, the newest first."""

    data: list[Job]


class JobFigures(NamedTuple):
    """How the jobs of one projection stand, for metrics."""

    projection: str
    rebuild_events_done: int
    rebuild_events_total: int
    rebuild_events_per_second: float
    is_different: bool


class Jobs(Protocol):
    """The jobs in Postgres, for whoever works on them."""

    def claim(self, owner: str, projections: Sequence[str], lease_ms: int) -> tuple[int, int] | None:
        """A job that nobody works on is ours now: its id, and how often it was begun since it last came further."""

    def schedule(self, projections: Sequence[str], every: timedelta) -> int:
        """What was not reconciled for so long is to be; answers how many jobs that made."""

    def figures(self, projections: Sequence[str]) -> Sequence[JobFigures]:
        """How jobs stand."""

    def end(self, id: int, owner: str, *, state: JobState, error: str | None) -> bool:  # noqa: A002
        """The job is over. False: it was not ours any more."""

    def leave(self, id: int, owner: str) -> None:  # noqa: A002
        """Somebody else may take it at once."""


class Child(Protocol):
    """A process that works on one job."""

    def wait(self, wait_s: float) -> int | None:
        """Its exit code, or None if it still works after the time."""

    def stop(self) -> int:
        """It is asked to end, and has ended."""


class Children(Protocol):
    """Starts such processes."""

    def start(self, id: int, owner: str) -> Child:  # noqa: A002
        """One that works on this job in the name of this owner."""


class JobLoop:
    """Takes jobs one after another until it is told to stop."""

    def __init__(
        self,
        owner: str,
        *,
        jobs: Jobs,
        figures: Mapping[str, Figures],
        children: Children,
        controls: Controls,
        lease_ms: int,
        attempts_max: int,
        reconcile_hours: int,
        stop: threading.Event,
        monotonic: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._jobs = jobs
        self._figures = figures
        self._projections = list(figures)
        self._children = children
        self._controls = controls
        self._lease_ms = lease_ms
        self._attempts_max = attempts_max
        self._every = timedelta(hours=reconcile_hours)
        self._monotonic = monotonic
        self._shown_at = self._scheduled_at = -math.inf
        self._stop = stop
        self._logger = structlog.get_logger("daybook.jobs").bind(owner=owner)

    def run(self) -> None:
        """Returns after `stop` was set and the child has left its job."""
        while not self._stop.is_set():
            try:
                self._show()
                self._schedule()
                claimed = self._jobs.claim(self._owner, self._projections, self._lease_ms)
                if claimed is None:
                    self._controls.wait(LOOK_S)
                    continue
                id_, attempts = claimed
                if attempts > self._attempts_max:
                    self._logger.error("job_given_up", job=id_, attempts=attempts)
                    self._jobs.end(id_, self._owner, state="failed", error="attempts_exhausted")
                else:
                    self._work(id_)
            except (Unavailable, Contention) as error:
                self._logger.warning("jobs_wait", code=error.code, **error.fields)
                self._stop.wait(LOOK_S)

    def _work(self, id_: int) -> None:
        child = self._children.start(id_, self._owner)
        self._logger.info("job_begun", job=id_)
        code = None
        while code is None and not self._stop.is_set():
            code = child.wait(LOOK_S / 10)
            self._show()
        if code is None:
            code = child.stop()
        if code:
            self._logger.warning("job_interrupted", job=id_, code=code)
            self._stop.wait(LOOK_S / 2)
        self._jobs.leave(id_, self._owner)  # if it is not over

    def _show(self) -> None:
        now = self._monotonic()
        if now - self._shown_at >= LOOK_S:
            self._shown_at = now
            for found in self._jobs.figures(self._projections):
                shown = self._figures[found.projection]
                shown.rebuild_events_done = found.rebuild_events_done
                shown.rebuild_events_total = found.rebuild_events_total
                shown.rebuild_events_per_second = found.rebuild_events_per_second
                shown.is_different = found.is_different

    def _schedule(self) -> None:
        now = self._monotonic()
        if self._every and now - self._scheduled_at >= SCHEDULE_S:
            self._scheduled_at = now
            if made := self._jobs.schedule(self._projections, self._every):
                self._logger.info("reconciliation_scheduled", count=made)
