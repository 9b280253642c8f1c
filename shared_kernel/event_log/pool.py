"""A bounded set of log connections. Owns who may use which; a connection that is not clean is thrown away, not mended.

Bounded, because every connection is a backend: a queue in front of a few is faster than many.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

from shared_kernel.breaker import Breaker
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.calls import APPENDED_CHANNEL
from shared_kernel.event_log.errors import LogUnavailable, OutcomeUnknown
from shared_kernel.event_log.fast import LogConnection, end_backend
from shared_kernel.transactions import Transactions

# Chosen: NOTIFY serialises commits across the server and wakes every listener, so one serves all appends of so long; no less
# than the shortest rest of a relay (`round_ms`), which would not listen sooner.
ANNOUNCE_EVERY_S: Final = 0.02
# Chosen: the pause between attempts to end a lost connection's backend while the server is away.
END_BACKEND_RETRY_S: Final = 0.1


class LogPool:
    """At most `connections_max` connections, made when first needed, used again last in first out.

    `is_for_health`: whoever borrows asks whether the server is there, and so whatever the breaker says. `refused`: is called when
    somebody got no connection in time.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "daybook",
        connections_max: int = 8,
        borrow_timeout_ms: int = 5_000,
        connect_timeout_ms: int = 5_000,
        silence_timeout_ms: int = 10_000,
        settle_timeout_ms: int = 15_000,
        lock_timeout_ms: int = 2_000,
        statement_timeout_ms: int = 10_000,
        transactions: Transactions | None = None,
        breaker: Breaker | None = None,
        is_for_health: bool = False,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._name = name  # told from other processes by it, in who waits for whom
        self._breaker = breaker or Breaker("postgres")
        self._call = self._breaker.look if is_for_health else self._breaker.call
        self._transactions = transactions or Transactions()
        self._borrow_timeout_s = borrow_timeout_ms / 1_000
        self._settle_timeout_ms = settle_timeout_ms
        self._timeouts = {
            "connect_timeout_ms": connect_timeout_ms,
            "silence_timeout_ms": silence_timeout_ms,
            "lock_timeout_ms": lock_timeout_ms,
            "statement_timeout_ms": statement_timeout_ms,
        }
        self._refused = refused
        self._free = asyncio.Semaphore(connections_max)
        self.used = 0
        """Connections that are lent, or being made for a borrower."""
        self.waiting = 0
        """Who waits for a connection."""
        self._idle: list[LogConnection] = []
        self._incarnation: UUID | None = None
        self._is_closed = False
        self._announced: set[str] = set()
        self._announcing: asyncio.Task[None] | None = None

    @property
    def incarnation(self) -> UUID | None:
        """The log's incarnation, learned with the first connection; every later one must agree."""
        return self._incarnation

    @property
    def idle(self) -> int:
        """Connections that nobody has."""
        return len(self._idle)

    @property
    def is_contended(self) -> bool:
        """Somebody waits for a connection. They are served in the order in which they came."""
        return self.waiting > 0

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[LogConnection]:
        """A connection for this block alone.

        An `OutcomeUnknown` leaves the block only when the old backend was ended, or could not be in time: see its
        `is_settled`. Raises `Contention("pool_exhausted")` if none came free in time, what `LogConnection.connect` raises, and
        `dependency_unavailable` at once while the breaker is open.
        """
        if self._free.locked():
            self.waiting += 1
            try:
                async with asyncio.timeout(self._borrow_timeout_s):
                    await self._free.acquire()
            except TimeoutError:
                self._refused()
                raise Contention("pool_exhausted") from None
            finally:
                self.waiting -= 1
        else:  # most times, and then at once: no timer for each batch
            await self._free.acquire()
        lost: LogConnection | None = None
        self.used += 1
        try:
            with self._call(LogUnavailable, OutcomeUnknown):
                connection = await self._take()
                try:
                    yield connection
                except OutcomeUnknown:
                    connection.close()
                    lost = connection
                    raise
                finally:
                    self._give_back(connection)
        except OutcomeUnknown as unknown:
            if lost is not None:  # only now, when the breaker has heard of it: this may take long
                unknown.is_settled = await self._end_backend(lost)
            raise
        finally:
            self.used -= 1
            self._free.release()

    def unavailable(self) -> Unavailable | None:
        """What to tell whoever comes now, while the breaker lets nobody through."""
        return None if self._breaker.admits() else self._breaker.refuse()

    def announce(self, ledger: str) -> None:
        """Whoever waits for events of `ledger` is woken, at once or with those of a few milliseconds, outside any append.

        Lost at worst: they poll besides.
        """
        self._announced.add(ledger)
        if (self._announcing is None or self._announcing.done()) and not self._is_closed:
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    def close(self) -> None:
        """Idle connections are closed now, borrowed ones as they come back."""
        self._is_closed = True
        if self._announcing is not None:
            self._announcing.cancel()
        while self._idle:
            self._idle.pop().close()

    async def _take(self) -> LogConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        connection = await LogConnection.connect(
            self._url,
            name=self._name,
            incarnation=self._incarnation,
            transactions=self._transactions,
            **self._timeouts,
        )
        self._incarnation = connection.incarnation
        return connection

    def _give_back(self, connection: LogConnection) -> None:
        # In flight after its borrower left (a cancelled call) or in a transaction: nobody else may meet that.
        if connection.is_usable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()

    async def _end_backend(self, connection: LogConnection) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settle_timeout_ms / 1_000):
                while True:
                    # The server restarts: ask again. Its answers count, for nobody else may be asking.
                    with suppress(Unavailable), self._breaker.call(LogUnavailable):
                        if await end_backend(
                            self._url,
                            connection.backend_pid,
                            connection.backend_start,
                            name=self._name,
                            wait_ms=self._settle_timeout_ms // 3,
                        ):
                            return True
                    await asyncio.sleep(END_BACKEND_RETRY_S)
        return False

    async def _announce(self) -> None:
        while self._announced:
            ledgers, self._announced = self._announced, set()
            with suppress(DaybookError):
                try:
                    async with self.borrow() as connection:
                        await connection.notify(APPENDED_CHANNEL, *sorted(ledgers))
                except LogUnavailable:  # its session was ended, say
                    self._announced |= ledgers  # with the next ones, until the breaker is open
            await asyncio.sleep(ANNOUNCE_EVERY_S)
