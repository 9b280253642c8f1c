"""Hints from the command service that ledgers have grown: LISTEN daybook_appended. A lost hint costs a poll, nothing else."""

import select

from psycopg import pq

from projections.infrastructure.postgres import Database


class PostgresWakeups:
    """Listens on a connection of its own, past the driver's generator of notifications, which takes several times as long."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listening: object | None = None

    def wait(self, wait_s: float) -> set[str]:
        """Ledgers named since the last call; waits for the first."""
        with self._database.session() as session:
            if self._listening is not session:
                session.execute("listen daybook_appended")
                self._listening = session
                return set()  # what was appended before is for the next look
            readable = select.poll()
            readable.register(session.pgconn.socket, select.POLLIN)
            if readable.poll(wait_s * 1_000):
                session.pgconn.consume_input()
            return _named(session.pgconn)


def _named(pgconn: pq.abc.PGconn) -> set[str]:
    named = set()
    while (notice := pgconn.notifies()) is not None:
        named.add(notice.extra.decode())
    return named - {""}
