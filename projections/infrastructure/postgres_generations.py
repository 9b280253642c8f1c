"""Which builds of a projection there are, kept in Postgres; makes their schemas and moves readers from one to the next.

All changes happen under one advisory lock a projection, so that two projectors that start together make one generation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from zlib import crc32

import psycopg
from psycopg import Connection, sql

from projections.application.ports import ForeignGeneration, Generation, Unusable
from projections.domain.projection import Projection
from projections.infrastructure.postgres import STATEMENTS, Database, Row
from shared_kernel.errors import Corruption, Rejection

# Chosen: "book", so that it meets no other advisory lock; the second key is the projection's name.
_LOCK_CHANGES: Final = 0x626F6F6B
_LOCK_BUILD: Final = 0x626F6F6C
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
        with self._changes() as session:
            incarnation = _incarnation(session)
            live = self._one(session, "live_generation", None)
            if live is None:
                return self._add(session, state="live", incarnation=incarnation)
            own = self._one(session, "newest_generation", self._projection.version)
            if own is None:
                if self._projection.version < live.version:
                    raise Corruption(
                        "projection_version_gone", version=self._projection.version, generation=live.number
                    )
                return self._add(session, state="building", incarnation=incarnation)
        if own.incarnation != incarnation:
            raise ForeignGeneration(own)
        return own

    def begin(self) -> Generation:
        """A new generation is there to be built, and a stopped projector will find it.

        Rejection `rebuild_not_needed`: there is one of the log's incarnation already. It is not for a change of mind: a
        projector that builds does not feed the live generation meanwhile.
        """
        with self._changes() as session:
            incarnation = _incarnation(session)
            own = self._one(session, "newest_generation", self._projection.version)
            if own is not None and own.incarnation == incarnation:
                raise Rejection("rebuild_not_needed", generation=own.number, state=own.state)
            return self._add(session, state="building", incarnation=incarnation)

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
        with self._changes() as session:
            if session.execute(STATEMENTS["is_behind_live"], of).fetchone() == (True,):
                return False
            session.execute(STATEMENTS["set_states"], of)
            session.execute(STATEMENTS["make_live"], of)
        with self._database.session() as session:
            session.execute("select pg_advisory_unlock(%s, %s)", [_LOCK_BUILD, self._key])
            self._builds_on = None
        return True

    @contextmanager
    def _changes(self) -> Iterator[Connection[Row]]:
        with self._database.session() as session, session.transaction():
            session.execute("select pg_advisory_xact_lock(%s, %s)", [_LOCK_CHANGES, self._key])
            yield session

    def _add(self, session: Connection[Row], *, state: str, incarnation: str) -> Generation:
        newest = self._one(session, "newest_generation", None)
        number = 1 if newest is None else newest.number + 1
        generation = Generation(
            projection=self._projection.name,
            number=number,
            version=self._projection.version,
            schema_name=f"{self._projection.name}_{number}",
            state=state,
            incarnation=incarnation,
        )
        schema = sql.Identifier(generation.schema_name)
        session.execute(sql.SQL("create schema {}").format(schema))
        self._make_tables(session, generation.schema_name)
        # The command role's clock reads what a projection's own SQL grants it.
        session.execute(sql.SQL("grant usage on schema {} to daybook_query, daybook_command").format(schema))
        session.execute(sql.SQL("grant select on all tables in schema {} to daybook_query").format(schema))
        values = {
            "generation": number,
            "version": generation.version,
            "schema_name": generation.schema_name,
            "state": state,
            "incarnation": incarnation,
        }
        session.execute(STATEMENTS["add_generation"], self._of | values)
        if state == "live":
            session.execute(STATEMENTS["make_live"], self._of | values)
        return generation

    def _one(self, session: Connection[Row], statement: str, version: int | None) -> Generation | None:
        row = session.execute(STATEMENTS[statement], self._of | {"version": version}).fetchone()
        return None if row is None else _generation(row)

    def _make_tables(self, session: Connection[Row], schema_name: str) -> None:
        """Runs the projection's SQL as a role that may do nothing but make things in this schema, and then owns none of them."""
        schema = sql.Identifier(schema_name)
        session.execute(sql.SQL("grant usage, create on schema {} to daybook_builder").format(schema))
        session.execute("set local role daybook_builder")
        session.execute(sql.SQL("set local search_path to {}").format(schema))
        try:
            for text in (self._projection.schema, self._projection.keys, self._projection.indexes):
                # In a block, so that nothing in it can end the transaction.
                block = sql.SQL("begin execute {}; end").format(sql.Literal(text)).as_string(session)
                session.execute(sql.SQL("do {}").format(sql.Literal(block)))
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith(_PASSING):
                raise
            raise self._unusable(reason=error.sqlstate or "", detail=error.diag.message_primary or "") from None
        if session.execute("select current_user").fetchone() != ("daybook_builder",):
            raise self._unusable(reason="role_left", detail="its SQL gives itself another role")
        session.execute("reset role")
        found = session.execute(STATEMENTS["column_types"], {"schema": schema_name}).fetchall()
        columns = {(table, column) for table, column, _ in found}
        for name, table in self._projection.tables.items():
            if missing := [column for column in table.columns if (name, column) not in columns]:
                raise self._unusable(reason="column_missing", detail=f"its SQL makes no {name}.{missing[0]}")
        session.execute(sql.SQL("revoke all on schema {} from daybook_builder").format(schema))
        session.execute("reassign owned by daybook_builder to current_user")

    def _unusable(self, *, reason: str, detail: str) -> Unusable:
        return Unusable("projection_unusable", projection=self._projection.name, reason=reason, detail=detail)


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


def _incarnation(session: psycopg.Connection[Row]) -> str:
    [(incarnation,)] = session.execute(STATEMENTS["incarnation"]).fetchall()
    return str(incarnation)
