"""The projections there are: Daybook's own, and those that installed packages bring by the entry point `daybook.projections`."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

import msgspec

from projections.domain.books import BOOKS
from projections.domain.periods import PERIODS
from projections.domain.projection import Projection
from shared_kernel.event_log.statements import load_statements

ENTRY_POINTS: Final = "daybook.projections"


def shipped() -> Mapping[str, Projection]:
    """Daybook's own, by name."""
    return {projection.name: _with_tables(projection) for projection in (BOOKS, PERIODS)}


def installed() -> Mapping[str, Projection]:
    """All there are, by name, Daybook's own first. ValueError: two of one name, or an entry point that is no projection."""
    found = dict(shipped())
    for entry in entry_points(group=ENTRY_POINTS):
        projection = entry.load()
        if not isinstance(projection, Projection):
            raise ValueError(f"entry point {entry.name} of {ENTRY_POINTS} is no Projection")
        if projection.name in found:
            raise ValueError(f"two projections have the name {projection.name}")
        found[projection.name] = projection
    return found


def _with_tables(projection: Projection) -> Projection:
    statements = load_statements("projections.infrastructure", f"{projection.name}.sql")
    return msgspec.structs.replace(projection, **{name: statements[name] for name in ("schema", "keys", "indexes")})
