"""Alerts as POST requests to one URL, in order, from one task; each with a time-out and a bounded number of attempts.

An alert that cannot be told is counted and logged; it stands in the table and the metrics all the same.
"""

import asyncio
import random
import urllib.error
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from daybook.monitor.domain.alerts import Episode
from daybook.monitor.infrastructure.figures import MonitorFigures
from shared_kernel.http_out import open_url

WAITING_MAX: Final = 1_000  # chosen: alerts that wait to be told; later ones are dropped
FIRST_WAIT_S: Final = 0.2
WAIT_S_MAX: Final = 10.0
CLOSE_S_MAX: Final = 3.0  # chosen: a process ends within 10 s of SIGTERM

log = structlog.get_logger(__name__)


class NoBell:
    """No webhook is set: log, metrics and table tell."""

    def ring(self, event: str, episode: Episode) -> None:
        """Nothing more."""

    async def run(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to end."""


class Webhook:
    """Implements `Bell`. `run` is the task that sends."""

    def __init__(self, url: str, figures: MonitorFigures, *, timeout_ms: int, attempts_max: int) -> None:
        self._url = url
        self._figures = figures
        self._timeout_s = timeout_ms / 1_000
        self._attempts_max = attempts_max
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)

    def ring(self, event: str, episode: Episode) -> None:
        """Will be told. The text of a query stays behind: who reads a channel need not be an operator."""
        told = {name: value for name, value in episode.detail.items() if name != "query"}
        body = {
            "event": event,
            "kind": episode.kind,
            "subject": episode.subject,
            "first_seen_at": episode.first_seen_at,
            "raised_at": episode.raised_at,
            "ended_at": episode.ended_at,
            "detail": told,
        }
        try:
            self._waiting.put_nowait(msgspec.json.encode(body))
        except asyncio.QueueFull:
            self._figures.told("dropped")

    async def run(self) -> None:
        """Sends what comes, until it is cancelled."""
        while True:
            body = await self._waiting.get()
            try:
                await self._tell(body)
            finally:
                self._waiting.task_done()

    async def close(self) -> None:
        """What waits is told if that is quick; call it before the task is cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._waiting.join()

    async def _tell(self, body: bytes) -> None:
        for attempt in range(self._attempts_max):
            fault = await asyncio.to_thread(self._post, body)
            if fault is None:
                self._figures.told("sent")
                return
            log.warning("webhook_failed", attempt=attempt + 1, reason=fault)
            if attempt + 1 < self._attempts_max:
                longest = min(WAIT_S_MAX, FIRST_WAIT_S * 2.0**attempt)
                await asyncio.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311 - spreads, guards nothing
        self._figures.told("failed")
        log.error("webhook_given_up", attempts=self._attempts_max)

    def _post(self, body: bytes) -> str | None:
        """None when it was taken; else why not, without the URL, which may hold a secret."""
        headers = {"Content-Type": "application/json"}
        try:
            with open_url(self._url, headers=headers, body=body, timeout_s=self._timeout_s):
                return None
        except urllib.error.HTTPError as error:
            with error:
                return f"answered {error.code}"
        except OSError as error:
            return type(getattr(error, "reason", error)).__name__
