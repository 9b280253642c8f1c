"""The beginning and the end of the clock as a process: its parts in order, nothing of what they do."""

import asyncio
import os
import signal

import structlog
import uvloop

from command_service.application.clock import Clock
from command_service.application.executor import Executor
from command_service.infrastructure.due import PostgresDue
from shared_kernel.breaker import Breaker
from shared_kernel.event_log.pool import LogPool
from shared_kernel.health import Health, HealthServer

STOP_SECONDS_MAX = 8.0  # contract of all processes: exit within 10 s of SIGTERM


class ClockProcess:
    """Runs until SIGTERM or SIGINT."""

    def __init__(
        self,
        *,
        clock: Clock,
        stop: asyncio.Event,
        executor: Executor,
        due: PostgresDue,
        pool: LogPool,
        breaker: Breaker,
        health: Health,
        server: HealthServer,
    ) -> None:
        self._clock = clock
        self._stop = stop
        self._executor = executor
        self._due = due
        self._pool = pool
        self._breaker = breaker
        self._health = health
        self._server = server

    def run(self) -> None:
        """Returns when told to stop and all is closed. IncarnationChanged: the log is another one; begin afresh."""
        self._health.register("clock", lambda: self._clock.trouble)
        self._health.note(f"{self._breaker.dependency}_breaker", self._breaker.tell)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        logger = structlog.get_logger("daybook")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        self._server.start()
        logger.info("started", port=self._server.port, pid=os.getpid())
        try:
            await self._clock.run()
        finally:
            try:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self._executor.stop()
                    await self._due.close()
            except TimeoutError:
                logger.error("stop_timeout", wait_ms=int(STOP_SECONDS_MAX * 1_000))
            self._pool.close()
            self._server.stop()
        logger.info("stopped")

    def _told_to_stop(self) -> None:
        self._health.stop()
        self._stop.set()
