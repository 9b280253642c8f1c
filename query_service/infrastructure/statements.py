"""Named statements from the .sql files beside this module, put together once at start.

`-- name: N` begins a statement, `-- fragment: N` a piece that others take in as {N}. A name that ends in _{order} stands for
two statements. {schema} stays open: it is filled in by `Statements.text` with the generation that is live.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

FILES: Final = ("books.sql", "events.sql")
ORDERS: Final = {
    "newest": {"{order}": "newest", "{before}": "<", "{direction}": "desc"},
    "oldest": {"{order}": "oldest", "{before}": ">", "{direction}": "asc"},
}
_HEADING = re.compile(r"^-- (name|fragment): (\S+)\n", re.MULTILINE)
_SCHEMA_NAME = re.compile(r"^[a-z_][a-z0-9_]{0,62}$")


class Statements:
    """Every statement of the read side by name."""

    def __init__(self, texts: Sequence[str]) -> None:
        fragments: dict[str, str] = {}
        statements: dict[str, str] = {}
        for text in texts:
            # re.split gives: what stands before the first heading, then kind, name, body of each piece.
            pieces = _HEADING.split(text)[1:]
            for kind, name, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
                found = fragments if kind == "fragment" else statements
                if name in found:
                    raise ValueError(f"two statements are named {name}")
                found[name] = body.strip()
        self._templates: dict[str, str] = {}
        for name, body in statements.items():
            for ordered in ORDERS.values() if name.endswith("_{order}") else ({},):
                self._templates[_fill(name, ordered)] = _fill(_whole(body, fragments), ordered)
        self._made: dict[tuple[str, str], str] = {}

    @classmethod
    def load(cls) -> "Statements":
        """The statements of this package."""
        return cls([files(__package__).joinpath(name).read_text() for name in FILES])

    def names(self) -> Sequence[str]:
        """What there is."""
        return list(self._templates)

    def text(self, name: str, schema: str) -> str:
        """The statement on the tables in a schema. KeyError for a name that there is not."""
        made = self._made.get((name, schema))
        if made is None:
            if not _SCHEMA_NAME.match(schema):
                raise ValueError("not the name of a generation's schema")
            if any(known != schema for _, known in self._made):
                self._made.clear()  # another generation: those of the last one are not asked for again
            made = self._made[name, schema] = self._templates[name].replace("{schema}", schema)
        return made


def _whole(body: str, fragments: dict[str, str]) -> str:
    def piece(found: re.Match[str]) -> str:
        # A fragment's leading comment explains it in the file and would split the line it goes into.
        text = fragments[found[1]]
        return "\n".join(line for line in text.splitlines() if not line.startswith("--"))

    return re.sub(r"\{(?!schema|before|direction)(\w+)\}", piece, body)


def _fill(text: str, words: dict[str, str]) -> str:
    for placeholder, word in words.items():
        text = text.replace(placeholder, word)
    return text
