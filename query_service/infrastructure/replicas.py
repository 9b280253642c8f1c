"""Answers from read replicas where they have what was asked for, from the primary otherwise. Nobody notices a dead replica.

A replica is asked once, while its breaker is closed: it answers, and its health check says that it is not far behind. Whatever it cannot answer surely (a
position or a time that it has not reached, a ledger or a row that it does not know) is asked of the primary.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from query_service.application.query_handler import Books, Question, RowT, Snapshot, Value
from query_service.infrastructure.background import Background
from query_service.infrastructure.figures import QueryFigures
from query_service.infrastructure.postgres_books import PostgresBooks
from shared_kernel.breaker import Breaker, State
from shared_kernel.errors import Unavailable
from shared_kernel.postgres import Bounded, connect_async

# Without a receiver a standby hears nothing of the primary; without anything left to replay it has all that it heard of.
_LOOK: Final = b"""
select
  not pg_is_in_recovery() or exists (select from pg_stat_wal_receiver),
  case when not pg_is_in_recovery() or pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
    else coalesce(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000, 0)::bigint end
"""

_log = structlog.get_logger(__name__)


class _Unfit(Exception):
    """The replica answers, but not as of now."""


class Replica:
    """One replica, asked while its breaker is closed; what probes an open one is the health check. `open` begins checking, `close` ends it.

    `books` count their calls with the same breaker.
    """

    def __init__(
        self,
        books: PostgresBooks,
        breaker: Breaker,
        *,
        conninfo: Bounded,
        figures: QueryFigures,
        check_ms: int,
        lag_ms_max: int,
    ) -> None:
        self.books = books
        self.breaker = breaker
        self.gone = asyncio.Event()
        self.gone.set()
        self._conninfo = conninfo
        self._figures = figures
        self._check_ms = check_ms
        self._lag_ms_max = lag_ms_max
        self._background = Background()
        self._look_again = asyncio.Event()

    @property
    def name(self) -> str:
        """`replica-1` and so on."""
        return self.breaker.dependency

    @property
    def is_up(self) -> bool:
        """True if it may be asked."""
        return self.breaker.state is State.CLOSED

    async def open(self) -> None:
        """It will be asked once the first checks have found it."""
        self.breaker.trip()
        await self.books.open()
        self._background.begin(self._watch(), name=f"watch-{self.name}")

    async def close(self) -> None:
        """No connection is left."""
        await self._background.end()
        await self.books.close()

    def suspect(self) -> None:
        """It did not answer: looked at soon, and by then not asked where its breaker has opened."""
        self._show("did_not_answer")
        self._look_again.set()

    async def _watch(self) -> None:
        connection: AsyncConnection[Any] | None = None
        try:
            while True:
                reason = ""
                try:
                    with self.breaker.look(psycopg.Error, TimeoutError, _Unfit):
                        async with asyncio.timeout(self._check_ms / 1000):
                            if connection is None or connection.closed:
                                connection = await connect_async(self._conninfo)
                            row = await (await connection.execute(_LOOK)).fetchone()
                        self._judge(*(row or (False, 0)))
                except _Unfit as error:
                    reason = str(error)
                    self.breaker.trip()
                except (psycopg.Error, TimeoutError) as error:
                    reason = type(error).__name__
                    self._show(reason)  # before anything that takes time
                    if connection is not None:
                        await connection.close()
                        connection = None
                self._show(reason)
                self._look_again.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._check_ms / 1000):
                        await self._look_again.wait()
                        await asyncio.sleep(self._check_ms / 5000)  # several that failed at once are one reason to look
        finally:
            if connection is not None:
                await connection.close()

    def _judge(self, is_fed: bool, lag_ms: int) -> None:
        if not is_fed:
            raise _Unfit("not_fed")
        if lag_ms > self._lag_ms_max:
            raise _Unfit("far_behind")

    def _show(self, reason: str) -> None:
        """What the breaker says now is told to those who wait for an answer, to the log and in figures."""
        is_up = self.is_up
        if is_up and self.gone.is_set():
            _log.info("replica_up", replica=self.name)
            self.gone.clear()
        elif not is_up and not self.gone.is_set():
            _log.warning("replica_down", replica=self.name, reason=reason)
            self.gone.set()
        self._figures.replica_seen(self.name, is_up=is_up)


class ReplicatedBooks:
    """The primary's books, relieved by replicas. Implements `application.query_handler.Books`."""

    def __init__(self, primary: Books, replicas: Sequence[Replica], figures: QueryFigures) -> None:
        self._primary = primary
        self._replicas = replicas
        self._figures = figures
        self._turn = 0
        self._left_behind: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Every replica is being looked for."""
        for replica in self._replicas:
            await replica.open()

    async def close(self) -> None:
        """No connection to a replica is left."""
        for replica in self._replicas:
            await replica.close()

    async def fetch(self, question: Question[RowT], parameters: Mapping[str, Value], *, until: float) -> Snapshot[RowT]:
        """As in `application.query_handler.Books`; at most one replica is asked before the primary."""
        replica = self._next()
        if replica is not None:
            snapshot = await self._ask(replica, question, parameters, until)
            if snapshot is not None and _suffices(snapshot, parameters):
                self._figures.answered_by("replica")
                return snapshot
        self._figures.answered_by("primary")
        return await self._primary.fetch(question, parameters, until=until)

    def _next(self) -> Replica | None:
        """The next one that is up, each in its turn."""
        for _ in self._replicas:
            self._turn = (self._turn + 1) % len(self._replicas)
            replica = self._replicas[self._turn]
            if replica.is_up:
                return replica
            replica.breaker.refuse()
        return None

    async def _ask(
        self, replica: Replica, question: Question[RowT], parameters: Mapping[str, Value], until: float
    ) -> Snapshot[RowT] | None:
        """Its answer; None where it gives none, at the latest when its check fails."""
        asking = asyncio.create_task(replica.books.fetch(question, parameters, until=until))
        gone = asyncio.create_task(replica.gone.wait())
        try:
            await asyncio.wait((asking, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not asking.done():
                # Not waited for: a connection to a server that is silent takes its time to end.
                asking.cancel()
                self._left_behind.add(asking)
                asking.add_done_callback(self._forget)
        if not asking.done():
            return None
        try:
            return asking.result()
        except Unavailable as error:
            if error.code != "overloaded":
                replica.suspect()
            return None

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled():
            task.exception()


def _suffices(snapshot: Snapshot[RowT], parameters: Mapping[str, Value]) -> bool:
    """False where the primary might answer otherwise: it is behind what was asked for, or does not know it yet."""
    stamp = snapshot.stamp
    if not snapshot.rows or getattr(snapshot.rows[0], "position", 0) is None:  # nothing, or a row that says so
        return False
    if parameters["ledger"] is None:
        return True
    if stamp.position is None or stamp.is_ahead:
        return False
    # A time that a replica's log has not passed names another position on the primary.
    return parameters["at_time"] is None or stamp.is_fixed
