"""The one deep function of the read side: wait for the position, fetch, refuse what cannot be answered.

Every question is one statement and so one snapshot; what it is as of comes back with the rows. This module knows no
SQL, no HTTP and no clock but the event loop's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from datetime import datetime
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from query_service.application.cursors import Cursor
from query_service.application.filters import EVERYTHING, Tree
from shared_kernel.errors import Rejection, Unavailable

WAIT_SHARE = 0.9  # chosen: most of a request's time that may go by in waiting for a position

RowT = TypeVar("RowT", bound=tuple[object, ...])

ANY_VERSION: Final = "*"  # whatever it is: no version is called so

Value = str | int | bool | datetime | None | list[str] | list[int]


class Question(NamedTuple, Generic[RowT]):
    """A named statement and the row it gives.

    `is_of_log`: it reads the event log itself, whose head it is as of. `needs_periods`: it reads the totals by effective
    time besides, and is as of the position that both read models have reached. `filter`: which of a list's rows fit;
    `fields` names the list whose fields it knows.
    """

    statement: str
    row: type[RowT]
    is_of_log: bool = False
    needs_periods: bool = False
    filter: Tree = EVERYTHING
    fields: str = ""


class Standstill(NamedTuple):
    """What the read model lacks of this ledger: what comes before `position` is there. The rest is not, or (skipped) that event is not."""

    state: Literal["waiting", "parked", "skipped"]
    since: datetime
    position: int


class Stamp(NamedTuple):
    """What an answer is as of; read in the same statement as its rows.

    `head`: of the ledger's log, None if there is no such ledger. `reached`: where the read model stands, 0 if nowhere yet.
    `position`: the one the rows are of; None where `reached` is less than `needed`, and then there are no rows.
    `needed`: the least position that the read model must have reached. `is_fixed`: the same question will be answered as of
    the same position for ever, since a position, a cursor or a time that the log has passed names it. `is_ahead`: a time
    asked for has not come. `generation`: of the read model; None where the log itself was asked.
    """

    incarnation: str
    generation: str | None
    head: int | None
    reached: int
    position: int | None
    recorded_at: datetime | None
    standstill: Standstill | None = None
    needed: int = 1
    is_fixed: bool = False
    is_ahead: bool = False

    @property
    def holds_up(self) -> Standstill | None:
        """The standstill, where the answer lacks something for it: what is as of a position before it lacks nothing."""
        if self.standstill is None or (self.is_fixed and (self.position or 0) < self.standstill.position):
            return None
        return self.standstill


class Snapshot(NamedTuple, Generic[RowT]):
    """One consistent look at the books."""

    stamp: Stamp
    rows: Sequence[RowT]


class NotModified(Exception):
    """Nothing has changed since the version that the client named."""

    def __init__(self, stamp: Stamp, asked: "Asked") -> None:
        super().__init__()
        self.stamp = stamp
        self.asked = asked


class Asked(NamedTuple):
    """What a client asks beside the question: of which ledger (None: of all that it may see), as of what.

    `position` is the least position that the read model must have reached, `wait_ms` how long the client is ready to wait
    for it (None: as the process is set). The answer is as of the smallest of `at_position`, the last position recorded at
    or before `at_time`, and the cursor's; without any of them as of the newest. `effective_at`: only what is effective at
    or before it counts. `begins_at`: the recorded time at which the period begins that is asked about. `known`: versions of the answer
    that the client has, or ANY_VERSION. `variant` tells apart the forms it comes in.
    """

    ledger: str | None
    position: int | None = None
    wait_ms: int | None = None
    cursor: Cursor | None = None
    at_position: int | None = None
    at_time: datetime | None = None
    effective_at: datetime | None = None
    begins_at: datetime | None = None
    known: frozenset[str] = frozenset()
    variant: str = ""

    def named(self) -> tuple[str | int | None, ...]:
        """What a list is of beside its own filters: pages of one list agree in it."""
        times = (None if time is None else time.isoformat() for time in (self.at_time, self.effective_at))
        return (self.ledger, self.at_position, *times)

    def is_live(self) -> bool:
        """True if the newest position there is was asked for."""
        return self.at_position is None and self.at_time is None and self.cursor is None

    def names_versions(self) -> bool:
        """True if a look at the stamp may save the question. Of any version it does not: there may be no answer at all."""
        return bool(self.known) and ANY_VERSION not in self.known

    def has(self, version: str) -> bool:
        """True if the client has this version of the answer."""
        return version in self.known or ANY_VERSION in self.known

    def version(self, stamp: Stamp) -> str:
        """Names the answer to one question in this form: equal texts, equal answers."""
        source = stamp.generation or "log"
        state = f"-{stamp.holds_up.state}" if stamp.holds_up else ""
        return f"{stamp.position}-{source}-{stamp.incarnation}{state}{self.variant}"


class NoRow(NamedTuple):
    """What a question for the stamp alone gives: no rows at all."""

    nothing: None


STAMP = Question("stamp_alone", NoRow)
BOTH_STAMP = Question("both_stamp_alone", NoRow, needs_periods=True)
LOG_STAMP = Question("log_stamp_alone", NoRow, is_of_log=True)


class Books(Protocol):
    """Where questions are answered from."""

    async def fetch(self, question: Question[RowT], parameters: Mapping[str, Value], *, until: float) -> Snapshot[RowT]:
        """One snapshot. The parameters `ledger`, `wanted`, `at`, `at_position`, `at_time`, `effective_at` and `begins_at` are always
        there.

        `until`, of the event loop's clock: when it is given up, as `dependency_unavailable`.
        """
        ...


class Arrival(Protocol):
    """A position that somebody waits for."""

    async def wait(self, timeout_ms: float) -> None:
        """Returns when the position was announced or the time is over, whichever comes first."""
        ...


class Visible(Protocol):
    """Tells when a position becomes visible in the read model. A hint: the snapshot decides."""

    def expect(self, ledger: str, position: int, *, of_periods: bool) -> AbstractContextManager[Arrival]:
        """From here on an announcement of this or a later position of `books` wakes the arrival, or (`of_periods`) of either model."""
        ...

    def is_behind(self, ledger: str, position: int) -> bool:
        """True if `books` was heard of, and only of an earlier position: a look would most likely be in vain."""
        ...


class Waits(Protocol):
    """Counts what clients wait for."""

    def waited(self, ms: float, *, is_answered: bool) -> None:
        """One request waited this long; answered, or given up with `read_model_behind`."""
        ...


class QueryHandler:
    """Answers questions as of a position that is never behind the one the client has seen.

    Each has `seconds_max`, its wait and all its looks together; those asked of one `for_request` have it together.
    """

    def __init__(
        self,
        books: Books,
        visible: Visible,
        waits: Waits,
        *,
        wait_ms: int,
        wait_ms_max: int,
        poll_ms: int,
        seconds_max: float,
    ) -> None:
        self._seconds_max = seconds_max
        self._until: float | None = None
        self._books = books
        self._visible = visible
        self._waits = waits
        self._wait_ms = wait_ms
        self._wait_ms_max = wait_ms_max
        self._poll_ms = poll_ms

    def for_request(self) -> "QueryHandler":
        """The same for one request, whose time begins now."""
        handler = copy(self)
        handler._until = asyncio.get_running_loop().time() + self._seconds_max
        return handler

    async def ask(self, question: Question[RowT], asked: Asked, **parameters: Value) -> Snapshot[RowT]:
        """The snapshot that answers the question; its stamp has a position unless all ledgers were asked for.

        Rejections: `ledger_not_found`, `position_beyond_head`, `invalid_cursor` (of another incarnation of the log),
        `invalid_request` (a time that has not come). Unavailable: `read_model_parked` at once, `read_model_behind` after the
        wait, `dependency_unavailable`. NotModified where the client has this answer already.
        """
        until = self._deadline()
        found = {**parameters, **_parameters(asked)}
        if asked.ledger is None:
            return await self._books.fetch(question, found, until=until)
        if asked.names_versions():
            stamp = await self.stamp(question, asked)
            if asked.has(asked.version(stamp)):
                raise NotModified(stamp, asked)
        return await self._answered(question, asked, found, until)

    async def stamp(self, question: Question[RowT], asked: Asked) -> Stamp:
        """What the answer to the question is as of; the question itself is not asked. Errors as `ask`."""
        alone = LOG_STAMP if question.is_of_log else BOTH_STAMP if question.needs_periods else STAMP
        return (await self._answered(alone, asked, _parameters(asked), self._deadline())).stamp

    def _deadline(self) -> float:
        return self._until or asyncio.get_running_loop().time() + self._seconds_max

    async def _answered(
        self, question: Question[RowT], asked: Asked, parameters: Mapping[str, Value], until: float
    ) -> Snapshot[RowT]:
        # Rather woken too early than too late: what a time needs is known only when the snapshot is there.
        wanted = max(1, asked.position or 0, asked.at_position or 0, asked.cursor.position if asked.cursor else 0)
        ledger, began = asked.ledger or "", asyncio.get_running_loop().time()
        with self._visible.expect(ledger, wanted, of_periods=question.needs_periods) as arrival:
            if not question.is_of_log and self._visible.is_behind(ledger, wanted):
                # One look instead of two for most who read what they have just written; a wrong position is told a poll later.
                await arrival.wait(min(self._poll_ms, self._longest_ms(asked)))
            snapshot = await self._books.fetch(question, parameters, until=until)
            if not _is_answered(snapshot.stamp, asked):
                snapshot = await self._wait(question, asked, parameters, arrival, began=began, until=until)
        return snapshot

    def _longest_ms(self, asked: Asked) -> int:
        return min(self._wait_ms if asked.wait_ms is None else asked.wait_ms, self._wait_ms_max)

    async def _wait(
        self,
        question: Question[RowT],
        asked: Asked,
        parameters: Mapping[str, Value],
        arrival: Arrival,
        *,
        began: float,
        until: float,
    ) -> Snapshot[RowT]:
        now = asyncio.get_running_loop().time
        # The last look needs some of the request's time, too.
        wait_ms = min(self._longest_ms(asked), WAIT_SHARE * (until - began) * 1000)
        while True:
            left_ms = wait_ms - (now() - began) * 1000
            # Asked once more after the last moment: what arrived in it is answered.
            await arrival.wait(max(0.0, min(left_ms, self._poll_ms)))
            snapshot = await self._books.fetch(question, parameters, until=until)
            is_answered = _is_answered(snapshot.stamp, asked)
            if is_answered or left_ms <= 0:
                self._waits.waited((now() - began) * 1000, is_answered=is_answered)
                if is_answered:
                    return snapshot
                raise _behind(snapshot.stamp)


def _parameters(asked: Asked) -> dict[str, Value]:
    """Those that every statement has."""
    return {
        "ledger": asked.ledger,
        "wanted": max(1, asked.position or 0),
        "at": asked.cursor.position if asked.cursor else None,
        "at_position": asked.at_position,
        "at_time": asked.at_time,
        "effective_at": asked.effective_at,
        "begins_at": asked.begins_at,
    }


def _is_answered(stamp: Stamp, asked: Asked) -> bool:
    """False if waiting may help; raises where it cannot. The order of these guards is the order of the errors."""
    cursor = asked.cursor
    if stamp.head is None:
        raise Rejection("ledger_not_found", ledger=asked.ledger)
    if cursor is not None and cursor.incarnation != stamp.incarnation:
        raise Rejection("invalid_cursor", detail="The cursor is from before the database was restored", path="cursor")
    wanted = max(1, asked.position or 0, asked.at_position or 0, cursor.position if cursor else 0)
    if wanted > stamp.head:
        raise Rejection("position_beyond_head", position=wanted, head=stamp.head)
    if stamp.is_ahead:
        # Of two times the later one has not come, whether the other has or not.
        times = {"as_of": asked.at_time, "from": asked.begins_at}
        _, name = max((time, name) for name, time in times.items() if time is not None)
        raise Rejection("invalid_request", detail="The time has not come", path=name)
    if stamp.position == 0:
        raise Rejection(
            "ledger_not_found", ledger=asked.ledger, detail="The ledger was opened after the time asked for"
        )
    if stamp.position is not None:
        return True
    if stamp.standstill is not None and stamp.standstill.state == "parked":
        raise Unavailable("read_model_parked", **_distance(stamp))
    return False


def _behind(stamp: Stamp) -> Unavailable:
    return Unavailable("read_model_behind", **_distance(stamp))


def _distance(stamp: Stamp) -> dict[str, int]:
    head = stamp.head or 0
    return {"position": stamp.needed, "head": head, "visible": stamp.reached, "lag": head - stamp.reached}
