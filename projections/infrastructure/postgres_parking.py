"""Ledgers that stand still, in Postgres: listed, inspected, parked, retried, and their events skipped, each with its row in the trail."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from psycopg import Connection

from projections.application.parking import Inspection, Letter, Skip, StandingLedger
from projections.infrastructure.postgres import Database, Row, Work
from shared_kernel.errors import Rejection
from shared_kernel.event_log.statements import load_statements

STATEMENTS: Final = load_statements("projections.infrastructure", "parking.sql")
INSPECTED_MAX: Final = 100  # chosen: the newest letters and skips of a ledger that anybody reads
_CHANGE: Final = Work(name="parking")


def note_action(
    session: Connection[Row],
    *,
    actor: str,
    action: str,
    projection: str,
    ledger: str | None = None,
    reason: str = "",
    details: Mapping[str, object] | None = None,
) -> None:
    """The trail of operators' actions has a row more, if this transaction commits."""
    values = {
        "actor": actor,
        "action": action,
        "projection": projection,
        "ledger": ledger,
        "reason": reason,
        "details": json.dumps(details or {}),
    }
    session.execute(STATEMENTS["note_action"], values)


class PostgresParking:
    """The ledgers that stand still in any generation. Used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing(
        self, projection: str | None, *, patterns: Sequence[str] | None, ledgers_max: int
    ) -> list[StandingLedger]:
        """What stands still, parked first, then the longest."""
        asked = {"projection": projection, "ledger": None, "patterns": patterns, "ledgers_max": ledgers_max}
        with self._database.session() as session:
            if projection is not None:
                _check(session, projection, None)
            return _standing(session.execute(STATEMENTS["standing_ledgers"], asked).fetchall())

    def inspect(self, projection: str, ledger: str) -> Inspection:
        """One ledger. It need not stand still now."""
        asked = {"projection": projection, "ledger": ledger, "patterns": None, "ledgers_max": INSPECTED_MAX}
        with self._database.session() as session:
            _check(session, projection, ledger)
            return Inspection(
                standing=_standing(session.execute(STATEMENTS["standing_ledgers"], asked).fetchall()),
                letters=[_letter(row) for row in session.execute(STATEMENTS["letters_of"], asked)],
                skips=[_skip(row) for row in session.execute(STATEMENTS["skips_of"], asked)],
            )

    def park(self, projection: str, ledger: str, *, actor: str, reason: str) -> list[StandingLedger]:
        """No worker moves the ledger from where it is now, in any generation, until it is retried."""
        asked = {"projection": projection, "ledger": ledger, "patterns": None, "ledgers_max": INSPECTED_MAX}
        with self._changing(projection, ledger) as session:
            held = session.execute(STATEMENTS["hold_positions"], asked).fetchall()
            generations = {"generations": [row[0] for row in held], "positions": [row[1] for row in held]}
            session.execute(STATEMENTS["park"], asked | generations)
            details = {"positions": {str(generation): position + 1 for generation, position in held}}
            note_action(
                session,
                actor=actor,
                action="park",
                projection=projection,
                ledger=ledger,
                reason=reason,
                details=details,
            )
            return _standing(session.execute(STATEMENTS["standing_ledgers"], asked).fetchall())

    def retry(
        self, projection: str, ledger: str | None, *, patterns: Sequence[str] | None, actor: str, reason: str
    ) -> list[StandingLedger]:
        """Workers try at once what stands still: this ledger, or (None) all. Rejection `ledger_not_parked`: it does not."""
        asked = {"projection": projection, "ledger": ledger, "patterns": patterns}
        with self._changing(projection, ledger) as session:
            tried = _standing(session.execute(STATEMENTS["retry"], asked).fetchall())
            if ledger is not None and not tried:
                raise Rejection("ledger_not_parked", projection=projection, ledger=ledger)
            details = {"ledgers": len({each.ledger for each in tried})}
            note_action(
                session,
                actor=actor,
                action="retry",
                projection=projection,
                ledger=ledger,
                reason=reason,
                details=details,
            )
            return tried

    def skip(self, projection: str, ledger: str, *, position: int, actor: str, reason: str) -> list[StandingLedger]:
        """The ledger goes on without the event at which it is parked. Rejection `ledger_not_parked`: not at this position."""
        asked = {"projection": projection, "ledger": ledger, "position": position, "actor": actor, "reason": reason}
        with self._changing(projection, ledger) as session:
            versions = sorted({version for (version,) in session.execute(STATEMENTS["parked_versions"], asked)})
            if not versions:
                raise Rejection("ledger_not_parked", projection=projection, ledger=ledger, position=position)
            session.execute(STATEMENTS["skip"], asked | {"versions": versions})
            note_action(
                session,
                actor=actor,
                action="skip",
                projection=projection,
                ledger=ledger,
                reason=reason,
                details={"position": position, "versions": versions},
            )
            return _standing(session.execute(STATEMENTS["retry_skipped"], asked).fetchall())

    @contextmanager
    def _changing(self, projection: str, ledger: str | None) -> Iterator[Connection[Row]]:
        with self._database.transaction(_CHANGE) as session:
            _check(session, projection, ledger)
            yield session
            session.execute(STATEMENTS["tell_control"], {"projection": projection})


def _check(session: Connection[Row], projection: str, ledger: str | None) -> None:
    if session.execute(STATEMENTS["projection_exists"], {"projection": projection}).fetchone() is None:
        raise Rejection("projection_not_found", projection=projection)
    if ledger is not None and session.execute(STATEMENTS["ledger_exists"], {"ledger": ledger}).fetchone() is None:
        raise Rejection("ledger_not_found", ledger=ledger)


def _standing(rows: Sequence[Row]) -> list[StandingLedger]:
    return [StandingLedger(**dict(zip(StandingLedger.__struct_fields__, row, strict=True))) for row in rows]


def _letter(row: Row) -> Letter:
    return Letter(**dict(zip(Letter.__struct_fields__, row, strict=True)))


def _skip(row: Row) -> Skip:
    return Skip(**dict(zip(Skip.__struct_fields__, row, strict=True)))
