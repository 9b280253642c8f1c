"""One generation of a read model in Postgres: rows, positions and waiting ledgers, written together or not at all.

The compare-and-set of positions comes first in the transaction, in ledger order: a writer that lost the race has written
nothing, and two writers never wait for each other in a circle.
"""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import Connection, Rollback, sql

from projections.application.ports import Batch, ForeignGeneration, Generation, Lag, Move, Standing
from projections.domain.projection import Key, Projection, Totals
from projections.infrastructure.postgres import STATEMENTS, Database, Row


class PostgresReadModel:
    """Reads and writes one generation. `totals` is the statement for the latest totals of keys, given as one array a part."""

    def __init__(
        self, database: Database, *, projection: Projection, generation: Generation, totals: LiteralString
    ) -> None:
        self._database = database
        self._generation = generation
        self._totals = sql.SQL(totals).format(schema=sql.Identifier(generation.schema_name))
        self._of = {"projection": generation.projection, "generation": generation.number}
        self._incarnation = generation.incarnation
        self._copies = {
            table: sql.SQL("copy {} ({}) from stdin").format(
                sql.Identifier(generation.schema_name, table), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            for table, columns in projection.tables.items()
        }

    def positions(self, ledgers: Sequence[str] | None = None) -> dict[str, int]:
        """Positions of these ledgers (all, if none are named). ForeignGeneration where one is of another incarnation."""
        asked = self._of | {"ledgers": None if ledgers is None else list(ledgers)}
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["positions"], asked).fetchall()
        for ledger, position, incarnation in rows:
            if incarnation != self._incarnation:
                raise ForeignGeneration(self._generation, ledger=ledger, position=position)
        return {ledger: position for ledger, position, _ in rows}

    def totals(self, keys: Sequence[Key]) -> dict[Key, Totals]:
        """The latest totals of those keys that have any."""
        parts = [list(part) for part in zip(*keys, strict=True)]
        width = len(parts)
        with self._database.session() as session:
            rows = session.execute(self._totals, parts, prepare=False).fetchall()
        return {row[:width]: tuple(map(int, row[width:])) for row in rows}

    def write(self, batch: Batch) -> bool:
        """Writes all of it or nothing; a ledger that passes its fault is rid of it. False: somebody else was there first."""
        with self._database.session() as session, session.transaction():
            if not self._move(session, batch.moves):
                raise Rollback
            for table, rows in batch.rows.items():
                if rows:
                    with session.cursor().copy(self._copies[table]) as copy:
                        for row in rows:
                            copy.write_row(row)
            if batch.faults:
                session.execute(STATEMENTS["stand_still"], self._of | _columns_of_faults(batch))
            return True
        return False

    def standing(self) -> list[Standing]:
        """The ledgers that stand still."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["standing"], self._of).fetchall()
        return [
            Standing(ledger=ledger, position=position, attempts=attempts, is_parked=is_parked)
            for ledger, position, attempts, is_parked in rows
        ]

    def lags(self) -> list[Lag]:
        """Every ledger whose position is not its head."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["lags"], self._of).fetchall()
        return [Lag(ledger=ledger, head=head, position=position) for ledger, head, position in rows]

    def announce(self, moves: Sequence[Move]) -> None:
        """Tells waiting readers what can be seen; they look at the live generation only, so others keep silent."""
        if self._generation.state == "live":
            name = self._generation.projection
            payloads = [f"{name}/{move.ledger}/{move.position}" for move in moves]
            with self._database.session() as session:
                session.execute(STATEMENTS["announce"], {"payloads": payloads})

    def _move(self, session: Connection[Row], moves: Sequence[Move]) -> bool:
        if not moves:
            return True
        ledgers = [move.ledger for move in moves]
        of = self._of | {
            "incarnation": self._incarnation,
            "ledgers": ledgers,
            "previous": [move.previous for move in moves],
            "reached": [move.position for move in moves],
            "recorded_at": [move.recorded_at for move in moves],
        }
        new = [move.ledger for move in moves if move.previous == 0]
        if new:
            session.execute(STATEMENTS["begin_positions"], of | {"ledgers": new})
        locked = session.execute(STATEMENTS["lock_positions"], of).fetchall()
        expected = [(move.ledger, move.previous, True) for move in moves]
        if locked != expected or session.execute(STATEMENTS["move_positions"], of).rowcount != len(moves):
            if session.execute(STATEMENTS["incarnation"]).fetchone() != (self._incarnation,):
                raise ForeignGeneration(self._generation)
            return False
        session.execute(STATEMENTS["go_on"], of)
        return True


def _columns_of_faults(batch: Batch) -> dict[str, object]:
    faults = sorted(batch.faults, key=lambda fault: fault.ledger)
    return {
        "ledgers": [fault.ledger for fault in faults],
        "positions": [fault.position for fault in faults],
        "error_classes": [fault.error_class for fault in faults],
        "errors": [fault.error for fault in faults],
    }
