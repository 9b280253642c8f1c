"""The named statements of the read side, put together once at start.

{word} in a statement stands for the piece of that name in the same files. A name that ends in _{order} stands for two
statements, newest and oldest first; {word_{order}} for the piece of that order. {schema} and {periods} stay open: `text` fills them in with the generations that are
live. {condition} stays open too: the filter of a list, which is another one each time.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple, Self

from shared_kernel.event_log.statements import load_statements

FILES: Final = (
    *(
        "books.sql",
        "search.sql",
        "totals.sql",
        "account_statements.sql",
        "refusals.sql",
        "graph.sql",
    ),
    *("events.sql", "log.sql"),
)
_ORDERS: Final = (
    {"order": "newest", "before": "<", "direction": "desc", "edge": "infinity"},
    {"order": "oldest", "before": ">", "direction": "asc", "edge": "-infinity"},
)
_PLACE = re.compile(r"\{(\w+)\}")
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
NUMBERED_MAX: Final = 256  # chosen: every statement, and some filters of the lists; some 20 KB each


class Numbered(NamedTuple):
    """A statement as the server reads it, and the names of its parameters in the order of their numbers."""

    text: bytes
    names: tuple[str, ...]


@lru_cache(NUMBERED_MAX)
def numbered(text: str) -> Numbered:
    """`%(name)s` becomes `$n`, once for each text: a driver that is given names reads long statements anew each time."""
    names: dict[str, int] = {}
    filled = _PARAMETER.sub(
        lambda found: "%" if found[1] is None else f"${names.setdefault(found[1], len(names) + 1)}", text
    )
    return Numbered(filled.encode(), tuple(names))


class Statements:
    """Every statement by name."""

    def __init__(self, pieces: Mapping[str, str]) -> None:
        self._templates: dict[str, str] = {}
        for name, text in pieces.items():
            for words in _ORDERS if name.endswith("_{order}") else ({},):
                self._templates[_fill(name, words)] = _fill(text, {**pieces, **words})
        self._made: dict[str, str] = {}
        self._made_for = ""
        self._schemas: Mapping[str, str] = {}

    @classmethod
    def load(cls) -> Self:
        """The statements of this package; KeyError for a question without one comes from `text`, at the first use.

        ValueError where two files have a name in common.
        """
        pieces: dict[str, str] = {}
        for name in FILES:
            found = load_statements("query_service.infrastructure", name)
            if twice := found.keys() & pieces.keys():
                raise ValueError(f"{name} names {', '.join(sorted(twice))} once more")
            pieces |= found
        return cls(pieces)

    def text(self, name: str, schemas: str) -> str:
        """The statement on the tables of live generations: the schema of the books and, after a space, of the periods.

        KeyError for a name that there is not.
        """
        if schemas != self._made_for:
            books, _, periods = schemas.partition(" ")
            if not _SCHEMA_NAME.fullmatch(books) or (periods and not _SCHEMA_NAME.fullmatch(periods)):
                raise ValueError("not the names of generations' schemas")
            self._made.clear()  # another generation: those of the last one are not asked for again
            self._made_for = schemas
            self._schemas = {"schema": books, "periods": periods}
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = _fill(self._templates[name], self._schemas)
        return made


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Takes in what is known; a word may hold places of its own, so it goes on until nothing changes."""
    filled = _PLACE.sub(lambda found: words.get(found[1], found[0]), text)
    return filled if filled == text else _fill(filled, words)
