"""The trail of what operators did: who, when, why, what it changed. Only added to, in the transaction of the change itself."""

from collections.abc import Mapping
from typing import Final

from psycopg import Connection

from projections.application.operations import Action, Asker
from projections.infrastructure.postgres import Row
from projections.infrastructure.postgres_parking import note_action
from shared_kernel.event_log.statements import load_statements

STATEMENTS: Final = load_statements("projections.infrastructure", "operations.sql")


def note(
    session: Connection[Row],
    asker: Asker,
    action: str,
    *,
    projection: str,
    ledger: str | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """A row of the trail; every process looks at what is wanted now."""
    note_action(
        session,
        actor=asker.subject,
        action=action,
        projection=projection,
        ledger=ledger,
        reason=asker.reason,
        details=details,
    )
    session.execute(STATEMENTS["tell_control"], {"projection": projection})


def actions(
    session: Connection[Row],
    asker: Asker,
    *,
    projection: str | None,
    ledger: str | None,
    before: int | None,
    limit: int,
) -> list[Action]:
    """What was done, the newest first: of one projection, of one ledger, before an action's id."""
    of = {
        "projection": projection,
        "ledger": ledger,
        "patterns": asker.ledgers,
        "before": before,
        "limit": limit,
    }
    return [
        Action(
            id=id_,
            at=at,
            actor=actor,
            action=action,
            projection=of_projection,
            ledger=of_ledger,
            reason=reason,
            details=details,
        )
        for id_, at, actor, action, of_projection, of_ledger, reason, details in session.execute(
            STATEMENTS["actions"], of
        )
    ]
