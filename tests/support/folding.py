"""Folds of a projection in memory, batch after batch, as a worker would have them."""

from collections.abc import Mapping, Sequence

from projections.application.fold import Folded, RowCache, fold
from projections.domain.projection import Key, Projection, Row, Rows
from shared_kernel.event_log.types import RecordedEvent


def project_in_batches(
    projection: Projection, runs: Sequence[Mapping[str, Sequence[RecordedEvent]]], *, rows_max: int = 1_000
) -> list[Folded]:
    """Folds batch after batch, with a read model in memory that knows every row ever written."""
    cache = RowCache(projection.tables, rows_max)
    stored: dict[Key, Row] = {}
    batches = []
    for run in runs:
        folded = fold(
            projection,
            run,
            cache=cache,
            load=lambda keys: {key: stored[key] for key in keys if key in stored},
            skips={},
        )
        stored.update((key, row) for key, row in folded.known.items() if row is not None)
        cache.keep(folded.known)
        batches.append(folded)
    return batches


def written(projection: Projection, batches: Sequence[Folded]) -> Rows:
    """What the tables hold in the end, in the order of writing."""
    held: Rows = {}
    for name, table in projection.tables.items():
        rows = [row for batch in batches for row in batch.rows[name]]
        held[name] = list({row[: table.key]: row for row in rows}.values()) if table.is_replaced else rows
    return held
