"""Pages of a list: where one begins, how many rows to fetch for it, and the cursor of the next. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeVar

from query_service.application.cursors import Cursor, fingerprint, read_cursor, write_cursor
from query_service.application.query_handler import Stamp
from query_service.application.questions import Order

LIMIT_MAX = 1_000  # design: bounds one answer
LIMIT_DEFAULT = 100
POSITION_MAX = 2**63 - 1
ORDINAL_MAX = 2**31 - 1

RowT = TypeVar("RowT")


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
        return Key(position=self.cursor.number, ordinal=self.cursor.ordinal)

    def cut(self, rows: Sequence[RowT], stamp: Stamp, key: Callable[[RowT], Key]) -> tuple[Sequence[RowT], str | None]:
        """The rows to show and the cursor of the next page, None on the last one."""
        if len(rows) <= self.limit:
            return rows, None
        shown = rows[: self.limit]
        last = key(shown[-1])
        cursor = Cursor(
            fingerprint=self.of,
            incarnation=stamp.incarnation,
            position=stamp.position or 1,  # a list of ledgers is as of no position
            text=last.text,
            number=last.position,
            ordinal=last.ordinal,
        )
        return shown, write_cursor(cursor)
