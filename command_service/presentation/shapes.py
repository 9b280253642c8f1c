"""The shapes of what the write side answers, and so the schemas of its API's description. Made from events by `answers.py`.

Times are RFC 3339 in UTC with microseconds, amounts integers in smallest units. In a dry run what only a record has is null:
positions and recorded times.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared_kernel.events import FreezeScope, Limit
from shared_kernel.words import Direction, NormalBalance

TransactionStatus = Literal["posted", "pending", "voided", "expired", "scheduled", "refused", "cancelled"]
Position = Annotated[int | None, Meta(description="Where it stands in the ledger's log; null in a dry run")]
Recorded = Annotated[str | None, Meta(description="When the log took it; null in a dry run")]
MetadataChanges = Annotated[
    dict[str, str | None], Meta(description="What changes in the metadata: values by key; null: the key is gone")
]
IsDryRun = Annotated[Literal[True], Meta(description="Only rehearsed: nothing was written")]


class EntryBody(msgspec.Struct, frozen=True):
    """One debit or credit; the amount is in smallest units of the asset."""

    account: str
    direction: Direction
    amount: int
    asset: str


class BalanceBody(msgspec.Struct, frozen=True, kw_only=True):
    """The balances of an account in one asset, normal side positive, and the four raw totals, as a query shows them.

    posted: posted entries only · pending: posted and held · available: posted less what holds may take away.
    """

    posted: int
    pending: int
    available: int
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int


Balances = Annotated[
    dict[str, dict[str, BalanceBody]],
    Meta(description="By account and asset, just after this command: those that its decision knew; in a dry run all"),
]


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The last event that a dry run knew."""

    position: int
    recorded_at: str | None


class TransactionBody(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as it was recorded. `effective_at` is the recorded time where the client gave none.

    `reverses`: the transaction whose entries it turns round. `forced`: whatever the limits said.
    """

    id: str
    status: Literal["posted", "pending", "scheduled"]
    entries: list[EntryBody]
    reference: str | None
    effective_at: str | None
    description: str | None
    metadata: dict[str, str]
    position: Position
    recorded_at: Recorded
    expires_at: str | UnsetType | None = UNSET
    reverses: str | UnsetType = UNSET
    forced: bool | UnsetType = UNSET
    balances: Balances | UnsetType = UNSET


class TransactionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The transaction is posted, held or scheduled; `position` is where it stands in the ledger's log."""

    transaction: TransactionBody
    position: Position
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class TransactionChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changed of a transaction. `posted` and `released`: what was held before."""

    id: str
    status: TransactionStatus | UnsetType = UNSET
    posted: list[EntryBody] | UnsetType = UNSET
    released: list[EntryBody] | UnsetType = UNSET
    effective_at: str | UnsetType = UNSET
    metadata_changes: MetadataChanges | UnsetType = UNSET
    balances: Balances | UnsetType = UNSET
    refusal: dict[str, str | int | bool | None] | UnsetType = UNSET


class TransactionChangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The transaction is changed; `position` is where that stands in the ledger's log."""

    transaction: TransactionChange
    position: Position
    recorded_at: Recorded
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class AccountBody(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it was opened."""

    address: str
    normal_balance: NormalBalance
    status: Literal["open"]
    limits: dict[str, Limit]
    metadata: dict[str, str]
    on_first_use: bool
    opened_at: Recorded
    position: Position


class AccountAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The account was opened; `position` is where that stands in the ledger's log."""

    account: AccountBody
    position: Position
    recorded_at: Recorded
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class AccountChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changed of an account. `frozen`: which entries it takes no more. `breached`: assets whose balance is beyond the new limit already."""

    address: str
    status: Literal["open", "frozen", "closed"] | UnsetType = UNSET
    frozen: FreezeScope | UnsetType | None = UNSET
    limits: dict[str, Limit] | UnsetType = UNSET
    breached: list[str] | UnsetType = UNSET
    metadata_changes: MetadataChanges | UnsetType = UNSET


class AccountChangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The account is changed; `position` is where that stands in the ledger's log."""

    account: AccountChange
    position: Position
    recorded_at: Recorded
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class DefaultsBody(msgspec.Struct, frozen=True):
    """Terms of accounts that their first use opens and whose address fits the pattern; the first fitting pattern counts."""

    pattern: str
    normal_balance: NormalBalance
    limits: dict[str, Limit]


class LedgerBody(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger as it was opened. `time_zone`: what counts as a day in it."""

    ledger: str
    status: Literal["open"]
    accounts: str
    defaults: list[DefaultsBody]
    records_refusals: bool
    time_zone: str
    metadata: dict[str, str]
    opened_at: Recorded


class LedgerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger was opened; `position` is 1."""

    ledger: LedgerBody
    position: Position
    recorded_at: Recorded
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class LedgerChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changed of a ledger."""

    ledger: str
    status: Literal["open", "archived"] | UnsetType = UNSET
    metadata_changes: MetadataChanges | UnsetType = UNSET


class LedgerChangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger is changed; `position` is where that stands in its log."""

    ledger: LedgerChange
    position: Position
    recorded_at: Recorded
    dry_run: IsDryRun | UnsetType = UNSET
    as_of: AsOf | UnsetType = UNSET


class BatchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one command: the status and the body it would have been answered alone. `replay`: it was in the log before."""

    status: int
    body: msgspec.Raw
    replay: bool = False


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The results in the order of the commands; `position`: the last one that any of them stands at, null if none is recorded."""

    results: list[BatchResult]
    position: int | None
    dry_run: IsDryRun | UnsetType = UNSET


class BatchAcrossAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The results in the order of the commands; `positions`: of each ledger, the last one that any of them stands at."""

    results: list[BatchResult]
    positions: dict[str, int | None]
    dry_run: IsDryRun | UnsetType = UNSET
