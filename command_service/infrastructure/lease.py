"""The ledger lease (design §5): who writes to a ledger, told through Redis so that workers need not meet in conflicts.

Help, never truth: the append's fences guard the books whether Redis is there, slow, emptied or gone. So nothing here waits
for Redis in a command's way: `touch` notes the ledger, one background task asks, and what it hears is only remembered.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol
from uuid import uuid4

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

ASKED_TOGETHER_MAX = 500  # chosen: leases in one round trip, so that one answer stays small
RENEWALS_A_LEASE = 3  # design §5: renewed at a third of its time

# One key, so one hash slot. Gives 2 where the lease was ours, 1 where it was free, 0 where another worker has it.
TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 2
elseif holder then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# Only the holder's own token ends a lease: a late release must not end the lease of whoever took it after us.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
TAKEN, KEPT = 1, 2


class LeaseMetrics(Protocol):
    """What can be seen of the leases from outside."""

    def leases_held(self, count: int) -> None:
        """Ledgers whose lease this worker has now."""

    def lease_asked(self, result: str) -> None:
        """One answer: taken, kept, refused (another has it) or lost (it was ours and is not, or had to be taken anew)."""

    def redis_answered(self, is_up: bool) -> None:
        """Redis did or did not answer the last round."""


class NoLocks:
    """`DAYBOOK_LOCKS=off`: nobody is asked and nothing is held. Commands go on as with a lease that another worker has."""

    def touch(self, ledger: str) -> None:
        """Nothing to note."""

    def is_held(self, ledger: str) -> bool:
        """Never."""
        return False

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to give back."""


class _Ledger:
    """What this worker knows of one ledger's lease. Times are of the event loop's clock, in seconds."""

    __slots__ = ("asked_at", "held_until", "is_touched")

    def __init__(self) -> None:
        self.is_touched = True
        self.asked_at = float("-inf")
        self.held_until = float("-inf")


class RedisLeases:
    """Asks for the lease of each ledger this worker writes to, renews it at a third of its time, gives it back when idle.

    `incarnation` gives the log's incarnation once it is known; before that nothing is asked (a key without it could
    outlive a restored database). `timeout_ms` bounds every round trip. To be made and used on one event loop.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        incarnation: Callable[[], object | None],
        metrics: LeaseMetrics,
        lease_ms: int,
        timeout_ms: int,
        ledgers_max: int,
    ) -> None:
        self._redis = redis
        self._incarnation = incarnation
        self._metrics = metrics
        self._lease_ms = lease_ms
        self._timeout_s = timeout_ms / 1000
        self._ledgers_max = ledgers_max
        self._token = uuid4().hex
        self._ledgers: dict[str, _Ledger] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_up: bool | None = None

    def touch(self, ledger: str) -> None:
        """This worker is writing to the ledger. One look into a dictionary; beyond `ledgers_max` nothing at all."""
        known = self._ledgers.get(ledger)
        if known is not None:
            known.is_touched = True
        elif len(self._ledgers) < self._ledgers_max:
            self._ledgers[ledger] = _Ledger()
            self._wake.set()

    def is_held(self, ledger: str) -> bool:
        """True while this worker may believe that it alone writes to the ledger: counted from before it last asked."""
        known = self._ledgers.get(ledger)
        return known is not None and known.held_until > asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Asks in the background from here on."""
        self._task = asyncio.create_task(self._run(), name="ledger leases")

    async def stop(self) -> None:
        """Every lease of ours is given back, if Redis answers; another worker then need not wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._release(list(self._ledgers))
        self._ledgers.clear()
        await self._redis.aclose()

    async def ask(self) -> None:
        """One round: leases that are due are asked for, those of ledgers without work since the last round are given back."""
        incarnation = self._incarnation()
        if incarnation is None:
            return
        now = asyncio.get_running_loop().time()
        third_s = self._lease_ms / 1000 / RENEWALS_A_LEASE
        # A little early counts as due: a timer that rings a moment too soon must not skip a whole third.
        due = [name for name, known in self._ledgers.items() if known.asked_at + third_s * 0.9 <= now]
        idle = [name for name in due if not self._ledgers[name].is_touched]
        await self._release(idle)
        for name in idle:
            if not self._ledgers[name].is_touched:  # a command may have come while Redis was asked
                del self._ledgers[name]
        await self._take([name for name in due if name in self._ledgers])
        clock = asyncio.get_running_loop().time()
        self._metrics.leases_held(sum(known.held_until > clock for known in self._ledgers.values()))

    async def _run(self) -> None:
        pause_s = self._lease_ms / 1000 / RENEWALS_A_LEASE
        while True:
            self._wake.clear()
            try:
                await self.ask()
            except Exception:  # whatever it is, commands must not depend on it: said, and tried again
                structlog.get_logger().exception("lease_fault")
            try:
                # A ledger that is new to this worker wakes the round; unless Redis is down or the log not yet met.
                async with asyncio.timeout(pause_s):
                    if self._is_up is False or self._incarnation() is None:
                        await asyncio.sleep(pause_s)
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _take(self, names: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for some in _portions(names):
            asked_at = loop.time()  # from before the question, so that we never believe longer than Redis does
            answers = await self._evaluate(TAKE, some, self._lease_ms)
            if answers is None:
                return  # what we hold is believed until its own end, no longer; all of it stays due
            for name, answer in zip(some, answers, strict=True):
                known = self._ledgers[name]
                was_held = known.held_until > float("-inf")
                known.asked_at, known.is_touched = asked_at, False
                self._metrics.lease_asked(_result(answer, was_held=was_held))
                if answer != KEPT:
                    structlog.get_logger().debug("lease", ledger=name, status=_result(answer, was_held=was_held))
                known.held_until = asked_at + self._lease_ms / 1000 if answer in (TAKEN, KEPT) else float("-inf")

    async def _release(self, names: list[str]) -> None:
        held = [name for name in names if self.is_held(name)]
        for some in _portions(held):
            if await self._evaluate(RELEASE, some) is None:
                return  # they end by themselves
            for name in some:
                self._ledgers[name].held_until = float("-inf")
                structlog.get_logger().debug("lease", ledger=name, status="released")

    async def _evaluate(self, script: str, names: list[str], *arguments: int) -> list[int] | None:
        """The script's answer for each ledger in one round trip; None where Redis does not answer in time."""
        try:
            async with asyncio.timeout(self._timeout_s), self._redis.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.eval(script, 1, self._key(name), self._token, *arguments)
                answers: list[int] = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._note(error)
            return None
        self._note(None)
        return answers

    def _key(self, ledger: str) -> str:
        return f"daybook:{{{self._incarnation()}:{ledger}}}:lease"

    def _note(self, error: Exception | None) -> None:
        """Says it once when Redis goes and once when it is back."""
        is_up = error is None
        if is_up != self._is_up:
            if error is not None:
                structlog.get_logger().warning("redis_unavailable", error_class=type(error).__name__)
            elif self._is_up is not None:
                structlog.get_logger().info("redis_back")
        self._is_up = is_up
        self._metrics.redis_answered(is_up)

    @property
    def is_up(self) -> bool | None:
        """Whether Redis answered the last time it was asked; None before that."""
        return self._is_up


def connect(url: str, *, timeout_ms: int) -> "Redis":
    """A client whose every step ends within the time-out and that never tries again by itself: the next round does."""
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        protocol=3,
    )
    return client


def _result(answer: int, *, was_held: bool) -> str:
    if answer == KEPT:
        return "kept"
    if was_held:
        return "lost"
    return "taken" if answer == TAKEN else "refused"


def _portions(names: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(names)
    while some := list(islice(rest, ASKED_TOGETHER_MAX)):
        yield some
