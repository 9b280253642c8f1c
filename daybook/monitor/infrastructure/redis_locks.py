"""The lock table in Redis, read by the pattern of its keys. Nothing is written there, and nobody is held up: SCAN, GET, PTTL."""

import asyncio
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from daybook.monitor.domain.looks import Lock
from shared_kernel import lock_table

SCANNED_TOGETHER: Final = 1_000
ROUNDS_MAX: Final = 200  # chosen: so many keys of others, 200,000, are passed over before it gives up
_NO_EXPIRY, _NO_KEY = -1, -2  # what PTTL answers


class NoLockTable:
    """There is no Redis to look into."""

    async def locks(self) -> tuple[list[Lock], str]:
        """None, and why."""
        return [], "DAYBOOK_REDIS_URL is not set"


class RedisLockTable:
    """Implements `LockTable`. `timeout_ms` bounds a whole look, `keys_max` what it holds."""

    def __init__(self, url: str, *, timeout_ms: int, keys_max: int) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_ms / 1_000,
            socket_connect_timeout=timeout_ms / 1_000,
            retry=Retry(NoBackoff(), 0),
            protocol=3,
            decode_responses=True,
        )
        self._timeout_s = timeout_ms / 1_000
        self._keys_max = keys_max

    async def locks(self) -> tuple[list[Lock], str]:
        """Every lock up to the bound, by key."""
        try:
            async with asyncio.timeout(self._timeout_s):
                keys, is_whole = await self._keys()
                return await self._read(
                    keys
                ), "" if is_whole else f"there are more than {len(keys)} locks or other keys"
        except (RedisError, OSError, TimeoutError) as error:
            return [], f"Redis does not answer ({type(error).__name__})"

    async def close(self) -> None:
        """No connection is left."""
        await self._redis.aclose()

    async def _keys(self) -> tuple[list[str], bool]:
        found: set[str] = set()
        cursor = 0
        for _ in range(ROUNDS_MAX):
            cursor, keys = await self._redis.scan(cursor, match=lock_table.PATTERN, count=SCANNED_TOGETHER)
            found.update(str(key) for key in keys)
            if cursor == 0 or len(found) >= self._keys_max:
                break
        return sorted(found)[: self._keys_max], cursor == 0 and len(found) <= self._keys_max

    async def _read(self, keys: list[str]) -> list[Lock]:
        if not keys:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.get(key)
                pipeline.pttl(key)
            (seconds, microseconds), *answers = await pipeline.execute(raise_on_error=False)
        now_ms = seconds * 1_000 + microseconds // 1_000
        found = zip(keys, answers[::2], answers[1::2], strict=True)
        return [lock for key, text, left_ms in found if (lock := _lock(key, text, left_ms, now_ms)) is not None]


def _lock(key: str, text: object, left_ms: int, now_ms: int) -> Lock | None:
    """A lease or a lock that somebody holds; None for what was given back, has ended meanwhile, or is no lock."""
    place = lock_table.read_key(key)
    value = lock_table.read_value(text) if isinstance(text, str) else None
    if place is None or value is None or value.state != "held" or left_ms == _NO_KEY:
        return None
    return Lock(
        key=key,
        kind=place.name.partition(":")[0],
        ledger=place.ledger,
        holder=value.worker,
        waiter=value.waiter or "",
        left_ms=None if left_ms == _NO_EXPIRY else left_ms,
        held_ms=max(0, now_ms - value.number),
    )
