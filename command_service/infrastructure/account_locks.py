"""Account locks in Redis (design §5): one script takes those of a whole batch, each command's all or none, and another gives back.

Who is blocked is told so at once and never waits in here. All keys of one call are of one ledger, so of one hash slot; what they
and their values mean is in `shared_kernel/lock_table.py`. Help, never truth: a call that fails, or comes late, blocks nobody.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from command_service.application.locks import Grip, NoGrip, Wanted
from command_service.infrastructure.redis_link import Call, RedisLink, Script
from shared_kernel import lock_table

RENEWALS_A_LEASE = 3  # design §5: renewed at a third of its time
LOCKS_MAX = (
    5_000  # chosen: keys of one call, about what the largest batch has entries; one that wants more goes without
)

_READ = """
local function read(key)
  local value = redis.call('GET', key)
  if not value then return end
  local state, holder, number, waiter = string.match(value, '^(%a+) (%S+) (%d+) ?(%S*)$')
  if waiter == '' then waiter = nil end
  return state, holder, number, waiter
end
"""
# KEYS: the locks of the batch, sorted. ARGV: worker, time of a lock in ms, then for each command the places of its locks in KEYS.
# A lock that somebody waits for goes to nobody else, whoever had it last: a busy worker cannot starve another.
# Gives the position that the locks' earlier holders reached, and for each command who stands in its way ('': it has its locks).
TAKE = Script(
    _READ
    + """
local worker, life = ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local state, holder, number, waiter, mine, marked = {}, {}, {}, {}, {}, {}
for i, key in ipairs(KEYS) do
  state[i], holder[i], number[i], waiter[i] = read(key)
end
local reached, blockers = 0, {}
for c = 3, #ARGV do
  local blocker = ''
  for place in string.gmatch(ARGV[c], '%d+') do
    local i = tonumber(place)
    if state[i] == 'held' and holder[i] ~= worker then
      blocker = holder[i]
      if not waiter[i] then waiter[i], marked[i] = worker, true end
    elseif waiter[i] and waiter[i] ~= worker then
      blocker = waiter[i]
    end
  end
  if blocker == '' then
    for place in string.gmatch(ARGV[c], '%d+') do
      local i = tonumber(place)
      if state[i] == 'free' and holder[i] ~= worker then reached = math.max(reached, tonumber(number[i])) end
      if state[i] ~= 'held' then number[i] = now end
      state[i], holder[i], waiter[i], mine[i] = 'held', worker, nil, true
    end
  end
  blockers[#blockers + 1] = blocker
end
for i, key in ipairs(KEYS) do
  if mine[i] then
    redis.call('SET', key, 'held ' .. worker .. ' ' .. number[i], 'PX', life)
  elseif marked[i] then
    redis.call('SET', key, 'held ' .. holder[i] .. ' ' .. number[i] .. ' ' .. worker, 'KEEPTTL')
  end
end
return {reached, blockers}
"""
)
# KEYS: locks. ARGV: worker, the position reached ('0': none), how long that is kept and how long a waiter's mark, in ms.
# Gives for each 1, or 0 where it was not ours any more.
RELEASE = Script(
    _READ
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local state, holder, number, waiter = read(key)
  if state == 'held' and holder == ARGV[1] then
    answers[i] = 1
    if waiter then
      redis.call('SET', key, 'free ' .. holder .. ' ' .. ARGV[2] .. ' ' .. waiter, 'PX', ARGV[4])
    elseif ARGV[2] ~= '0' then
      redis.call('SET', key, 'free ' .. holder .. ' ' .. ARGV[2], 'PX', ARGV[3])
    else
      redis.call('DEL', key)
    end
  else
    answers[i] = 0
  end
end
return answers
"""
)
# KEYS: locks. ARGV: worker, time of a lock in ms. Gives for each 1, or 0 where it was not ours any more.
RENEW = Script(
    _READ
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local state, holder = read(key)
  answers[i] = 0
  if state == 'held' and holder == ARGV[1] then answers[i] = redis.call('PEXPIRE', key, ARGV[2]) end
end
return answers
"""
)


def in_order(names: Collection[str]) -> list[str]:
    """The one order in which everybody asks for the locks of a ledger."""
    return sorted(names)


class AccountLockMetrics(Protocol):
    """What can be seen of the account locks from outside."""

    def account_locks(self, result: str, count: int) -> None:
        """So many locks were taken, refused, released, lost (not ours any more when it was to be renewed or given back) or given
        back without an answer (unanswered).
        """

    def account_locks_held(self, seconds: float) -> None:
        """The locks of one batch were given back after so long."""


class _Held:
    """One lock of ours, taken for `first`. `users`: batches that hold it at this moment."""

    __slots__ = ("first", "renewed_at", "taken_at", "users")

    def __init__(self, first: Wanted, now: float) -> None:
        self.users = 0
        self.first = first
        self.taken_at = self.renewed_at = now


class _Return(NamedTuple):
    """Locks on their way back. Those that are not in `held` may never have been ours: a call that failed asked for them."""

    names: Sequence[str]
    held: Mapping[str, _Held]
    position: int


class _Ledger:
    """What this worker holds in one ledger. `turn`: one call at a time, or a lock could be given back after it was taken again."""

    def __init__(self) -> None:
        self.held: dict[str, _Held] = {}
        self.returns: list[_Return] = []
        self.turn = asyncio.Lock()


class _Grip:
    """The locks of one batch: `taken`, each with the first command that wanted it."""

    def __init__(
        self,
        owner: "AccountLocks",
        ledger: str,
        mine: _Ledger,
        *,
        taken: Mapping[str, Wanted],
        blocked: Mapping[int, str],
        position: int,
    ) -> None:
        self.ledger = ledger
        self.mine = mine
        self.taken = taken
        self.blocked = blocked
        self.position = position
        self.taken_at = asyncio.get_running_loop().time()
        self._owner: AccountLocks | None = owner

    def release(self, position: int | None) -> None:
        """Gives the locks back, soon; once."""
        owner, self._owner = self._owner, None
        if owner is not None and self.taken:
            owner.give_back(self, position)


class AccountLocks:
    """Takes, renews and gives back the account locks of this worker.

    `incarnation` gives the log's incarnation once it is known; before that nothing is locked. `timeout_ms` bounds what a command
    may wait for Redis, `background_timeout_ms` what nobody waits for. `mark_ms`: how long a waiter keeps a free lock from others.
    `slow_ms`: locks held for longer are told at warning. To be made and used on one event loop.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        worker: str,
        incarnation: Callable[[], object | None],
        metrics: AccountLockMetrics,
        lease_ms: int,
        timeout_ms: int,
        background_timeout_ms: int,
        mark_ms: int,
        slow_ms: int,
    ) -> None:
        self._link = link
        self._worker = worker
        self._incarnation = incarnation
        self._metrics = metrics
        self._lease_ms = lease_ms
        self._timeout_s = timeout_ms / 1_000
        self._background_timeout_s = background_timeout_ms / 1_000
        self._mark_ms = mark_ms
        self._slow_s = slow_ms / 1_000
        self._ledgers: dict[str, _Ledger] = {}
        self._returning: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, ledger: str, wanted: Sequence[Wanted]) -> Grip:
        """Locks for each of these commands that can have all of its own; none, and nobody blocked, where Redis does not answer."""
        names = in_order({name for each in wanted for name in each.names})
        if not names or len(names) > LOCKS_MAX or self._incarnation() is None or not self._link.lets_wait():
            return NoGrip()
        mine = self._ledgers.setdefault(ledger, _Ledger())
        places = {name: str(place) for place, name in enumerate(names, 1)}
        asks = self._call(
            TAKE, ledger, names, self._lease_ms, *(" ".join(map(places.__getitem__, each.names)) for each in wanted)
        )
        answer = None
        clock = asyncio.get_running_loop().time
        until = clock() + self._timeout_s
        try:
            async with asyncio.timeout_at(until):
                await mine.turn.acquire()
            try:
                answer = await self._run(ledger, mine, asks, timeout_s=until - clock())
            finally:
                mine.turn.release()
        except TimeoutError:
            self._link.rest()  # an earlier call, which no command waits for, still waits for Redis
        finally:
            if answer is None:  # perhaps they are ours all the same
                self._return_soon(
                    ledger, mine, _Return([name for name in names if name not in mine.held], held={}, position=0)
                )
        if answer is None:
            return NoGrip()
        reached, blockers = answer
        return self._taken(ledger, mine, wanted, reached, [blocker.decode() for blocker in blockers], names=names)

    def give_back(self, grip: _Grip, position: int | None) -> None:
        """The grip's locks are free for others soon, but for those that another batch of ours holds too."""
        mine = grip.mine
        held_s = asyncio.get_running_loop().time() - grip.taken_at
        self._metrics.account_locks_held(held_s)
        if held_s > self._slow_s:
            name, first = next(iter(grip.taken.items()))
            structlog.get_logger().warning(
                "account_locks_slow",
                ledger=grip.ledger,
                count=len(grip.taken),
                lock=name,
                held_ms=round(held_s * 1_000, 3),
                **first.ticket.identity(),
            )
        back: dict[str, _Held] = {}
        ended: dict[str, Wanted] = {}
        for name, wanted in grip.taken.items():
            held = mine.held.get(name)
            if held is None:
                continue  # lost, and told
            ended[name] = wanted
            held.users -= 1
            if held.users == 0:
                back[name] = mine.held.pop(name)
        # By this batch, whoever else of ours holds one still. Whether Redis agrees that it was ours is told by its answer.
        self._tell("given_back", grip.ledger, ended, held_s=held_s)
        self._return_soon(grip.ledger, mine, _Return(list(back), back, position or 0))

    async def start(self) -> None:
        """Renews in the background from here on."""
        self._renewing = asyncio.create_task(self._renew_always(), name="account locks")

    async def stop(self) -> None:
        """Whatever is still held is given back, if Redis answers."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None
        for ledger, mine in self._ledgers.items():
            held, mine.held = mine.held, {}
            self._return_soon(ledger, mine, _Return(list(held), held, position=0))
        await asyncio.gather(*self._returning, return_exceptions=True)

    async def renew(self) -> None:
        """One round: locks that a third of their time has passed for are held for a whole one again, or known to be lost."""
        now = asyncio.get_running_loop().time()
        third_s = self._lease_ms / 1_000 / RENEWALS_A_LEASE
        for ledger, mine in list(self._ledgers.items()):
            if not (mine.held or mine.returns or mine.turn.locked()):
                del self._ledgers[ledger]
                continue
            due = sorted(name for name, held in mine.held.items() if held.renewed_at + third_s * 0.9 <= now)
            for start in range(0, len(due), LOCKS_MAX):
                async with mine.turn:
                    some = due[start : start + LOCKS_MAX]
                    await self._renew_some(ledger, mine, [name for name in some if name in mine.held])

    async def _renew_some(self, ledger: str, mine: _Ledger, names: list[str]) -> None:
        now = asyncio.get_running_loop().time()
        call = self._call(RENEW, ledger, names, self._lease_ms)
        answers = await self._link.run([call], timeout_s=self._background_timeout_s) if names else None
        if answers is None:
            return  # they end by themselves, and the fences know
        lost = {}
        for name, is_ours in zip(names, answers[0], strict=True):
            if name not in mine.held:
                continue  # given back meanwhile: that answer tells what became of it
            if is_ours:
                mine.held[name].renewed_at = now
            else:
                lost[name] = mine.held.pop(name)
        self._ended("lost", ledger, lost)

    async def _renew_always(self) -> None:
        # Connected, and the server told the scripts, before a command waits for either.
        scripts = [Call(script, (), (self._worker, self._lease_ms)) for script in (TAKE, RELEASE, RENEW)]
        await self._link.run(scripts, timeout_s=self._background_timeout_s)
        while True:
            await asyncio.sleep(self._lease_ms / 1_000 / RENEWALS_A_LEASE / 2)
            try:
                await self.renew()
            except Exception:  # whatever it is, commands must not depend on it: said, and tried again
                structlog.get_logger().exception("account_lock_fault")

    async def _run(self, ledger: str, mine: _Ledger, asks: Call | None, *, timeout_s: float) -> Any:
        """What was given back goes first, in the same round trip; then `asks`, whose answer this is."""
        returns, mine.returns = mine.returns, []
        calls = [
            self._call(RELEASE, ledger, each.names, each.position, self._lease_ms, self._mark_ms) for each in returns
        ]
        answers = await self._link.run([*calls, *(() if asks is None else (asks,))], timeout_s=timeout_s)
        if answers is None:  # they end by themselves
            for each in returns:
                self._ended("unanswered", ledger, each.held)
            return None
        for each, found in zip(returns, answers, strict=False):
            was_ours = dict(zip(each.names, found, strict=True))
            self._ended("released", ledger, {name: held for name, held in each.held.items() if was_ours[name]})
            self._ended("lost", ledger, {name: held for name, held in each.held.items() if not was_ours[name]})
        return None if asks is None else answers[-1]

    def _taken(
        self,
        ledger: str,
        mine: _Ledger,
        wanted: Sequence[Wanted],
        reached: int,
        blockers: Sequence[str],
        *,
        names: Sequence[str],
    ) -> _Grip:
        now = asyncio.get_running_loop().time()
        taken: dict[str, Wanted] = {}
        refused: dict[str, Wanted] = {}
        blocked = {index: blocker for index, blocker in enumerate(blockers) if blocker}
        for index, each in enumerate(wanted):
            for name in each.names:
                (refused if index in blocked else taken).setdefault(name, each)
        for name, first in taken.items():
            held = mine.held.get(name)
            if held is None:
                held = mine.held[name] = _Held(first, now)
            held.users += 1
            held.renewed_at = now
        self._metrics.account_locks("taken", len(taken))
        self._tell("taken", ledger, taken, asked=names)
        if blocked:
            self._metrics.account_locks("refused", len(blocked))
            for index, blocker in blocked.items():
                self._tell("refused", ledger, dict.fromkeys(wanted[index].names, wanted[index]), holder=blocker)
        return _Grip(self, ledger, mine, taken=taken, blocked=blocked, position=reached)

    def _return_soon(self, ledger: str, mine: _Ledger, back: _Return) -> None:
        """A task of its own gives them back, unless the next call for locks comes first and takes that along."""
        if not back.names:
            return
        mine.returns.append(back)

        async def give_back() -> None:
            async with mine.turn:
                if mine.returns:
                    await self._run(ledger, mine, None, timeout_s=self._background_timeout_s)

        task = asyncio.create_task(give_back(), name="account locks back")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    def _ended(self, status: str, ledger: str, locks: Mapping[str, _Held]) -> None:
        """Locks that were ours: `released`, `lost` (Redis gave them to another, or forgot) or `unanswered` (nobody knows which).

        Once for each lock.
        """
        if not locks:
            return
        self._metrics.account_locks(status, len(locks))
        now = asyncio.get_running_loop().time()
        for name, held in sorted(locks.items()) if structlog.get_logger().is_enabled_for(logging.DEBUG) else ():
            self._tell(status, ledger, {name: held.first}, held_s=now - held.taken_at)

    def _call(self, script: Script, ledger: str, names: Sequence[str], *arguments: str | int) -> Call:
        incarnation = self._incarnation()
        keys = [lock_table.key(incarnation, ledger, lock_table.LOCK + name) for name in names]
        return Call(script, keys, (self._worker, *arguments))

    def _tell(
        self,
        status: str,
        ledger: str,
        locks: Mapping[str, Wanted],
        *,
        asked: Sequence[str] | None = None,
        holder: str | None = None,
        held_s: float | None = None,
    ) -> None:
        """A line a lock, in the order in which Redis was `asked` for them; only where somebody reads that much."""
        log = structlog.get_logger()
        if not locks or not log.is_enabled_for(logging.DEBUG):
            return
        for name in locks if asked is None else filter(locks.__contains__, asked):
            log.debug(
                "account_lock",
                ledger=ledger,
                lock=name,
                status=status,
                worker=self._worker,
                wait_ms=locks[name].wait_ms,
                **locks[name].ticket.identity(),
                **({} if holder is None else {"holder": holder}),
                **({} if held_s is None else {"held_ms": round(held_s * 1_000, 3)}),
            )
