"""An empty log and empty read models for each test, and a kit that makes the projector's parts on them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg
import pytest

from projections.application.figures import Figures
from projections.application.ports import Generation
from projections.application.worker import Bounds, Worker
from projections.domain.projection import Projection
from projections.infrastructure.postgres import Database as Session
from projections.infrastructure.postgres_generations import PostgresGenerations
from projections.infrastructure.postgres_log import PostgresLog
from projections.infrastructure.postgres_parking import PostgresParking
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.shipped import shipped
from shared_kernel.events import Event
from tests.services import Database
from tests.support import histories
from tests.support.plain_books import plain_books, read_books, read_log
from tests.support.postgres_bounds import BOUNDS as POSTGRES_BOUNDS

BOOKS = shipped()["books"]
PERIODS = shipped()["periods"]
BOUNDS = Bounds(
    batch_events_max=1_000,
    batch_bytes_max=1_000_000,
    ledgers_max=100,
    rows_max=10_000,
    tries_max=2,
    retry_ms=1,
    retry_max_ms=1,
    standing_ms=0,
    parked_max=100,
)
EMPTY = """
set session_replication_role = replica;
truncate daybook.events, daybook.event_tags, daybook.ledgers, daybook.snapshots, projections.relay_positions,
  projections.live, projections.generations, projections.positions, projections.waiting, projections.skips,
  projections.skipped, projections.dead_letters, projections.operator_actions, projections.paused, projections.jobs;
update projections.relay_lease set owner = '', expires_at = '-infinity';
set session_replication_role = origin;
"""


def until(is_so: Callable[[], Any], within_s: float = 60.0) -> None:
    """Returns when the condition holds; fails after a deadline that only a fault can reach."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Kit:
    """The projector's parts on one database, and what its read model must hold."""

    def __init__(self, database: Database, admin: psycopg.Connection[Any]) -> None:
        self.database = database
        self.admin = admin
        self._sessions: list[Session] = []

    def append(self, ledger: str, what: Sequence[Event]) -> int:
        """The events are in the log."""
        return histories.append(self.database.urls["command"], ledger, what)

    def session(self, role: str = "projector", **bounds: int) -> Session:
        """A connection of its own."""
        within = msgspec.structs.replace(POSTGRES_BOUNDS, **bounds)
        session = Session(self.database.urls[role], name="test", bounds=within)
        self._sessions.append(session)
        return session

    def parking(self) -> PostgresParking:
        """What operators do about ledgers that stand still."""
        return PostgresParking(self.session())

    def generations(self, projection: Projection = BOOKS) -> PostgresGenerations:
        """The generations, as one more process would see them."""
        return PostgresGenerations(self.session(), projection)

    def worker(
        self,
        projection: Projection = BOOKS,
        *,
        generation: Generation | None = None,
        session: Session | None = None,
        figures: Figures | None = None,
        **bounds: int,
    ) -> tuple[Worker, Figures]:
        """A worker that has started, as one more process would have it."""
        session = session or self.session()
        figures = figures or Figures()
        worker = Worker(
            projection,
            model=PostgresReadModel(
                session,
                projection=projection,
                generation=generation or self.generations(projection).prepare(),
            ),
            log=PostgresLog(session),
            figures=figures,
            bounds=msgspec.structs.replace(BOUNDS, **bounds),
            monotonic=time.monotonic,
            pause=lambda wait_s: threading.Event().wait(wait_s) and None,
        )
        worker.start()
        return worker, figures

    def assert_complete(self, schema: str = "books_1") -> None:
        """The read model is the plain fold of the whole log, and its positions are the heads."""
        assert read_books(self.admin, schema) == plain_books(read_log(self.admin))
        heads = dict(self.rows("select ledger, position from daybook.ledgers"))
        assert self.positions(int(schema.rsplit("_", 1)[1])) == heads

    def positions(self, generation: int = 1) -> dict[str, int]:
        """The positions of a generation."""
        return dict(self.rows("select ledger, position from projections.positions where generation = %s", generation))

    def standing(self) -> list[tuple[Any, ...]]:
        """State, ledger, position, class and attempts of what stands still."""
        return self.rows(
            "select state, ledger, position, error_class, attempts from projections.waiting order by ledger, generation"
        )

    def live(self, projection: str = "books") -> int:
        """The generation that readers see."""
        [(generation,)] = self.rows("select generation from projections.live where projection = %s", projection)
        return int(generation)

    def dump(self, table: str) -> list[bytes]:
        """A table's rows as Postgres writes them, sorted."""
        with self.admin.cursor().copy(f"copy {table} to stdout".encode()) as copy:
            return sorted(bytes(row) for row in copy)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What the administrator sees."""
        return self.admin.execute(statement.encode(), parameters).fetchall()

    def close(self) -> None:
        """All connections are closed."""
        for session in self._sessions:
            session.close()


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """The administrator, on an empty log and empty read models."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        schemas = connection.execute(
            "select nspname from pg_namespace where nspname ~ '^[a-z_]+_[0-9]+$' and nspname !~ '^pg_'"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(f"drop schema {schema} cascade".encode())
        connection.execute(EMPTY)
        yield connection


@pytest.fixture
def kit(database: Database, admin: psycopg.Connection[Any]) -> Iterator[Kit]:
    """The kit of one test."""
    made = Kit(database, admin)
    yield made
    made.close()
