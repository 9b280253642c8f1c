"""What operators do with the generations of one projection: have one built, take it over, go back, drop it. In one transaction each,
with a row of the trail.
"""

import time
from typing import Final

from psycopg import Connection, sql

from projections.application.jobs import JobKind
from projections.application.operations import Asker
from projections.application.ports import Generation
from projections.domain.projection import Projection
from projections.infrastructure import postgres_jobs
from projections.infrastructure.postgres import STATEMENTS, Database, Row
from projections.infrastructure.postgres_digests import by_account
from projections.infrastructure.postgres_generations import PostgresGenerations, incarnation_of
from projections.infrastructure.postgres_trail import note
from shared_kernel.errors import Field, Rejection

CATCH_UP_S_MAX: Final = 2.0  # chosen: for so long a swap may hold the live side up; locks are waited for twice as long
CATCH_UP_LOOK_S: Final = 0.02


class PostgresBuilds:
    """The builds of one projection. Every change happens under the lock of its generations."""

    def __init__(self, database: Database, projection: Projection) -> None:
        self._generations = PostgresGenerations(database, projection)
        self._projection = projection
        self._of = {"projection": projection.name}

    def rebuild(self, asker: Asker, *, events_per_second_max: int | None) -> int:
        """A generation is there to be built, and a job that builds it; answers the job's id.

        Rejection `rebuild_running`: there is one already; `log_restored`: nothing of this log is live, so a projector builds
        what `python -m projections rebuild` asks for and takes it over by itself.
        """
        with self._generations.changes() as session:
            running = session.execute(postgres_jobs.STATEMENTS["running_rebuild"], self._of).fetchone()
            if running is not None:
                raise Rejection("rebuild_running", projection=self._projection.name, job=running[0])
            incarnation = incarnation_of(session)
            live = self._live(session)
            if live.incarnation != incarnation:
                raise Rejection("log_restored", projection=self._projection.name, generation=live.number)
            generation = self._generations.add(session, state="building", incarnation=incarnation, is_automatic=False)
            job = self._add_job(
                session, asker, "rebuild", generation.number, events_per_second_max=events_per_second_max
            )
            self._note(session, asker, "rebuild", generation=generation.number, job=job)
        return job

    def verify(self, asker: Asker, *, generation: int | None) -> int:
        """A job that compares a generation (else the newest that is whole and not live) with the live one; its id."""
        with self._generations.changes() as session:
            live = self._live(session)
            target = self._target(session, generation)
            if target.number == live.number:
                raise Rejection("generation_live", projection=target.projection, generation=target.number)
            if target.state == "building":
                raise Rejection("generation_building", projection=target.projection, generation=target.number)
            job = self._add_job(session, asker, "verify", target.number, against=live.number)
            self._note(session, asker, "verify", generation=target.number, against=live.number, job=job)
        return job

    def look_after(self, asker: Asker, kind: JobKind, *, ledger: str | None, account: str | None = None) -> int:
        """A job that repairs a ledger of the live generation or an account of it, or reconciles a ledger (or all of them) with
        the log; its id. Rejection `no_rows_by_account`: no table of the projection names accounts.
        """
        if account is not None and not by_account(self._projection.tables):
            raise Rejection("no_rows_by_account", projection=self._projection.name, account=account)
        with self._generations.changes() as session:
            live = self._live(session)
            job = self._add_job(session, asker, kind, live.number, ledger=ledger, account=account)
            self._note(session, asker, kind, ledger=ledger, account=account, generation=live.number, job=job)
        return job

    def swap(self, asker: Asker, *, generation: int | None, is_forced: bool) -> None:
        """Readers see this generation (else the newest that waits). Rejection `not_verified` unless it is forced."""
        with self._generations.changes() as session:
            live = self._live(session)
            target = self._target(session, generation)
            if not is_forced and target.number != live.number:
                asked = self._of | {"generation": target.number, "against": live.number}
                if session.execute(postgres_jobs.STATEMENTS["is_verified"], asked).fetchone() != (True,):
                    raise Rejection("not_verified", projection=target.projection, generation=target.number)
            self._take_over(session, target, live)
            self._note(session, asker, "swap", generation=target.number, before=live.number, is_forced=is_forced)

    def rollback(self, asker: Asker) -> None:
        """Readers see the generation that was live before. Rejection `nothing_to_roll_back`: there is none, or it was dropped."""
        with self._generations.changes() as session:
            live = self._live(session)
            target = self._generations.one(session, "previous_generation")
            if target is None:
                raise Rejection("nothing_to_roll_back", projection=live.projection, generation=live.number)
            self._take_over(session, target, live)
            self._note(session, asker, "rollback", generation=target.number, before=live.number)

    def drop(self, asker: Asker, *, generation: int) -> None:
        """Its tables are gone, and whatever built it ends. Rejection `generation_live`: readers read it."""
        with self._generations.changes() as session:
            target = self._target(session, generation)
            if target.state == "live":
                raise Rejection("generation_live", projection=target.projection, generation=target.number)
            of = self._of | {"generation": target.number, "state": "dropped"}
            session.execute(postgres_jobs.STATEMENTS["cancel_jobs"], of)
            session.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(target.schema_name)))
            session.execute(STATEMENTS["forget_generation"], of)
            session.execute(STATEMENTS["set_state"], of)
            self._note(session, asker, "drop", generation=target.number)

    def _live(self, session: Connection[Row]) -> Generation:
        live = self._generations.one(session, "live_generation")
        if live is None:
            raise Rejection("generation_not_found", projection=self._projection.name)
        return live

    def _target(self, session: Connection[Row], number: int | None) -> Generation:
        if number is None:
            found = self._generations.one(session, "built_generation")
        else:
            found = self._generations.one(session, "generation", generation=number)
        if found is None:
            raise Rejection("generation_not_found", projection=self._projection.name, generation=number)
        return found

    def _take_over(self, session: Connection[Row], target: Generation, live: Generation) -> None:
        """The live side is held until the other has caught up with it, so that no reader goes back."""
        where: dict[str, Field] = {"projection": target.projection, "generation": target.number}
        if target.number == live.number:
            raise Rejection("generation_live", **where)
        if target.state == "building":
            raise Rejection("generation_building", **where)
        of = self._of | {"generation": target.number}
        session.execute(STATEMENTS["hold_live"], self._of)
        deadline = time.monotonic() + CATCH_UP_S_MAX
        while session.execute(STATEMENTS["is_behind_live"], of).fetchone() == (True,):
            if time.monotonic() > deadline:
                raise Rejection("generation_behind", **where)
            time.sleep(CATCH_UP_LOOK_S)
        session.execute(STATEMENTS["set_states"], of)
        session.execute(STATEMENTS["make_live"], of)

    def _add_job(
        self,
        session: Connection[Row],
        asker: Asker,
        kind: str,
        generation: int,
        *,
        ledger: str | None = None,
        account: str | None = None,
        against: int | None = None,
        events_per_second_max: int | None = None,
    ) -> int:
        of = self._of | {
            "kind": kind,
            "generation": generation,
            "ledger": ledger,
            "account": account,
            "against": against,
            "events_per_second_max": events_per_second_max,
            "actor": asker.subject,
            "reason": asker.reason,
        }
        [(job,)] = session.execute(postgres_jobs.STATEMENTS["add_job"], of).fetchall()
        return int(job)

    def _note(
        self,
        session: Connection[Row],
        asker: Asker,
        action: str,
        *,
        ledger: str | None = None,
        **details: str | int | bool | None,
    ) -> None:
        note(session, asker, action, projection=self._projection.name, ledger=ledger, details=details)
