"""What a decision knows of a ledger: its terms, accounts, and transactions whose story is not over.

States are complete as of one position and immutable: `evolve_…` gives the next one. An account whose totals nobody asked for
has none here (None): no rule of the books looks at them, so a hot account costs what a cold one does (ADR 0001).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from command_service.domain.entries import Place, amounts, less, summed, turned
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    Entry,
    Event,
    FreezeScope,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    Limit,
    LimitsSet,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from shared_kernel.words import Direction, NormalBalance

FOLD_VERSION = 2
"""Raised whenever the fold below, or the form of Account, changes: older snapshots are then ignored."""

AccountStatus = Literal["absent", "open", "frozen", "closed"]
TransactionStatus = Literal["absent", "posted", "pending", "voided", "expired", "scheduled", "refused", "cancelled"]
_NO_KEYS: frozenset[str] = frozenset()


class Totals(msgspec.Struct, frozen=True):
    """The raw totals of one account and asset, smallest units, never negative. Held ones are not among the posted."""

    posted_debits: int = 0
    posted_credits: int = 0
    held_debits: int = 0
    held_credits: int = 0


NO_TOTALS = Totals()
UNLIMITED = Limit()


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One account. `absent`: nobody opened the address yet. `scope`: what is frozen, of a frozen one.

    `totals` by asset; None means not tracked (no limits) or not loaded (limits: `is_complete` is false). `last_position`, of the
    last event about the account (0: none), is known where the totals are. `metadata_keys`: None where not loaded.
    """

    address: str
    status: AccountStatus = "absent"
    scope: FreezeScope | None = None
    normal_balance: NormalBalance = "credit"
    limits: Mapping[str, Limit] = {}
    totals: Mapping[str, Totals] | None = None
    last_position: int | None = None
    metadata_keys: frozenset[str] | None = None

    @property
    def is_complete(self) -> bool:
        """True if everything that a posting's rules may ask of this account is known."""
        return self.totals is not None or not self.limits

    @property
    def is_untracked(self) -> bool:
        """True if its totals are not known because no limit makes them matter."""
        return self.totals is None and not self.limits

    def limit(self, asset: str) -> Limit:
        """The bounds for an asset; unbounded where nothing is set."""
        return self.limits.get(asset, UNLIMITED)

    def forbids(self, direction: Direction) -> bool:
        """True if the account is frozen for this side."""
        return self.scope in ("all", "debits" if direction == "debit" else "credits")

    def posted(self, asset: str) -> int:
        """Posted entries only, the account's normal side positive."""
        totals = (self.totals or {}).get(asset, NO_TOTALS)
        difference = totals.posted_debits - totals.posted_credits
        return difference if self.normal_balance == "debit" else -difference

    def pending(self, asset: str) -> int:
        """Posted and held entries."""
        totals = (self.totals or {}).get(asset, NO_TOTALS)
        held = totals.held_debits - totals.held_credits
        return self.posted(asset) + (held if self.normal_balance == "debit" else -held)

    def available(self, asset: str) -> int:
        """Posted less all that holds may take away: what a minimum bounds."""
        totals = (self.totals or {}).get(asset, NO_TOTALS)
        return self.posted(asset) - (totals.held_credits if self.normal_balance == "debit" else totals.held_debits)

    def filled(self, asset: str) -> int:
        """Posted and all that holds may bring: what a maximum bounds. Outgoing holds do not count, for they may be voided."""
        totals = (self.totals or {}).get(asset, NO_TOTALS)
        return self.posted(asset) + (totals.held_debits if self.normal_balance == "debit" else totals.held_credits)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of a ledger: as it was opened, whether it is archived, and the keys of its metadata."""

    opened: LedgerOpened
    is_archived: bool = False
    metadata_keys: frozenset[str] = _NO_KEYS


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as far as later commands may ask of it. Amounts by place, places in the order of the entries.

    `held` is what is still held, `posted` all that ever was, `reversed` how much of that was turned round since. `was_held`: it
    began as a hold. `effective_at` and `recorded_at` are those of its (last) posting, before that those of its birth;
    `recorded_at` is None until the log has told.
    """

    transaction: str
    status: TransactionStatus = "absent"
    entries: Sequence[Entry] = ()
    held: Mapping[Place, int] = {}
    posted: Mapping[Place, int] = {}
    reversed: Mapping[Place, int] = {}
    was_held: bool = False
    expires_at: str | None = None
    effective_at: str | None = None
    recorded_at: datetime | None = None
    reference: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = {}


def evolve_terms(terms: Terms | None, event: Event) -> Terms | None:
    """The ledger's terms after an event."""
    match event:
        case LedgerOpened():
            return Terms(opened=event, metadata_keys=frozenset(event.metadata))
        case LedgerArchived() | LedgerReopened() if terms is not None:
            return msgspec.structs.replace(terms, is_archived=isinstance(event, LedgerArchived))
        case LedgerMetadataChanged() if terms is not None:
            return msgspec.structs.replace(terms, metadata_keys=patched(terms.metadata_keys, event.changes))
    return terms


def patched(keys: frozenset[str], changes: Mapping[str, str | None]) -> frozenset[str]:
    """Metadata keys after a patch: null removes one, anything else sets it."""
    removed = {key for key, value in changes.items() if value is None}
    return keys.union(changes) - removed


def evolve_account(account: Account, event: Event, position: int) -> Account:
    """The account after an event that bears its tag. Other events leave it as it is."""
    return evolve_accounts({account.address: account}.get, event, position).get(account.address, account)


def evolve_accounts(find: Callable[[str], Account | None], event: Event, position: int) -> dict[str, Account]:
    """Every account that the event at this position touches, as it is after it. What `find` does not know is left out."""
    if type(event) is TransactionPosted:  # the hot one
        return _with_totals(find, event.entries, _post, position)
    match event:
        case TransactionHeld():
            return _with_totals(find, event.entries, _hold, position)
        case HoldPosted():
            captured = _with_totals(find, event.entries, _capture, position)
            return captured | _with_totals(
                lambda address: captured.get(address) or find(address), event.released, _release, position
            )
        case HoldVoided() | HoldExpired():
            return _with_totals(find, event.released, _release, position)
        case (
            AccountOpened()
            | LimitsSet()
            | AccountFrozen()
            | AccountUnfrozen()
            | AccountClosed()
            | AccountReopened()
            | AccountMetadataChanged()
        ):
            account = find(event.address)
            return {} if account is None else {event.address: _under_new_terms(account, event, position)}
    return {}


def _under_new_terms(
    account: Account,
    event: AccountOpened
    | LimitsSet
    | AccountFrozen
    | AccountUnfrozen
    | AccountClosed
    | AccountReopened
    | AccountMetadataChanged,
    position: int,
) -> Account:
    known_position = None if account.totals is None else position
    after = msgspec.structs.replace(account, last_position=known_position)
    match event:
        case AccountOpened():
            is_tracked = bool(event.limits) or account.totals is not None  # nothing can stand before the opening
            return Account(
                address=event.address,
                status="open",
                normal_balance=event.normal_balance,
                limits=event.limits,
                totals={} if is_tracked else None,
                last_position=position if is_tracked else None,
                metadata_keys=frozenset(event.metadata),
            )
        case LimitsSet():
            return msgspec.structs.replace(after, limits=event.limits)
        case AccountFrozen():
            return msgspec.structs.replace(after, status="frozen", scope=event.scope)
        case AccountClosed():
            return msgspec.structs.replace(after, status="closed", scope=None)
        case AccountUnfrozen() | AccountReopened():
            return msgspec.structs.replace(after, status="open", scope=None)
        case AccountMetadataChanged():
            keys = account.metadata_keys
            return msgspec.structs.replace(after, metadata_keys=None if keys is None else patched(keys, event.changes))


def _with_totals(
    find: Callable[[str], Account | None],
    entries: Sequence[Entry],
    add: Callable[[Totals, int, int], Totals],
    position: int,
) -> dict[str, Account]:
    changed: dict[str, Account] = {}
    tracked: dict[str, dict[str, Totals]] = {}
    for entry in entries:
        address = entry.account
        totals = tracked.get(address)
        if totals is None:
            if address in changed:
                continue
            account = find(address)
            if account is None:
                continue
            changed[address] = account
            if account.totals is None:
                continue
            totals = tracked[address] = dict(account.totals)
        before = totals.get(entry.asset, NO_TOTALS)
        if entry.direction == "debit":
            totals[entry.asset] = add(before, entry.amount, 0)
        else:
            totals[entry.asset] = add(before, 0, entry.amount)
    for address, totals in tracked.items():
        changed[address] = msgspec.structs.replace(changed[address], totals=totals, last_position=position)
    return changed


def _post(before: Totals, debit: int, credit: int) -> Totals:
    return Totals(before.posted_debits + debit, before.posted_credits + credit, before.held_debits, before.held_credits)


def _hold(before: Totals, debit: int, credit: int) -> Totals:
    return Totals(before.posted_debits, before.posted_credits, before.held_debits + debit, before.held_credits + credit)


def _capture(before: Totals, debit: int, credit: int) -> Totals:
    return _post(_release(before, debit, credit), debit, credit)


def _release(before: Totals, debit: int, credit: int) -> Totals:
    return _hold(before, -debit, -credit)


def evolve_transactions(
    find: Callable[[str], Transaction | None], event: Event, recorded_at: datetime | None
) -> dict[str, Transaction]:
    """Every transaction that the event touches, as it is after it. What `find` does not know is left out.

    `recorded_at`: None where the event is not in the log yet.
    """
    named: str | None = getattr(event, "transaction", None)
    changed: dict[str, Transaction] = {}
    if named is not None and (known := find(named)) is not None:
        changed[named] = evolve_transaction(known, event, recorded_at)
    if isinstance(event, TransactionPosted) and event.reverses is not None:
        original = find(event.reverses)
        if original is not None:
            changed[event.reverses] = evolve_transaction(original, event, recorded_at)
    return changed


def evolve_transaction(  # noqa: PLR0911 a flat ladder
    known: Transaction, event: Event, recorded_at: datetime | None
) -> Transaction:
    """The transaction after an event that bears its tag. Other events leave it as it is."""
    match event:
        case TransactionPosted() if event.transaction == known.transaction:
            return _born(event, "posted", recorded_at, posted=amounts(event.entries))
        case TransactionPosted() if event.reverses == known.transaction:
            return msgspec.structs.replace(known, reversed=summed(known.reversed, amounts(turned(event.entries))))
        case TransactionHeld():
            held = amounts(event.entries)
            return _born(event, "pending", recorded_at, held=held, was_held=True, expires_at=event.expires_at)
        case TransactionScheduled():
            return _born(event, "scheduled", recorded_at)
        case HoldPosted():
            captured = amounts(event.entries)
            left = less(known.held, captured)
            return msgspec.structs.replace(
                known,
                status="posted" if event.is_final else "pending",
                held={} if event.is_final else left,
                posted=summed(known.posted, captured),
                effective_at=event.effective_at or known.effective_at,
                recorded_at=recorded_at,
            )
        case HoldVoided() | HoldExpired():
            ended: TransactionStatus = "voided" if isinstance(event, HoldVoided) else "expired"
            return msgspec.structs.replace(known, status="posted" if known.posted else ended, held={})
        case ScheduledCancelled():
            return msgspec.structs.replace(known, status="cancelled")
        case ScheduledRefused():
            return msgspec.structs.replace(known, status="refused")
        case TransactionMetadataChanged():
            after = {key: value for key, value in {**known.metadata, **event.changes}.items() if value is not None}
            return msgspec.structs.replace(known, metadata=after)
    return known


def _born(
    event: TransactionPosted | TransactionHeld | TransactionScheduled,
    status: TransactionStatus,
    recorded_at: datetime | None,
    *,
    held: Mapping[Place, int] | None = None,
    posted: Mapping[Place, int] | None = None,
    was_held: bool = False,
    expires_at: str | None = None,
) -> Transaction:
    return Transaction(
        transaction=event.transaction,
        status=status,
        entries=event.entries,
        held=held or {},
        posted=posted or {},
        was_held=was_held,
        expires_at=expires_at,
        effective_at=event.effective_at,
        recorded_at=recorded_at,
        reference=event.reference,
        description=event.description,
        metadata=event.metadata,
    )
