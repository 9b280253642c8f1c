"""How far projections and the relay are, for metrics: one statement a reader, the same as the operators' API asks."""

from collections.abc import Sequence
from typing import Final

from projections.application.figures import Reached
from projections.infrastructure.postgres import STATEMENTS, Database, Row
from projections.infrastructure.postgres_trail import STATEMENTS as OPERATIONS

RELAY: Final = "relay"


class PostgresReached:
    """Of projections: their live generations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reached(self, names: Sequence[str]) -> dict[str, Reached]:
        """By name, of those that have a live generation."""
        found: dict[str, Reached] = {}
        with self._database.session() as session:
            for name in names:
                live = session.execute(STATEMENTS["live_generation"], {"projection": name}).fetchone()
                if live is not None:
                    of = {"projection": name, "generation": live[1]}
                    [row] = session.execute(OPERATIONS["progress"], of).fetchall()
                    found[name] = _reached(row, live[1])
        return found


class PostgresRelayReached:
    """Of the relay, whichever process is it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reached(self, names: Sequence[str]) -> dict[str, Reached]:
        """How far it has published."""
        with self._database.session() as session:
            [row] = session.execute(OPERATIONS["relay_summary"]).fetchall()
        return {name: _reached(row, 0) for name in names if name == RELAY}


def _reached(row: Row, generation: int) -> Reached:
    _, head, position, most, age = row
    return Reached(generation=generation, head=head, position=position, lag_events_max=most, lag_seconds=age)
