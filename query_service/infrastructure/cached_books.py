"""Answers that need not be asked for again: what a position names for good, and balances that are still the newest.

An entry is served only if it is of the live generation and this incarnation of the log, and its position satisfies the request. So
nothing in Redis can be wrong, only absent: it may be flushed, evicted or down at any time. A process never has more there than its
budget, and nothing for longer than a lifetime. An entry that is not fixed lives a moment only: that it is the newest still is known from
announcements, and one may be lost.
"""

import asyncio
import hashlib
import heapq
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, get_type_hints

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from query_service.application.query_handler import Books, Question, RowT, Snapshot, Stamp, Value
from query_service.application.questions import BALANCES
from query_service.infrastructure.conditions import compiled
from query_service.infrastructure.figures import QueryFigures
from shared_kernel.breaker import Breaker

KEY_PREFIX: Final = "daybook:query:"
BELIEVED_S: Final = 1.0  # chosen: so soon another generation, or a restored log, is found to answer
LIVE_QUESTIONS: Final = frozenset((BALANCES.statement,))
_NOT_NAMING: Final = frozenset(("wanted",))

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class Newest(Protocol):
    """Knows the newest visible position of a ledger's books, as long as somebody tells it."""

    def newest(self, ledger: str) -> int | None:
        """None where it is not known."""
        ...

    def learn(self, ledger: str, position: int) -> None:
        """A snapshot has shown that the books have reached this."""
        ...


class _Belief(NamedTuple):
    """Which generation answers, of which incarnation of the log; as seen then."""

    generation: str | None
    incarnation: str
    seen_at: float


class CachedBooks:
    """Books behind a cache in Redis. Implements `application.query_handler.Books`."""

    def __init__(
        self,
        books: Books,
        redis: Redis,
        newest: Newest,
        figures: QueryFigures,
        *,
        seconds_max: int,
        live_ms: int,
        bytes_max: int,
        entry_bytes_max: int,
        timeout_ms: int,
        breaker: Breaker,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._books = books
        self._redis = redis
        self._newest = newest
        self._figures = figures
        self._lifetime_ms = {True: seconds_max * 1000, False: live_ms}
        self._budget = _Budget(bytes_max)
        self._entry_bytes_max = entry_bytes_max
        self._timeout_s = timeout_ms / 1000
        self._now = now
        self._breaker = breaker
        self._beliefs: dict[tuple[bool, bool], _Belief] = {}
        self._decoders: dict[type, Callable[[bytes], tuple[Stamp, list[Any]]]] = {}

    async def close(self) -> None:
        """No connection is left."""
        await self._redis.aclose()

    async def fetch(self, question: Question[RowT], parameters: Mapping[str, Value], *, until: float) -> Snapshot[RowT]:
        """As in `application.query_handler.Books`."""
        key = self._key(question, parameters)
        if key is not None:
            found = await self._get(key, question)
            if found is not None and self._satisfies(found.stamp, parameters):
                self._figures.answered_by("cache")
                return found
        snapshot = await self._books.fetch(question, parameters, until=until)
        await self._keep(question, parameters, snapshot)
        return snapshot

    def _key(self, question: Question[Any], parameters: Mapping[str, Value]) -> str | None:
        """None where nothing may be in the cache, or nobody knows which generation answers."""
        is_named = any(parameters[name] is not None for name in ("at", "at_position", "at_time"))
        if parameters["ledger"] is None or not (is_named or question.statement in LIVE_QUESTIONS):
            return None
        belief = self._beliefs.get(_kind(question))
        if belief is None or self._now() - belief.seen_at > BELIEVED_S:
            return None
        named = {name: value for name, value in parameters.items() if name not in _NOT_NAMING}
        condition, values = compiled(question.filter, question.fields)
        asked = _encode((question.statement, condition, sorted(values.items()), sorted(named.items())))
        digest = hashlib.sha256(asked).hexdigest()
        return f"{KEY_PREFIX}{belief.incarnation}:{belief.generation or 'log'}:{digest}"

    def _satisfies(self, stamp: Stamp, parameters: Mapping[str, Value]) -> bool:
        """True if the entry is as new as was asked for: as the position that the client knows, else as the newest there is."""
        wanted = int(str(parameters["wanted"]))
        if stamp.is_fixed:
            return stamp.reached >= wanted
        if wanted > 1:
            return stamp.reached >= wanted
        newest = self._newest.newest(str(parameters["ledger"]))
        return newest is not None and stamp.reached >= newest

    async def _keep(self, question: Question[RowT], parameters: Mapping[str, Value], snapshot: Snapshot[RowT]) -> None:
        stamp = snapshot.stamp
        kind = _kind(question)
        self._beliefs[kind] = _Belief(stamp.generation, stamp.incarnation, self._now())
        if stamp.position is None or stamp.is_ahead or parameters["ledger"] is None:
            return
        if question.statement in LIVE_QUESTIONS:
            self._newest.learn(str(parameters["ledger"]), stamp.reached)
        if stamp.standstill is not None or not (stamp.is_fixed or question.statement in LIVE_QUESTIONS):
            return
        key = self._key(question, parameters)
        if key is None:
            return
        entry = _encode((stamp, snapshot.rows))
        lifetime_ms = self._lifetime_ms[stamp.is_fixed]
        if len(entry) <= self._entry_bytes_max and self._budget.take(len(entry) + len(key), lifetime_ms, self._now()):
            await self._ask(self._redis.set(key, entry, px=lifetime_ms))

    async def _get(self, key: str, question: Question[RowT]) -> Snapshot[RowT] | None:
        entry = await self._ask(self._redis.get(key))
        if not isinstance(entry, bytes):
            return None
        decode = self._decoders.get(question.row)
        if decode is None:
            decode = self._decoders[question.row] = _decoder(question.row)
        try:
            stamp, rows = decode(entry)
        except msgspec.MsgspecError:  # written by another version of this software
            return None
        return Snapshot(stamp, [question.row(*row) for row in rows])

    async def _ask(self, asking: Any) -> Any:
        """Redis's answer; None at once while it is left alone, and soon if it does not answer."""
        if not self._breaker.admits():
            self._breaker.refuse()
            asking.close()
            return None
        try:
            with self._breaker.call(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    return await asking
        except (RedisError, OSError, TimeoutError) as error:
            _log.info("cache_unavailable", error_class=type(error).__name__)
            return None


class _Budget:
    """Bounds what one process has in Redis: each write counts for as long as it lives there."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._living: list[tuple[float, int]] = []  # a heap: until when, how much

    def take(self, size: int, lifetime_ms: int, now: float) -> bool:
        """True if so many bytes may be written now."""
        while self._living and self._living[0][0] <= now:
            self._left += heapq.heappop(self._living)[1]
        if size > self._left:
            return False
        self._left -= size
        heapq.heappush(self._living, (now + lifetime_ms / 1000, size))
        return True


def _decoder(row: type[Any]) -> Callable[[bytes], tuple[Stamp, list[Any]]]:
    """Reads entries of these rows. In a row that says that there is none, any column may be null."""
    columns = tuple(hint | None for hint in get_type_hints(row).values())
    shape: Any = tuple[Stamp, list[tuple[columns]]]  # type: ignore[valid-type]  # made at run time
    return msgspec.json.Decoder(shape).decode


def _kind(question: Question[Any]) -> tuple[bool, bool]:
    """Questions of one kind are answered by the same generations."""
    return question.is_of_log, question.needs_periods
