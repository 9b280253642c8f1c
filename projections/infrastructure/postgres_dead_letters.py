"""The table of dead letters, for the one process of a projection that carries them to the topic now."""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from projections.application.ports import DeadLetter
from projections.infrastructure.postgres import STATEMENTS, Database

_LOCK_LETTERS: Final = 0x626F6F6D  # chosen: beside those of the generations


class PostgresDeadLetters:
    """The dead letters of one projection."""

    def __init__(self, database: Database, projection: str) -> None:
        self._database = database
        self._of = {"projection": projection}
        self._key = crc32(projection.encode()) - 2**31
        self._carries_on: object | None = None

    def unpublished(self, letters_max: int) -> list[DeadLetter]:
        """The oldest; none where another process carries them, until that ends or loses its connection."""
        with self._database.session() as session:
            asked = self._of | {"letters_max": letters_max}
            rows = session.execute(STATEMENTS["unpublished_letters"], asked).fetchall()
            if rows and self._carries_on is not session:
                lock = "select pg_try_advisory_lock(%s, %s)"
                if session.execute(lock, [_LOCK_LETTERS, self._key]).fetchone() != (True,):
                    return []
                self._carries_on = session
        return [DeadLetter(**dict(zip(DeadLetter.__struct_fields__, row, strict=True))) for row in rows]

    def published(self, letters: Sequence[DeadLetter]) -> None:
        """These are in the topic."""
        sent = {
            "generations": [letter.generation for letter in letters],
            "ledgers": [letter.ledger for letter in letters],
            "positions": [letter.position for letter in letters],
            "attempts": [letter.attempts for letter in letters],
        }
        with self._database.session() as session:
            session.execute(STATEMENTS["letters_published"], self._of | sent)
