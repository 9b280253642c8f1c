"""Short words for the tests of the log: events, fences, decisions, and waiting for a condition."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg

from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.types import Appended, Decision, Fence, NewEvent, RecordedEvent, Tail

ALL = Tail()
Admin = psycopg.Connection[tuple[object, ...]]


def event(type_: str = "Happened.v1", *tags: str, data: str = "{}", metadata: str = "{}") -> NewEvent:
    """A new event."""
    return NewEvent(type=type_, data=data, metadata=metadata, tags=tags)


def fences(**afters: int) -> list[Fence]:
    """Fences by tag: no event with the tag after the position."""
    return [Fence(tag=tag, after=after) for tag, after in afters.items()]


def decision(*events: NewEvent, group: int = 0, **afters: int) -> Decision:
    """A decision with its fences by tag."""
    return Decision(group=group, events=events, fences=fences(**afters))


async def opening(connection: LogConnection, ledger: str) -> Appended:
    """Opens a ledger, unless somebody else did."""
    opened = Decision(
        group=0, events=[event("LedgerOpened.v1", "ledger-terms")], fences=[Fence(tag="ledger-terms", after=0)]
    )
    return await connection.append(ledger, seen=None, decisions=[opened], tail=ALL)


async def whole(connection: LogConnection, ledger: str) -> Sequence[RecordedEvent]:
    """Every event of the ledger, in order."""
    return (await connection.load(ledger, seen=0, tags=(), tail=ALL)).tail


class BothWays:
    """The batched append of one ledger, whichever client carries it."""

    def __init__(self, ledger: str, append: Callable[..., Awaitable[Appended]]) -> None:
        self.ledger = ledger
        self._append = append

    async def append(self, *decisions: Decision, seen: int | None = None, tail: Tail = ALL) -> Appended:
        """Appends the decisions."""
        return await self._append(decisions, seen=seen, tail=tail)


async def until_blocked(admin: Admin, pid: int) -> None:
    """Returns when the backend waits for a lock that another holds."""
    async with asyncio.timeout(10):
        while not admin.execute("select cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchall()[0][0]:
            await asyncio.sleep(0.005)
