"""The event log read set-wise: many ledgers in one statement, bounded in events and bytes."""

from collections.abc import Mapping
from datetime import UTC

from projections.infrastructure.postgres import STATEMENTS, Database
from shared_kernel.event_log.types import RecordedEvent


class PostgresLog:
    """The log, from the primary: a replica may lack what was committed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def incarnation(self) -> str:
        """The log's incarnation as text."""
        with self._database.session() as session:
            [(incarnation,)] = session.execute(STATEMENTS["incarnation"]).fetchall()
        return str(incarnation)

    def read(self, after: Mapping[str, int], *, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """Events after the given positions, in order within each ledger; every ledger has its share of the batch."""
        if not after:
            return []
        parameters = {
            "ledgers": list(after),
            "afters": list(after.values()),
            "each_max": max(events_max // len(after), 1),
            "events_max": events_max,
            "bytes_max": bytes_max,
        }
        with self._database.session() as session:
            rows = session.cursor(binary=True).execute(STATEMENTS["events_after_each"], parameters).fetchall()
        return [
            RecordedEvent(
                ledger=ledger,
                position=position,
                type=type_,
                data=data,
                metadata=metadata,
                recorded_at=recorded_at.replace(tzinfo=UTC),  # the session's zone is UTC
            )
            for ledger, position, type_, data, metadata, recorded_at in rows
        ]
