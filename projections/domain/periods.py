"""The `periods` read model: what was posted to an account by position and effective time at once.

`infrastructure/periods.sql` says how the tables answer; here is which entry goes where. Pure: the order of the events decides, so
the same events give the same rows, whatever the batches.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from projections.domain.projection import Key, Projection, Read, Row, Rows, State, Table, time_text
from shared_kernel.events import Entry, HoldPosted, TransactionHeld, TransactionPosted

_NEVER: Final = ("", 0, 0)
_NOTHING: Final = (0, 0)


class TimelyRow(NamedTuple):
    """Running totals of what came in the order of effective time."""

    ledger: str
    address: str
    asset: str
    position: int
    effective_at: str
    debits: int
    credits: int


class UntimelyRow(NamedTuple):
    """Totals, up to a position, of what did not, in a span of effective time."""

    ledger: str
    address: str
    asset: str
    span: str
    begins_at: str
    position: int
    debits: int
    credits: int


def project(read: Read, state: State) -> Rows:
    """The rows that the event adds. ValueError: a time nobody can read."""
    match read.event:
        case TransactionPosted(entries=entries, effective_at=given):
            recorded_at = read.at
            effective_at = recorded_at if given is None else time_text(given)
            return _added(read, state, entries, recorded_at=recorded_at, effective_at=effective_at)
        case HoldPosted(entries=entries, effective_at=given):
            recorded_at = read.at
            effective_at = _of_hold(read, state) if given is None else time_text(given)
            return _added(read, state, entries, recorded_at=recorded_at, effective_at=effective_at or recorded_at)
        case TransactionHeld(transaction=transaction, effective_at=given) if given is not None:
            effective_at = time_text(given)
            return {"holds": [(read.recorded.ledger, transaction, read.recorded.position, effective_at)]}
        case _:
            return {}


def _of_hold(read: Read, state: State) -> str:
    event: HoldPosted = read.event  # type: ignore[assignment]
    held: Any = state["holds", read.recorded.ledger, event.transaction]
    return "" if held is None else str(held[0])


def _added(read: Read, state: State, entries: Iterable[Entry], *, recorded_at: str, effective_at: str) -> Rows:
    ledger, position = read.recorded.ledger, read.recorded.position
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for entry in entries:
        debited, credited = sums.get((entry.account, entry.asset), _NOTHING)
        if entry.direction == "debit":
            debited += entry.amount
        else:
            credited += entry.amount
        sums[entry.account, entry.asset] = (debited, credited)
    timely: list[Row] = []
    untimely: list[Row] = []
    for (address, asset), (debited, credited) in sums.items():
        last: Any = state["timely", ledger, address, asset] or _NEVER
        if last[0] <= effective_at <= recorded_at:
            timely.append((ledger, address, asset, position, effective_at, last[1] + debited, last[2] + credited))
            continue
        for span, begins_at in _spans(effective_at):
            key: Key = ("untimely", ledger, address, asset, span, begins_at)
            before: Any = state[key] or _NOTHING
            totals = (before[0] + debited, before[1] + credited)
            untimely.append((ledger, address, asset, span, begins_at, position, *totals))
    return {"timely": timely, "untimely": untimely}


def _spans(time: str) -> Iterable[tuple[str, str]]:
    """The spans that a time (27 characters, UTC) lies in, each with its first instant."""
    midnight = "T00:00:00.000000Z"
    return (
        ("year", f"{time[:4]}-01-01{midnight}"),
        ("month", f"{time[:7]}-01{midnight}"),
        ("day", time[:10] + midnight),
        ("hour", f"{time[:13]}:00:00.000000Z"),
        ("minute", f"{time[:16]}:00.000000Z"),
        ("second", f"{time[:19]}.000000Z"),
        ("instant", time),
    )


PERIODS: Final = Projection(
    name="periods",
    version=2,
    tables={
        "timely": Table(columns=TimelyRow._fields, key=3, kept=3),
        "untimely": Table(columns=UntimelyRow._fields, key=5, kept=2),
        "holds": Table(columns=("ledger", "transaction_id", "position", "effective_at"), key=2, kept=1),
    },
    project=project,
)
