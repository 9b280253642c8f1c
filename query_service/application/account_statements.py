"""Statements of one account and asset: a page at a time, or all of them, always as of one position. No SQL, no HTTP."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

from query_service.application import questions, reports, shaping
from query_service.application.pages import Key
from query_service.application.query_handler import Asked, QueryHandler, Question, Stamp
from query_service.application.questions import StatementRow
from query_service.application.report_answers import StatementAnswer, statement_entries
from query_service.application.search import WALK_MAX, moved
from shared_kernel.errors import Rejection
from shared_kernel.words import NormalBalance, format_time

Axis = Literal["recorded", "effective"]
PAGE_ROWS: Final = 1_000  # chosen: what a whole statement keeps in memory


class Period(NamedTuple):
    """What a statement is of: `begins_at` is included, `ends_at` is not; nothing effective after `effective_at`. None: no bound."""

    address: str
    asset: str
    axis: Axis
    begins_at: datetime | None
    ends_at: datetime | None
    effective_at: datetime | None

    @property
    def is_counted(self) -> bool:
        """True if running balances are not those that the books keep, in the order of the log."""
        return self.axis == "effective" or self.effective_at is not None

    def question(self) -> Question[StatementRow]:
        """The one that finds its lines."""
        if self.axis == "effective":
            return questions.EFFECTIVE_STATEMENT
        return questions.STATEMENT if self.effective_at is None else questions.DATED_STATEMENT

    def end(self) -> datetime | None:
        """Until before which time its own axis goes."""
        if self.axis == "recorded" or self.effective_at is None:
            return self.ends_at
        after = moved(self.effective_at, 1)
        return after if self.ends_at is None else min(self.ends_at, after)


class After(NamedTuple):
    """The line after which a page begins, by the keys of both axes."""

    time: datetime | None = None
    position: int = 0
    ordinal: int = -1


class Page(NamedTuple):
    """Some lines of a statement with both ends of the whole. `end`: where it goes on; None: this is the last."""

    stamp: Stamp
    ends: StatementRow
    rows: Sequence[StatementRow]
    end: Key | None

    @property
    def normal_balance(self) -> NormalBalance:
        """Of the account."""
        return self.ends.normal_balance

    def opening(self) -> int:
        """The posted balance before the period."""
        return shaping.signed(self.normal_balance, self.ends.opening_debits, self.ends.opening_credits)

    def closing(self) -> int:
        """The posted balance after it."""
        return shaping.signed(self.normal_balance, self.ends.closing_debits, self.ends.closing_credits)

    def debits(self) -> int:
        """Of all lines of the period."""
        return self.ends.closing_debits - self.ends.opening_debits

    def credits(self) -> int:
        """Of all lines of the period."""
        return self.ends.closing_credits - self.ends.opening_credits


async def read(handler: QueryHandler, asked: Asked, period: Period, *, after: After, limit: int) -> Page:
    """The lines after one, at most so many. Rejection `account_not_found`."""
    snapshot = await handler.ask(
        period.question(),
        asked._replace(begins_at=period.begins_at if period.axis == "recorded" else None),
        address=period.address,
        asset=period.asset,
        from_time=period.begins_at,
        until_time=period.end(),
        after_time=after.time,
        after_position=after.position,
        after_index=after.ordinal,
        walk_max=WALK_MAX,
        limit=limit + 1,
    )
    if not snapshot.rows:
        raise Rejection("account_not_found", account=period.address)
    walked = [row for row in snapshot.rows if row.walked_to is not None]
    rows = [row for row in walked if row.fits]
    end = None
    if len(rows) > limit:
        rows = rows[:limit]
        end = _key(period, rows[-1])
    elif walked and walked[-1].number >= WALK_MAX:
        end = _key(period, walked[-1])
    return Page(snapshot.stamp, snapshot.rows[0], rows, end)


async def pages(handler: QueryHandler, asked: Asked, period: Period) -> AsyncGenerator[Page, None]:
    """All lines, page by page; the later ones as of the position of the first. There is at least one page, and each has the time of a request."""
    after = After()
    while True:
        page = await read(handler.for_request(), asked, period, after=after, limit=PAGE_ROWS)
        yield page
        if page.end is None:
            return
        last = page.end
        after = After(datetime.fromisoformat(last.text) if last.text else None, last.position, last.ordinal)
        asked = reports.fixed(asked, page.stamp)


def answer(period: Period, page: Page, next_cursor: str | None) -> StatementAnswer:
    """The page as JSON."""
    return StatementAnswer(
        account=period.address,
        asset=period.asset,
        normal_balance=page.normal_balance,
        axis=period.axis,
        begins_at=None if period.begins_at is None else format_time(period.begins_at),
        ends_at=None if period.ends_at is None else format_time(period.ends_at),
        effective_at=None if period.effective_at is None else format_time(period.effective_at),
        opening=page.opening(),
        closing=page.closing(),
        debits=page.debits(),
        credits=page.credits(),
        data=statement_entries(page.rows, is_counted=period.is_counted),
        next_cursor=next_cursor,
        **shaping.stamped(page.stamp),
    )


def _key(period: Period, row: StatementRow) -> Key:
    text = format_time(row.effective_at) if period.axis == "effective" else ""
    return Key(text=text, position=row.position, ordinal=row.entry_index)
