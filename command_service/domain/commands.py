"""What clients may ask for: the commands, their shapes, and the checks that need no state.

A field that the client left out is UNSET, so that the fingerprint covers exactly what was sent. Decisions live beside
their subject (`ledgers.py`, `accounts.py`, `transactions.py`); this module never looks at a state or a clock.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared_kernel.errors import Rejection
from shared_kernel.words import (
    AMOUNT_MAX,
    END,
    Address,
    Amount,
    Asset,
    Direction,
    LedgerName,
    NormalBalance,
    PatternText,
)

ENTRIES_MAX = 500  # design §8 and the rule book: bounds one event and the accounts one decision may touch
DEFAULTS_MAX = 100
ASSETS_MAX = 100
METADATA_MAX = 50
FINGERPRINT_VERSION = "01"

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
SignedAmount = int | Annotated[str, Meta(pattern=rf"^(0|-?[1-9][0-9]{{0,38}}){END}")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with a zone")]


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


class OpenLedger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open a ledger. `accounts`: on-first-use (the default) or explicit."""

    ledger: LedgerName
    accounts: Literal["explicit", "on-first-use"] | UnsetType = UNSET
    defaults: Annotated[list[DefaultsSpec], Meta(max_length=DEFAULTS_MAX)] | UnsetType = UNSET
    records_refusals: bool | UnsetType = UNSET
    metadata: ClientMetadata | UnsetType = UNSET

    def check(self) -> None:
        """Raises Rejection where the command is malformed in a way that its shape cannot say."""
        for index, defaults in enumerate(self.defaults or ()):
            _check_limits(defaults.limits, f"$.defaults[{index}].limits")

    def addresses(self) -> Iterable[str]:
        """The accounts a decision will look at."""
        return ()


class OpenAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Open an account under terms of its own."""

    address: Address
    normal_balance: NormalBalance | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    metadata: ClientMetadata | UnsetType = UNSET

    def check(self) -> None:
        """As in OpenLedger."""
        _check_limits(self.limits, "$.limits")

    def addresses(self) -> Iterable[str]:
        """As in OpenLedger."""
        return (self.address,)


class EntrySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One debit or credit."""

    account: Address
    direction: Direction
    amount: Amount
    asset: Asset


class PostTransaction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Post a transaction: two or more entries, and for each asset debits equal credits."""

    entries: Annotated[list[EntrySpec], Meta(min_length=2, max_length=ENTRIES_MAX)]
    id: ClientId | UnsetType = UNSET
    reference: Reference | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    effective_at: Moment | UnsetType | None = UNSET
    metadata: ClientMetadata | UnsetType = UNSET

    def check(self) -> None:
        """As in OpenLedger: a time without a place in UTC, amounts beyond the bound, debits that differ from credits."""
        if self.effective_at and not _is_in_utc(self.effective_at):
            raise Rejection(
                "invalid_request", detail="The time is outside the years 1 to 9999 of UTC", path="$.effective_at"
            )
        surplus: dict[str, int] = {}
        for index, entry in enumerate(self.entries):
            amount = int(entry.amount)
            if amount > AMOUNT_MAX:
                raise Rejection(
                    "invalid_request", detail="The amount is above 2^127-1", path=f"$.entries[{index}].amount"
                )
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

    def addresses(self) -> Iterable[str]:
        """As in OpenLedger."""
        return {entry.account for entry in self.entries}


Command = OpenLedger | OpenAccount | PostTransaction

COMMAND_TYPES: dict[str, type[Command]] = {
    "open_ledger": OpenLedger,
    "open_account": OpenAccount,
    "post_transaction": PostTransaction,
}
"""Wire name (in batches, refusals and fingerprints) to command."""

TYPE_OF_COMMAND: dict[type, str] = {struct: name for name, struct in COMMAND_TYPES.items()}


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one request that is not the command itself. Fixed before the first decision, kept over retries.

    `now` is the clock of the edge (UTC), for bounds on effective times only. `transaction_id` is used where a new
    transaction needs an id and the client gave none. `asked` is the canonical JSON of what the client sent.
    """

    ledger: str
    actor: str
    key: str
    correlation_id: str
    now: datetime
    transaction_id: str
    fingerprint: str
    asked: bytes
    trace: str | None = None


def canonical(command: Command) -> bytes:
    """What the client sent as canonical JSON: keys sorted, amounts as integers, absent fields absent."""
    plain = command
    if isinstance(command, PostTransaction):
        if any(isinstance(entry.amount, str) for entry in command.entries):
            entries = [msgspec.structs.replace(entry, amount=int(entry.amount)) for entry in command.entries]
            plain = msgspec.structs.replace(command, entries=entries)
    else:
        plain = _plain_limits(command)
    return _ENCODER.encode(plain)


def fingerprint(ledger: str, command_type: str, asked: bytes) -> str:
    """Version byte and SHA-256 in hexadecimal: equal exactly if the same thing is asked of the same ledger.

    `asked` is `canonical(command)`, which holds the path parameters too where a command has them.
    """
    return FINGERPRINT_VERSION + hashlib.sha256(b"\n".join((ledger.encode(), command_type.encode(), asked))).hexdigest()


_ENCODER = msgspec.json.Encoder(order="sorted")


def _is_in_utc(time: datetime) -> bool:
    try:
        time.astimezone(UTC)
    except OverflowError:
        return False
    return True


def _check_limits(limits: Limits | UnsetType, path: str) -> None:
    for asset, limit in (limits or {}).items():
        low, high = bound(limit.minimum), bound(limit.maximum)
        for name, value in (("minimum", low), ("maximum", high)):
            if value is not None and abs(value) > AMOUNT_MAX:
                raise Rejection("invalid_request", detail="The limit is beyond 2^127-1", path=f"{path}.{asset}.{name}")
        if low is not None and high is not None and low > high:
            raise Rejection("invalid_request", detail="The minimum is above the maximum", path=f"{path}.{asset}")


def bound(value: SignedAmount | UnsetType | None) -> int | None:
    """A bound as an integer, whichever way the client wrote it; None where there is none."""
    return None if value is None or value is UNSET else int(value)


def _plain_limits(command: OpenLedger | OpenAccount) -> OpenLedger | OpenAccount:
    if isinstance(command, OpenAccount):
        return msgspec.structs.replace(command, limits=_integers(command.limits))
    if command.defaults is UNSET:
        return command
    defaults = [msgspec.structs.replace(entry, limits=_integers(entry.limits)) for entry in command.defaults]
    return msgspec.structs.replace(command, defaults=defaults)


def _integers(limits: Limits | UnsetType) -> Limits | UnsetType:
    if limits is UNSET:
        return UNSET
    return {
        asset: LimitSpec(minimum=_integer(limit.minimum), maximum=_integer(limit.maximum))
        for asset, limit in limits.items()
    }


def _integer(value: SignedAmount | UnsetType | None) -> SignedAmount | UnsetType | None:
    return int(value) if isinstance(value, str) else value
