"""Which builds of a projection there are, kept in Postgres; makes their schemas and moves readers from one to the next.

All changes happen under one advisory lock a projection, so that two projectors that start together make one generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from zlib import crc32

import psycopg
from psycopg import Connection, sql

from projections.application.ports import ForeignGeneration, Generation, Unusable
from projections.domain.projection import Projection
from projections.infrastructure.postgres import STATEMENTS, Database, Row, Work
from shared_kernel.errors import Corruption, Rejection

# Chosen: "book", so that it meets no other advisory lock; the second key is the projection's name.
_LOCK_CHANGES: Final = 0x626F6F6B
_LOCK_BUILD: Final = 0x626F6F6C
_STATISTICS: Final = 10  # as in migration 0010: no plan depends on them
_CHANGE: Final = Work(
    name="generation_change", holds_others=True
)  # a swap holds the live side until the other is level
# Connection, transaction, resources, locks, intervention, the system: whatever SQL it was, it may succeed the next time.
_PASSING: Final = ("08", "40", "53", "55", "57", "58", "XX")


class PostgresGenerations:
    """The generations of one projection."""

    def __init__(self, database: Database, projection: Projection) -> None:
        self._database = database
        self._projection = projection
        self._of = {"projection": projection.name}
        self._key = crc32(projection.name.encode()) - 2**31
        self._builds_on: Connection[Row] | None = None

    def prepare(self) -> Generation:
        """The generation that this code feeds, made if missing: the newest of its version and the log's incarnation.

        The first one is live at once; a later version's is `building`. ForeignGeneration: there is only one of another
        incarnation. Corruption: the code is older than every generation there is. Unusable: its SQL fails, or reaches
        outside the schema it is given.
        """
        with self.changes() as session:
            incarnation = incarnation_of(session)
            live = self.one(session, "live_generation")
            if live is None:
                return self.add(session, state="live", incarnation=incarnation)
            own = self.one(session, "own_generation", self._projection.version)
            if own is None:
                if self._projection.version < live.version:
                    raise Corruption(
                        "projection_version_gone", version=self._projection.version, generation=live.number
                    )
                return self.add(session, state="building", incarnation=incarnation)
        if own.incarnation != incarnation:
            raise ForeignGeneration(own)
        return own

    def begin(self) -> Generation:
        """A new generation is there to be built, and a stopped projector will find it.

        Rejection `rebuild_not_needed`: there is one of the log's incarnation already. It is not for a change of mind: a
        projector that builds does not feed the live generation meanwhile.
        """
        with self.changes() as session:
            incarnation = incarnation_of(session)
            own = self.one(session, "own_generation", self._projection.version)
            if own is not None and own.incarnation == incarnation:
                raise Rejection("rebuild_not_needed", generation=own.number, state=own.state)
            return self.add(session, state="building", incarnation=incarnation)

    def lock(self) -> bool:
        """True if this process alone may build from now on, until it ends or loses its connection."""
        with self._database.session() as session:
            if self._builds_on is session:
                return True
            asked = "select pg_try_advisory_lock(%s, %s)"
            is_locked = session.execute(asked, [_LOCK_BUILD, self._key]).fetchone() == (True,)
            self._builds_on = session if is_locked else None
            return is_locked

    def swap(self, generation: Generation) -> bool:
        """Readers see this generation. False: it is behind the live one somewhere, and nothing changed."""
        of = self._of | {"generation": generation.number}
        with self.changes() as session:
            if session.execute(STATEMENTS["is_behind_live"], of).fetchone() == (True,):
                return False
            session.execute(STATEMENTS["set_states"], of)
            session.execute(STATEMENTS["make_live"], of)
        with self._database.session() as session:
            session.execute("select pg_advisory_unlock(%s, %s)", [_LOCK_BUILD, self._key])
            self._builds_on = None
        return True

    def beside(self) -> list[Generation]:
        """What is fed beside the one that `prepare` gives: whole generations of the same version and log."""
        with self._database.session() as session:
            own = self.one(session, "own_generation", self._projection.version)
            if own is None:
                return []
            of = self._of | {"version": own.version, "generation": own.number}
            return [_generation(row) for row in session.execute(STATEMENTS["generations_beside"], of).fetchall()]

    @contextmanager
    def changes(self) -> Iterator[Connection[Row]]:
        """A transaction in which nobody else changes what generations there are."""
        with self._database.transaction(_CHANGE) as session:
            session.execute("select pg_advisory_xact_lock(%s, %s)", [_LOCK_CHANGES, self._key])
            yield session

    def add(self, session: Connection[Row], *, state: str, incarnation: str, is_automatic: bool = True) -> Generation:
        """A generation of this version, empty. One that a job builds gets its keys and indexes when it is whole."""
        [(newest,)] = session.execute(STATEMENTS["newest_generation"], self._of).fetchall()
        number = newest + 1
        generation = Generation(
            projection=self._projection.name,
            number=number,
            version=self._projection.version,
            schema_name=f"{self._projection.name}_{number}",
            state=state,
            incarnation=incarnation,
        )
        make_schema(session, self._projection, generation.schema_name, with_indexes=is_automatic)
        values = {
            "generation": number,
            "version": generation.version,
            "schema_name": generation.schema_name,
            "state": state,
            "incarnation": incarnation,
            "is_automatic": is_automatic,
        }
        session.execute(STATEMENTS["add_generation"], self._of | values)
        if state == "live":
            session.execute(STATEMENTS["make_live"], self._of | values)
        return generation

    def one(
        self, session: Connection[Row], statement: str, version: int | None = None, *, generation: int | None = None
    ) -> Generation | None:
        """The generation that the statement finds, if any."""
        of = self._of | {"version": version, "generation": generation}
        row = session.execute(STATEMENTS[statement], of).fetchone()
        return None if row is None else _generation(row)


def make_schema(session: Connection[Row], projection: Projection, name: str, *, with_indexes: bool) -> None:
    """The projection's tables are there, empty, in a schema of this name; readers may read them. Unusable: its SQL is at fault."""
    schema = sql.Identifier(name)
    session.execute(sql.SQL("create schema {}").format(schema))
    _run_confined(session, projection, name, [projection.schema])
    found = session.execute(STATEMENTS["column_types"], {"schema": name}).fetchall()
    columns = {(table, column) for table, column, _ in found}
    for table, spec in projection.tables.items():
        if missing := [column for column in spec.columns if (table, column) not in columns]:
            raise _unusable(projection, reason="column_missing", detail=f"its SQL makes no {table}.{missing[0]}")
    if with_indexes:
        make_indexes(session, projection, name)
    for table, column in sorted(columns):
        small = sql.SQL("alter table {} alter column {} set statistics {}")
        session.execute(small.format(sql.Identifier(name, table), sql.Identifier(column), _STATISTICS))
    # The command role's clock reads what a projection's own SQL grants it.
    session.execute(sql.SQL("grant usage on schema {} to daybook_query, daybook_command").format(schema))
    session.execute(sql.SQL("grant select on all tables in schema {} to daybook_query").format(schema))


def make_indexes(session: Connection[Row], projection: Projection, name: str) -> None:
    """The tables have their primary keys and indexes. Unusable: the projection's SQL is at fault."""
    _run_confined(session, projection, name, [projection.keys, projection.indexes], tables=list(projection.tables))


def _run_confined(
    session: Connection[Row], projection: Projection, name: str, texts: Sequence[str], *, tables: Sequence[str] = ()
) -> None:
    """Runs the projection's SQL as a role that may do nothing but make things in this schema, and then owns none of them.

    `tables`: those that are there already and that it is to change.
    """
    schema = sql.Identifier(name)
    session.execute(sql.SQL("grant usage, create on schema {} to daybook_builder").format(schema))
    for table in tables:
        session.execute(sql.SQL("alter table {} owner to daybook_builder").format(sql.Identifier(name, table)))
    session.execute("set local role daybook_builder")
    session.execute(sql.SQL("set local search_path to {}").format(schema))
    try:
        for text in texts:
            # In a block, so that nothing in it can end the transaction.
            block = sql.SQL("begin execute {}; end").format(sql.Literal(text)).as_string(session)
            session.execute(sql.SQL("do {}").format(sql.Literal(block)))
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith(_PASSING):
            raise
        detail = error.diag.message_primary or ""
        raise _unusable(projection, reason=error.sqlstate or "", detail=detail) from None
    if session.execute("select current_user").fetchone() != ("daybook_builder",):
        raise _unusable(projection, reason="role_left", detail="its SQL gives itself another role")
    session.execute("reset role")
    session.execute("set local search_path to pg_catalog")
    session.execute(sql.SQL("revoke all on schema {} from daybook_builder").format(schema))
    session.execute("reassign owned by daybook_builder to current_user")


def _unusable(projection: Projection, *, reason: str, detail: str) -> Unusable:
    return Unusable("projection_unusable", projection=projection.name, reason=reason, detail=detail)


def _generation(row: Row) -> Generation:
    projection, number, version, schema_name, state, incarnation = row
    return Generation(
        projection=projection,
        number=number,
        version=version,
        schema_name=schema_name,
        state=state,
        incarnation=incarnation,
    )


def incarnation_of(session: psycopg.Connection[Row]) -> str:
    [(incarnation,)] = session.execute(STATEMENTS["incarnation"]).fetchall()
    return str(incarnation)
