"""Answers that take several looks: sums over many accounts, and the balances of a list's accounts. No SQL, no HTTP.

Each look walks a bounded number of accounts, so that none runs into a statement's time limit however large the ledger is; the
later ones are as of the position of the first. What that costs grows with the accounts that are summed, not with their history.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from query_service.application import questions
from query_service.application.pages import Key
from query_service.application.query_handler import Asked, QueryHandler, Question, Stamp
from query_service.application.questions import ChangeRow, ListedBalanceRow, SumRow
from shared_kernel.errors import Rejection
from shared_kernel.words import Direction, NormalBalance, Pattern, is_address

PAIRS_MAX: Final = 5_000  # chosen: accounts and assets that one look walks; about 0.2 s
COMPARED_MAX: Final = 500  # chosen: each is looked up twice
LOOKS_MAX: Final = 20  # chosen: a page walks 10,000 accounts and assets at most
ENTRIES_MAX: Final = 100  # chosen: of each account and asset, where there may be many
SCAN_MAX: Final = 10_000  # chosen: entries looked at for those that made one difference
GROUPS_MAX: Final = 10_000  # chosen: bounds one answer
AFTER_ASCII: Final = "\x7f"  # after every character of an address: ends the range of a prefix


class Group(NamedTuple):
    """Accounts that are summed together: leading segments, asset, normal side."""

    segments: str
    asset: str
    normal_balance: NormalBalance


class Sum(NamedTuple):
    """What a group has together. By effective time nothing is pending."""

    accounts: int
    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None


class ChangeEntryRow(msgspec.Struct, frozen=True):
    """An entry between two positions. Where it does not fit, it is one that the walk has come to. `is_cut_off`: the walk ended there."""

    position: int
    entry_index: int
    transaction: str
    direction: Direction
    amount: int
    effective_at: str
    recorded_at: str
    fits: bool
    is_cut_off: bool


class Changed(NamedTuple):
    """An account and asset that changed, with entries that did it. `goes_on`: after which one there may be more; None: these are all."""

    row: ChangeRow
    entries: Sequence[ChangeEntryRow]
    goes_on: Key | None


class Changes(NamedTuple):
    """Accounts and assets that changed, in order. `goes_on`: where the next page begins; None: nothing is left."""

    stamp: Stamp
    found: Sequence[Changed]
    goes_on: Key | None


class Sums(NamedTuple):
    """All groups, and what they are as of."""

    stamp: Stamp
    by_group: Mapping[Group, Sum]


def fixed(asked: Asked, stamp: Stamp) -> Asked:
    """The same at the position that was answered, for a further look."""
    return asked._replace(at_position=stamp.position, at_time=None, cursor=None, known=frozenset())


def sums_question(asked: Asked) -> Question[SumRow]:
    """The one that adds up: of all that was posted, or of what is effective."""
    return questions.SUMS if asked.effective_at is None else questions.EFFECTIVE_SUMS


async def add_up(handler: QueryHandler, asked: Asked, *, of: Pattern, segments: int) -> Sums:
    """What the accounts that fit a pattern have, by so many leading segments.

    Rejection `invalid_request` on `segments` where there are more than GROUPS_MAX groups.
    """
    question = sums_question(asked)
    found: dict[Group, Sum] = {}
    first: Stamp | None = None
    begin, begin_asset = of.prefix(), ""
    while True:
        snapshot = await handler.ask(
            question,
            asked if first is None else fixed(asked, first),
            high=of.prefix() + AFTER_ASCII,
            matching=of.regex(),
            segments=segments,
            begin=begin,
            begin_asset=begin_asset,
            pairs_max=PAIRS_MAX,
        )
        first = first or snapshot.stamp
        end = None
        for row in snapshot.rows:
            if row.is_end:
                end = row
            else:
                _add(found, row)
        if len(found) > GROUPS_MAX:
            detail = f"More than {GROUPS_MAX} groups: fewer segments, or a pattern that fits fewer accounts"
            raise Rejection("invalid_request", detail=detail, path="segments")
        if end is None or end.accounts < PAIRS_MAX:
            return Sums(first, found)
        begin, begin_asset = end.walked_to, _after(end.asset)


async def changes(
    handler: QueryHandler,
    asked: Asked,
    *,
    of: Pattern,
    from_position: int,
    until: datetime | None,
    after: Key,
    rows_max: int,
) -> Changes:
    """The next accounts and assets whose posted balance is not what it was at `from_position`, with entries that did it.

    `until`: only what is effective before it counts. Stops after LOOKS_MAX looks, found or not. Where `of` is one address, pages go
    on within its entries, else each account and asset has the first ENTRIES_MAX. `after`: what a page before has given to go on from.
    """
    question = questions.CHANGES if until is None else questions.EFFECTIVE_CHANGES
    is_of_one = is_address(of.text)
    entries_max = rows_max if is_of_one else ENTRIES_MAX
    begin, _, begin_asset = max(after.text, of.prefix()).partition(" ")
    first: Stamp | None = None
    found: list[Changed] = []
    for _look in range(LOOKS_MAX):
        snapshot = await handler.ask(
            question,
            asked if first is None else fixed(asked, first),
            high=of.prefix() + AFTER_ASCII,
            matching=of.regex(),
            begin=begin,
            begin_asset=begin_asset,
            pairs_max=COMPARED_MAX,
            from_position=from_position,
            effective_until=until,
            after_position=after.position,
            after_index=after.ordinal,
            rows_max=rows_max + 1,
            walk_max=SCAN_MAX,
            entries_max=entries_max + 1,
        )
        if first is None:
            first = snapshot.stamp
            if from_position > (first.position or 0):
                raise Rejection("invalid_request", detail="After the position that was asked for", path="from_position")
        end = next((row for row in snapshot.rows if row.is_end), None)
        for row in sorted(row for row in snapshot.rows if not row.is_end):
            if len(found) == rows_max:
                last = found[-1].row
                return Changes(first, found, Key(text=f"{last.address} {_after(last.asset)}"))
            changed = _changed(row, entries_max)
            found.append(changed)
            if is_of_one and changed.goes_on is not None:
                return Changes(first, found, changed.goes_on)
        if end is None or end.debits_before < COMPARED_MAX:
            return Changes(first, found, None)
        begin, begin_asset = end.walked_to, _after(end.asset)
    assert first is not None  # noqa: S101 - there is at least one look
    return Changes(first, found, Key(text=f"{begin} {begin_asset}"))


def _changed(row: ChangeRow, entries_max: int) -> Changed:
    """With so many entries at most; one more of them, or a walk that was cut off, tells that there may be others."""
    walked = [] if row.entries is None else _read_entries(row.entries)
    entries = [entry for entry in walked if entry.fits]
    last = None
    if len(entries) > entries_max:
        entries = entries[:entries_max]
        last = entries[-1]
    elif walked and walked[-1].is_cut_off:
        last = walked[-1]
    goes_on = None if last is None else Key(f"{row.address} {row.asset}", last.position, last.entry_index)
    return Changed(row, entries, goes_on)


def _after(asset: str) -> str:
    """After this asset and before every later one: no asset has a space."""
    return f"{asset} "


_read_entries = msgspec.json.Decoder(list[ChangeEntryRow]).decode


async def balances_of(
    handler: QueryHandler, asked: Asked, stamp: Stamp, addresses: Sequence[str]
) -> Mapping[str, Sequence[ListedBalanceRow]]:
    """The balances of the accounts of a list, as of the position of the list, by address."""
    question = questions.LISTED_BALANCES if asked.effective_at is None else questions.EFFECTIVE_LISTED_BALANCES
    found: dict[str, list[ListedBalanceRow]] = defaultdict(list)
    if addresses:
        snapshot = await handler.ask(question, fixed(asked, stamp), addresses=list(addresses))
        for row in snapshot.rows:
            found[row.address].append(row)
    return found


def added(totals: Iterable[Sum]) -> Sum:
    """All of them together; at least one."""
    first, *others = totals
    for other in others:
        first = Sum(
            accounts=first.accounts + other.accounts,
            posted_debits=first.posted_debits + other.posted_debits,
            posted_credits=first.posted_credits + other.posted_credits,
            pending_debits=plus(first.pending_debits, other.pending_debits),
            pending_credits=plus(first.pending_credits, other.pending_credits),
        )
    return first


def _add(found: dict[Group, Sum], row: SumRow) -> None:
    group = Group(row.group, row.asset, row.normal_balance)
    more = Sum(row.accounts, row.posted_debits, row.posted_credits, row.pending_debits, row.pending_credits)
    found[group] = added([found[group], more]) if group in found else more


def plus(one: int | None, other: int | None) -> int | None:
    """Both together; None where pending totals are not known."""
    return None if one is None or other is None else one + other
