"""Fills a log and its read model for tests: appends events, folds them into the real tables, announces them.

A plain fold, one row at a time and nothing clever, so that what the queries answer is compared with something simple.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg

from shared_kernel import events, tags
from shared_kernel.event_log.statements import load_statements
from shared_kernel.events import AccountDefaults, AccountOpened, Entry, Event, LedgerOpened, Metadata, TransactionPosted
from shared_kernel.words import parse_time

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
        self.totals: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def close(self) -> None:
        """No connection is left."""
        self.connection.close()

    def start_over(self) -> None:
        """An empty log; generation 1 is empty and live, others are gone. The tables stay where they can."""
        schemas = self.connection.execute(
            "select nspname from pg_namespace where nspname ~ '^books_[0-9]+$'"
        ).fetchall()
        with self.connection.transaction():
            for (schema,) in schemas:
                self.connection.execute(f"drop schema {schema} cascade")
            # The log refuses every change but an append, also by its owner: triggers are out of force for this.
            self.connection.execute("set local session_replication_role = replica")
            for table in ("daybook.ledgers", "daybook.events", "daybook.event_tags"):
                self.connection.execute(f"delete from {table}")
            for table in ("live", "generations", "positions", "waiting"):
                self.connection.execute(f"delete from projections.{table}")
        self.make_generation(1)
        self.go_live(1)

    def append(self, ledger: str, *what: Event, key: str | None = None) -> int:
        """The events stand in the log; answers the head."""
        for event in what:
            position = self.heads[ledger] = self.heads[ledger] + 1
            metadata = Metadata(actor=ACTOR, correlation_id=f"c-{position}", key=key)
            recorded_at = FIRST_DAY + timedelta(seconds=position, microseconds=7)
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

    def make_generation(self, generation: int) -> str:
        """An empty generation, which nobody reads yet."""
        schema = f"books_{generation}"
        with self.connection.transaction():
            self.connection.execute(f"create schema {schema}")
            self.connection.execute(f"set local search_path = {schema}")
            self.connection.execute(load_statements("projections.infrastructure", "books.sql")["schema"])
            self.connection.execute(f"grant usage on schema {schema} to daybook_query")
            self.connection.execute(f"grant select on all tables in schema {schema} to daybook_query")
            self.connection.execute(
                "insert into projections.generations (projection, generation, version, schema_name, state, incarnation)"
                " select 'books', %s, 1, %s, 'built', incarnation from daybook.incarnation",
                [generation, schema],
            )
        return schema

    def go_live(self, generation: int) -> None:
        """From now on queries read this generation."""
        self.connection.execute(
            "insert into projections.live values ('books', %s)"
            " on conflict (projection) do update set generation = excluded.generation",
            [generation],
        )

    def drop_generation(self, generation: int) -> None:
        """The tables are gone."""
        self.connection.execute(f"drop schema books_{generation} cascade")

    def project(self, ledger: str, *, generation: int = 1, until: int | None = None, announce: bool = True) -> int:
        """The generation has the ledger's events up to `until` (None: all); answers where it stands."""
        schema = f"books_{generation}"
        with self.connection.transaction():
            row = self.connection.execute(
                "select position from projections.positions where generation = %s and ledger = %s", [generation, ledger]
            ).fetchone()
            reached = row[0] if row else 0
            rows = self.connection.execute(
                "select position, type, data, metadata, recorded_at from daybook.events"
                " where ledger = %s and position > %s and position <= %s order by position",
                [ledger, reached, until or 2**62],
            ).fetchall()
            recorded_at = None
            for position, type_name, data, metadata, recorded_at in rows:
                self._fold(
                    schema, ledger, position, events.decode(type_name, data), metadata=metadata, recorded_at=recorded_at
                )
                reached = position
            if rows:
                self.connection.execute(
                    "insert into projections.positions"
                    " select 'books', %s, %s, %s, %s, incarnation from daybook.incarnation"
                    " on conflict (projection, generation, ledger)"
                    " do update set position = excluded.position, recorded_at = excluded.recorded_at",
                    [generation, ledger, reached, recorded_at],
                )
            if announce:
                self.connection.execute("select pg_notify('daybook_visible', %s)", [f"books/{ledger}/{reached}"])
        return reached

    def stand_still(self, ledger: str, state: str, position: int, *, generation: int = 1) -> None:
        """The read model does not get past the event at `position`."""
        self.connection.execute(
            "insert into projections.waiting values ('books', %s, %s, %s, %s, 'Boom', 'boom', 1, %s, %s)",
            [generation, ledger, position, state, FIRST_DAY, FIRST_DAY],
        )

    def go_on(self, ledger: str) -> None:
        """Nothing holds the read model up any more."""
        self.connection.execute("delete from projections.waiting where ledger = %s", [ledger])

    def _fold(
        self, schema: str, ledger: str, position: int, event: Event, *, metadata: str, recorded_at: datetime
    ) -> None:
        match event:
            case LedgerOpened():
                values = [ledger, position, recorded_at, event.accounts, _text(event.defaults), event.records_refusals]
                self._insert(schema, "ledgers", [*values, _text(event.metadata)])
            case AccountOpened():
                values = [ledger, event.address, position, recorded_at, event.normal_balance, "open"]
                self._insert(
                    schema, "accounts", [*values, event.on_first_use, _text(event.limits), _text(event.metadata)]
                )
            case TransactionPosted():
                self._fold_transaction(
                    schema, ledger, position, event, metadata=events.decode_metadata(metadata), recorded_at=recorded_at
                )

    def _fold_transaction(
        self,
        schema: str,
        ledger: str,
        position: int,
        event: TransactionPosted,
        *,
        metadata: Metadata,
        recorded_at: datetime,
    ) -> None:
        effective_at = parse_time(event.effective_at) if event.effective_at else recorded_at
        plain = [
            {"account": e.account, "direction": e.direction, "amount": e.amount, "asset": e.asset}
            for e in event.entries
        ]
        values = [ledger, event.transaction, position, "posted", recorded_at, effective_at, event.reference]
        more = [event.description, _text(plain), _text(event.metadata), metadata.actor, metadata.correlation_id]
        self._insert(schema, "transactions", [*values, *more])
        for index, entry in enumerate(event.entries):
            totals = self.totals[schema, ledger, entry.account, entry.asset]
            totals[entry.direction == "credit"] += entry.amount
            self._insert(
                schema,
                "entries",
                [
                    ledger,
                    entry.account,
                    entry.asset,
                    position,
                    index,
                    entry.direction,
                    entry.amount,
                    event.transaction,
                    recorded_at,
                    effective_at,
                    *totals,
                    0,
                    0,
                ],
            )

    def _insert(self, schema: str, table: str, values: list[object]) -> None:
        places = ", ".join(["%s"] * len(values))
        self.connection.execute(f"insert into {schema}.{table} values ({places})", values)


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


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
