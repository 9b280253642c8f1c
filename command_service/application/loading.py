"""Brings the states that a batch needs from the log into a cache, always as of one position.

The only place where the write side reads history. Terms first; totals only of accounts whose limits make them matter, or that a
decision wants in full, from their latest snapshot: a cold account costs two round trips and a bounded fold.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET

from command_service.application.batch import DecidedBatch, Ticket, decide_batch
from command_service.application.cache import LedgerCache
from command_service.application.log import LogSession
from command_service.domain.books import Need
from command_service.domain.commands import (
    CloseAccount,
    Command,
    PatchAccountMetadata,
    PostHold,
    PostScheduled,
    PostTransaction,
    ReverseTransaction,
    SetLimits,
    accounts_of,
)
from command_service.domain.state import (
    FOLD_VERSION,
    Account,
    Transaction,
    evolve_account,
    evolve_terms,
    evolve_transaction,
)
from shared_kernel import events, tags
from shared_kernel.errors import Contention
from shared_kernel.event_log.errors import LedgerNotFound
from shared_kernel.event_log.types import Loaded, RecordedEvent, Snapshot, SnapshotKey, Tail

PAGE_EVENTS = 2_000  # chosen: about 2 MB at a time
LOADS_MAX = 20  # chosen: three or four are needed, more only while others append faster than the tail's bound
_decode_account = msgspec.json.Decoder(Account).decode
_encode_account = msgspec.json.Encoder().encode


class CountsLoads(Protocol):
    """Hears of every look at the log."""

    def loaded(self) -> None:
        """States or keys were read from the log."""


def needs_of(command: Command) -> set[str | Need]:
    """What a decision on this command will ask for, as far as the command itself tells. An address alone is `account`."""
    wanted: set[str | Need] = set(command.addresses())
    if isinstance(command, PostTransaction) and command.conditions is UNSET:  # the hot one asks for no more
        return wanted
    kind = type(command)
    if kind in (SetLimits, CloseAccount, PatchAccountMetadata):
        (address,) = {getattr(command, "address", "")}
        wanted.add(Need("metadata" if kind is PatchAccountMetadata else "in_full", address))
    for transaction in command.originals():
        has_accounts = kind in (PostHold, ReverseTransaction, PostScheduled)
        wanted.add(Need("original" if has_accounts else "transaction", transaction))
    conditions = getattr(command, "conditions", None)
    if conditions:
        wanted.update(Need("in_full", address) for address in accounts_of(conditions))
    return wanted


class Loader:
    """Loads states of one ledger."""

    def __init__(self, ledger: str, *, tail: Tail, metrics: CountsLoads) -> None:
        self._ledger = ledger
        self._tail = tail
        self._metrics = metrics

    async def decide(
        self, session: LogSession, cache: LedgerCache, tickets: Sequence[Ticket], *, is_locked: bool
    ) -> DecidedBatch:
        """The batch decided on states of which nothing is missing. `is_locked`: on those of the head, which is held.

        What only a decision can name (the accounts of a hold, say) is loaded then, and everything decided again.
        Contention `conflict` where others append faster than we can read.
        """
        await self.prefetch(session, cache, tickets, is_refreshed=is_locked)
        for _ in range(LOADS_MAX):
            decided = decide_batch(cache.books(), tickets, seen=cache.seen or 0, is_locked=is_locked)
            if not decided.missing:
                return decided
            await self.fill(session, cache, decided.missing)
        raise Contention("conflict")

    async def prefetch(
        self, session: LogSession, cache: LedgerCache, tickets: Sequence[Ticket], *, is_refreshed: bool = False
    ) -> None:
        """The cache knows what the commands name. Before a lock is taken, so that no long load happens under it."""
        wanted: set[str | Need] = set()
        for ticket in tickets:
            wanted |= needs_of(ticket.command)
        if is_refreshed or cache.terms is None or not _is_known(cache, wanted):
            await self.fill(session, cache, wanted, is_refreshed=is_refreshed)

    async def fill(
        self,
        session: LogSession,
        cache: LedgerCache,
        wanted: Iterable[str | Need],
        *,
        is_refreshed: bool = False,
    ) -> None:
        """The cache knows all this, as of one position; `is_refreshed`: as of the head, even if it knew it all.

        A plain address is an account that entries name. Transactions and terms come first, then totals and metadata.
        """
        if is_refreshed:
            await self._look(session, cache, [])
        named = {item for item in wanted if isinstance(item, str)}
        needs = {item for item in wanted if not isinstance(item, str)}
        for _ in range(LOADS_MAX):
            transactions = _missing_transactions(cache, needs)
            addresses = named | _addresses(cache, needs) if needs else named
            unknown = [address for address in addresses if address not in cache.accounts]
            if unknown or transactions or cache.terms is None:
                if not await self._load_births(session, cache, unknown, transactions):
                    return
                continue
            incomplete = [address for address in addresses if not cache.accounts[address].is_complete]
            whole = [name for kind, name in needs if kind == "in_full" and cache.accounts[name].is_untracked]
            if incomplete or whole:
                for address in whole:
                    await self._shorten(session, address)
                await self._load_totals(session, cache, [*incomplete, *whole])
                continue
            bare = [n for kind, n in needs if kind == "metadata" and cache.accounts[n].metadata_keys is None]
            if not bare:
                return
            await self._load_metadata(session, cache, bare)
        raise Contention("conflict")  # others append faster than we can read

    async def _load_births(
        self, session: LogSession, cache: LedgerCache, unknown: Sequence[str], transactions: Sequence[str]
    ) -> bool:
        """Knows the terms of the ledger and of these accounts, and these transactions. False where there is no such ledger."""
        of_ledger = [tags.LEDGER_TERMS, tags.LEDGER_METADATA] if cache.terms is None else []
        terms = {address: tags.terms_tag(address) for address in unknown}
        stories = {transaction: tags.transaction_tag(transaction) for transaction in transactions}
        loaded = await self._look(session, cache, [*of_ledger, *terms.values(), *stories.values()])
        if loaded is None:
            for address in unknown:
                cache.put(Account(address=address), folded=0)
            cache.transactions.update({name: Transaction(transaction=name) for name in transactions})
            return False
        for recorded in (event for tag in of_ledger for event in loaded.events.get(tag, ())):
            cache.terms = evolve_terms(cache.terms, events.decode(recorded.type, recorded.data))
        for address, tag in terms.items():
            account = _folded(Account(address=address), loaded.events.get(tag, ()))
            # The terms alone do not tell what an account holds, nor what was noted on it since.
            account = msgspec.structs.replace(account, totals=None, last_position=None, metadata_keys=None)
            cache.put(account, folded=0)
        for transaction, tag in stories.items():
            cache.transactions[transaction] = _story(transaction, loaded.events.get(tag, ()))
        return True

    async def _shorten(self, session: LogSession, address: str) -> None:
        """A snapshot lies so close to the end of the account's history that what is left can be loaded at once.

        Nobody wrote any while nobody tracked the account, and it may be the one that every transaction of years has touched.
        """
        key = SnapshotKey(address=address, fold_version=FOLD_VERSION)
        while True:
            page = await session.page(self._ledger, key, events_max=PAGE_EVENTS)
            if len(page.events) < PAGE_EVENTS:
                return
            found = {} if page.snapshot is None else {address: page.snapshot}
            account = _folded(_from_snapshot(address, found), page.events)
            await session.write_snapshots(self._ledger, [snapshot(account, page.events[-1].position)])

    async def _load_totals(self, session: LogSession, cache: LedgerCache, addresses: list[str]) -> None:
        keys = [SnapshotKey(address=address, fold_version=FOLD_VERSION) for address in addresses]
        sought = [tags.account_tag(address) for address in addresses]
        loaded = await self._look(session, cache, sought, keys)
        if loaded is None:
            return
        for address, tag in zip(addresses, sought, strict=True):
            history = loaded.events.get(tag, ())
            cache.put(_folded(_from_snapshot(address, loaded.snapshots), history), folded=len(history))

    async def _load_metadata(self, session: LogSession, cache: LedgerCache, addresses: list[str]) -> None:
        sought = [(tags.terms_tag(address), tags.metadata_tag(address)) for address in addresses]
        loaded = await self._look(session, cache, [tag for both in sought for tag in both])
        if loaded is None:
            return
        for address, both in zip(addresses, sought, strict=True):
            history = [event for tag in both for event in loaded.events.get(tag, ())]  # the opening comes first
            noted = _folded(Account(address=address, metadata_keys=frozenset()), history)
            known = cache.accounts.get(address)
            if known is not None:  # else the look had to drop the cache, and the next round brings both
                cache.accounts[address] = msgspec.structs.replace(known, metadata_keys=noted.metadata_keys)

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


def _is_known(cache: LedgerCache, wanted: Iterable[str | Need]) -> bool:
    """True if all this is accounts, and all of them are there: so it is with most batches."""
    accounts = cache.accounts
    for name in wanted:
        known = accounts.get(name) if isinstance(name, str) else None
        if known is None or (known.totals is None and known.limits):
            return False
    return True


def _missing_transactions(cache: LedgerCache, needs: Iterable[Need]) -> list[str]:
    found = []
    for kind, name in needs:
        known = cache.transactions.get(name)
        if kind in ("transaction", "original"):
            if known is None:
                found.append(name)
        elif kind == "recorded_at" and (known is None or known.recorded_at is None):
            found.append(name)
    return found


def _addresses(cache: LedgerCache, needs: Iterable[Need]) -> set[str]:
    """The accounts whose terms these need, as far as that is known yet."""
    found: set[str] = set()
    for kind, name in needs:
        if kind in ("account", "in_full", "metadata"):
            found.add(name)
        elif kind == "original" and name in cache.transactions:
            found.update(entry.account for entry in cache.transactions[name].entries)
    return found


def _folded(account: Account, history: Iterable[RecordedEvent]) -> Account:
    for recorded in history:
        account = evolve_account(account, events.decode(recorded.type, recorded.data), recorded.position)
    return account


def _story(name: str, history: Iterable[RecordedEvent]) -> Transaction:
    transaction = Transaction(transaction=name)
    for recorded in history:
        event = events.decode(recorded.type, recorded.data)
        transaction = evolve_transaction(transaction, event, recorded.recorded_at)
    return transaction


def _from_snapshot(address: str, snapshots: Mapping[str, Snapshot]) -> Account:
    """The account as of its snapshot, else as nobody has touched it yet: in full either way."""
    snapshot = snapshots.get(address)
    if snapshot is None:
        return Account(address=address, totals={}, last_position=0, metadata_keys=frozenset())
    return _decode_account(snapshot.state)


def snapshot(account: Account, position: int) -> Snapshot:
    """The account's state as of a position, for later cold loads."""
    return Snapshot(
        address=account.address,
        fold_version=FOLD_VERSION,
        position=position,
        state=_encode_account(account).decode(),
    )
