"""The ledger lease (design §5): who writes to a ledger, told through Redis so that workers need not meet in conflicts.

Who writes alone holds the lease and takes no account locks. Where a second one writes, the holder steps down, and both take account
locks (account_locks.py) until only one is left. Help, never truth: the append's fences guard the books whether Redis is there, slow,
emptied or gone. So nothing here waits for Redis in a command's way: `touch` notes the ledger, one background task asks, and
what it hears is only remembered.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Protocol

import structlog

from command_service.application.batch import Ticket
from command_service.infrastructure.redis_link import Call, RedisLink, Script
from shared_kernel import lock_table

ASKED_TOGETHER_MAX = 500  # chosen: leases in one round trip, so that one answer stays small
RENEWALS_A_LEASE = 3  # design §5: renewed at a third of its time

# KEYS: lease, writers (one hash slot). ARGV: worker, time of the lease in ms, for how long it is remembered who did not give back.
# Notes that this worker writes, which is the wish that makes another holder step down. Gives what `_ANSWERS` names.
ASK = Script("""
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2] + ARGV[3])
local value = redis.call('GET', KEYS[1])
local holder = value and string.match(value, '^held (%S+)')
if redis.call('ZCOUNT', KEYS[2], string.format('(%.0f', now), '+inf') > 1 then
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[1])
    return 4
  end
  return holder and 0 or 3
end
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 2
end
if holder then return 0 end
redis.call('SET', KEYS[1], string.format('held %s %.0f', ARGV[1], now), 'PX', ARGV[2])
return 1
""")
_ANSWERS = ("refused", "taken", "kept", "shared", "stepped_down")
# Only the holder's own name ends a lease: a late release must not end the lease of whoever took it after us.
RELEASE = Script("""
redis.call('ZREM', KEYS[2], ARGV[1])
local value = redis.call('GET', KEYS[1])
if value and string.match(value, '^held (%S+)') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")


class LeaseMetrics(Protocol):
    """What can be seen of the leases from outside."""

    def leases_held(self, count: int) -> None:
        """Ledgers whose lease this worker has now."""

    def lease_asked(self, result: str) -> None:
        """One answer: taken, kept, refused (another has it), lost (it was ours and is not, or had to be taken anew), stepped_down
        (it was ours, and another wants to write too), shared (several write, nobody has it).
        """


class _Ledger:
    """What this worker knows of one ledger's lease. Times are of the event loop's clock, in seconds."""

    __slots__ = ("asked_at", "asked_by", "held_until", "is_asked", "is_shared", "is_touched", "since")

    def __init__(self, asked_by: Mapping[str, str], now: float) -> None:
        self.asked_by = asked_by  # what the log calls the command that brought this worker here
        self.since = now  # that this worker has it; or wants it, while it has not
        self.is_touched = True
        self.is_asked = False
        self.is_shared = False
        self.asked_at = float("-inf")
        self.held_until = float("-inf")


class RedisLeases:
    """Asks for the lease of each ledger this worker writes to, renews it at a third of its time, gives it back when idle.

    `incarnation` gives the log's incarnation once it is known; before that nothing is asked (a key without it could
    outlive a restored database). `timeout_ms` bounds every round trip. To be made and used on one event loop.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        worker: str,
        incarnation: Callable[[], object | None],
        metrics: LeaseMetrics,
        lease_ms: int,
        timeout_ms: int,
        ledgers_max: int,
    ) -> None:
        self._link = link
        self._worker = worker
        self._incarnation = incarnation
        self._metrics = metrics
        self._lease_ms = lease_ms
        self._timeout_s = timeout_ms / 1000
        self._ledgers_max = ledgers_max
        self._ledgers: dict[str, _Ledger] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def touch(self, ledger: str, ticket: Ticket) -> bool:
        """This worker is writing to the ledger. True if others are too, as far as it has heard. `ticket`: for the log.

        One look into a dictionary; beyond `ledgers_max` nothing at all.
        """
        known = self._ledgers.get(ledger)
        if known is not None:
            known.is_touched = True
            return known.is_shared and self._link.is_up is True
        if len(self._ledgers) < self._ledgers_max:
            self._ledgers[ledger] = _Ledger(ticket.identity(), asyncio.get_running_loop().time())
            self._wake.set()
        return False

    def is_held(self, ledger: str) -> bool:
        """True while this worker may believe that it alone writes to the ledger: counted from before it last asked."""
        known = self._ledgers.get(ledger)
        return known is not None and known.held_until > asyncio.get_running_loop().time()

    def is_shared(self, ledger: str) -> bool:
        """True if this worker heard last that others write to the ledger too, and that nobody has the lease."""
        known = self._ledgers.get(ledger)
        return known is not None and known.is_shared

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
        for name in await self._release(idle):
            if not self._ledgers[name].is_touched:  # a command may have come while Redis was asked
                del self._ledgers[name]
        await self._take([name for name in due if name in self._ledgers and self._ledgers[name].is_touched])
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
                    if self._link.is_up is False or self._incarnation() is None:
                        await asyncio.sleep(pause_s)
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _take(self, names: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for some in _portions(names):
            for name in some:
                self._ledgers[name].is_asked = True
            asked_at = loop.time()  # from before the question, so that we never believe longer than Redis does
            answers = await self._run_for(ASK, some, self._lease_ms, lock_table.OVER_KEPT_MS)
            if answers is None:
                return  # what we hold is believed until its own end, no longer; all of it stays due
            lost = {}
            for name, answer in zip(some, answers, strict=True):
                held_s = asked_at - self._ledgers[name].since
                if self._hear(name, _ANSWERS[answer], asked_at) == "lost":
                    lost[name] = held_s
            self._tell_lost(lost)

    def _hear(self, name: str, answer: str, asked_at: float) -> str:
        known = self._ledgers[name]
        result, was_held = answer, known.held_until > float("-inf")
        if was_held and answer not in ("kept", "stepped_down"):
            result = "lost"
        was_shared, known.is_shared = known.is_shared, answer in ("shared", "stepped_down")
        known.asked_at, known.is_touched = asked_at, False
        known.held_until = asked_at + self._lease_ms / 1000 if answer in ("taken", "kept") else float("-inf")
        self._metrics.lease_asked(result)
        if result != "kept" and not (was_shared and known.is_shared):
            self._tell(name, result, was_held=was_held)
        return result

    async def _release(self, names: list[str]) -> list[str]:
        """Those that were given back; the others end by themselves, and it is remembered that nobody gave them back."""
        released: list[str] = []
        for some in _portions(name for name in names if self._ledgers[name].is_asked):
            if await self._run_for(RELEASE, some) is None:
                break
            released += some
            for name in some:
                known = self._ledgers[name]
                if known.held_until > float("-inf"):
                    self._tell(name, "released", was_held=True)
                known.held_until, known.is_shared = float("-inf"), False
        return released

    def _tell(self, name: str, status: str, *, was_held: bool) -> None:
        """How long it was held or, where it was not, has been wanted; and by which command this worker came to the ledger."""
        known, now = self._ledgers[name], asyncio.get_running_loop().time()
        lasted_ms = round((now - known.since) * 1_000, 3)
        structlog.get_logger().debug(
            "lease",
            ledger=name,
            status=status,
            worker=self._worker,
            **known.asked_by,
            **({"held_ms": lasted_ms} if was_held else {"wait_ms": lasted_ms}),
        )
        if was_held or status == "taken":
            known.since = now

    def _tell_lost(self, lost: Mapping[str, float]) -> None:
        """This worker stood still for longer than a lease, or Redis forgot: one warning, however many leases went."""
        if not lost:
            return
        name, held_s = next(iter(lost.items()))
        structlog.get_logger().warning(
            "leases_lost",
            count=len(lost),
            ledger=name,
            worker=self._worker,
            held_ms=round(held_s * 1_000, 3),
            **self._ledgers[name].asked_by,
        )

    async def _run_for(self, script: Script, names: list[str], *arguments: int) -> list[int] | None:
        """The script's answer for each ledger in one round trip; None where Redis does not answer in time."""
        incarnation = self._incarnation()
        calls = [
            Call(
                script,
                [lock_table.key(incarnation, name, each) for each in (lock_table.LEASE, lock_table.WRITERS)],
                (self._worker, *arguments),
            )
            for name in names
        ]
        return await self._link.run(calls, timeout_s=self._timeout_s)


def _portions(names: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(names)
    while some := list(islice(rest, ASKED_TOGETHER_MAX)):
        yield some
