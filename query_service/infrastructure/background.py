"""Work that goes on beside the requests, in a task of its own."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


class Background:
    """From `begin` until `end`; neither need be called."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """It goes on."""
        self._task = asyncio.create_task(work, name=name)

    async def end(self) -> None:
        """It was cancelled, and has ended. What it failed with, if it ended before, is raised."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
