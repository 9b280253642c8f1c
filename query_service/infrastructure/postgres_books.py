"""Answers questions from Postgres: one statement each, on the generation that is live in that statement's own snapshot.

Owns the connection pool and translates driver errors. It only ever reads; the role could not do otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, cast

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from query_service.application.query_handler import Question, RowT, Snapshot, Stamp, Standstill, Value
from query_service.infrastructure.conditions import compiled
from query_service.infrastructure.figures import QueryFigures
from query_service.infrastructure.statements import Statements, numbered
from shared_kernel.breaker import Breaker
from shared_kernel.errors import SaysNothing, Unavailable
from shared_kernel.postgres import conninfo, patience

STAMP_COLUMNS: Final = 13
PREPARED_MAX: Final = 150  # chosen: every statement that is asked often, beside some filters
SHORTENED_TO: Final = (
    0.9  # chosen: of the time that is left; the rest is for the server to say that a statement ran too long
)
ATTEMPTS_MAX: Final = 4  # chosen: a connection that the server closed and a generation's change may meet; twice each

# Plans must not depend on when statistics arrive (design §12): every statement here goes by an index, made for nested loops.
_SESSION: Final = """
set default_transaction_read_only = on; set plan_cache_mode = force_generic_plan; set jit = off;
set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
set timezone = 'UTC';
"""


class _ConnectionLost(SaysNothing):
    """A connection of the pool ended under a question."""


class _NoConnection(Unavailable):
    """A health check has none, or lost it: all may be in use, and the server may have ended it long ago."""


class _Silent(psycopg.OperationalError):
    """Nothing came when the statement's time was long over: the wire leads nowhere, though nobody has closed it."""


class _TimeOver(SaysNothing):
    """The question's own time was over, which a server that lives may not have been given enough of."""


class PostgresBooks:
    """The books of the live generation. `open` before use, `close` after."""

    def __init__(
        self,
        *,
        url: str,
        statements: Statements,
        figures: QueryFigures,
        connections_max: int,
        requests_waiting_max: int,
        pool_wait_ms: int,
        connect_ms: int,
        silence_ms: int,
        reconnect_ms: int,
        statement_ms: int,
        overdue_ms: int,
        server: str = "primary",
        attempts_max: int = ATTEMPTS_MAX,
        breaker: Breaker | None = None,
    ) -> None:
        self._attempts_max = attempts_max
        self._breaker = breaker or Breaker(server)
        self._failed_before = 0
        self._pool_wait_s = pool_wait_ms / 1_000
        self._statement_ms = statement_ms
        self._overdue_ms = overdue_ms
        self._patience_s = (statement_ms + overdue_ms) / 1_000
        self._drained_at = 0.0
        self._statements = statements
        self._figures = figures
        self._server = server
        self._schemas = ""
        self._asking = 0
        self._asking_max = connections_max + requests_waiting_max

        async def configure(connection: AsyncConnection) -> None:
            connection.adapters.register_loader("numeric", _WholeNumberLoader)
            # Without this a number's size would choose its type, and so another prepared statement.
            connection.adapters.register_dumper(int, Int8Dumper)
            await connection.execute(session(statement_ms))
            connection.prepare_threshold = 0
            connection.prepared_max = PREPARED_MAX

        self.pool = AsyncConnectionPool(
            conninfo(url, name="daybook query", connect_ms=connect_ms, silence_ms=silence_ms),
            kwargs={"autocommit": True, "cursor_factory": AsyncRawCursor},
            min_size=1,
            max_size=connections_max,
            timeout=pool_wait_ms / 1000,
            reconnect_timeout=reconnect_ms / 1_000,  # a failed attempt is given up and begun again when somebody asks
            configure=configure,
            open=False,
            name=f"books-{server}",
        )
        figures.watch_pool(self.pool, server)

    async def open(self) -> None:
        """Connecting has begun; the database need not be there yet."""
        await self.pool.open(wait=False)

    async def close(self) -> None:
        """No connection is left."""
        await self.pool.close()

    async def fetch(self, question: Question[RowT], parameters: Mapping[str, Value], *, until: float) -> Snapshot[RowT]:
        """As in `application.query_handler.Books`. `dependency_unavailable` or `overloaded` where there is no answer."""
        # Counted here: the pool's own bound also counts those who gave up waiting while no server was there.
        if self._asking >= self._asking_max:
            raise Unavailable("overloaded")
        self._asking += 1
        try:
            return await self._fetch(question, parameters, until)
        finally:
            self._asking -= 1

    async def _fetch(self, question: Question[RowT], parameters: Mapping[str, Value], until: float) -> Snapshot[RowT]:
        now = asyncio.get_running_loop().time
        # All waits for a connection together, however many attempts there are.
        connected_until = min(until, now() + self._pool_wait_s)
        for _ in range(self._attempts_max):
            began = now()
            if began >= until:
                raise _too_late()
            try:
                with self._breaker.call(psycopg.OperationalError):
                    wait_s = max(0.0, connected_until - began)
                    snapshot = await self._attempt(question, parameters, wait_s=wait_s, until=until)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                self._schemas = ""  # that generation was dropped
            except PoolTimeout as error:
                raise Unavailable("dependency_unavailable", dependency="postgres", reason="no_connection") from error
            except _Silent as error:
                await self._drain(began)
                raise Unavailable("dependency_unavailable", dependency="postgres", reason="no_answer") from error
            except _TimeOver:
                raise _too_late() from None
            except _ConnectionLost:
                await self._drain(began)  # reading again is safe
            else:
                if snapshot is not None:
                    return snapshot
        raise Unavailable("dependency_unavailable", dependency="postgres", reason="no_answer")

    async def _drain(self, began: float) -> None:
        """With one connection likely all others of the pool are lost: new ones take their place, unless that was done since then."""
        if began >= self._drained_at:
            self._drained_at = asyncio.get_running_loop().time()
            await self.pool.drain()

    async def _attempt(
        self, question: Question[RowT], parameters: Mapping[str, Value], *, wait_s: float, until: float
    ) -> Snapshot[RowT] | None:
        """As `_look`. Raises OperationalError only where the server cannot be reached, or does not answer.

        A connection that is lost says nothing of that: the server may have ended it long ago. The next one will tell.
        """
        try:
            async with self.pool.connection(timeout=wait_s) as connection:
                self._failed_before = self._failed_connections()
                return await self._look_in_time(connection, question, parameters, until)
        except psycopg.errors.QueryCanceled as error:
            raise Unavailable("dependency_unavailable", dependency="postgres", reason="statement_timeout") from error
        except PoolTimeout as error:
            self._figures.connection_refused(self._server)
            if self._failed_connections() > self._failed_before:  # since there was one the last time
                raise
            # It is busy, not away: an open breaker would leave it idle.
            raise Unavailable("dependency_unavailable", dependency="postgres", reason="no_connection") from error
        except _Silent:
            raise
        except psycopg.OperationalError as error:
            raise _ConnectionLost from error

    def _failed_connections(self) -> int:
        return self.pool.get_stats().get("connections_errors", 0)

    async def check_database(self) -> str | None:
        """For readiness: None if Postgres answers."""
        await self._ask_live()
        return None

    async def check_live(self) -> str | None:
        """For readiness: None if there is a generation to read."""
        return None if await self._ask_live() else "no generation of books is live"

    async def _ask_live(self) -> str | None:
        with self._breaker.look():  # perhaps nobody else asks
            try:
                async with self.pool.connection() as connection:
                    return await self._live(connection)
            except (PoolTimeout, psycopg.OperationalError) as error:
                raise _NoConnection("dependency_unavailable", dependency="postgres", reason="no_connection") from error

    async def _look_in_time(
        self, connection: AsyncConnection, question: Question[RowT], parameters: Mapping[str, Value], until: float
    ) -> Snapshot[RowT] | None:
        """As `_look`. `_Silent`: the server fell silent. `_TimeOver`: the question's time was over before anybody could know that."""
        left_s = until - asyncio.get_running_loop().time()
        is_short = left_s < self._patience_s
        with patience(connection, min(left_s, self._patience_s)) as timer:
            try:
                if not is_short:
                    return await self._look(connection, question, parameters)
                async with self._shortened(connection, left_s):
                    return await self._look(connection, question, parameters)
            except psycopg.errors.QueryCanceled as error:
                if is_short:
                    raise _TimeOver from error
                raise
            except psycopg.OperationalError as error:
                if asyncio.get_running_loop().time() < timer.when():
                    raise
                raise (_TimeOver if left_s * 1_000 < self._overdue_ms else _Silent) from error

    @asynccontextmanager
    async def _shortened(self, connection: AsyncConnection, left_s: float) -> AsyncIterator[None]:
        """Statements of the block end within the time that is left, and a little before: so the connection lives on."""
        ms = min(self._statement_ms, max(1, int(left_s * SHORTENED_TO * 1_000)))
        await connection.execute(f"set statement_timeout = {ms}".encode(), prepare=False)
        try:
            yield
        finally:
            if not connection.closed:
                await connection.execute(f"set statement_timeout = {self._statement_ms}".encode(), prepare=False)

    async def _look(
        self, connection: AsyncConnection, question: Question[RowT], parameters: Mapping[str, Value]
    ) -> Snapshot[RowT] | None:
        """None if other generations have become live: to be looked at again."""
        # A question of the log needs no generation.
        schemas = self._schemas or ("none" if question.is_of_log else await self._live(connection))
        if schemas is None:
            raise Unavailable("dependency_unavailable", dependency="books", reason="no_live_generation")
        books, _, periods = schemas.partition(" ")
        if question.needs_periods and not periods:
            if self._schemas:  # what was found some time ago
                self._schemas = ""
                return None
            raise Unavailable("dependency_unavailable", dependency="periods", reason="no_live_generation")
        condition, values = compiled(question.filter, question.fields)
        text, names = numbered(self._statements.text(question.statement, schemas).replace("{condition}", condition))
        given = {**parameters, **values}
        rows = await (await connection.execute(text, [given[name] for name in names])).fetchall()
        if not question.is_of_log:
            live = cast("str", rows[0][0]) if rows else ""
            if live != (schemas if question.needs_periods else books):
                self._schemas = ""
                self._figures.swaps.inc()
                return None
            self._schemas = schemas
        found = [question.row(*row[STAMP_COLUMNS:]) for row in rows if row[STAMP_COLUMNS] is not None]
        return Snapshot(_stamp(rows[0]), found)

    async def _live(self, connection: AsyncConnection) -> str | None:
        row = await (
            await connection.execute(self._statements.text("live", self._schemas or "none").encode())
        ).fetchone()
        return None if row is None else cast("str", row[0])


def _too_late() -> Unavailable:
    return Unavailable("dependency_unavailable", dependency="postgres", reason="deadline_passed")


def session(statement_ms: int) -> bytes:
    """What a connection is set to before its first question."""
    bounds = f"set statement_timeout = {statement_ms}; set idle_in_transaction_session_timeout = {statement_ms};"
    return (_SESSION + bounds).encode()


def _stamp(row: tuple[object, ...]) -> Stamp:
    _, incarnation, generation, head, reached, position, recorded_at, state, since, stuck, *asked = row[:STAMP_COLUMNS]
    needed, is_fixed, is_ahead = asked
    return Stamp(
        incarnation=cast("str", incarnation),
        generation=cast("str | None", generation),
        head=cast("int | None", head),
        reached=cast("int", reached),
        position=cast("int | None", position),
        recorded_at=cast("datetime | None", recorded_at),
        standstill=None if state is None else Standstill(state, cast("datetime", since), cast("int", stuck)),  # type: ignore[arg-type]
        needed=cast("int", needed),
        is_fixed=cast("bool", is_fixed),
        is_ahead=cast("bool", is_ahead),
    )


class _WholeNumberLoader(Loader):
    """Amounts are whole numbers; Postgres' numeric would come as Decimal."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)

    def load(self, data: Buffer) -> int:
        return int(bytes(data))
