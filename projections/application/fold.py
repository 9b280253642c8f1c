"""Folds a batch of events into rows in memory, ledger by ledger; what a projection cannot take ends its ledger's run there.

Keeps the latest totals in a bounded cache, so that a busy account is read once. The cache is right only while nobody else
moves its ledgers: whoever learns otherwise clears it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from projections.application.ports import Fault
from projections.domain.projection import Key, Projection, Read, Row, Totals, read
from shared_kernel.errors import DaybookError
from shared_kernel.event_log.types import RecordedEvent

Runs = Mapping[str, Sequence[RecordedEvent]]
"""For each ledger the events to apply next: consecutive, beginning just after its position."""


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a batch: rows by table, how far each ledger came (and when that was recorded), faults by ledger."""

    rows: dict[str, list[Row]]
    reached: dict[str, tuple[int, datetime]]
    faults: dict[str, Fault]
    totals: dict[Key, Totals]


class TotalsCache:
    """Totals by key, the least recently folded dropped first. `totals_max` bounds each of its two halves."""

    def __init__(self, totals_max: int) -> None:
        self._totals_max = totals_max
        self._young: dict[Key, Totals] = {}
        self._old: dict[Key, Totals] = {}

    def find(self, keys: Iterable[Key]) -> tuple[dict[Key, Totals], list[Key]]:
        """What is known of the keys, and those of which nothing is."""
        young, old = self._young, self._old
        known: dict[Key, Totals] = {}
        missing: dict[Key, None] = {}
        for key in keys:
            totals = young.get(key) or old.get(key)
            if totals is None:
                missing[key] = None
            else:
                known[key] = totals
        return known, list(missing)

    def keep(self, totals: Mapping[Key, Totals]) -> None:
        """Remembers what was written."""
        self._young.update(totals)
        if len(self._young) > self._totals_max:
            self._old = self._young
            self._young = {}

    def clear(self) -> None:
        """Forgets everything."""
        self._young = {}
        self._old = {}


def fold(
    projection: Projection,
    runs: Runs,
    *,
    cache: TotalsCache,
    load: Callable[[Sequence[Key]], Mapping[Key, Totals]],
) -> Folded:
    """The rows of all runs, with one read (`load`) for all totals that the cache lacks. Changes nothing."""
    faults: dict[str, Fault] = {}
    decoded: dict[str, list[Read]] = {}
    keys: set[Key] = set()
    for ledger, run in runs.items():
        reads = decoded[ledger] = []
        for event in run:
            try:
                decoded_event = read(event)
                keys.update(projection.keys(decoded_event))
            except Exception as error:  # whatever a projection cannot take, its ledger waits for
                faults[ledger] = fault_of(event, error)
                break
            reads.append(decoded_event)
    totals, missing = cache.find(keys)
    if missing:
        totals.update(dict.fromkeys(missing, projection.zero))
        totals.update(load(missing))
    rows: dict[str, list[Row]] = {table: [] for table in projection.tables}
    reached: dict[str, tuple[int, datetime]] = {}
    for ledger, reads in decoded.items():
        last = None
        for each in reads:
            try:
                change = projection.project(each, totals)
            except Exception as error:  # as above; it stands before any fault found in decoding
                faults[ledger] = fault_of(each.recorded, error)
                break
            for table, more in change.rows.items():
                rows[table] += more
            totals.update(change.totals)
            last = each.recorded
        if last is not None:
            reached[ledger] = (last.position, last.recorded_at)
    return Folded(rows=rows, reached=reached, faults=faults, totals=totals)


def fault_of(event: RecordedEvent, error: Exception) -> Fault:
    """Why this event cannot be applied, without a word of what it says: only codes and types."""
    if isinstance(error, DaybookError):
        parts = [error.code, *(f"{name}={value}" for name, value in error.fields.items())]
        text = " ".join(parts)
    else:
        text = f"{event.type} cannot be applied"
    return Fault(ledger=event.ledger, position=event.position, error_class=type(error).__name__, error=text)
