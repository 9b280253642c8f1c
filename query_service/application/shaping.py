"""From rows to answers. Pure.

What is stored as JSON text is read into its shape here, so that the API shows what it declares and nothing else.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

import msgspec

from query_service.application.answers import (
    Account,
    AccountEntry,
    AsOf,
    Balance,
    Defaults,
    Entry,
    Event,
    Incomplete,
    Ledger,
    Limit,
    Transaction,
    TrialTotal,
)
from query_service.application.query_handler import Stamp, Standstill
from query_service.application.questions import (
    AccountRow,
    BalanceRow,
    EntryRow,
    EventRow,
    LedgerRow,
    TransactionRow,
    TrialRow,
)
from shared_kernel.words import format_time

_read_limits = msgspec.json.Decoder(dict[str, Limit]).decode
_read_defaults = msgspec.json.Decoder(list[Defaults]).decode
_read_metadata = msgspec.json.Decoder(dict[str, str]).decode
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
    held = incomplete(stamp.standstill)
    return Stamped(as_of=as_of(stamp), complete=held is None, incomplete=held)


def incomplete(standstill: Standstill | None) -> Incomplete | None:
    """What keeps an answer from being complete."""
    if standstill is None:
        return None
    return Incomplete(state=standstill.state, since=format_time(standstill.since), position=standstill.position)


def ledger(row: LedgerRow) -> Ledger:
    """A ledger as the API shows it."""
    standstill = None if row.state is None else Standstill(row.state, _known(row.since), row.stuck_position or 0)
    return Ledger(
        ledger=row.ledger,
        accounts=row.accounts,
        defaults=_read_defaults(row.defaults),
        records_refusals=row.records_refusals,
        metadata=_read_metadata(row.metadata),
        opened_at=format_time(row.opened_at),
        as_of=AsOf(position=row.position, recorded_at=format_time(row.recorded_at)),
        complete=standstill is None,
        incomplete=incomplete(standstill),
    )


def account(row: AccountRow) -> Account:
    """An account as the API shows it."""
    return Account(
        address=row.address,
        normal_balance=row.normal_balance,
        status=row.status,
        limits=_read_limits(row.limits),
        metadata=_read_metadata(row.metadata),
        on_first_use=row.on_first_use,
        opened_at=format_time(row.opened_at),
        position=row.position,
    )


def balances(rows: Sequence[BalanceRow]) -> dict[str, Balance]:
    """By asset."""
    return {row.asset: balance(row) for row in rows if row.asset is not None}


def balance(totals: BalanceRow | EntryRow) -> Balance:
    """The signed balances from the raw totals (design §2): the normal side is positive."""
    posted = totals.posted_credits - totals.posted_debits
    held = totals.pending_credits - totals.pending_debits
    leaving = totals.pending_debits
    if totals.normal_balance == "debit":
        posted, held, leaving = -posted, -held, totals.pending_credits
    return Balance(
        posted=posted,
        pending=posted + held,
        available=posted - leaving,
        posted_debits=totals.posted_debits,
        posted_credits=totals.posted_credits,
        pending_debits=totals.pending_debits,
        pending_credits=totals.pending_credits,
    )


def account_entry(row: EntryRow) -> AccountEntry:
    """An entry of an account with the balance after it. Rows without a position are no entries."""
    return AccountEntry(
        position=row.position or 0,
        entry_index=row.entry_index,
        transaction=row.transaction_id,
        direction=row.direction,
        amount=row.amount,
        asset=row.asset,
        effective_at=format_time(row.effective_at),
        recorded_at=format_time(row.recorded_at),
        balance=balance(row),
    )


def transaction(row: TransactionRow) -> Transaction:
    """A transaction as the API shows it."""
    return Transaction(
        id=row.transaction_id,
        status=row.status,
        entries=_read_entries(row.entries),
        reference=row.reference,
        effective_at=format_time(row.effective_at),
        description=row.description,
        metadata=_read_metadata(row.metadata),
        position=row.position,
        recorded_at=format_time(row.recorded_at),
        actor=row.actor,
        correlation_id=row.correlation_id,
    )


def trial_balance(rows: Sequence[TrialRow]) -> dict[str, TrialTotal]:
    """By asset."""
    return {
        row.asset: TrialTotal(
            debits=row.debits, credits=row.credits, difference=row.debits - row.credits, accounts=row.accounts
        )
        for row in rows
    }


def event(ledger_name: str, row: EventRow) -> Event:
    """An event as it stands in the log."""
    return Event(
        ledger=ledger_name,
        position=row.position,
        type=row.type,
        recorded_at=format_time(row.recorded_at),
        metadata=msgspec.Raw(row.metadata),
        data=msgspec.Raw(row.data),
    )


def _known(time: datetime | None) -> datetime:
    if time is None:
        raise ValueError("a standstill without a time")
    return time
