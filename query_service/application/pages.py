"""Pages of a list: where one begins, how many rows to fetch for it, and the cursor of the next. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

from query_service.application.cursors import Cursor, fingerprint, read_cursor, write_cursor
from query_service.application.query_handler import Stamp
from query_service.application.questions import Order

LIMIT_MAX = 1_000  # design: bounds one answer
LIMIT_DEFAULT = 100
POSITION_MAX = 2**63 - 1
ORDINAL_MAX = 2**31 - 1

RowT = TypeVar("RowT")


class Walked(Protocol):
    """A row that a list with a filter has come to: the how manieth, and whether it fits."""

    @property
    def fits(self) -> bool: ...
    @property
    def number(self) -> int: ...


WalkedT = TypeVar("WalkedT", bound=Walked)


class Key(NamedTuple):
    """What a row of a list is found by again: a name, or a position and an ordinal in it."""

    text: str = ""
    position: int = 0
    ordinal: int = 0


BEGINNING = {"newest": Key(position=POSITION_MAX, ordinal=ORDINAL_MAX), "oldest": Key(position=0, ordinal=-1)}
"""Before the first row of a list by position."""


class Page(NamedTuple):
    """One page asked for. `of`: the fingerprint of the list with its filters."""

    of: str
    limit: int
    cursor: Cursor | None

    @classmethod
    def of_list(cls, *query: str | int | None, limit: int, cursor: str | None) -> Self:
        """The page that `limit` and `cursor` ask for; `query` names the list and its filters, in a fixed order.

        Rejection `invalid_cursor` where the cursor is not one of this list.
        """
        of = fingerprint(*query)
        return cls(of, limit, None if cursor is None else read_cursor(cursor, of))

    def rows_max(self) -> int:
        """One more than is shown tells whether there is another page."""
        return self.limit + 1

    def after_text(self) -> str:
        """The name after which the page begins."""
        return "" if self.cursor is None else self.cursor.text

    def after(self, order: Order) -> Key:
        """The position and ordinal after which the page begins."""
        if self.cursor is None:
            return BEGINNING[order]
        return Key(text=self.cursor.text, position=self.cursor.number, ordinal=self.cursor.ordinal)

    def found(
        self, rows: Sequence[WalkedT], stamp: Stamp, key: Callable[[WalkedT], Key], *, walk_max: int
    ) -> tuple[Sequence[WalkedT], str | None]:
        """The same for a list with a filter, whose last row may be where the walk was broken off."""
        fitting = [row for row in rows if row.fits]
        if len(fitting) > self.limit:
            return fitting[: self.limit], self.going_on(key(fitting[self.limit - 1]), stamp)
        if rows and rows[-1].number >= walk_max:
            return fitting, self.going_on(key(rows[-1]), stamp)
        return fitting, None

    def cut(self, rows: Sequence[RowT], stamp: Stamp, key: Callable[[RowT], Key]) -> tuple[Sequence[RowT], str | None]:
        """The rows to show and the cursor of the next page, None on the last one."""
        if len(rows) <= self.limit:
            return rows, None
        shown = rows[: self.limit]
        return shown, self.going_on(key(shown[-1]), stamp)

    def going_on(self, last: Key, stamp: Stamp) -> str:
        """The cursor of the page after the row with this key."""
        cursor = Cursor(
            fingerprint=self.of,
            incarnation=stamp.incarnation,
            position=stamp.position or 1,  # a list of ledgers is as of no position
            text=last.text,
            number=last.position,
            ordinal=last.ordinal,
        )
        return write_cursor(cursor)
