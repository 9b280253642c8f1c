"""From rows to answers. Pure.

What is stored as JSON text is read into its shape here, so that the API shows what it declares and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypedDict

import msgspec

from query_service.application.answers import (
    Account,
    AccountEntry,
    AsOf,
    Balance,
    Defaults,
    Entry,
    Incomplete,
    Ledger,
    Limit,
    Transaction,
)
from query_service.application.query_handler import Stamp, Standstill
from query_service.application.questions import (
    AccountRow,
    BalanceRow,
    EntryRow,
    LedgerRow,
    ListedAccountRow,
    ListedBalanceRow,
    TransactionRow,
)
from shared_kernel.words import NormalBalance, format_time

_read_limits = msgspec.json.Decoder(dict[str, Limit]).decode
_read_defaults = msgspec.json.Decoder(list[Defaults]).decode
_read_metadata = msgspec.json.Decoder(dict[str, str]).decode
_read_ids = msgspec.json.Decoder(list[str]).decode
_read_entries = msgspec.json.Decoder(list[Entry]).decode


def as_of(stamp: Stamp) -> AsOf:
    """The stamp of an answered question."""
    if stamp.position is None or stamp.recorded_at is None:
        raise ValueError("not answered")
    return AsOf(position=stamp.position, recorded_at=format_time(stamp.recorded_at))


class Stamped(TypedDict):
    """What every answer from the read model says of itself."""

    as_of: AsOf
    complete: bool
    incomplete: Incomplete | None


def stamped(stamp: Stamp) -> Stamped:
    """The three fields of an answered question."""
    held = incomplete(stamp.holds_up)
    return Stamped(as_of=as_of(stamp), complete=held is None, incomplete=held)


def incomplete(held: Standstill | None) -> Incomplete | None:
    """What keeps an answer from being complete."""
    if held is None:
        return None
    return Incomplete(state=held.state, since=format_time(held.since), position=held.position)


def ledger(row: LedgerRow, stamp: Stamp | None = None) -> Ledger:
    """A ledger as the API shows it; in an answer about it alone, with what the stamp says of it."""
    held = standstill(row) if stamp is None else stamp.holds_up
    return Ledger(
        ledger=row.ledger,
        status=row.status,
        accounts=row.accounts,
        defaults=_read_defaults(row.defaults),
        records_refusals=row.records_refusals,
        time_zone=row.time_zone,
        metadata=_read_metadata(row.metadata),
        opened_at=format_time(row.opened_at),
        as_of=AsOf(position=row.position, recorded_at=format_time(row.recorded_at)),
        complete=held is None,
        incomplete=incomplete(held),
    )


def standstill(row: LedgerRow) -> Standstill | None:
    """What the read model lacks of one of several ledgers."""
    return None if row.state is None else Standstill(row.state, _known(row.since), row.stuck_position or 0)


def account(
    row: AccountRow | ListedAccountRow, balances: Mapping[str, Sequence[ListedBalanceRow]] | None = None
) -> Account:
    """An account as the API shows it, with its balances where they are given by address."""
    shown = None
    if balances is not None:
        shown = {total.asset: balance(row.normal_balance, total) for total in balances.get(row.address, ())}
    return Account(
        address=row.address,
        normal_balance=row.normal_balance,
        status=row.status,
        frozen=row.frozen,
        limits=_read_limits(row.limits),
        metadata=_read_metadata(row.metadata),
        on_first_use=row.on_first_use,
        opened_at=format_time(row.opened_at),
        position=row.position,
        balances=shown,
    )


def balances(rows: Iterable[BalanceRow]) -> dict[str, Balance]:
    """By asset."""
    return {row.asset: balance(row.normal_balance, row) for row in rows if row.asset is not None}


class Totals(Protocol):
    """Raw totals of an account in one asset; without pending ones only what is posted is known."""

    @property
    def posted_debits(self) -> int: ...
    @property
    def posted_credits(self) -> int: ...
    @property
    def pending_debits(self) -> int | None: ...
    @property
    def pending_credits(self) -> int | None: ...


def balance(normal_balance: NormalBalance, totals: Totals) -> Balance:
    """The signed balances from the raw totals (design §2): the normal side is positive. Pending totals count posted and held."""
    posted = signed(normal_balance, totals.posted_debits, totals.posted_credits)
    if totals.pending_debits is None or totals.pending_credits is None:
        return Balance(posted=posted, posted_debits=totals.posted_debits, posted_credits=totals.posted_credits)
    if normal_balance == "debit":
        available = totals.posted_debits - totals.pending_credits
    else:
        available = totals.posted_credits - totals.pending_debits
    return Balance(
        posted=posted,
        pending=signed(normal_balance, totals.pending_debits, totals.pending_credits),
        available=available,
        posted_debits=totals.posted_debits,
        posted_credits=totals.posted_credits,
        pending_debits=totals.pending_debits,
        pending_credits=totals.pending_credits,
    )


def signed(normal_balance: NormalBalance, debits: int, credits: int) -> int:  # noqa: A002 - the accounting word
    """The difference with the normal side positive."""
    return debits - credits if normal_balance == "debit" else credits - debits


def account_entry(row: EntryRow) -> AccountEntry:
    """What moved on an account, with the balance after it. Rows without a position are no entries."""
    return AccountEntry(
        position=row.position or 0,
        entry_index=row.entry_index,
        kind=row.kind,
        transaction=row.transaction_id,
        direction=row.direction,
        amount=row.amount,
        asset=row.asset,
        effective_at=format_time(row.effective_at),
        recorded_at=format_time(row.recorded_at),
        balance=balance(row.normal_balance, row),
    )


def transaction(row: TransactionRow) -> Transaction:
    """A transaction as the API shows it."""
    return Transaction(
        id=row.transaction_id,
        status=row.status,
        entries=_read_entries(row.entries),
        posted=None if row.posted_entries is None else _read_entries(row.posted_entries),
        held=None if row.held_entries is None else _read_entries(row.held_entries),
        reference=row.reference,
        effective_at=format_time(row.effective_at),
        expires_at=None if row.expires_at is None else format_time(row.expires_at),
        description=row.description,
        metadata=_read_metadata(row.metadata),
        reverses=row.reverses,
        reversed_by=[] if row.reversed_by is None else _read_ids(row.reversed_by),
        forced=row.is_forced,
        position=row.created_position,
        recorded_at=format_time(row.created_at),
        changed_position=row.position,
        changed_at=format_time(row.recorded_at),
        actor=row.actor,
        correlation_id=row.correlation_id,
    )


def _known(time: datetime | None) -> datetime:
    if time is None:
        raise ValueError("a standstill without a time")
    return time
