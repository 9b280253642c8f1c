"""The monitor's eyes and memory in Postgres: one connection, made anew after a loss, never longer in a transaction than a look takes.

Reads the server's own views, how far the log is and the control tables of the read models; writes only the schema `monitor`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from psycopg import AsyncConnection

from daybook.monitor.application.ports import Page
from daybook.monitor.domain.alerts import Action, Episode
from daybook.monitor.domain.cancelling import Step
from daybook.monitor.domain.looks import Chain, Lag, Lock, Look, Session, Standing
from shared_kernel.errors import Unavailable
from shared_kernel.event_log.statements import SESSION_OPTIONS, load_statements
from shared_kernel.postgres import connect_async, conninfo
from shared_kernel.transactions import Terms, Transactions

STATEMENTS: Final = load_statements("daybook.monitor.infrastructure", "monitor.sql")
_TURN: Final = 0x6D6F6E69746F72  # chosen: "monitor" as a number, so that it meets nobody else's advisory locks
SESSIONS_MAX: Final = 500  # chosen: above the usual max_connections
LEDGERS_MAX: Final = 1_000  # chosen: ledgers looked at one by one in a look; all are counted
QUERY_LENGTH_MAX: Final = 500
# A literal may be a password or what a client wrote: 'it''s', E'\'', $tag$ … $tag$. An open one goes on to the end, which was cut.
_LITERAL: Final = re.compile(r"'(?:[^'\\]|''|\\.)*(?:'|$)|\$(\w*)\$.*?(?:\$\1\$|$)", re.DOTALL)


class Turn:
    """One look, inside one transaction of its own: nobody else looks meanwhile."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    async def last(self) -> Look | None:
        """The look before this one; None if there was none, or it was of another version."""
        (row,) = await self._rows("last_look")
        try:
            return msgspec.json.decode(row[0], type=Look) if row[0] else None
        except msgspec.MsgspecError:
            return None

    async def sessions(self) -> list[Session]:
        """Those inside a transaction, the oldest first."""
        rows = await self._rows("sessions", sessions_max=SESSIONS_MAX, query_length_max=QUERY_LENGTH_MAX)
        return [
            Session(
                pid=pid,
                user=user,
                application=application,
                database=database,
                is_client=is_client,
                state=state,
                began_at=began_at,
                transaction_ms=transaction_ms,
                state_ms=state_ms,
                waiting_ms=waiting_ms if waits_for is not None else None,
                waits_for=waits_for,
                blocked_by=tuple(blocked_by),
                query=without_literals(query),
            )
            for (
                pid, user, application, database, is_client, state, began_at, transaction_ms, state_ms, waiting_ms,
                waits_for, blocked_by, query,
            ) in rows
        ]  # fmt: skip

    async def deadlocks(self) -> dict[str, int]:
        """How many Postgres has counted in each database."""
        return dict(await self._rows("deadlocks"))

    async def relay_lease(self) -> list[Lock]:
        """The relay's lease, unless it was given back."""
        return [
            Lock(key="relay", kind="relay", ledger="", holder=owner, left_ms=left_ms, held_ms=None)
            for owner, left_ms in await self._rows("relay_lease")
        ]

    async def lags(self) -> list[Lag]:
        """Of the relay, and of every generation that is live or being built."""
        found = [_lag("relay", 0, True, await self._rows("relay_lag", ledgers_max=LEDGERS_MAX))]
        for projection, generation, is_live in await self._rows("generations"):
            rows = await self._rows(
                "projection_lag", projection=projection, generation=generation, ledgers_max=LEDGERS_MAX
            )
            found.append(_lag(projection, generation, is_live, rows))
        return found

    async def standing(self) -> list[Standing]:
        """Ledgers that stand still in a live generation, parked ones first."""
        return [
            Standing(
                projection=projection, ledger=ledger, state=state, position=position, error_class=name, since_ms=since
            )
            for projection, ledger, state, position, name, since in await self._rows(
                "standing", ledgers_max=LEDGERS_MAX
            )
        ]

    async def open_episodes(self) -> list[Episode]:
        """What was wrong at the last look."""
        return [_episode(row) for row in await self._rows("open_findings")]

    async def signal(self, chain: Chain, step: Step) -> Action:
        """The session at the root is told to stop; `failed` if that is not allowed or it is gone."""
        try:
            # A savepoint on purpose: what this role may not do must not undo the look.
            async with self._connection.transaction("signal"):
                rows = await self._rows(step, pid=chain.root.pid, began_at=chain.root.began_at)
        except psycopg.errors.InsufficientPrivilege:
            return "failed"
        if rows != [(True,)]:
            return "failed"
        return "cancelled" if step == "cancel" else "terminated"

    async def keep(self, look: Look, episodes: Sequence[Episode], *, rows_max: int, days_max: int) -> None:
        """Look and episodes are written, and the oldest that have ended removed."""
        await self._execute("keep_look", taken_at=look.taken_at, look=msgspec.json.encode(look).decode())
        for episode in episodes:
            values = msgspec.structs.asdict(episode) | {"detail": msgspec.json.encode(episode.detail).decode()}
            await self._execute("add_finding" if episode.id is None else "change_finding", **values)
        await self._execute("trim_findings", rows_max=rows_max, days_max=days_max)

    async def _rows(self, name: str, **values: object) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(STATEMENTS[name], values)).fetchall()

    async def _execute(self, name: str, **values: object) -> None:
        await self._connection.execute(STATEMENTS[name], values)


class PostgresWatched:
    """Implements `Watched` and `Records`. Every step is bounded by `timeout_ms`; what fails is Unavailable, and the next call connects anew."""

    def __init__(self, url: str, *, timeout_ms: int, transactions: Transactions | None = None) -> None:
        self._transactions = transactions or Transactions()
        self._terms = Terms(
            name="look",
            lock_timeout_ms=timeout_ms,
            statement_timeout_ms=timeout_ms,
            idle_timeout_ms=timeout_ms,
            transaction_timeout_ms=timeout_ms,
        )
        self._conninfo = conninfo(
            url,
            name="daybook monitor",
            connect_ms=timeout_ms,
            silence_ms=timeout_ms,
            statement_ms=timeout_ms,
            lock_ms=timeout_ms,
            options=f"{SESSION_OPTIONS} -c timezone=UTC -c search_path=pg_catalog",
        )
        self._timeout_s = timeout_ms / 1_000
        self._connection: AsyncConnection[Any] | None = None
        self._is_used = asyncio.Lock()  # routes and the loop share the connection

    async def due(self, after_ms: int) -> datetime | None:
        """The server's time, if nobody has begun a look for so long."""
        async with self._connected() as connection:
            row = await (await connection.execute(STATEMENTS["due"], {"seconds": after_ms / 1_000})).fetchone()
            return None if row is None else row[0]

    @asynccontextmanager
    async def turn(self, after_ms: int) -> AsyncIterator[Turn | None]:
        """A look that is written when the block ends well; None where another monitor looks, or has looked meanwhile."""
        async with self._connected() as connection, self._transactions.transaction_of(connection, self._terms):
            taken = await (await connection.execute(STATEMENTS["take_turn"], {"key": _TURN})).fetchone()
            due = await (await connection.execute(STATEMENTS["due"], {"seconds": after_ms / 1_000})).fetchone()
            yield Turn(connection) if taken == (True,) and due is not None else None

    async def was_kept(self, taken_at: datetime) -> bool | None:
        """True if the look that was begun then is written; None while one is under way, which may be that one."""
        async with self._connected() as connection:
            taken = await (await connection.execute(STATEMENTS["take_turn"], {"key": _TURN})).fetchone()
            if taken != (True,):
                return None
            # Only now, in a statement of its own: what was written by then can be seen.
            row = await connection.execute(STATEMENTS["was_kept"], {"taken_at": taken_at})
            return await row.fetchone() == (True,)

    async def last_look(self) -> Look | None:
        """Of whichever monitor was last."""
        async with self._connected() as connection:
            return await Turn(connection).last()

    async def alerts(self) -> list[Episode]:
        """Those that are raised now."""
        async with self._connected() as connection:
            return [episode for episode in await Turn(connection).open_episodes() if episode.raised_at is not None]

    async def history(self, *, limit: int, before: int | None) -> Page:
        """The newest findings before that id; `next` is None on the last page."""
        async with self._connected() as connection:
            rows = await connection.execute(STATEMENTS["newest_findings"], {"limit": limit + 1, "before": before})
            found = [_episode(row) for row in await rows.fetchall()]
        return Page(episodes=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    async def may_signal(self) -> bool:
        """True if this role may cancel statements and end sessions."""
        async with self._connected() as connection:
            return await (await connection.execute(STATEMENTS["may_signal"])).fetchone() == (True,)

    async def close(self) -> None:
        """No connection is left."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @asynccontextmanager
    async def _turn_to_use(self) -> AsyncIterator[None]:
        """Nobody else uses the connection; whoever asks is told in time that it hangs."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._is_used.acquire()
        except TimeoutError:
            raise Unavailable("dependency_unavailable", dependency="postgres", reason="busy") from None
        try:
            yield
        finally:
            self._is_used.release()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._turn_to_use():
            try:
                async with asyncio.timeout(self._timeout_s):
                    if self._connection is None or self._connection.closed:
                        self._connection = await connect_async(self._conninfo)
                    yield self._connection
            except (psycopg.Error, TimeoutError) as error:
                await self.close()  # whatever state it is in, the next call wants another
                reason = getattr(error, "sqlstate", None) or type(error).__name__
                raise Unavailable("dependency_unavailable", dependency="postgres", reason=reason) from None


def without_literals(query: str) -> str:
    """The text of a query with `'?'` for each literal: what it does shows, what it says does not."""
    return _LITERAL.sub("'?'", query)


def _lag(reader: str, generation: int, is_live: bool, rows: Sequence[tuple[Any, ...]]) -> Lag:
    ((ledgers, events, ledger, lag_ms),) = rows
    return Lag(
        reader=reader,
        generation=generation,
        is_live=is_live,
        events=events,
        ledgers=ledgers,
        ledger=ledger or "",
        lag_ms=max(0, lag_ms or 0),
    )


def _episode(row: tuple[Any, ...]) -> Episode:
    values: Mapping[str, Any] = dict(zip(Episode.__struct_fields__, row, strict=True))
    return Episode(**(dict(values) | {"detail": msgspec.json.decode(values["detail"])}))
