"""What the relay remembers in Postgres: its lease and its positions, every write fenced by the lease's epoch."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg

from projections.application.ports import Lag, Move
from projections.infrastructure.postgres import STATEMENTS, Database, Work
from shared_kernel.event_log import binary
from shared_kernel.transactions import again

_POSITIONS: Final = Work(name="relay_positions")
_FENCED: Final = "DB008"  # raised by projections.advance_relay


class PostgresRelayed:
    """The lease row and the relay's positions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, owner: str, lease_ms: int) -> int | None:
        """A new epoch if the lease was free or over, by the database's clock."""
        parameters = {"owner": owner, "lease": timedelta(milliseconds=lease_ms)}
        with self._database.session() as session:
            row = session.execute(STATEMENTS["acquire_lease"], parameters).fetchone()
        return None if row is None else int(row[0])

    def renew(self, owner: str, epoch: int, lease_ms: int) -> bool:
        """False: another relay has taken over."""
        parameters = {"owner": owner, "epoch": epoch, "lease": timedelta(milliseconds=lease_ms)}
        with self._database.session() as session:
            return session.execute(STATEMENTS["renew_lease"], parameters).rowcount == 1

    def release(self, owner: str, epoch: int) -> None:
        """The lease is nobody's at once, if it was still ours."""
        with self._database.session() as session:
            session.execute(STATEMENTS["release_lease"], {"owner": owner, "epoch": epoch})

    def positions(self, epoch: int, incarnation: str) -> dict[str, int]:
        """Published positions. Those of another incarnation begin again at 0: all its events are published anew.

        Consumers drop the other incarnation's messages, read or unread, so what they had of it is no start.
        """
        of = {"epoch": epoch, "incarnation": incarnation}
        with self._database.transaction(_POSITIONS) as session:
            if session.execute(STATEMENTS["hold_lease"], of).fetchone() is not None:
                session.execute(STATEMENTS["forget_other_incarnations"], of)
            rows = session.execute(STATEMENTS["relay_positions"]).fetchall()
        return dict(rows)

    def lags(self) -> list[Lag]:
        """Every ledger whose published position is not its head."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["relay_lags"]).fetchall()
        return [Lag(ledger=ledger, head=head, position=position) for ledger, head, position in rows]

    def advance(self, epoch: int, incarnation: str, moves: Sequence[Move]) -> bool:
        """Writes all positions or none. False: the epoch, the incarnation or a previous position is another."""
        parameters = (
            binary.int8(epoch),
            UUID(incarnation).bytes,
            binary.text_array([move.ledger for move in moves]),
            binary.int8_array([move.previous for move in moves]),
            binary.int8_array([move.position for move in moves]),
        )

        def advance() -> bool:
            with self._database.session():
                try:
                    self._database.wire.ask("advance_relay", parameters)
                except psycopg.Error as error:
                    if error.sqlstate == _FENCED:
                        return False
                    raise
                return True

        return again(advance)  # or the relay would step down for a lock that somebody held for a moment
