"""The lock table in Redis, read by the pattern of its keys. Nothing is written there, and nobody is held up: SCAN, GET, ZRANGE, PTTL."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from daybook.monitor.domain.looks import Lock
from shared_kernel import lock_table
from shared_kernel.redis_client import connect_redis

SCANNED_TOGETHER: Final = 1_000
WORKERS_MAX: Final = 100  # chosen: workers of one ledger that are looked at, those whose presence ends first
ROUNDS_MAX: Final = 200  # chosen: so many keys of others, 200,000, are passed over before it gives up
_NO_EXPIRY, _NO_KEY = -1, -2  # what PTTL answers


class NoLockTable:
    """There is no Redis to look into."""

    async def locks(self) -> tuple[list[Lock], str]:
        """None, and why."""
        return [], "DAYBOOK_REDIS_URL is not set"


class RedisLockTable:
    """Implements `LockTable`. `timeout_ms` bounds a whole look, `locks_max` how many it gives, those that are held and those that ran out."""

    def __init__(self, url: str, *, timeout_ms: int, locks_max: int) -> None:
        self._redis = connect_redis(url, timeout_ms=timeout_ms, decode_responses=True)
        self._timeout_s = timeout_ms / 1_000
        self._locks_max = locks_max

    async def locks(self) -> tuple[list[Lock], str]:
        """Those that are held, up to the bound, by key; and what kept it from seeing all of them."""
        found: dict[str, Lock] = {}  # SCAN may give a key twice
        cursor = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(ROUNDS_MAX):
                    cursor = await self._look(cursor, found)
                    if cursor == 0 or len(found) > self._locks_max:
                        break
        except (RedisError, OSError, TimeoutError) as error:
            return [], f"Redis does not answer ({type(error).__name__})"
        kept = [found[key] for key in sorted(found)[: self._locks_max]]
        if len(found) > self._locks_max:
            return kept, f"more than {self._locks_max} locks are held"
        return kept, "there are too many other keys" if cursor else ""

    async def close(self) -> None:
        """No connection is left."""
        await self._redis.aclose()

    async def _look(self, cursor: int, found: dict[str, Lock]) -> int:
        """Some keys more; gives the cursor behind them, 0 at the end. Locks given back are remembered, and are far more than those held."""
        scanned = await self._redis.scan(cursor, match=lock_table.PATTERN, count=SCANNED_TOGETHER)
        ahead, keys = int(scanned[0]), [str(key) for key in scanned[1]]
        places = {key: place for key in keys if (place := lock_table.read_key(key)) is not None}
        now, *said = await self._answers([("TIME",), *(_question(key, place) for key, place in places.items())])
        answers = dict(zip(places, said, strict=True))
        for key, place in places.items():
            if place.name == lock_table.WRITERS:
                found.update((f"{key} {lock.holder}", lock) for lock in _ended(key, place, answers.pop(key), now))
        values = {key: value for key, text in answers.items() if (value := _held(text)) is not None}
        if values:
            now, *lefts = await self._answers([("TIME",), *(("PTTL", key) for key in values)])
            for (key, value), left_ms in zip(values.items(), lefts, strict=True):
                if left_ms != _NO_KEY:
                    found[key] = _lock(key, places[key], value, left_ms, now)
        return ahead

    async def _answers(self, commands: Iterable[tuple[str, ...]]) -> list[Any]:
        """Of each command, in one round trip; a key that is no string is an error in its place."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)


def _question(key: str, place: lock_table.LockKey) -> tuple[str, ...]:
    return (
        ("ZRANGE", key, "0", str(WORKERS_MAX - 1), "WITHSCORES") if place.name == lock_table.WRITERS else ("GET", key)
    )


def _ended(key: str, place: lock_table.LockKey, writers: object, now: tuple[int, int]) -> Iterator[Lock]:
    """The workers whose presence has ended, and who did not give it back."""
    for worker, until_ms in writers if isinstance(writers, list) else ():
        left_ms = int(until_ms) - _milliseconds(now)
        if left_ms < 0:
            yield Lock(key=key, kind=place.name, ledger=place.ledger, holder=worker, left_ms=left_ms, held_ms=None)


def _held(text: object) -> lock_table.LockValue | None:
    """What a lease or a lock says that somebody holds; None where it was given back, has ended meanwhile, or says nothing known."""
    value = lock_table.read_value(text) if isinstance(text, str) else None
    return value if value is not None and value.state == "held" else None


def _lock(key: str, place: lock_table.LockKey, value: lock_table.LockValue, left_ms: int, now: tuple[int, int]) -> Lock:
    return Lock(
        key=key,
        kind=place.name.partition(":")[0],
        ledger=place.ledger,
        holder=value.worker,
        waiter=value.waiter or "",
        left_ms=None if left_ms == _NO_EXPIRY else left_ms,
        held_ms=max(0, _milliseconds(now) - value.number),
    )


def _milliseconds(now: tuple[int, int]) -> int:
    """The clock of Redis as its scripts read it."""
    seconds, microseconds = now
    return seconds * 1_000 + microseconds // 1_000
