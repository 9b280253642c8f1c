"""The named statements of the read side, put together once at start.

{word} in a statement stands for the piece of that name in the same files. A name that ends in _{order} stands for two
statements, newest and oldest first. {schema} stays open: `text` fills it in with the generation that is live.
"""

import re
from collections.abc import Mapping
from typing import Final, Self

from shared_kernel.event_log.statements import load_statements

FILES: Final = ("books.sql", "events.sql")
_ORDERS: Final = (
    {"order": "newest", "before": "<", "direction": "desc"},
    {"order": "oldest", "before": ">", "direction": "asc"},
)
_PLACE = re.compile(r"\{(\w+)\}")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Statements:
    """Every statement by name."""

    def __init__(self, pieces: Mapping[str, str]) -> None:
        self._templates: dict[str, str] = {}
        for name, text in pieces.items():
            for words in _ORDERS if name.endswith("_{order}") else ({},):
                self._templates[_fill(name, words)] = _fill(_fill(text, pieces), words)
        self._made: dict[str, str] = {}
        self._made_for = ""

    @classmethod
    def load(cls) -> Self:
        """The statements of this package; KeyError for a question without one comes from `text`, at the first use."""
        pieces: dict[str, str] = {}
        for name in FILES:
            pieces |= load_statements("query_service.infrastructure", name)
        return cls(pieces)

    def text(self, name: str, schema: str) -> str:
        """The statement on the tables in a schema. KeyError for a name that there is not."""
        if schema != self._made_for:
            if not _SCHEMA_NAME.fullmatch(schema):
                raise ValueError("not the name of a generation's schema")
            self._made.clear()  # another generation: those of the last one are not asked for again
            self._made_for = schema
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = _fill(self._templates[name], {"schema": schema})
        return made


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Takes in what is known; a word may hold places of its own, so it goes on until nothing changes."""
    filled = _PLACE.sub(lambda found: words.get(found[1], found[0]), text)
    return filled if filled == text else _fill(filled, words)
