"""Account locks as the write side uses them (design §5): who may be decided now, and who waits for a later batch.

One lock a fence: its name is the tag of the `draws:` or `fills:` fence that it keeps others from failing, so an account without
limits is never locked. Help, never truth: whatever goes wrong here, the append's fences decide.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol

import structlog

from command_service.application.batch import TOLD_MAX, Ticket, some_of
from command_service.application.cache import LedgerCache
from command_service.domain.commands import (
    Command,
    EntrySpec,
    PostScheduled,
    PostTransaction,
    ReverseTransaction,
)
from command_service.domain.entries import plain_entries, turned
from command_service.domain.limits import guarded
from shared_kernel.events import Entry

AGAIN_S = 0.005  # chosen: about the time of an append, which is what whoever holds the lock needs


class Wanted(NamedTuple):
    """The locks of one command, sorted, all or none of them; of some that stand or fall together: `ticket` is their first.

    `wait_ms`: for how long it has waited for them.
    """

    names: Sequence[str]
    ticket: Ticket
    wait_ms: float = 0.0


class Grip(Protocol):
    """What was taken for one batch."""

    @property
    def blocked(self) -> Mapping[int, str]:
        """The commands that got no locks, by index, each with the worker that stands in its way."""

    @property
    def position(self) -> int:
        """What was done under these locks before is in the log up to here; 0 where nobody said."""

    def release(self, position: int | None) -> None:
        """Gives the locks back, soon; once. `position`: of the batch's last event; None where there is none or nobody knows."""


class NoGrip:
    """Nothing was taken and nobody is blocked."""

    blocked: Mapping[int, str] = MappingProxyType({})
    position = 0

    def release(self, position: int | None) -> None:
        """Nothing to give back."""


class Locks(Protocol):
    """Who writes to a ledger, and who decides on which balance there: help against conflicts, never needed for truth."""

    def touch(self, ledger: str, ticket: Ticket) -> bool:
        """This process is writing to the ledger. True where account locks are to be taken, because others write there too.

        Costs nothing, delays nothing. `ticket`: the first of those that are to be written, for the log.
        """

    async def take(self, ledger: str, wanted: Sequence[Wanted]) -> Grip:
        """Locks for each of these commands that can have all of its own. Bounded in time; without Redis nobody is blocked."""


class CountsWaits(Protocol):
    """Hears of what the locks made wait."""

    def set_aside(self, *, commands: int) -> None:
        """Commands wait for a later batch."""

    def went_without_lock(self, *, commands: int) -> None:
        """Commands had waited long enough and were decided without their locks."""


class Admitted(NamedTuple):
    """`free` may be decided, under `grip`; `aside` come first in the next batch."""

    free: list[Ticket]
    aside: list[Ticket]
    grip: Grip


async def admit(
    locks: Locks, ledger: str, tickets: Sequence[Ticket], cache: LedgerCache, *, wait_s: float, metrics: CountsWaits
) -> Admitted:
    """Takes the locks of a batch. Who was set aside for `wait_s` goes on without any.

    Commands of one request keep their order: what one that is set aside may move, no later one of the same request is judged on.
    """
    now = asyncio.get_running_loop().time()
    over = {ticket for ticket in tickets if ticket.aside_since is not None and now - ticket.aside_since > wait_s}
    if over:
        metrics.went_without_lock(commands=len(over))
        _tell_over([ticket for ticket in tickets if ticket in over], ledger, cache, now)
    wanted = [
        Wanted(
            () if ticket in over else sorted(_guards(ticket.command, cache)),
            ticket,
            0.0 if ticket.aside_since is None else round((now - ticket.aside_since) * 1_000, 3),
        )
        for ticket in tickets
    ]
    grip = await locks.take(ledger, wanted)
    if not grip.blocked:
        return Admitted(list(tickets), [], grip)
    free: list[Ticket] = []
    aside: list[Ticket] = []
    stalled: dict[str, set[str]] = {}  # by request
    for index, ticket in enumerate(tickets):
        before = stalled.get(ticket.context.correlation_id)
        if index not in grip.blocked and (before is None or before.isdisjoint(_concerns(ticket, cache))):
            free.append(ticket)
            continue
        if ticket.aside_since is None:
            ticket.aside_since = now
        stalled.setdefault(ticket.context.correlation_id, set()).update(_concerns(ticket, cache))
        aside.append(ticket)
    metrics.set_aside(commands=len(aside))
    return Admitted(free, aside, grip)


@asynccontextmanager
async def holding(locks: Locks, wanted: Mapping[str, Wanted], *, wait_s: float) -> AsyncIterator[dict[str, int]]:
    """The locks of all these ledgers until the block ends; without them where they cannot be had within `wait_s`.

    Gives a dictionary for the position of the last event by ledger. Ledgers are locked in sorted order, and nothing is held
    while something is waited for: who is blocked gives back what it has.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    ends: dict[str, int] = {}
    grips = await _take_all(locks, wanted)
    while grips is None and loop.time() < until:
        await asyncio.sleep(random.uniform(0.5, 1.5) * AGAIN_S)  # noqa: S311 - jitter, not a secret
        grips = await _take_all(locks, wanted)
    try:
        yield ends
    finally:
        for ledger, grip in (grips or {}).items():
            grip.release(ends.get(ledger))


def wanted_together(tickets: Sequence[Ticket], cache: LedgerCache) -> Wanted:
    """The locks of commands that stand or fall together."""
    names = {name for ticket in tickets for name in _guards(ticket.command, cache)}
    return Wanted(sorted(names), tickets[0])


async def _take_all(locks: Locks, wanted: Mapping[str, Wanted]) -> dict[str, Grip] | None:
    grips: dict[str, Grip] = {}
    is_whole = False
    try:
        for ledger in sorted(wanted):
            grips[ledger] = await locks.take(ledger, [wanted[ledger]])
            if grips[ledger].blocked:
                return None
        is_whole = True
        return grips
    finally:
        if not is_whole:
            for grip in grips.values():
                grip.release(None)


def _tell_over(over: Sequence[Ticket], ledger: str, cache: LedgerCache, now: float) -> None:
    first = over[0]
    structlog.get_logger().warning(
        "lock_wait_over",
        ledger=ledger,
        locks=sorted(_guards(first.command, cache))[:TOLD_MAX],
        wait_ms=round((now - (first.aside_since or now)) * 1_000, 3),
        **some_of(over),
    )


def _guards(command: Command, cache: LedgerCache) -> set[str]:
    """The tags of what the command draws on or fills within limits. Nothing for commands of other kinds."""
    entries: Sequence[EntrySpec | Entry] = ()
    if type(command) is PostTransaction:
        if command.status != "scheduled":  # nothing is decided before it comes due
            entries = command.entries
    elif isinstance(command, ReverseTransaction):
        original = cache.transactions.get(command.transaction)
        named = plain_entries(command.entries) if command.entries else () if original is None else original.entries
        entries = turned(named)
    elif isinstance(command, PostScheduled):
        scheduled = cache.transactions.get(command.transaction)
        entries = () if scheduled is None else scheduled.entries
    return guarded(cache.accounts, entries) if entries else set()


def _concerns(ticket: Ticket, cache: LedgerCache) -> set[str]:
    """The accounts, limited or not opened yet, and the transactions that the command is judged on or may change."""
    command = ticket.command
    named = set(command.addresses())
    for transaction in command.originals():
        if transaction in cache.transactions:
            named.update(entry.account for entry in cache.transactions[transaction].entries)
    accounts = {name: cache.accounts.get(name) for name in named}
    matter = {name for name, known in accounts.items() if known is None or known.limits or known.status == "absent"}
    own_id = getattr(command, "id", None)
    return {*matter, *command.originals(), *((own_id,) if own_id else ())}
