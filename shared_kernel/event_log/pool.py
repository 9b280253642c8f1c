"""A bounded set of log connections. Owns who may use which; a connection that is not clean is thrown away, not mended.

Bounded, because every connection is a backend: a queue in front of a few is faster than many.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from shared_kernel.errors import Contention
from shared_kernel.event_log.fast import LogConnection


class LogPool:
    """At most `connections_max` connections, made when first needed, used again last in first out."""

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = 8,
        borrow_timeout_ms: int = 5_000,
        connect_timeout_ms: int = 5_000,
        lock_timeout_ms: int = 2_000,
        statement_timeout_ms: int = 10_000,
    ) -> None:
        self._url = url
        self._borrow_timeout_s = borrow_timeout_ms / 1_000
        self._timeouts = {
            "connect_timeout_ms": connect_timeout_ms,
            "lock_timeout_ms": lock_timeout_ms,
            "statement_timeout_ms": statement_timeout_ms,
        }
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[LogConnection] = []
        self._incarnation: UUID | None = None
        self._is_closed = False

    @property
    def incarnation(self) -> UUID | None:
        """The log's incarnation, learned with the first connection; every later one must agree."""
        return self._incarnation

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[LogConnection]:
        """A connection for this block alone.

        Raises `Contention("pool_exhausted")` if none came free in time, and what `LogConnection.connect` raises.
        """
        try:
            async with asyncio.timeout(self._borrow_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise Contention("pool_exhausted") from None
        try:
            connection = await self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Idle connections are closed now, borrowed ones as they come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _take(self) -> LogConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        connection = await LogConnection.connect(self._url, incarnation=self._incarnation, **self._timeouts)
        self._incarnation = connection.incarnation
        return connection

    def _give_back(self, connection: LogConnection) -> None:
        # In flight after its borrower left (a cancelled call) or in a transaction: nobody else may meet that.
        if connection.is_usable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()
