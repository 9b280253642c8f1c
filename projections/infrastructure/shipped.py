"""The projections there are: Daybook's own, and those that installed packages bring by the entry point `daybook.projections`."""

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final, NamedTuple

import msgspec

from projections.domain.books import BOOKS
from projections.domain.periods import PERIODS
from projections.domain.projection import Projection
from shared_kernel.event_log.statements import load_statements

ENTRY_POINTS: Final = "daybook.projections"
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")  # chosen: with a generation's number it is the name of a schema


class Found(NamedTuple):
    """By name: those that can be used, Daybook's own first, and why the others cannot."""

    usable: Mapping[str, Projection]
    refused: Mapping[str, str]


def shipped() -> Mapping[str, Projection]:
    """Daybook's own, by name."""
    return {projection.name: _with_tables(projection) for projection in (BOOKS, PERIODS)}


def installed() -> Mapping[str, Projection]:
    """All that can be used, by name, Daybook's own first."""
    return found().usable


def found() -> Found:
    """All there are. One that a package brings and that is none, or has a name that is taken, is refused."""
    usable, refused = dict(shipped()), dict[str, str]()
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            projection = entry.load()
        except Exception as error:  # whatever a package of somebody else's does when it is imported
            refused[entry.name] = f"it cannot be loaded: {type(error).__name__}"
            continue
        if fault := _fault(projection, usable):
            refused[entry.name] = fault
        else:
            usable[projection.name] = projection
    return Found(usable, refused)


def _fault(projection: object, usable: Mapping[str, Projection]) -> str | None:
    if not isinstance(projection, Projection):
        return "it is no Projection"
    if NAME.fullmatch(projection.name) is None:
        return f"its name is not like {NAME.pattern}"
    if projection.name in usable:
        return f"another projection has the name {projection.name}"
    return None


def _with_tables(projection: Projection) -> Projection:
    statements = load_statements("projections.infrastructure", f"{projection.name}.sql")
    return msgspec.structs.replace(projection, **{name: statements[name] for name in ("schema", "keys", "indexes")})
