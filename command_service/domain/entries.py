"""Entries and the amounts they add up to, by account, direction and asset."""

from collections.abc import Mapping, Sequence

from command_service.domain.commands import EntrySpec
from shared_kernel.events import Entry
from shared_kernel.words import Direction

Place = tuple[str, Direction, str]
"""Where amounts of a transaction stand: account, direction, asset."""


def plain_entries(specs: Sequence[EntrySpec]) -> list[Entry]:
    """What the client named, as entries without marks."""
    return [
        Entry(account=spec.account, direction=spec.direction, amount=int(spec.amount), asset=spec.asset)
        for spec in specs
    ]


def amounts(entries: Sequence[Entry]) -> dict[Place, int]:
    """What stands at each place, places in the order of the entries."""
    found: dict[Place, int] = {}
    for entry in entries:
        place = (entry.account, entry.direction, entry.asset)
        found[place] = found.get(place, 0) + entry.amount
    return found


def as_entries(held: Mapping[Place, int]) -> list[Entry]:
    """Entries without marks that add up to these amounts."""
    return [
        Entry(account=account, direction=direction, amount=amount, asset=asset)
        for (account, direction, asset), amount in held.items()
    ]


def turned(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with debits as credits and credits as debits, without marks."""
    return [
        Entry(
            account=e.account, direction="credit" if e.direction == "debit" else "debit", amount=e.amount, asset=e.asset
        )
        for e in entries
    ]


def summed(these: Mapping[Place, int], those: Mapping[Place, int]) -> dict[Place, int]:
    return {
        place: these.get(place, 0) + those.get(place, 0) for place in (*these, *(p for p in those if p not in these))
    }


def less(these: Mapping[Place, int], those: Mapping[Place, int]) -> dict[Place, int]:
    """What is left, places with nothing left out."""
    left = {place: amount - those.get(place, 0) for place, amount in these.items()}
    return {place: amount for place, amount in left.items() if amount}
