"""Jobs in Postgres: who works on which, how far it is, and what it found."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from projections.application.jobs import Findings, Job, JobFigures, JobState, Outcome
from projections.application.rebuild import Progress
from projections.infrastructure.postgres import Database, Row, Work
from shared_kernel.event_log.statements import load_statements

STATEMENTS: Final = load_statements("projections.infrastructure", "jobs.sql")
_SCHEDULE: Final = Work(name="schedule")
SCHEDULE_LOCK: Final = 0x626F6F6E73636864  # chosen: beside those of the generations
NOTHING: Final = Outcome()


class PostgresJobs:
    """Claims, keeps and ends. Every write after the claim names the owner: a job that was lost is left alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, owner: str, projections: Sequence[str], lease_ms: int) -> tuple[int, int] | None:
        """A job that nobody works on is ours now: its id, and how often it was begun since it last came further."""
        of = {"owner": owner, "projections": list(projections), "lease": timedelta(milliseconds=lease_ms)}
        with self._database.session() as session:
            row = session.execute(STATEMENTS["claim_job"], of).fetchone()
        return None if row is None else (row[0], row[1])

    def schedule(self, projections: Sequence[str], every: timedelta) -> int:
        """What was not reconciled for so long is to be; answers how many jobs that made."""
        of = {"projections": list(projections), "every": every, "key": SCHEDULE_LOCK}
        with self._database.transaction(_SCHEDULE) as session:
            session.execute(STATEMENTS["hold_schedule"], of)
            return session.execute(STATEMENTS["schedule_reconciliations"], of).rowcount

    def figures(self, projections: Sequence[str]) -> list[JobFigures]:
        """How jobs stand, for metrics."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["job_figures"], {"projections": list(projections)}).fetchall()
        return [JobFigures(*row) for row in rows]

    def find(self, id: int) -> Job | None:  # noqa: A002
        """The job."""
        with self._database.session() as session:
            row = session.execute(STATEMENTS["job"], {"id": id}).fetchone()
        return None if row is None else job_of(row)

    def keep(self, id: int, owner: str, lease_ms: int, progress: Progress) -> bool:  # noqa: A002
        """The lease is renewed and the progress told. False: the job was cancelled, or is another's."""
        of = {
            "id": id,
            "owner": owner,
            "lease": timedelta(milliseconds=lease_ms),
            "events_done": progress.done,
            "events_total": progress.total,
            "events_per_second": progress.rate,
        }
        with self._database.session() as session:
            return session.execute(STATEMENTS["keep_job"], of).rowcount == 1

    def end(
        self,
        id: int,  # noqa: A002
        owner: str,
        *,
        state: JobState,
        error: str | None = None,
        outcome: Outcome = NOTHING,
    ) -> bool:
        """The job is over. False: it was not ours any more."""
        of = {
            "id": id,
            "owner": owner,
            "state": state,
            "error": error,
            "has_passed": outcome.has_passed,
            "findings": None if outcome.findings is None else msgspec.json.encode(outcome.findings).decode(),
        }
        with self._database.session() as session:
            return session.execute(STATEMENTS["end_job"], of).rowcount == 1

    def leave(self, id: int, owner: str) -> None:  # noqa: A002
        """Somebody else may take it at once."""
        with self._database.session() as session:
            session.execute(STATEMENTS["leave_job"], {"id": id, "owner": owner})


def job_of(row: Row) -> Job:
    """A job from the columns of `job` and `jobs_of`."""
    (*head, done, total, rate, against, has_passed, findings, error) = row
    id_, kind, projection, generation, ledger, account, fastest, *asked = head
    state, actor, reason, asked_at, began_at, ended_at, attempts = asked
    return Job(
        id=id_,
        kind=kind,
        projection=projection,
        generation=generation,
        ledger=ledger,
        account=account,
        events_per_second_max=fastest,
        state=state,
        actor=actor,
        reason=reason,
        asked_at=asked_at,
        began_at=began_at,
        ended_at=ended_at,
        attempts=attempts,
        events_done=done,
        events_total=total,
        events_per_second=None if rate is None else round(rate, 1),
        seconds_left=round(max(total - done, 0) / rate, 1) if rate and state == "running" else None,
        against=against,
        has_passed=has_passed,
        findings=None if findings is None else msgspec.json.decode(findings, type=Findings),
        error=error,
    )
