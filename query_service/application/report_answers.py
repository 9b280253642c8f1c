"""What sums, differences, statements, explanations and refusals answer; made from rows here as well. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from query_service.application.answers import (
    AsOf,
    Incomplete,
    IsComplete,
    NextCursor,
    Position,
    Time,
    TrialTotal,
    Units,
)
from query_service.application.questions import StatementRow
from query_service.application.reports import Changed, Group, Sum, added
from query_service.application.shaping import balance, signed
from shared_kernel.words import EVERY_ADDRESS, Direction, NormalBalance, Pattern, format_time, parse_time


class SummedBalance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the accounts of a group have together in an asset; accounts of the two normal sides are not mixed.

    `group`: their leading segments. The balances are those of an account (`Balance`), summed.
    """

    group: str
    asset: str
    normal_balance: NormalBalance
    accounts: Annotated[int, Meta(description="Accounts with an entry in the asset")]
    posted: Units
    pending: Units | None = None
    available: Units | None = None
    posted_debits: Units
    posted_credits: Units
    pending_debits: Units | None = None
    pending_credits: Units | None = None


class SumsAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums by group, asset and normal side."""

    data: list[SummedBalance]
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


TrialAddress = Annotated[str, Meta(description="Of the accounts that fit this pattern; `**`: of all there are")]


class TrialGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Debits and credits of the accounts with the same leading segments in one asset; they need not balance."""

    group: str
    asset: str
    debits: Units
    credits: Units
    accounts: Annotated[int, Meta(description="Accounts with an entry in the asset")]


class TrialBalanceAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Debits and credits of a ledger, or of some of its accounts, by asset. `groups`: the same by leading segments, where asked for."""

    address: TrialAddress
    assets: dict[str, TrialTotal]
    groups: list[TrialGroup] | None = None
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class LedgerSums(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sums of one of several ledgers, as of a position of its own."""

    ledger: str
    data: list[SummedBalance]
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class LedgersSumsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of several ledgers, and all of them together."""

    ledgers: list[LedgerSums]
    together: list[SummedBalance]
    complete: IsComplete


class LedgerTrialBalance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The trial balance of one of several ledgers, as of a position of its own."""

    ledger: str
    assets: dict[str, TrialTotal]
    groups: list[TrialGroup] | None = None
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class LedgersTrialBalanceAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Trial balances of several ledgers, and all of them together."""

    address: TrialAddress
    ledgers: list[LedgerTrialBalance]
    together: dict[str, TrialTotal]
    together_groups: list[TrialGroup] | None = None
    complete: IsComplete


class ChangeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that made a difference."""

    position: Position
    transaction: str
    direction: Direction
    amount: Units
    effective_at: Time
    recorded_at: Time


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose posted balance in an asset changed. `opening`: as of `from_position`; `closing`: as of `to_position`.

    `entries`: those that made the change, in the order of the log, with `effective_until` in that of effective time; of a pattern's
    accounts the first 100 each. `entries_complete` is false where there may be more: with `address=<account>` the next pages have them.
    """

    account: str
    asset: str
    normal_balance: NormalBalance
    opening: Units
    closing: Units
    change: Units
    debits: Units
    credits: Units
    entries: list[ChangeEntry]
    entries_complete: bool


class ChangeList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What changed between two positions, by account and asset; a page may be short, and the next one goes on."""

    data: list[Change]
    next_cursor: NextCursor
    from_position: Annotated[int, Meta(description="0: before the ledger was opened")]
    to_position: Position
    effective_until: Time | None
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


class StatementEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a statement. `balance`: of what is posted, just after it in the statement's order, normal side positive."""

    position: Position
    entry_index: int
    transaction: str
    reference: str | None
    description: str | None
    direction: Direction
    amount: Units
    effective_at: Time
    recorded_at: Time
    balance: Units


class StatementAnswer(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"begins_at": "from", "ends_at": "until"}
):
    """What was posted to an account in an asset, from a time (included) until before another, by recorded or by effective time.

    `opening` and `closing`: the posted balance before and after, normal side positive. `debits`, `credits`: of all lines between.
    `effective_at`: nothing that is effective later counts in any of them.
    """

    account: str
    asset: str
    normal_balance: NormalBalance
    axis: Literal["recorded", "effective"]
    begins_at: Time | None
    ends_at: Time | None
    effective_at: Time | None = None
    opening: Units
    closing: Units
    debits: Units
    credits: Units
    data: list[StatementEntry]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


def summed(by_group: Mapping[Group, Sum]) -> list[SummedBalance]:
    """By group, asset and normal side, sorted."""
    found = []
    for group in sorted(by_group):
        total = by_group[group]
        shown = balance(group.normal_balance, total)
        found.append(
            SummedBalance(
                group=group.segments,
                asset=group.asset,
                normal_balance=group.normal_balance,
                accounts=total.accounts,
                posted=shown.posted,
                pending=shown.pending,
                available=shown.available,
                posted_debits=total.posted_debits,
                posted_credits=total.posted_credits,
                pending_debits=total.pending_debits,
                pending_credits=total.pending_credits,
            )
        )
    return found


def trial_balance(by_group: Mapping[Group, Sum], of: Pattern) -> dict[str, TrialTotal]:
    """By asset; groups and normal sides together."""
    return {
        asset: TrialTotal(
            debits=total.posted_debits,
            credits=total.posted_credits,
            difference=total.posted_debits - total.posted_credits if of == EVERY_ADDRESS else None,
            accounts=total.accounts,
        )
        for (_, asset), total in _both_sides((("", group.asset), total) for group, total in by_group.items())
    }


def trial_groups(by_group: Mapping[Group, Sum], segments: int) -> list[TrialGroup] | None:
    """By group and asset, normal sides together; None where nothing was to be grouped."""
    if not segments:
        return None
    return [
        TrialGroup(
            group=segments_of,
            asset=asset,
            debits=total.posted_debits,
            credits=total.posted_credits,
            accounts=total.accounts,
        )
        for (segments_of, asset), total in _both_sides(
            ((group.segments, group.asset), total) for group, total in by_group.items()
        )
    ]


def _both_sides(sums: Iterable[tuple[tuple[str, str], Sum]]) -> list[tuple[tuple[str, str], Sum]]:
    """Those with the same name added up, sorted by name."""
    found: dict[tuple[str, str], list[Sum]] = defaultdict(list)
    for name, total in sums:
        found[name].append(total)
    return [(name, added(totals)) for name, totals in sorted(found.items())]


def change(changed: Changed) -> Change:
    """A changed account and asset with its entries."""
    row = changed.row
    opening = signed(row.normal_balance, row.debits_before, row.credits_before)
    closing = signed(row.normal_balance, row.debits_after, row.credits_after)
    return Change(
        account=row.address,
        asset=row.asset,
        normal_balance=row.normal_balance,
        opening=opening,
        closing=closing,
        change=closing - opening,
        debits=row.debits_after - row.debits_before,
        credits=row.credits_after - row.credits_before,
        entries=[
            ChangeEntry(
                position=entry.position,
                transaction=entry.transaction,
                direction=entry.direction,
                amount=entry.amount,
                effective_at=format_time(parse_time(entry.effective_at)),
                recorded_at=format_time(parse_time(entry.recorded_at)),
            )
            for entry in changed.entries
        ],
        entries_complete=changed.goes_on is None,
    )


def statement_entries(rows: Iterable[StatementRow], *, is_counted: bool) -> list[StatementEntry]:
    """The lines of a page with their running balance: counted on where effective time counts, else known."""
    found = []
    running: list[int] | None = None
    for row in rows:
        if is_counted:
            running = running or [row.debits_before, row.credits_before]
            running[row.direction == "credit"] += row.amount
            debits, credits_ = running
        else:
            debits, credits_ = row.posted_debits, row.posted_credits
        found.append(
            StatementEntry(
                position=row.position,
                entry_index=row.entry_index,
                transaction=row.transaction_id,
                reference=row.reference,
                description=row.description,
                direction=row.direction,
                amount=row.amount,
                effective_at=format_time(row.effective_at),
                recorded_at=format_time(row.recorded_at),
                balance=signed(row.normal_balance, debits, credits_),
            )
        )
    return found
