"""What clients may ask for: the commands, their shapes, and the checks that need no state.

A field that the client left out is UNSET, so that the fingerprint (`asking.py`) covers exactly what was sent. Decisions live
beside their subject (`ledgers.py`, `accounts.py`, `transactions.py`, `holds.py`, `reversals.py`); this module never looks at a state
or a clock. It is long because it is a list: the whole vocabulary in one place.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared_kernel.errors import Rejection
from shared_kernel.events import FreezeScope
from shared_kernel.words import (
    AMOUNT_DIGITS_MAX,
    AMOUNT_MAX,
    END,
    Address,
    Amount,
    Asset,
    Direction,
    LedgerName,
    NormalBalance,
    PatternText,
    is_time_zone,
)

ENTRIES_MAX = 500  # design §8 and the rule book: bounds one event and the accounts one decision may touch
DEFAULTS_MAX = 100
ASSETS_MAX = 100
CONDITIONS_MAX = 100  # chosen: as many accounts as one decision can be expected to weigh
METADATA_MAX = 50
POSITION_MAX = 2**63 - 1  # a bigint in Postgres

Key = Annotated[
    str, Meta(pattern=rf"^[\x21-\x7e]+{END}", max_length=200, description="An idempotency key: visible ASCII, 1 to 200")
]
ClientId = Annotated[
    str, Meta(pattern=rf"^[A-Za-z0-9_-][A-Za-z0-9_.-]*{END}", max_length=64, description="An id of the client's own")
]
Reference = Annotated[str, Meta(min_length=1, max_length=200, description="Unique in its ledger")]
Description = Annotated[str, Meta(max_length=1000)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=500)]
ClientMetadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=METADATA_MAX)]
MetadataPatch = Annotated[
    dict[MetadataKey, MetadataValue | None],
    Meta(min_length=1, max_length=METADATA_MAX, description="New values by key; null removes a key"),
]
SignedAmount = int | Annotated[str, Meta(pattern=rf"^(0|-?[1-9][0-9]{{0,38}}){END}")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a zone")]
ReversalTime = Annotated[str, Meta(min_length=1, description="RFC 3339 with a zone; or: original")]
TimeZone = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_+/-]+{END}", max_length=64, description="An IANA time zone name")]


class LimitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds for one asset, smallest units, normal side positive; null or absent is no bound."""

    minimum: SignedAmount | UnsetType | None = UNSET
    maximum: SignedAmount | UnsetType | None = UNSET


Limits = Annotated[dict[Asset, LimitSpec], Meta(max_length=ASSETS_MAX)]


class DefaultsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms for accounts that are opened by their first use and fit the pattern."""

    pattern: PatternText
    normal_balance: NormalBalance | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET


class ConditionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition, in one of three forms.

    A balance: `account`, `asset`, `balance` and any of `gte`, `lte`, `eq` (smallest units, normal side positive). An account
    that nobody changed since: `account` and `last_position` (0: nothing ever touched it). The whole ledger: `head`.
    """

    account: Address | UnsetType = UNSET
    asset: Asset | UnsetType = UNSET
    balance: Literal["posted", "pending", "available"] | UnsetType = UNSET
    gte: SignedAmount | UnsetType = UNSET
    lte: SignedAmount | UnsetType = UNSET
    eq: SignedAmount | UnsetType = UNSET
    last_position: Annotated[int, Meta(ge=0, le=POSITION_MAX)] | UnsetType = UNSET
    head: Annotated[int, Meta(ge=1, le=POSITION_MAX)] | UnsetType = UNSET

    @property
    def bounds(self) -> dict[str, int]:
        """The comparisons asked for, by name, as integers."""
        given = {"gte": self.gte, "lte": self.lte, "eq": self.eq}
        return {name: int(value) for name, value in given.items() if value is not UNSET}

    def check(self, path: str) -> None:
        """Raises Rejection where it is none of the three forms."""
        is_set = {name for name in self.__struct_fields__ if getattr(self, name) is not UNSET}
        compared = is_set & {"gte", "lte", "eq"}
        if is_set in ({"head"}, {"account", "last_position"}):
            return
        if not compared or is_set - compared != {"account", "asset", "balance"}:
            detail = "A condition has account, asset, balance and gte, lte or eq; or account and last_position; or head"
            raise Rejection("invalid_request", detail=detail, path=path)
        for name, value in self.bounds.items():
            if abs(value) >= 10**AMOUNT_DIGITS_MAX:  # as many digits as the text form takes
                raise Rejection("invalid_request", detail="The bound has too many digits", path=f"{path}.{name}")


Conditions = Annotated[list[ConditionSpec], Meta(min_length=1, max_length=CONDITIONS_MAX)]


class Asking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all commands share: what they say about themselves before any state is read."""

    needs_lock: ClassVar[bool] = False
    """Decided under the head's lock, because it looks at what no fence watches cheaply (design §4, slow path)."""

    def check(self) -> None:
        """Raises Rejection where the command is malformed in a way that its shape cannot say."""

    def addresses(self) -> Iterable[str]:
        """The accounts a decision will look at, as far as the command itself tells."""
        return ()

    def originals(self) -> Iterable[str]:
        """The transactions whose state a decision will look at."""
        return ()


class OpenLedger(Asking, frozen=True, kw_only=True):
    """Open a ledger. `accounts`: on-first-use (the default) or explicit."""

    ledger: LedgerName
    accounts: Literal["explicit", "on-first-use"] | UnsetType = UNSET
    defaults: Annotated[list[DefaultsSpec], Meta(max_length=DEFAULTS_MAX)] | UnsetType = UNSET
    records_refusals: bool | UnsetType = UNSET
    metadata: ClientMetadata | UnsetType = UNSET
    time_zone: TimeZone | UnsetType = UNSET

    def check(self) -> None:
        if self.time_zone and not is_time_zone(self.time_zone):
            raise Rejection("invalid_request", detail="There is no such time zone", path="$.time_zone")
        for index, defaults in enumerate(self.defaults or ()):
            check_limits(defaults.limits, f"$.defaults[{index}].limits")


class ArchiveLedger(Asking, frozen=True, kw_only=True):
    """Make the ledger read-only."""


class ReopenLedger(Asking, frozen=True, kw_only=True):
    """Let the archived ledger take commands again."""


class PatchLedgerMetadata(Asking, frozen=True, kw_only=True):
    """Change what is noted on the ledger."""

    needs_lock: ClassVar[bool] = True

    metadata: MetadataPatch


class OpenAccount(Asking, frozen=True, kw_only=True):
    """Open an account under terms of its own."""

    address: Address
    normal_balance: NormalBalance | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    metadata: ClientMetadata | UnsetType = UNSET

    def check(self) -> None:
        check_limits(self.limits, "$.limits")

    def addresses(self) -> Iterable[str]:
        return (self.address,)


class _OfAccount(Asking, frozen=True, kw_only=True):
    address: Address

    def addresses(self) -> Iterable[str]:
        return (self.address,)


class SetLimits(_OfAccount, frozen=True, kw_only=True):
    """Give the account these limits and no others."""

    needs_lock: ClassVar[bool] = True

    limits: Limits
    conditions: Conditions | UnsetType = UNSET

    def check(self) -> None:
        check_limits(self.limits, "$.limits")
        check_conditions(self.conditions)

    def addresses(self) -> Iterable[str]:
        return {self.address, *accounts_of(self.conditions)}


class FreezeAccount(_OfAccount, frozen=True, kw_only=True):
    """Take no more debits, credits, or (the default) either."""

    scope: FreezeScope | UnsetType = UNSET


class UnfreezeAccount(_OfAccount, frozen=True, kw_only=True):
    """Take debits and credits again."""


class CloseAccount(_OfAccount, frozen=True, kw_only=True):
    """Close the account: zero balances, no holds."""

    needs_lock: ClassVar[bool] = True

    conditions: Conditions | UnsetType = UNSET

    def check(self) -> None:
        check_conditions(self.conditions)

    def addresses(self) -> Iterable[str]:
        return {self.address, *accounts_of(self.conditions)}


class ReopenAccount(_OfAccount, frozen=True, kw_only=True):
    """Open the closed account again, under the terms it had."""


class PatchAccountMetadata(_OfAccount, frozen=True, kw_only=True):
    """Change what is noted on the account."""

    needs_lock: ClassVar[bool] = True

    metadata: MetadataPatch


class EntrySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One debit or credit."""

    account: Address
    direction: Direction
    amount: Amount
    asset: Asset


Entries = Annotated[list[EntrySpec], Meta(min_length=2, max_length=ENTRIES_MAX)]
BalancesAsked = Annotated[
    Literal["known"], Meta(description="Answer with the balances that the decision knew, as of its position")
]


class PostTransaction(Asking, frozen=True, kw_only=True):
    """Post a transaction: two or more entries, and for each asset debits equal credits.

    `status`: posted (the default); pending holds the amounts until they are posted, voided or (`expires_at`) expired;
    scheduled posts by itself at `effective_at`.
    """

    entries: Entries
    id: ClientId | UnsetType = UNSET
    status: Literal["posted", "pending", "scheduled"] | UnsetType = UNSET
    expires_at: Moment | UnsetType | None = UNSET
    reference: Reference | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    effective_at: Moment | UnsetType | None = UNSET
    metadata: ClientMetadata | UnsetType = UNSET
    conditions: Conditions | UnsetType = UNSET
    balances: BalancesAsked | UnsetType = UNSET

    def check(self) -> None:
        check_moment(self.effective_at, "$.effective_at")
        if self.status is not UNSET or self.expires_at is not UNSET:
            self._check_status()
        if self.conditions is not UNSET:
            check_conditions(self.conditions)
        check_entries(self.entries)

    def addresses(self) -> Iterable[str]:
        named = {entry.account for entry in self.entries}
        return named if self.conditions is UNSET else named.union(accounts_of(self.conditions))

    def _check_status(self) -> None:
        check_moment(self.expires_at, "$.expires_at")
        if self.expires_at and self.status != "pending":
            raise _misplaced("Only a pending transaction expires", "$.expires_at")
        if self.status == "scheduled":
            if not self.effective_at:
                raise _misplaced("A scheduled transaction needs the time at which it is posted", "$.effective_at")
            if self.conditions is not UNSET or self.balances is not UNSET:
                name = "conditions" if self.conditions is not UNSET else "balances"
                raise _misplaced("Nothing is decided before a scheduled transaction comes due", f"$.{name}")


class _OfTransaction(Asking, frozen=True, kw_only=True):
    transaction: ClientId

    def originals(self) -> Iterable[str]:
        return (self.transaction,)


class PostHold(_OfTransaction, frozen=True, kw_only=True):
    """Post a pending transaction: wholly, or these entries (accounts, directions and assets as held, amounts up to the held ones).

    What is left is released, or with `keep_remainder` stays held for another time.
    """

    entries: Entries | UnsetType = UNSET
    keep_remainder: bool | UnsetType = UNSET
    effective_at: Moment | UnsetType | None = UNSET
    conditions: Conditions | UnsetType = UNSET
    balances: BalancesAsked | UnsetType = UNSET

    def check(self) -> None:
        check_moment(self.effective_at, "$.effective_at")
        check_conditions(self.conditions)
        if self.entries is not UNSET:
            check_entries(self.entries)

    def addresses(self) -> Iterable[str]:
        return accounts_of(self.conditions)


class VoidHold(_OfTransaction, frozen=True, kw_only=True):
    """Call a pending transaction off."""


class ExpireHold(_OfTransaction, frozen=True, kw_only=True):
    """End a pending transaction whose time is over. Asked by the clock, not by clients."""


class ReverseTransaction(_OfTransaction, frozen=True, kw_only=True):
    """Turn a posted transaction round: wholly, or these entries (accounts, directions and assets as posted, amounts up to those not yet reversed).

    `effective_at`: a time, "original" for that of the original, absent for now. `force`: whatever the limits say (role admin).
    """

    entries: Entries | UnsetType = UNSET
    id: ClientId | UnsetType = UNSET
    effective_at: ReversalTime | UnsetType | None = UNSET
    reference: Reference | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    metadata: ClientMetadata | UnsetType = UNSET
    force: bool | UnsetType = UNSET
    conditions: Conditions | UnsetType = UNSET
    balances: BalancesAsked | UnsetType = UNSET

    @property
    def is_at_original(self) -> bool:
        """True if it counts from when the original does."""
        return self.effective_at == "original"

    @property
    def moment(self) -> datetime | None:
        """The effective time, where the client gave one. ValidationError where it is none: `check` looks at that."""
        return None if self.is_at_original or not self.effective_at else msgspec.convert(self.effective_at, Moment)

    def check(self) -> None:
        try:
            check_moment(self.moment, "$.effective_at")
        except msgspec.ValidationError as error:
            raise _misplaced(f"{error}, or original", "$.effective_at") from None
        check_conditions(self.conditions)
        if self.entries is not UNSET:
            check_entries(self.entries)

    def addresses(self) -> Iterable[str]:
        return accounts_of(self.conditions)


class PostScheduled(_OfTransaction, frozen=True, kw_only=True):
    """Post a scheduled transaction that has come due. Asked by the clock, not by clients."""


class CancelScheduled(_OfTransaction, frozen=True, kw_only=True):
    """Call a scheduled transaction off before its time."""


class PatchTransactionMetadata(_OfTransaction, frozen=True, kw_only=True):
    """Change what is noted on the transaction."""

    metadata: MetadataPatch


Command = (
    OpenLedger
    | ArchiveLedger
    | ReopenLedger
    | PatchLedgerMetadata
    | OpenAccount
    | SetLimits
    | FreezeAccount
    | UnfreezeAccount
    | CloseAccount
    | ReopenAccount
    | PatchAccountMetadata
    | PostTransaction
    | PostHold
    | VoidHold
    | ExpireHold
    | ReverseTransaction
    | PostScheduled
    | CancelScheduled
    | PatchTransactionMetadata
)

COMMAND_TYPES: dict[str, type[Command]] = {
    "open_ledger": OpenLedger,
    "archive_ledger": ArchiveLedger,
    "reopen_ledger": ReopenLedger,
    "patch_ledger_metadata": PatchLedgerMetadata,
    "open_account": OpenAccount,
    "set_limits": SetLimits,
    "freeze_account": FreezeAccount,
    "unfreeze_account": UnfreezeAccount,
    "close_account": CloseAccount,
    "reopen_account": ReopenAccount,
    "patch_account_metadata": PatchAccountMetadata,
    "post_transaction": PostTransaction,
    "post_hold": PostHold,
    "void_hold": VoidHold,
    "expire_hold": ExpireHold,
    "reverse_transaction": ReverseTransaction,
    "post_scheduled": PostScheduled,
    "cancel_scheduled": CancelScheduled,
    "patch_transaction_metadata": PatchTransactionMetadata,
}
"""Wire name (in batches, refusals and fingerprints) to command."""

TYPE_OF_COMMAND: dict[type, str] = {struct: name for name, struct in COMMAND_TYPES.items()}

SYSTEM_COMMANDS = frozenset({ExpireHold, PostScheduled})
"""What only Daybook's own processes ask for."""


def needs_lock(command: Command) -> bool:
    """True if the command is decided under the head's lock: what it asks about is not watched by a narrow fence."""
    return command.needs_lock or getattr(command, "conditions", UNSET) is not UNSET


def bound(value: SignedAmount | UnsetType | None) -> int | None:
    """A bound as an integer, whichever way the client wrote it; None where there is none."""
    return None if value is None or value is UNSET else int(value)


def check_entries(entries: Sequence[EntrySpec]) -> None:
    """Raises Rejection: amounts beyond the bound, debits that differ from credits."""
    surplus: dict[str, int] = {}
    for index, entry in enumerate(entries):
        amount = int(entry.amount)
        if amount > AMOUNT_MAX:
            raise Rejection("invalid_request", detail="The amount is above 2^127-1", path=f"$.entries[{index}].amount")
        signed = amount if entry.direction == "debit" else -amount
        surplus[entry.asset] = surplus.get(entry.asset, 0) + signed
    for asset, difference in surplus.items():
        if difference:
            raise Rejection(
                "unbalanced",
                detail=f"Debits less credits of {asset} are {difference}, and must be 0",
                path="$.entries",
                asset=asset,
                difference=difference,
            )


def check_conditions(conditions: Conditions | UnsetType) -> None:
    """Raises Rejection where a condition has none of its forms."""
    for index, condition in enumerate(conditions or ()):
        condition.check(f"$.conditions[{index}]")


def check_moment(moment: Moment | UnsetType | None, path: str) -> None:
    """Raises Rejection for a time without a place in UTC."""
    if moment:
        try:
            moment.astimezone(UTC)
        except OverflowError:
            detail = "The time is outside the years 1 to 9999 of UTC"
            raise Rejection("invalid_request", detail=detail, path=path) from None


def check_limits(limits: Limits | UnsetType, path: str) -> None:
    """Raises Rejection: limits beyond the bound, a minimum above its maximum."""
    for asset, limit in (limits or {}).items():
        low, high = bound(limit.minimum), bound(limit.maximum)
        for name, value in (("minimum", low), ("maximum", high)):
            if value is not None and abs(value) > AMOUNT_MAX:
                raise Rejection("invalid_request", detail="The limit is beyond 2^127-1", path=f"{path}.{asset}.{name}")
        if low is not None and high is not None and low > high:
            raise Rejection("invalid_request", detail="The minimum is above the maximum", path=f"{path}.{asset}")


def accounts_of(conditions: Conditions | UnsetType) -> set[str]:
    """The accounts that the conditions look at."""
    return {condition.account for condition in conditions or () if condition.account is not UNSET}


def _misplaced(detail: str, path: str) -> Rejection:
    return Rejection("invalid_request", detail=detail, path=path)
