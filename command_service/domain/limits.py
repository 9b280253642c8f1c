"""Limits: how a client's are stated, which entries they make matter, and who may pass them.

A minimum bounds what is available, a maximum what is posted and all that may still come in (design §2). A posting counts by
its net change of an account and asset, a hold by its gross parts, for each part may end otherwise. Only what worsens is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from command_service.domain.books import Books
from command_service.domain.commands import EntrySpec, Limits, LimitSpec, bound
from command_service.domain.state import Account
from shared_kernel import tags
from shared_kernel.errors import Refusal
from shared_kernel.events import Entry, Limit

Counted = Literal["net", "gross"]


def limits_of(limits: Limits) -> dict[str, Limit]:
    """The limits a client asked for, as an event states them; an asset without any bound is left out."""
    stated = {asset: _limit(spec) for asset, spec in limits.items()}
    return {asset: limit for asset, limit in stated.items() if limit != Limit()}


def breached(account: Account, limits: Mapping[str, Limit]) -> list[str]:
    """The assets, sorted, whose balances are beyond these limits. The account's totals must be known."""
    return [
        asset
        for asset, limit in sorted(limits.items())
        if (limit.minimum is not None and account.available(asset) < limit.minimum)
        or (limit.maximum is not None and account.filled(asset) > limit.maximum)
    ]


def with_marks(accounts: Mapping[str, Account], entries: Sequence[EntrySpec | Entry]) -> list[Entry]:
    """The entries with their marks: one draws if a minimum bounds what it takes from, it fills if a maximum bounds what it adds to."""
    found = []
    for spec in entries:
        account = accounts[spec.account]
        draws = fills = False
        if account.limits:
            limit = account.limit(spec.asset)
            adds = spec.direction == account.normal_balance
            draws, fills = not adds and limit.minimum is not None, adds and limit.maximum is not None
        found.append(
            Entry(
                account=spec.account,
                direction=spec.direction,
                amount=int(spec.amount),
                asset=spec.asset,
                draws=draws,
                fills=fills,
            )
        )
    return found


def guarded(accounts: Mapping[str, Account], entries: Iterable[EntrySpec | Entry]) -> set[str]:
    """The tags of what these entries draw on and fill where a limit makes that matter: the fences that they meet."""
    found = set()
    for entry in entries:
        account = accounts.get(entry.account)
        if account is not None and account.limits:
            limit = account.limit(entry.asset)
            if entry.direction == account.normal_balance:
                if limit.maximum is not None:
                    found.add(tags.fills_tag(entry.account, entry.asset))
            elif limit.minimum is not None:
                found.add(tags.draws_tag(entry.account, entry.asset))
    return found


def check_limits(books: Books, accounts: Mapping[str, Account], entries: Sequence[Entry], counted: Counted) -> None:
    """Refuses what would worsen a breach, in the order of the entries; fenced on every entry that draws or fills.

    Refusals insufficient_funds and limit_exceeded: account, asset, what was there, the limit and what was missing, smallest units.
    """
    marked = [entry for entry in entries if entry.draws or entry.fills]
    if not marked:
        return
    change: dict[tuple[str, str, bool], int] = {}  # account, asset, whether it adds: gross amounts
    for entry in entries:
        place = (entry.account, entry.asset, entry.direction == accounts[entry.account].normal_balance)
        change[place] = change.get(place, 0) + entry.amount
    for entry in marked:
        address, asset = entry.account, entry.asset
        limit = accounts[address].limit(asset)
        worse = change[address, asset, entry.fills]
        if counted == "net":
            worse -= change.get((address, asset, not entry.fills), 0)
        if entry.draws and limit.minimum is not None:
            available = books.balance_to_draw(address, asset)
            if worse > 0 and available - worse < limit.minimum:
                raise Refusal(
                    "insufficient_funds",
                    account=address,
                    asset=asset,
                    available=available,
                    limit=limit.minimum,
                    missing=limit.minimum - available + worse,
                )
        if entry.fills and limit.maximum is not None:
            balance = books.balance_to_fill(address, asset)
            if worse > 0 and balance + worse > limit.maximum:
                raise Refusal(
                    "limit_exceeded",
                    account=address,
                    asset=asset,
                    balance=balance,
                    limit=limit.maximum,
                    missing=balance + worse - limit.maximum,
                )


def _limit(spec: LimitSpec) -> Limit:
    return Limit(minimum=bound(spec.minimum), maximum=bound(spec.maximum))
