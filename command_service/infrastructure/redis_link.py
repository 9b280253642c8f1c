"""The way to the Redis that holds the lock table: scripts in one round trip, bounded in time, and whether Redis answers at all.

Leases and account locks go through here. Nothing is raised because of Redis: who asks goes on without an answer. After a call
that failed, those that a command would wait for are not even tried for a while.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from shared_kernel.breaker import Breaker, BreakerBounds

# Chosen: a Redis that does not answer costs one command in a second its time-out, no more.
REDIS_BREAKER = BreakerBounds(failures_in_row=1, probes_max=1)


class CountsAnswers(Protocol):
    """Hears whether Redis answers."""

    def redis_answered(self, is_up: bool) -> None:
        """Redis did or did not answer the last call."""


class Script:
    """A Lua script. It uses only commands that Redis 7.0 and Valkey 9 share, and names every key that it touches in KEYS."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Call(NamedTuple):
    """One script with its keys, which are all of one ledger, and its arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int]


class RedisLink:
    """One client, shared by all who ask. To be made and used on one event loop."""

    def __init__(self, redis: Redis, *, metrics: CountsAnswers, breaker: Breaker | None = None) -> None:
        self._redis = redis
        self._metrics = metrics
        self._breaker = breaker or Breaker("redis", bounds=REDIS_BREAKER)
        self.is_up: bool | None = None
        """Whether Redis answered the last time it was asked; None before that."""

    def lets_wait(self) -> bool:
        """False while the breaker is open: a command that would wait for an answer goes on without, and is counted."""
        if self._breaker.admits():
            return True
        self._breaker.refuse()
        return False

    async def run(self, calls: Sequence[Call], *, timeout_s: float) -> list[Any] | None:
        """What each script answers, all sent in one round trip, in their order; None where Redis does not answer in time."""
        try:
            with self._guard():
                async with asyncio.timeout(timeout_s):
                    try:
                        answers = await self._send(calls)
                    except NoScriptError:  # a new server, or one that forgot; every script may run twice
                        for script in {call.script for call in calls}:
                            await self._redis.script_load(script.text)
                        answers = await self._send(calls)
        except (RedisError, OSError, TimeoutError) as error:
            self._note(error)
            return None
        self._note(None)
        return answers

    def rest(self) -> None:
        """Redis is slow: for a while nobody waits for it."""
        self._breaker.trip()

    async def close(self) -> None:
        """Nothing is asked any more."""
        await self._redis.aclose()

    def _guard(self) -> AbstractContextManager[None]:
        """What nobody waits for goes out past an open breaker, and says nothing to it: by that, what was lost is given back."""
        return self._breaker.call(RedisError, OSError, TimeoutError) if self._breaker.admits() else nullcontext()

    async def _send(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:  # a pipeline of one costs more
            (call,) = calls
            return [
                await cast("Any", self._redis.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments))
            ]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
            return await pipeline.execute()

    def _note(self, error: Exception | None) -> None:
        """Says it once when Redis goes and once when it is back."""
        is_up = error is None
        if is_up != self.is_up:
            if error is not None:
                structlog.get_logger().warning("redis_unavailable", error_class=type(error).__name__)
            elif self.is_up is not None:
                structlog.get_logger().info("redis_back")
        self.is_up = is_up
        self._metrics.redis_answered(is_up)
