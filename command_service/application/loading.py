"""Brings the states that a batch needs from the log into a cache, always as of one position.

The only place where the write side reads history. Terms first; totals only of accounts whose limits make them matter, from
their latest snapshot, so that a cold account costs two round trips and a bounded fold.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from command_service.application.cache import LedgerCache
from command_service.application.log import LogSession
from command_service.domain.state import FOLD_VERSION, Account, evolve_account, evolve_terms
from shared_kernel import events, tags
from shared_kernel.errors import Contention
from shared_kernel.event_log.errors import LedgerNotFound
from shared_kernel.event_log.types import Loaded, RecordedEvent, Snapshot, SnapshotKey, Tail

LOADS_MAX = 10  # chosen: two are needed, more only while others append faster than the tail's bound
_decode_account = msgspec.json.Decoder(Account).decode
_encode_account = msgspec.json.Encoder().encode


class CountsLoads(Protocol):
    """Hears of every look at the log."""

    def loaded(self) -> None:
        """States or keys were read from the log."""


class Loader:
    """Loads states of one ledger."""

    def __init__(self, ledger: str, *, tail: Tail, metrics: CountsLoads) -> None:
        self._ledger = ledger
        self._tail = tail
        self._metrics = metrics

    async def fill(
        self, session: LogSession, cache: LedgerCache, addresses: set[str], *, is_refreshed: bool = False
    ) -> None:
        """The cache knows these accounts, as of one position; `is_refreshed`: as of the head, even if it knew them all.

        Terms first, then totals of the accounts whose limits make them matter; a cold account costs two round trips.
        """
        if is_refreshed:
            await self._look(session, cache, [])
        for _ in range(LOADS_MAX):
            unknown = [address for address in addresses if address not in cache.accounts]
            if unknown or cache.terms is None:
                if not await self._load_terms(session, cache, unknown):
                    return
                continue
            incomplete = [address for address in addresses if not cache.accounts[address].is_complete]
            if not incomplete:
                return
            await self._load_totals(session, cache, incomplete)
        raise Contention("conflict")  # others append faster than we can read

    async def _load_terms(self, session: LogSession, cache: LedgerCache, unknown: list[str]) -> bool:
        """Knows the terms of the ledger and of these accounts. False where there is no such ledger."""
        sought = [tags.terms_tag(address) for address in unknown]
        loaded = await self._look(session, cache, [*sought, tags.LEDGER_TERMS])
        if loaded is None:
            for address in unknown:
                cache.put(Account(address=address), folded=0)
            return False
        for recorded in loaded.events.get(tags.LEDGER_TERMS, ()):
            cache.terms = evolve_terms(cache.terms, events.decode(recorded.type, recorded.data))
        for address, tag in zip(unknown, sought, strict=True):
            account = _folded(Account(address=address), loaded.events.get(tag, ()))
            # The terms alone do not tell what a limited account holds: its totals are still to be loaded.
            cache.put(msgspec.structs.replace(account, totals=None), folded=0)
        return True

    async def _load_totals(self, session: LogSession, cache: LedgerCache, addresses: list[str]) -> None:
        keys = [SnapshotKey(address=address, fold_version=FOLD_VERSION) for address in addresses]
        sought = [tags.account_tag(address) for address in addresses]
        loaded = await self._look(session, cache, sought, keys)
        if loaded is None:
            return
        for address, tag in zip(addresses, sought, strict=True):
            history = loaded.events.get(tag, ())
            cache.put(_folded(_from_snapshot(address, loaded.snapshots), history), folded=len(history))

    async def _look(
        self, session: LogSession, cache: LedgerCache, tags: Sequence[str], snapshots: Sequence[SnapshotKey] = ()
    ) -> Loaded | None:
        """One look at the log that also brings the cache to the same position. None where the ledger does not exist."""
        self._metrics.loaded()
        try:
            loaded = await session.load(self._ledger, seen=cache.seen, tags=tags, snapshots=snapshots, tail=self._tail)
        except LedgerNotFound:
            cache.drop()
            cache.seen = 0
            return None
        if loaded.is_behind or cache.seen is None:
            kept = {} if loaded.is_behind else cache.accounts
            cache.drop()
            cache.accounts.update(kept)
            cache.seen = loaded.head
        else:
            cache.follow(loaded.tail, upto=loaded.head)
        return loaded


def _folded(account: Account, history: Iterable[RecordedEvent]) -> Account:
    for recorded in history:
        account = evolve_account(account, events.decode(recorded.type, recorded.data))
    return account


def _from_snapshot(address: str, snapshots: Mapping[str, Snapshot]) -> Account:
    snapshot = snapshots.get(address)
    return Account(address=address) if snapshot is None else _decode_account(snapshot.state)


def snapshot(account: Account, position: int) -> Snapshot:
    """The account's state as of a position, for later cold loads."""
    return Snapshot(
        address=account.address,
        fold_version=FOLD_VERSION,
        position=position,
        state=_encode_account(account).decode(),
    )
