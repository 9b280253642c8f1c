"""The one deep function of the read side: wait for the position, fetch, refuse what cannot be answered.

Every question is one statement and so one snapshot; what it is as of comes back with the rows. This module knows no
SQL, no HTTP and no clock but the event loop's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from query_service.application.cursors import Cursor
from shared_kernel.errors import Rejection, Unavailable

RowT = TypeVar("RowT", bound=tuple[object, ...])

Value = str | int | bool | datetime | None | list[str] | list[int]


class Question(NamedTuple, Generic[RowT]):
    """A named statement and the row it gives. `is_of_log`: it reads the event log itself, whose head it is as of."""

    statement: str
    row: type[RowT]
    is_of_log: bool = False


class Standstill(NamedTuple):
    """The read model does not move on for this ledger: what comes before `position` is there, the rest is not."""

    state: Literal["waiting", "parked"]
    since: datetime
    position: int


class Stamp(NamedTuple):
    """What an answer is as of; read in the same statement as its rows.

    `head`: of the ledger's log, None if there is no such ledger. `reached`: where the read model stands, 0 if nowhere yet.
    `position`: the one the rows are of; None where `reached` is less than what was wanted, and then there are no rows.
    """

    incarnation: str
    head: int | None
    reached: int
    position: int | None
    recorded_at: datetime | None
    standstill: Standstill | None


class Snapshot(NamedTuple, Generic[RowT]):
    """One consistent look at the books."""

    stamp: Stamp
    rows: Sequence[RowT]


class Asked(NamedTuple):
    """What a client asks beside the question: of which ledger (None: of all that it may see), at which position.

    `position` is the least position that the answer must be as of, `wait_ms` how long the client is ready to wait for
    it (None: as the process is set).
    """

    ledger: str | None
    position: int | None = None
    wait_ms: int | None = None
    cursor: Cursor | None = None


class Books(Protocol):
    """Where questions are answered from."""

    async def fetch(self, question: Question[RowT], parameters: Mapping[str, Value]) -> Snapshot[RowT]:
        """One snapshot. The parameters `ledger`, `wanted` and `at` (None: the newest) are always there."""
        ...


class Arrival(Protocol):
    """A position that somebody waits for."""

    async def wait(self, timeout_ms: float) -> None:
        """Returns when the position was announced or the time is over, whichever comes first."""
        ...


class Visible(Protocol):
    """Tells when a position becomes visible in the read model. A hint: the snapshot decides."""

    def expect(self, ledger: str, position: int) -> AbstractContextManager[Arrival]:
        """From here on an announcement of this or a later position wakes the arrival."""
        ...


class Waits(Protocol):
    """Counts what clients wait for."""

    def waited(self, ms: float, *, is_answered: bool) -> None:
        """One request waited this long; answered, or given up with `read_model_behind`."""
        ...


class QueryHandler:
    """Answers questions as of a position that is never behind the one the client has seen."""

    def __init__(
        self, books: Books, visible: Visible, waits: Waits, *, wait_ms: int, wait_ms_max: int, poll_ms: int
    ) -> None:
        self._books = books
        self._visible = visible
        self._waits = waits
        self._wait_ms = wait_ms
        self._wait_ms_max = wait_ms_max
        self._poll_ms = poll_ms

    async def ask(self, question: Question[RowT], asked: Asked, **parameters: Value) -> Snapshot[RowT]:
        """The snapshot that answers the question; its stamp has a position unless all ledgers were asked for.

        Rejections: `ledger_not_found`, `position_beyond_head`, `invalid_cursor` (of another incarnation of the log).
        Unavailable: `read_model_parked` at once, `read_model_behind` after the wait, `dependency_unavailable`.
        """
        cursor = asked.cursor
        wanted = max(1, asked.position or 0, cursor.position if cursor else 0)
        found = {
            **parameters,
            "ledger": asked.ledger,
            "wanted": wanted,
            "at": cursor.position if cursor else None,
        }
        if asked.ledger is None:
            return await self._books.fetch(question, found)
        with self._visible.expect(asked.ledger, wanted) as arrival:
            snapshot = await self._books.fetch(question, found)
            if not _is_answered(snapshot.stamp, wanted, asked.ledger, cursor):
                snapshot = await self._wait(question, asked, found, wanted, arrival)
        return snapshot

    async def _wait(
        self, question: Question[RowT], asked: Asked, parameters: Mapping[str, Value], wanted: int, arrival: Arrival
    ) -> Snapshot[RowT]:
        now = asyncio.get_running_loop().time
        began = now()
        wait_ms = min(self._wait_ms if asked.wait_ms is None else asked.wait_ms, self._wait_ms_max)
        while True:
            left_ms = wait_ms - (now() - began) * 1000
            # Asked once more after the last moment: what arrived in it is answered.
            await arrival.wait(max(0.0, min(left_ms, self._poll_ms)))
            snapshot = await self._books.fetch(question, parameters)
            is_answered = _is_answered(snapshot.stamp, wanted, asked.ledger, asked.cursor)
            if is_answered or left_ms <= 0:
                self._waits.waited((now() - began) * 1000, is_answered=is_answered)
                if is_answered:
                    return snapshot
                raise _behind(snapshot.stamp, wanted)


def _is_answered(stamp: Stamp, wanted: int, ledger: str | None, cursor: Cursor | None) -> bool:
    """False if waiting may help; raises where it cannot. The order of these guards is the order of the errors."""
    if stamp.head is None:
        raise Rejection("ledger_not_found", ledger=ledger)
    if cursor is not None and cursor.incarnation != stamp.incarnation:
        raise Rejection("invalid_cursor", detail="The cursor is from before the database was restored", path="cursor")
    if wanted > stamp.head:
        raise Rejection("position_beyond_head", position=wanted, head=stamp.head)
    if stamp.position is not None:
        return True
    if stamp.standstill is not None and stamp.standstill.state == "parked":
        raise Unavailable(
            "read_model_parked", position=wanted, head=stamp.head, visible=stamp.reached, lag=stamp.head - stamp.reached
        )
    return False


def _behind(stamp: Stamp, wanted: int) -> Unavailable:
    head = stamp.head or 0
    return Unavailable("read_model_behind", position=wanted, head=head, visible=stamp.reached, lag=head - stamp.reached)
