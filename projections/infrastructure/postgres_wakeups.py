"""Hints from the command service that ledgers have grown: LISTEN daybook_appended. A lost hint costs a poll, nothing else."""

from projections.infrastructure.postgres import Database


class PostgresWakeups:
    """Listens on a connection of its own."""

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
            named = {notice.payload for notice in session.notifies(timeout=wait_s, stop_after=1)}
            if named:
                named.update(notice.payload for notice in session.notifies(timeout=0))
        return named - {""}
