"""Transactions and entries of the `books` read model: from posting, hold or schedule to whatever end. Pure, as `books`."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypedDict

import msgspec

from projections.domain.labels import labels_of, patched
from projections.domain.projection import Key, Read, Row, Rows, State, time_text
from shared_kernel.errors import Corruption
from shared_kernel.events import (
    Entry,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from shared_kernel.words import Direction

Totals = tuple[int, int, int, int]
ZERO: Final[Totals] = (0, 0, 0, 0)
"""Posted debits, posted credits, pending debits, pending credits; pending are posted and held."""

_json = msgspec.json.Encoder().encode
_NO_METADATA = "{}"
_NO_ENTRIES = "[]"
_DRAWS: Final = ',"draws":true'
_FILLS: Final = ',"fills":true'


class TransactionRow(NamedTuple):
    """A version of a transaction."""

    ledger: str
    transaction_id: str
    position: int
    created_position: int
    created_at: str
    recorded_at: str
    status: str
    effective_at: str
    held_effective_at: str | None
    expires_at: str | None
    reference: str | None
    description: str | None
    entries: str
    posted_entries: str | None
    held_entries: str | None
    metadata: str
    asset: str
    amount: int
    reverses: str | None
    reversed_by: str | None
    is_forced: bool
    actor: str
    correlation_id: str


class OtherAmountRow(NamedTuple):
    """What a transaction moves in an asset beside its first."""

    ledger: str
    asset: str
    amount: int
    created_position: int


class EntryRow(NamedTuple):
    """What moved on an account, and its totals just after."""

    ledger: str
    address: str
    asset: str
    position: int
    entry_index: int
    kind: str
    direction: str
    amount: int
    transaction_id: str
    recorded_at: str
    effective_at: str
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int


class UnsettledRow(NamedTuple):
    """A pending or scheduled transaction, and since when it no longer is one."""

    ledger: str
    transaction_id: str
    position: int
    created_position: int
    status: str
    due_at: str | None
    until_position: int | None


class ShownEntry(TypedDict):
    """An entry as the API shows it."""

    account: str
    direction: Direction
    amount: int
    asset: str


_read_entries = msgspec.json.Decoder(list[ShownEntry]).decode
_read_ids = msgspec.json.Decoder(list[str]).decode


def posted(read: Read, state: State) -> Rows:
    """TransactionPosted: a new transaction, or what was scheduled has come due; what it reverses knows of it.

    The hot path: plain tuples in one pass, which the other folds below do in clearer steps.
    """
    event: TransactionPosted = read.event  # type: ignore[assignment]
    if event.scheduled:
        return _scheduled_posted(read, event, state)
    recorded, at, transaction, given = read.recorded, read.at, event.transaction, event.effective_at
    ledger, position = recorded.ledger, recorded.position
    effective_at = at if given is None else time_text(given)
    totals: dict[Key, Totals] = {}
    entries: list[Row] = []
    debits: dict[str, int] = {}
    for index, entry in enumerate(event.entries):
        account, direction, amount, asset = entry.account, entry.direction, entry.amount, entry.asset
        key = ("entries", ledger, account, asset)
        before: Any = totals.get(key) or state[key] or ZERO
        debited, credited, pending_debits, pending_credits = before
        if direction == "debit":
            debits[asset] = debits.get(asset, 0) + amount
            debited += amount
            pending_debits += amount
        else:
            debits.setdefault(asset, 0)
            credited += amount
            pending_credits += amount
        totals[key] = (debited, credited, pending_debits, pending_credits)
        entries.append(
            (
                ledger,
                account,
                asset,
                position,
                index,
                "posted",
                direction,
                amount,
                transaction,
                at,
                effective_at,
                debited,
                credited,
                pending_debits,
                pending_credits,
            )
        )
    first = event.entries[0].asset if event.entries else ""
    metadata = read.metadata
    noted = _json(event.metadata).decode() if event.metadata else _NO_METADATA
    shown = _shown(event.entries)
    # fmt: off
    row: Row = (
        ledger, transaction, position, position, at, at, "posted", effective_at, None, None, event.reference,
        event.description, shown, None, None, noted, first, debits.pop(first, 0), event.reverses, None, event.forced,
        metadata.actor, metadata.correlation_id,
    )
    # fmt: on
    rows: Rows = {"entries": entries, "transactions": [row]}
    if debits:
        rows["other_amounts"] = [(ledger, asset, amount, position) for asset, amount in debits.items()]
    if event.metadata:
        rows["transaction_labels"] = labels_of(recorded, position, event.metadata)
    if event.reverses is not None:
        original = _known(read, state, event.reverses)
        by = [*(_read_ids(original.reversed_by) if original.reversed_by else ()), transaction]
        rows["transactions"].append(
            original._replace(position=position, recorded_at=at, reversed_by=_json(by).decode())
        )
    return rows


def held(read: Read, state: State) -> Rows:
    """TransactionHeld: a pending transaction, its amounts held."""
    event: TransactionHeld = read.event  # type: ignore[assignment]
    recorded_at = read.at
    given = None if event.effective_at is None else time_text(event.effective_at)
    expires_at = None if event.expires_at is None else time_text(event.expires_at)
    shown = _shown(event.entries)
    row = _born(
        *(read, event, "pending"), effective_at=given or recorded_at, held=shown, given=given, expires_at=expires_at
    )
    rows = _birth(read, row, event.entries, event.metadata)
    rows["entries"] = _entry_rows(read, state, row, [("held", entry) for entry in event.entries])
    rows["unsettled"] = [_unsettled(row, due_at=expires_at)]
    return rows


def captured(read: Read, state: State) -> Rows:
    """HoldPosted: part or all of what was held is posted, the rest released or still held."""
    event: HoldPosted = read.event  # type: ignore[assignment]
    before = _known(read, state, event.transaction)
    recorded_at = read.at
    given = event.effective_at
    effective_at = time_text(given) if given is not None else before.held_effective_at or recorded_at
    row = before._replace(
        position=read.recorded.position,
        recorded_at=recorded_at,
        status="posted" if event.is_final else "pending",
        effective_at=effective_at,
        posted_entries=_merged(before.posted_entries, event.entries, sign=1),
        held_entries=_merged(before.held_entries, [*event.entries, *event.released], sign=-1),
    )
    moves = [("captured", entry) for entry in event.entries] + [("released", entry) for entry in event.released]
    rows: Rows = {"transactions": [row], "entries": _entry_rows(read, state, row, moves)}
    if event.is_final:
        rows["unsettled"] = [_settled(read, state, row)]
    return rows


def released(read: Read, state: State) -> Rows:
    """HoldVoided or HoldExpired: nothing more of it will be posted."""
    event: HoldVoided | HoldExpired = read.event  # type: ignore[assignment]
    before = _known(read, state, event.transaction)
    ended_as = "voided" if type(event) is HoldVoided else "expired"
    row = before._replace(
        position=read.recorded.position,
        recorded_at=read.at,
        status=ended_as if before.posted_entries in {None, _NO_ENTRIES} else "posted",
        held_entries=_merged(before.held_entries, event.released, sign=-1),
    )
    moves = [("released", entry) for entry in event.released]
    return {
        "transactions": [row],
        "entries": _entry_rows(read, state, row, moves),
        "unsettled": [_settled(read, state, row)],
    }


def scheduled(read: Read, state: State) -> Rows:
    """TransactionScheduled: to be posted at its time; nothing moves."""
    event: TransactionScheduled = read.event  # type: ignore[assignment]
    due_at = time_text(event.effective_at)
    row = _born(read, event, "scheduled", effective_at=due_at)
    rows = _birth(read, row, event.entries, event.metadata)
    rows["unsettled"] = [_unsettled(row, due_at=due_at)]
    rows["scheduled_accounts"] = [
        (row.ledger, account, row.position) for account in dict.fromkeys(entry.account for entry in event.entries)
    ]
    return rows


def ended(read: Read, state: State, *, status: str) -> Rows:
    """What was scheduled will not be posted."""
    event: Any = read.event
    recorded = read.recorded
    row = _known(read, state, event.transaction)._replace(
        position=recorded.position, recorded_at=read.at, status=status
    )
    return {"transactions": [row], "unsettled": [_settled(read, state, row)]}


def metadata_changed(read: Read, state: State) -> Rows:
    """TransactionMetadataChanged."""
    event: TransactionMetadataChanged = read.event  # type: ignore[assignment]
    recorded = read.recorded
    before = _known(read, state, event.transaction)
    metadata, added = patched(before.metadata, event.changes)
    row = before._replace(position=recorded.position, recorded_at=read.at, metadata=metadata)
    return {"transactions": [row], "transaction_labels": labels_of(recorded, row.created_position, added)}


def _scheduled_posted(read: Read, event: TransactionPosted, state: State) -> Rows:
    before = _known(read, state, event.transaction)
    given = event.effective_at
    row = before._replace(
        position=read.recorded.position,
        recorded_at=read.at,
        status="posted",
        effective_at=before.effective_at if given is None else time_text(given),
    )
    moves = [("posted", entry) for entry in event.entries]
    return {
        "transactions": [row],
        "entries": _entry_rows(read, state, row, moves),
        "unsettled": [_settled(read, state, row)],
    }


def _born(
    read: Read,
    event: TransactionHeld | TransactionScheduled,
    status: str,
    *,
    effective_at: str,
    held: str | None = None,
    given: str | None = None,
    expires_at: str | None = None,
) -> TransactionRow:
    recorded, metadata = read.recorded, read.metadata
    recorded_at = read.at
    asset, amount, _ = _amounts(event.entries)
    return TransactionRow(
        ledger=recorded.ledger,
        transaction_id=event.transaction,
        position=recorded.position,
        created_position=recorded.position,
        created_at=recorded_at,
        recorded_at=recorded_at,
        status=status,
        effective_at=effective_at,
        held_effective_at=given,
        expires_at=expires_at,
        reference=event.reference,
        description=event.description,
        entries=_shown(event.entries),
        posted_entries=None if held is None else _NO_ENTRIES,
        held_entries=held,
        metadata=_json(event.metadata).decode(),
        asset=asset,
        amount=amount,
        reverses=None,
        reversed_by=None,
        is_forced=False,
        actor=metadata.actor,
        correlation_id=metadata.correlation_id,
    )


def _birth(read: Read, row: TransactionRow, entries: Sequence[Entry], metadata: dict[str, str]) -> Rows:
    _, _, others = _amounts(entries)
    amounts: list[Row] = [(row.ledger, asset, amount, row.position) for asset, amount in others.items()]
    labels = labels_of(read.recorded, row.position, metadata)
    return {"transactions": [row], "other_amounts": amounts, "transaction_labels": labels}


def _unsettled(row: TransactionRow, *, due_at: str | None) -> UnsettledRow:
    return UnsettledRow(row.ledger, row.transaction_id, row.position, row.created_position, row.status, due_at, None)


def _settled(read: Read, state: State, row: TransactionRow) -> UnsettledRow:
    before = state["unsettled", row.ledger, row.transaction_id]
    if before is None:
        raise Corruption("event_without_subject", table="unsettled", type=read.recorded.type)
    return UnsettledRow._make(before)._replace(until_position=read.recorded.position)


def _entry_rows(read: Read, state: State, row: TransactionRow, moves: Iterable[tuple[str, Entry]]) -> list[Row]:
    """The entries of an event of any kind, as `posted` makes those of the commonest."""
    ledger, position = row.ledger, row.position
    totals: dict[Key, Totals] = {}
    rows: list[Row] = []
    for index, (kind, entry) in enumerate(moves):
        key = ("entries", ledger, entry.account, entry.asset)
        before: Any = totals.get(key) or state[key] or ZERO
        after: list[int] = list(before)
        side = 0 if entry.direction == "debit" else 1
        if kind in {"posted", "captured"}:
            after[side] += entry.amount
        if kind in {"posted", "held"}:
            after[2 + side] += entry.amount
        elif kind == "released":
            after[2 + side] -= entry.amount
        totals[key] = (after[0], after[1], after[2], after[3])
        rows.append(
            (
                *(ledger, entry.account, entry.asset, position, index, kind, entry.direction, entry.amount),
                *(row.transaction_id, row.recorded_at, row.effective_at, *totals[key]),
            )
        )
    return rows


def _known(read: Read, state: State, transaction: str) -> TransactionRow:
    row = state["transactions", read.recorded.ledger, transaction]
    if row is None:
        raise Corruption("event_without_subject", table="transactions", type=read.recorded.type)
    return TransactionRow._make(row)


def _amounts(entries: Sequence[Entry]) -> tuple[str, int, dict[str, int]]:
    """The first entry's asset and its debits; the debits of every other asset."""
    if not entries:
        return "", 0, {}
    first, debited = entries[0].asset, 0
    others: dict[str, int] = {}
    for entry in entries:
        amount = entry.amount if entry.direction == "debit" else 0
        if entry.asset == first:
            debited += amount
        else:
            others[entry.asset] = others.get(entry.asset, 0) + amount
    return first, debited, others


def _shown(entries: Sequence[Entry]) -> str:
    """Entries as the API shows them: without their marks, which cannot be taken for a part of a text: its quotes are escaped."""
    return _json(entries).decode().replace(_DRAWS, "").replace(_FILLS, "")


def _merged(text: str | None, entries: Iterable[Entry], *, sign: int) -> str:
    """Entries as JSON with others added or taken away, one for each account, direction and asset; nothing left is left out."""
    sums: dict[tuple[str, Direction, str], int] = defaultdict(int)
    for shown in _read_entries(text or _NO_ENTRIES):
        sums[shown["account"], shown["direction"], shown["asset"]] += shown["amount"]
    for entry in entries:
        sums[entry.account, entry.direction, entry.asset] += sign * entry.amount
    return _json(
        [
            {"account": account, "direction": direction, "amount": amount, "asset": asset}
            for (account, direction, asset), amount in sums.items()
            if amount
        ]
    ).decode()
