"""Fills a log and its read models for tests: appends events, folds them into the real tables by the real projections, announces them.

What queries answer about made-up histories is compared with plain folds of the log elsewhere (test_equality.py).
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from projections.application.fold import RowCache, fold
from projections.application.ports import Batch, Generation, Move
from projections.domain.projection import Projection
from projections.infrastructure.postgres import Database as Session
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.shipped import shipped
from shared_kernel import events, tags
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountDefaults, AccountOpened, Entry, Event, LedgerOpened, Metadata, TransactionPosted
from tests.support.postgres_bounds import BOUNDS

PROJECTIONS: Final[Mapping[str, Projection]] = shipped()
FIRST_DAY = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)
ACTOR = "local-writer"


def posting(
    transaction: str,
    debit: str,
    credit: str,
    amount: int,
    asset: str = "EUR/2",
    *,
    reference: str | None = None,
    effective_at: str | None = None,
) -> TransactionPosted:
    """A transaction of two entries."""
    return TransactionPosted(
        transaction=transaction,
        entries=[
            Entry(account=debit, direction="debit", amount=amount, asset=asset),
            Entry(account=credit, direction="credit", amount=amount, asset=asset),
        ],
        reference=reference,
        effective_at=effective_at,
        metadata={"shop": "7"} if reference else {},
    )


class Bookkeeper:
    """Writes as the cluster's administrator: the roles of the processes may not."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.connection = psycopg.connect(admin_url, autocommit=True)
        self.heads: dict[str, int] = defaultdict(int)
        self._session = Session(admin_url, name="bookkeeper", bounds=BOUNDS)

    def close(self) -> None:
        """No connection is left."""
        self.connection.close()
        self._session.close()

    def start_over(self) -> None:
        """An empty log; generation 1 is empty and live, others are gone. The tables stay where they can."""
        schemas = self.connection.execute(
            "select nspname from pg_namespace where nspname ~ '^(books|periods)_[0-9]+$'"
        ).fetchall()
        with self.connection.transaction():
            for (schema,) in schemas:
                self.connection.execute(f"drop schema {schema} cascade")
            # The log refuses every change but an append, also by its owner: triggers are out of force for this.
            self.connection.execute("set local session_replication_role = replica")
            for table in ("daybook.ledgers", "daybook.events", "daybook.event_tags"):
                self.connection.execute(f"delete from {table}")
            for table in ("live", "generations", "positions", "waiting", "skips", "skipped", "dead_letters"):
                self.connection.execute(f"delete from projections.{table}")
        self.make_generation(1)
        self.go_live(1)

    def append(
        self, ledger: str, *what: Event, key: str | None = None, actor: str = ACTOR, at: datetime | None = None
    ) -> int:
        """The events stand in the log; answers the head. Recorded a second apart, or at a time of the test's own."""
        for event in what:
            position = self.heads[ledger] = self.heads[ledger] + 1
            metadata = Metadata(actor=actor, correlation_id=f"c-{position}", key=key)
            recorded_at = at or FIRST_DAY + timedelta(seconds=position, microseconds=7)
            with self.connection.transaction():
                self.connection.execute(
                    "insert into daybook.ledgers values (%s, %s, %s)"
                    " on conflict (ledger) do update set position = excluded.position, recorded_at = excluded.recorded_at",
                    [ledger, position, recorded_at],
                )
                self.connection.execute(
                    "insert into daybook.events values (%s, %s, %s, %s, %s, %s)",
                    [
                        ledger,
                        position,
                        events.TYPE_NAMES[type(event)],
                        events.encode(event),
                        events.encode(metadata),
                        recorded_at,
                    ],
                )
                for tag in tags.of(event, metadata):
                    self.connection.execute(
                        "insert into daybook.event_tags values (%s, %s, %s)", [ledger, tag, position]
                    )
        return self.heads[ledger]

    def make_generation(self, generation: int) -> None:
        """Empty tables of every projection, which nobody reads yet."""
        for name, projection in PROJECTIONS.items():
            schema = f"{name}_{generation}"
            with self.connection.transaction():
                self.connection.execute(f"create schema {schema}")
                self.connection.execute(f"set local search_path = {schema}")
                for tables in (projection.schema, projection.keys, projection.indexes):
                    self.connection.execute(tables.encode())
                self.connection.execute(f"grant usage on schema {schema} to daybook_query")
                self.connection.execute(f"grant select on all tables in schema {schema} to daybook_query")
                self.connection.execute(
                    "insert into projections.generations (projection, generation, version, schema_name, state, incarnation)"
                    " select %s, %s, %s, %s, 'built', incarnation from daybook.incarnation",
                    [name, generation, projection.version, schema],
                )

    def go_live(self, generation: int) -> None:
        """From now on queries read this generation."""
        for name in PROJECTIONS:
            self.connection.execute(
                "insert into projections.live values (%s, %s)"
                " on conflict (projection) do update set generation = excluded.generation",
                [name, generation],
            )

    def drop_generation(self, generation: int) -> None:
        """The tables are gone."""
        for name in PROJECTIONS:
            self.connection.execute(f"drop schema {name}_{generation} cascade")

    def project(
        self,
        ledger: str,
        *,
        generation: int = 1,
        until: int | None = None,
        announce: bool = True,
        only: str | None = None,
    ) -> int:
        """The generation (of every projection, or one) has the ledger's events up to `until` (None: all); answers where it stands."""
        reached = 0
        for name, projection in PROJECTIONS.items():
            if only not in (None, name):
                continue
            reached = self._project(projection, ledger, generation, until=until)
            if announce:
                self.connection.execute("select pg_notify('daybook_visible', %s)", [f"{name}/{ledger}/{reached}"])
        return reached

    def _project(self, projection: Projection, ledger: str, generation: int, *, until: int | None) -> int:
        of = self._generation(projection, generation)
        model = PostgresReadModel(self._session, projection=projection, generation=of)
        reached = model.positions([ledger]).get(ledger, 0)
        run = [
            RecordedEvent(ledger=ledger, position=row[0], type=row[1], data=row[2], metadata=row[3], recorded_at=row[4])
            for row in self.connection.execute(
                "select position, type, data, metadata, recorded_at from daybook.events"
                " where ledger = %s and position > %s and position <= %s order by position",
                [ledger, reached, until or 2**62],
            )
        ]
        if not run:
            return reached
        cache = RowCache(projection.tables, 1_000)
        folded = fold(projection, {ledger: run}, cache=cache, load=model.last_rows, skips={})
        assert not folded.faults
        position, recorded_at = folded.reached[ledger]
        move = Move(ledger=ledger, previous=reached, position=position, recorded_at=recorded_at)
        assert model.write(Batch(moves=[move], rows=folded.rows, faults=[]))
        return position

    def _generation(self, projection: Projection, number: int) -> Generation:
        row = self.connection.execute(
            "select version, schema_name, incarnation::text from projections.generations"
            " where projection = %s and generation = %s",
            [projection.name, number],
        ).fetchone()
        assert row is not None
        version, schema_name, incarnation = row
        return Generation(
            projection=projection.name,
            number=number,
            version=version,
            schema_name=schema_name,
            state="built",  # writing tells nobody: that is up to the test
            incarnation=incarnation,
        )

    def stand_still(
        self, ledger: str, state: str, position: int, *, generation: int = 1, projection: str = "books"
    ) -> None:
        """The read model does not get past the event at `position`."""
        self.connection.execute(
            "insert into projections.waiting values (%s, %s, %s, %s, %s, 'Boom', 'boom', 1, %s, %s)",
            [projection, generation, ledger, position, state, FIRST_DAY, FIRST_DAY],
        )

    def leave_out(self, ledger: str, position: int, *, generation: int = 1, projection: str = "books") -> None:
        """The read model has passed the event at `position` without it, as an operator wanted."""
        self.connection.execute(
            "insert into projections.skipped values (%s, %s, %s, %s, %s)",
            [projection, generation, ledger, position, FIRST_DAY],
        )

    def go_on(self, ledger: str) -> None:
        """Nothing holds the read model up any more."""
        self.connection.execute("delete from projections.waiting where ledger = %s", [ledger])


def start_with(admin_url: str, ledger: str, *what: Event) -> None:
    """An empty log but for these events of one ledger, and the read models have them."""
    keeper = Bookkeeper(admin_url)
    keeper.start_over()
    keeper.append(ledger, *what)
    keeper.project(ledger)
    keeper.close()


def opened(ledger: str, *, accounts: str = "on-first-use") -> LedgerOpened:
    """A ledger with one default."""
    return LedgerOpened(
        ledger=ledger,
        accounts=accounts,
        defaults=[AccountDefaults(pattern="users:*:wallet", limits={"EUR/2": events.Limit(minimum=0)})],
        metadata={"country": "cz"},
    )


def account(address: str, *, normal_balance: str = "credit") -> AccountOpened:
    """An account with a limit and metadata."""
    return AccountOpened(
        address=address,
        normal_balance="debit" if normal_balance == "debit" else "credit",
        limits={"EUR/2": events.Limit(minimum=0, maximum=500_000)},
        metadata={"owner": address},
    )
