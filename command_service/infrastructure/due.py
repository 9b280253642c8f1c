"""What is due, from the live generation of the `books` read model in Postgres.

One connection, made anew after a fault. It reads two tables of other processes and nothing else; what it says is a hint, and the
log decides.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg import sql

from command_service.application.clock import READ_MODEL_MISSING, Due
from shared_kernel.breaker import Breaker
from shared_kernel.errors import Unavailable
from shared_kernel.event_log.statements import SESSION_OPTIONS, load_statements
from shared_kernel.postgres import SILENT_MS_MAX, connect_async, conninfo, patience

_STATEMENTS: Final = load_statements("command_service.infrastructure", "due.sql")
_FIRST: Final = datetime.min.replace(tzinfo=UTC)


class _Gone(Unavailable):
    """Postgres does not answer."""


class PostgresDue:
    """Implements `DueTransactions`. Used by one task at a time; close it when done."""

    def __init__(
        self,
        url: str,
        *,
        page_max: int,
        connect_timeout_ms: int,
        silence_timeout_ms: int,
        statement_timeout_ms: int,
        breaker: Breaker,
    ) -> None:
        self._breaker = breaker
        self._patience_s = (statement_timeout_ms + SILENT_MS_MAX) / 1_000
        self._conninfo = conninfo(
            url,
            name="daybook clock",
            connect_ms=connect_timeout_ms,
            silence_ms=silence_timeout_ms,
            statement_ms=statement_timeout_ms,
            options=f"{SESSION_OPTIONS} -c timezone=UTC",
        )
        self._page_max = page_max
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def page(self, *, now: datetime, after: Due | None) -> Sequence[Due]:
        """As `DueTransactions.page`."""
        try:
            with self._breaker.call(_Gone):
                return await self._page(now=now, after=after)
        except _Gone:
            await self.close()
            raise

    async def _page(self, *, now: datetime, after: Due | None) -> Sequence[Due]:
        try:
            connection = await self._connected()
            with patience(connection, self._patience_s):
                return await self._ask(connection, now=now, after=after)
        except psycopg.errors.QueryCanceled as error:
            raise Unavailable("event_log_unavailable", reason=type(error).__name__) from error
        except (psycopg.Error, OSError) as error:
            raise _Gone("event_log_unavailable", reason=type(error).__name__) from error

    async def _ask(
        self, connection: "psycopg.AsyncConnection[Any]", *, now: datetime, after: Due | None
    ) -> Sequence[Due]:
        try:
            live = await (await connection.execute(_STATEMENTS["live"])).fetchone()
            if live is None:
                raise Unavailable(READ_MODEL_MISSING)
            statement = sql.SQL(_STATEMENTS["due"]).format(schema=sql.Identifier(live[0]))
            values = {
                "now": now,
                "due_at": _FIRST if after is None else after.due_at,
                "ledger": "" if after is None else after.ledger,
                "transaction": "" if after is None else after.transaction,
                "limit": self._page_max,
            }
            rows = await (await connection.execute(statement, values)).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
            # Dropped since, or of a version that does not tell what is due: another takes its place.
            raise Unavailable(READ_MODEL_MISSING) from None
        return [Due(*row) for row in rows]

    async def close(self) -> None:
        """The connection is closed; the next question would open another."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def _connected(self) -> "psycopg.AsyncConnection[Any]":
        if self._connection is None or self._connection.closed:
            self._connection = await connect_async(self._conninfo)
        return self._connection
