"""How every client of Redis is made: with a bound on each step, and without attempts that nobody asked for.

Nothing else makes one (tests/unit/test_house_rules.py); what a process does while Redis is away is its own matter.
"""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect_redis(url: str, *, timeout_ms: int, decode_responses: bool = False) -> Redis:
    """A client whose every step ends within the time-out and that never tries again by itself: the next call does."""
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_ms / 1_000,
        socket_connect_timeout=timeout_ms / 1_000,
        retry=Retry(NoBackoff(), 0),
        protocol=3,
        decode_responses=decode_responses,
    )
    return client
