"""A balance explained: what each event of the log changed on one account and asset, and whether the read model agrees. Pure.

The changes are taken from the events themselves and the balances from the read model, so that one checks the other.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from query_service.application.answers import AsOf, Balance, Incomplete, IsComplete, NextCursor, Position, Time, Units
from query_service.application.questions import ExplanationRow
from query_service.application.reports import plus
from query_service.application.shaping import balance
from shared_kernel import events
from shared_kernel.errors import Corruption
from shared_kernel.events import Entry, Event, HoldExpired, HoldPosted, HoldVoided, TransactionHeld, TransactionPosted
from shared_kernel.words import format_time


class Change(NamedTuple):
    """What an event adds to the raw totals. Also the totals themselves. By effective time nothing is pending."""

    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None

    def plus(self, other: "Change") -> "Change":
        """Both together."""
        return Change(
            self.posted_debits + other.posted_debits,
            self.posted_credits + other.posted_credits,
            plus(self.pending_debits, other.pending_debits),
            plus(self.pending_credits, other.pending_credits),
        )


class Changes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an event adds to the raw totals. By effective time there is posted only."""

    posted_debits: Units
    posted_credits: Units
    pending_debits: Units | None = None
    pending_credits: Units | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """An event, what it changed, and the balance just after it."""

    position: Position
    type: str
    transaction: str
    recorded_at: Time
    effective_at: Time
    actor: str
    changes: Changes
    balance: Balance


class ExplanationAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A balance, and the events that made it. `opening`: before the first of this page.

    `checked`: these events add up, one by one, to the balances of the read model, and the last page's to the balance.
    """

    account: str
    asset: str
    balance: Balance
    opening: Balance
    data: list[Step]
    checked: bool
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class Explained(NamedTuple):
    """The steps of a page, and whether what they add up to is what the read model says."""

    balance: Balance
    opening: Balance
    steps: Sequence[Step]
    is_right: bool


def explain(rows: Sequence[ExplanationRow], *, account: str, asset: str, is_last: bool) -> Explained:
    """The page in these rows, at least one. Corruption: an event that moves nothing here, though the read model says so."""
    first = rows[0]
    totals = Change(*first[2:6])
    closing = Change(*first[6:10])
    opening, is_right, steps = totals, True, []
    for row in rows:
        if row.position is None:
            continue
        event = events.decode(row.type, row.data)
        change = changed(event, account, asset)
        if opening.pending_debits is None:
            change = change._replace(pending_debits=None, pending_credits=None)
        totals = totals.plus(change)
        is_right = is_right and totals == (
            row.posted_debits,
            row.posted_credits,
            row.pending_debits,
            row.pending_credits,
        )
        steps.append(
            Step(
                position=row.position,
                type=row.type,
                transaction=_transaction(event),
                recorded_at=format_time(row.recorded_at),
                effective_at=format_time(row.effective_at),
                actor=events.decode_metadata(row.metadata).actor,
                changes=Changes(**change._asdict()),
                balance=balance(first.normal_balance, totals),
            )
        )
    return Explained(
        balance=balance(first.normal_balance, closing),
        opening=balance(first.normal_balance, opening),
        steps=steps,
        is_right=is_right and (not is_last or totals == closing),
    )


def changed(event: Event, account: str, asset: str) -> Change:
    """What an event adds to the totals of an account and asset; pending totals count posted and held."""
    match event:
        case TransactionPosted(entries=entries):
            debits, credits_ = _sides(entries, account, asset)
            return Change(debits, credits_, debits, credits_)
        case TransactionHeld(entries=entries):
            return Change(0, 0, *_sides(entries, account, asset))
        case HoldPosted(entries=entries, released=released):
            debits, credits_ = _sides(released, account, asset)
            return Change(*_sides(entries, account, asset), -debits, -credits_)
        case HoldVoided(released=released) | HoldExpired(released=released):
            debits, credits_ = _sides(released, account, asset)
            return Change(0, 0, -debits, -credits_)
    return Change(0, 0, 0, 0)


def _sides(entries: Iterable[Entry], account: str, asset: str) -> tuple[int, int]:
    sums = {"debit": 0, "credit": 0}
    for entry in entries:
        if entry.account == account and entry.asset == asset:
            sums[entry.direction] += entry.amount
    return sums["debit"], sums["credit"]


def _transaction(event: Event) -> str:
    match event:
        case TransactionPosted() | TransactionHeld() | HoldPosted() | HoldVoided() | HoldExpired():
            return event.transaction
    raise Corruption("event_moves_nothing", type=events.TYPE_NAMES[type(event)])
