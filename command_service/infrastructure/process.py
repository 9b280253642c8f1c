"""The beginning and the end of the command process, and whether it is ready: its parts in order, nothing of what they do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from command_service.application.executor import Executor
from shared_kernel.errors import DaybookError
from shared_kernel.event_log.errors import LedgerNotFound
from shared_kernel.event_log.pool import LogPool
from shared_kernel.event_log.types import Tail
from shared_kernel.keys import Keys

STOP_SECONDS_MAX = 8.0  # contract of all processes: exit within 10 s of SIGTERM
NO_LEDGER = ".ready"  # outside the grammar of names, so there is never such a ledger


class Locks(Protocol):
    """What starts and stops with the process (`RedisLocks`, `NoLocks`)."""

    async def start(self) -> None:
        """Asks from here on."""

    async def stop(self) -> None:
        """Gives back what it has."""


class CommandProcess:
    """Starts and stops the parts of the write side in order. `probe` is a pool of one connection that only the probe uses:
    readiness must not depend on a free connection.
    """

    def __init__(self, *, executor: Executor, locks: Locks, pool: LogPool, probe: LogPool, keys: Keys) -> None:
        self._keys = keys
        self._executor = executor
        self._locks = locks
        self._pool = pool
        self._probe = probe

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Everything runs inside. A database that is away does not keep the process from starting: it is not ready then."""
        missing = await self.check_database()
        if missing is not None:
            structlog.get_logger().warning("database_unavailable", cause=missing)
        await self._locks.start()
        try:
            yield
        finally:
            await self._stop()

    async def check_database(self) -> str | None:
        """None if this process's role can append to the log of the incarnation it knows; otherwise what is wrong."""
        try:
            async with self._probe.borrow() as session:
                await session.append(NO_LEDGER, seen=None, decisions=[], tail=Tail())
        except LedgerNotFound:  # the append function looked and said so
            return None
        except DaybookError as error:
            return error.code
        return None

    async def _stop(self) -> None:
        """Answers what it took, gives the locks back, closes what is open."""
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._executor.stop()
        except TimeoutError:
            structlog.get_logger().error("stop_timeout", wait_ms=int(STOP_SECONDS_MAX * 1000))
        await self._locks.stop()
        self._pool.close()
        self._probe.close()
        self._keys.close()
