"""What operators see and change, in Postgres: the same from whichever process it is asked.

One connection, one request at a time: operators are few, and what takes long is a job.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

from psycopg import Connection

from projections.application.figures import Figures
from projections.application.jobs import Job, JobList
from projections.application.operations import (
    ActionList,
    Asker,
    GenerationStatus,
    LedgerState,
    LedgerStatus,
    Pause,
    Progress,
    ProjectionList,
    ProjectionState,
    ProjectionStatus,
    ProjectionSummary,
    RelayLedger,
    RelayStatus,
)
from projections.domain.projection import Projection
from projections.infrastructure import postgres_jobs
from projections.infrastructure.postgres import Database, Row, Work
from projections.infrastructure.postgres_builds import PostgresBuilds
from projections.infrastructure.postgres_jobs import PostgresJobs, job_of
from projections.infrastructure.postgres_trail import STATEMENTS, actions, note
from shared_kernel.errors import Rejection
from shared_kernel.tags import account_tag

_CONTROL: Final = Work(name="control")
SAMPLE_S: Final = 1.0  # chosen: a busy projector rests up to a quarter of a second between two batches


class PostgresOperations:
    """Looks and changes, for all projections that code or database know."""

    def __init__(
        self,
        database: Database,
        projections: Mapping[str, Projection],
        figures: Mapping[str, Figures],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._database = database
        self._projections = projections
        self._figures = figures
        self._sleep = sleep

    def projections(self) -> ProjectionList:
        """All, in the order of names; measured in the same way as one of them."""
        rates = _Rates()
        self._look_at_all(rates)
        self._sleep(SAMPLE_S)
        return ProjectionList(data=self._look_at_all(rates))

    def projection(self, name: str, asker: Asker, *, ledger: str | None, limit: int) -> ProjectionStatus:
        """One of them. It takes SAMPLE_S: rates are measured while it is asked. Rejection `ledger_not_found`."""
        rates = _Rates()
        self._look(name, asker, rates, ledger=ledger, limit=limit)
        self._sleep(SAMPLE_S)
        return self._look(name, asker, rates, ledger=ledger, limit=limit)

    def relay(self, asker: Asker, *, ledger: str | None, limit: int) -> RelayStatus:
        """The relay; measured in the same way."""
        rates = _Rates()
        self._look_at_relay(asker, rates, ledger=ledger, limit=limit)
        self._sleep(SAMPLE_S)
        return self._look_at_relay(asker, rates, ledger=ledger, limit=limit)

    def pause(self, name: str, asker: Asker) -> ProjectionSummary:
        """No process feeds it within a second, until it is resumed. Paused twice, the first pause stands."""
        return self._control(name, "pause", asker)

    def resume(self, name: str, asker: Asker) -> ProjectionSummary:
        """It is fed again within a second."""
        return self._control(name, "resume", asker)

    def rebuild(self, name: str, asker: Asker, *, events_per_second_max: int | None) -> Job:
        """A new generation, and the job that builds it."""
        return self._job(self._builds(name).rebuild(asker, events_per_second_max=events_per_second_max))

    def verify(self, name: str, asker: Asker, *, generation: int | None) -> Job:
        """A job that compares a generation with the live one."""
        return self._job(self._builds(name).verify(asker, generation=generation))

    def reconcile(self, name: str, asker: Asker, *, ledger: str | None) -> Job:
        """A job that compares the live generation, or a ledger of it, with a fold of the log."""
        with self._database.session() as session:
            self._check(session, name)
            _check_ledger(session, ledger)
        return self._job(self._builds(name).look_after(asker, "reconcile", ledger=ledger))

    def repair(self, name: str, asker: Asker, *, ledger: str, account: str | None = None) -> Job:
        """A job that folds a ledger of the live generation anew, or one account of it."""
        with self._database.session() as session:
            self._check(session, name)
            _check_ledger(session, ledger)
            of = {"ledger": ledger, "tag": account_tag(account or "")}
            if account is not None and session.execute(STATEMENTS["is_tagged"], of).fetchone() is None:
                raise Rejection("account_not_found", ledger=ledger, account=account)
        return self._job(self._builds(name).look_after(asker, "repair", ledger=ledger, account=account))

    def swap(self, name: str, asker: Asker, *, generation: int | None, is_forced: bool) -> ProjectionSummary:
        """Readers see another generation."""
        self._builds(name).swap(asker, generation=generation, is_forced=is_forced)
        return self._seen(name)

    def rollback(self, name: str, asker: Asker) -> ProjectionSummary:
        """Readers see the generation before."""
        self._builds(name).rollback(asker)
        return self._seen(name)

    def drop(self, name: str, asker: Asker, *, generation: int) -> ProjectionSummary:
        """A generation is gone."""
        self._builds(name).drop(asker, generation=generation)
        return self._seen(name)

    def job(self, name: str, job: int) -> Job:
        """One job of a projection. Rejection `job_not_found`."""
        with self._database.session() as session:
            self._check(session, name)
        found = PostgresJobs(self._database).find(job)
        if found is None or found.projection != name:
            raise Rejection("job_not_found", projection=name, job=job)
        return found

    def jobs(self, name: str, *, limit: int) -> JobList:
        """The newest jobs of a projection."""
        with self._database.session() as session:
            self._check(session, name)
            rows = session.execute(postgres_jobs.STATEMENTS["jobs_of"], {"projection": name, "limit": limit})
            return JobList(data=[job_of(row) for row in rows])

    def trail(
        self, asker: Asker, *, projection: str | None, ledger: str | None, before: int | None, limit: int
    ) -> ActionList:
        """What operators did, the newest first."""
        with self._database.session() as session:
            if projection is not None:
                self._check(session, projection)
            found = actions(session, asker, projection=projection, ledger=ledger, before=before, limit=limit)
        return ActionList(data=found)

    def _job(self, id_: int) -> Job:
        found = PostgresJobs(self._database).find(id_)
        if found is None:
            raise Rejection("job_not_found", job=id_)
        return found

    def _seen(self, name: str) -> ProjectionSummary:
        with self._database.session() as session:
            return self._summary(session, name)

    def _control(self, name: str, action: Literal["pause", "resume"], asker: Asker) -> ProjectionSummary:
        of = {"projection": name, "actor": asker.subject, "reason": asker.reason}
        with self._database.transaction(_CONTROL) as session:
            self._check(session, name)
            if session.execute(STATEMENTS[action], of).rowcount:
                note(session, asker, action, projection=name)
            return self._summary(session, name)

    def _builds(self, name: str) -> PostgresBuilds:
        projection = self._projections.get(name)
        if projection is None:
            raise Rejection("projection_not_found", projection=name)
        return PostgresBuilds(self._database, projection)

    def _check(self, session: Connection[Row], name: str) -> None:
        if name not in self._projections and name not in self._figures:
            known = {found for (found,) in session.execute(STATEMENTS["projections_known"])}
            if name not in known:
                raise Rejection("projection_not_found", projection=name)

    def _look(self, name: str, asker: Asker, rates: "_Rates", *, ledger: str | None, limit: int) -> ProjectionStatus:
        with self._database.session() as session:
            self._check(session, name)
            _check_ledger(session, ledger)
            summary = self._summary(session, name, rates)
            of = {"projection": name}
            generations = [
                GenerationStatus(
                    generation=generation,
                    version=version,
                    state=state,
                    is_of_this_log=is_of_this_log,
                    created_at=created_at,
                    progress=summary.progress
                    if state == "live"
                    else _progress(session, name, generation, rates)
                    if state != "dropped"
                    else None,
                )
                for generation, version, _, state, is_of_this_log, _, created_at in session.execute(
                    STATEMENTS["generations_of"], of
                ).fetchall()
            ]
            asked = {"generation": summary.live_generation, **_of_ledgers(asker, ledger, limit)}
            rows = session.execute(STATEMENTS["ledgers_of"], of | asked).fetchall()
        return ProjectionStatus(
            projection=summary, generations=generations, ledgers=[_ledger(row, rates) for row in rows]
        )

    def _summary(self, session: Connection[Row], name: str, rates: "_Rates | None" = None) -> ProjectionSummary:
        of = {"projection": name}
        rows = session.execute(STATEMENTS["generations_of"], of).fetchall()
        live = next((row for row in rows if row[3] == "live"), None)
        paused = session.execute(STATEMENTS["pause_of"], of).fetchone()
        known = self._projections.get(name)
        waiting = parked = 0
        last_error = progress = None
        figures = self._figures.get(name, Figures())
        if live is not None:
            [(waiting, parked, last_error)] = session.execute(
                STATEMENTS["standing_of"], of | {"generation": live[0]}
            ).fetchall()
            progress = _progress(session, name, live[0], rates)
        return ProjectionSummary(
            projection=name,
            state=_state(live, is_paused=paused is not None, is_stopped=figures.is_stopped),
            version=None if known is None else known.version,
            live_generation=None if live is None else live[0],
            waiting=waiting,
            parked=parked,
            last_error=last_error,
            trouble=figures.trouble,
            progress=progress,
            pause=None if paused is None else Pause(since=paused[0], actor=paused[1], reason=paused[2]),
        )

    def _look_at_all(self, rates: "_Rates") -> list[ProjectionSummary]:
        with self._database.session() as session:
            known = {name for (name,) in session.execute(STATEMENTS["projections_known"])}
            return [
                self._summary(session, name, rates) for name in sorted(known.union(self._projections, self._figures))
            ]

    def _look_at_relay(self, asker: Asker, rates: "_Rates", *, ledger: str | None, limit: int) -> RelayStatus:
        with self._database.session() as session:
            _check_ledger(session, ledger)
            [(owner, epoch, expires_at, is_held)] = session.execute(STATEMENTS["relay_lease"]).fetchall()
            [figures] = session.execute(STATEMENTS["relay_summary"]).fetchall()
            rows = session.execute(STATEMENTS["relay_ledgers"], _of_ledgers(asker, ledger, limit)).fetchall()
        return RelayStatus(
            state="active" if is_held else "no_relay",
            owner=owner,
            epoch=epoch,
            expires_at=expires_at,
            progress=_shown_progress(figures, rates.sample("relay", figures[2])),
            ledgers=[
                RelayLedger(
                    ledger=each,
                    head=head,
                    position=position,
                    lag_events=lag,
                    lag_seconds=age,
                    events_per_second=rates.sample(f"relay/{each}", position),
                )
                for each, head, position, lag, age in rows
            ],
        )


class _Rates:
    """How fast things move: of each name the events a second since its sample before, None at its first."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def sample(self, name: str, value: int) -> float | None:
        now = time.monotonic()
        before = self._seen.get(name)
        self._seen[name] = (now, value)
        return None if before is None else round(max(value - before[1], 0) / (now - before[0]), 1)


def _check_ledger(session: Connection[Row], ledger: str | None) -> None:
    if ledger is not None and session.execute(STATEMENTS["ledger_exists"], {"ledger": ledger}).fetchone() is None:
        raise Rejection("ledger_not_found", ledger=ledger)


def _of_ledgers(asker: Asker, ledger: str | None, limit: int) -> dict[str, object]:
    return {"ledger": ledger, "patterns": asker.ledgers, "limit": limit}


def _state(live: Row | None, *, is_paused: bool, is_stopped: bool) -> ProjectionState:
    if live is None:
        return "absent"
    if not live[4] or is_stopped:
        return "stopped"
    return "paused" if is_paused else "running"


def _progress(session: Connection[Row], name: str, generation: int, rates: _Rates | None) -> Progress:
    [figures] = session.execute(STATEMENTS["progress"], {"projection": name, "generation": generation}).fetchall()
    return _shown_progress(figures, None if rates is None else rates.sample(f"{name}/{generation}", figures[2]))


def _shown_progress(figures: Row, rate: float | None) -> Progress:
    ledgers, events, applied, most, age = figures
    return Progress(
        ledgers=ledgers,
        events=events,
        applied=applied,
        lag_events=events - applied,
        lag_events_max=most,
        lag_seconds=round(age, 3),
        events_per_second=rate,
    )


def _ledger(row: Row, rates: _Rates) -> LedgerStatus:
    ledger, head, position, lag, age, state, error_class, error, attempts, since, last_attempt_at = row
    shown: LedgerState = state if state is not None else "behind" if lag else "current"
    return LedgerStatus(
        ledger=ledger,
        state=shown,
        head=head,
        position=position,
        lag_events=lag,
        lag_seconds=age,
        events_per_second=rates.sample(f"ledger/{ledger}", position),
        error_class=error_class,
        error=error,
        attempts=attempts,
        since=since,
        last_attempt_at=last_attempt_at,
    )
