"""What can be asked of the books: each question's statement, and the rows it gives in the order of its columns.

The statements stand in infrastructure/*.sql under the same names; a test holds both sides together. Questions of the log
itself stand in log_questions.py, which question finds a filtered list in search.py.
"""

from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from query_service.application.query_handler import BOTH_STAMP, LOG_STAMP, STAMP, Question
from shared_kernel.words import Direction, NormalBalance

Order = Literal["newest", "oldest"]
ORDERS: tuple[Order, ...] = get_args(Order)
AccountStatus = Literal["open", "frozen", "closed"]
FrozenScope = Literal["all", "debits", "credits"]
TransactionStatus = Literal["posted", "pending", "voided", "expired", "scheduled", "refused", "cancelled"]
EntryKind = Literal["posted", "held", "released", "captured"]


class LedgerRow(NamedTuple):
    """A ledger and how far its read model is. `defaults` and `metadata` are JSON text."""

    ledger: str
    opened_at: datetime
    status: Literal["open", "archived"]
    accounts: Literal["explicit", "on-first-use"]
    defaults: str
    records_refusals: bool
    time_zone: str
    metadata: str
    position: int
    recorded_at: datetime
    state: Literal["waiting", "parked", "skipped"] | None
    since: datetime | None
    stuck_position: int | None


class AccountRow(NamedTuple):
    """The version of an account. `limits` and `metadata` are JSON text."""

    address: str
    normal_balance: NormalBalance
    status: AccountStatus
    frozen: FrozenScope | None
    limits: str
    metadata: str
    on_first_use: bool
    opened_at: datetime
    opened_position: int
    position: int


class ListedAccountRow(NamedTuple):
    """An account that a list has come to. Where it does not fit, only `walked_to` counts."""

    walked_to: str
    fits: bool
    address: str
    normal_balance: NormalBalance
    status: AccountStatus
    frozen: FrozenScope | None
    limits: str
    metadata: str
    on_first_use: bool
    opened_at: datetime
    opened_position: int
    position: int
    number: int


class BalanceRow(NamedTuple):
    """One asset's totals of an account; a single row without an asset where there are none. By effective time nothing is pending."""

    address: str
    normal_balance: NormalBalance
    asset: str | None
    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None


class ListedBalanceRow(NamedTuple):
    """One asset's totals of one of many accounts."""

    address: str
    asset: str
    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None


class EntryRow(NamedTuple):
    """What moved, and the totals just after it; a single row without a position where the page is empty."""

    address: str
    normal_balance: NormalBalance
    position: int | None
    entry_index: int
    kind: EntryKind
    transaction_id: str
    direction: Direction
    amount: int
    asset: str
    effective_at: datetime
    recorded_at: datetime
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int


class TransactionRow(NamedTuple):
    """A transaction that a list has come to, in its version. Where it does not fit, only what was walked to counts.

    `entries`, `posted_entries`, `held_entries`, `metadata` and `reversed_by` are JSON text. `walked_at` and
    `walked_version` are there in lists by effective time.
    """

    walked_to: int
    fits: bool
    transaction_id: str
    created_position: int
    created_at: datetime
    status: TransactionStatus
    entries: str
    posted_entries: str | None
    held_entries: str | None
    reference: str | None
    description: str | None
    effective_at: datetime
    expires_at: datetime | None
    metadata: str
    reverses: str | None
    reversed_by: str | None
    is_forced: bool
    actor: str
    correlation_id: str
    position: int
    recorded_at: datetime
    number: int
    walked_at: datetime | None = None
    walked_version: int = 0


class SumRow(NamedTuple):
    """What accounts of one group, asset and normal side have together. `is_end`: how far the walk came, over so many accounts."""

    is_end: bool
    group: str
    asset: str
    normal_balance: NormalBalance
    accounts: int
    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None
    walked_to: str


class ChangeRow(NamedTuple):
    """An account and asset that changed between two positions. `is_end`: how far the walk came, `debits_before` the accounts walked.

    `entries` is JSON text: the next entries that made the change (reports.ChangeEntryRow); null: none was found.
    """

    is_end: bool
    address: str
    asset: str
    normal_balance: NormalBalance
    debits_before: int
    credits_before: int
    debits_after: int
    credits_after: int
    entries: str | None
    walked_to: str


class StatementRow(NamedTuple):
    """A posted entry between an opening and a closing balance, which stand in every row. Without `walked_to`: the page is empty.

    By recorded time `posted_debits` and `posted_credits` are the totals just after the entry; where effective time counts they are
    to be counted on from `debits_before` and `credits_before`, which is where the page begins.
    """

    address: str
    normal_balance: NormalBalance
    opening_debits: int
    opening_credits: int
    closing_debits: int
    closing_credits: int
    debits_before: int
    credits_before: int
    walked_to: int | None
    fits: bool
    position: int
    entry_index: int
    kind: EntryKind
    transaction_id: str
    direction: Direction
    amount: int
    asset: str
    effective_at: datetime
    recorded_at: datetime
    posted_debits: int
    posted_credits: int
    reference: str | None
    description: str | None
    number: int


class ExplanationRow(NamedTuple):
    """An event of the log that moved an account in an asset, and the totals of the read model just after it.

    The opening totals are those before the page, the closing ones those of the balance that is explained. By effective time nothing
    is pending.
    """

    address: str
    normal_balance: NormalBalance
    opening_posted_debits: int
    opening_posted_credits: int
    opening_pending_debits: int | None
    opening_pending_credits: int | None
    closing_posted_debits: int
    closing_posted_credits: int
    closing_pending_debits: int | None
    closing_pending_credits: int | None
    position: int | None
    type: str
    recorded_at: datetime
    metadata: str
    data: str
    posted_debits: int
    posted_credits: int
    pending_debits: int | None
    pending_credits: int | None
    effective_at: datetime


class RefusalRow(NamedTuple):
    """A refusal that a list has come to. `accounts`, `fields` and `asked` are JSON text. Where it does not fit, only `walked_to` counts."""

    walked_to: int
    fits: bool
    position: int
    recorded_at: datetime
    code: str
    command: str
    transaction_id: str | None
    accounts: str
    fields: str
    asked: str | None
    judged_at: int
    actor: str
    correlation_id: str
    key: str | None
    number: int


class JudgedRow(NamedTuple):
    """An account as it was when a refusal was judged, with its totals in one asset. `number` counts the accounts asked for, from 1.

    Without a normal balance: it was not open then. Without an asset: nothing had moved on it.
    """

    number: int
    address: str
    normal_balance: NormalBalance | None
    status: AccountStatus
    frozen: FrozenScope | None
    limits: str
    asset: str | None
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int


LEDGERS = Question("ledgers", LedgerRow)
LEDGER = Question("ledger", LedgerRow)
ACCOUNT = Question("account", AccountRow)
ACCOUNTS = Question("accounts", ListedAccountRow)
LABELLED_ACCOUNTS = Question("labelled_accounts", ListedAccountRow)
EITHER_ACCOUNTS = Question("either_accounts", ListedAccountRow)
STATUS_ACCOUNTS = Question("status_accounts", ListedAccountRow)
BALANCES = Question("balances", BalanceRow)
EFFECTIVE_BALANCES = Question("effective_balances", BalanceRow, needs_periods=True)
LISTED_BALANCES = Question("listed_balances", ListedBalanceRow)
EFFECTIVE_LISTED_BALANCES = Question("effective_listed_balances", ListedBalanceRow, needs_periods=True)
ENTRIES = {order: Question(f"entries_{order}", EntryRow) for order in ORDERS}
EFFECTIVE_ENTRIES = {order: Question(f"effective_entries_{order}", EntryRow, needs_periods=True) for order in ORDERS}
TRANSACTION = Question("transaction", TransactionRow)
TRANSACTIONS = {
    f"{sort}{index}": {order: Question(f"{sort}{index}transactions_{order}", TransactionRow) for order in ORDERS}
    for sort in ("", "effective_")
    for index in (
        "",
        "identified_",
        "referenced_",
        "account_",
        "labelled_",
        "either_",
        "status_",
        "unsettled_",
        "amount_",
    )
}
"""By order (of effective time or of positions) and by the index that leads there, as search.py chooses it."""
SUMS = Question("sums", SumRow)
EFFECTIVE_SUMS = Question("effective_sums", SumRow, needs_periods=True)
CHANGES = Question("changes", ChangeRow)
EFFECTIVE_CHANGES = Question("effective_changes", ChangeRow, needs_periods=True)
STATEMENT = Question("statement", StatementRow)
DATED_STATEMENT = Question("dated_statement", StatementRow, needs_periods=True)
EFFECTIVE_STATEMENT = Question("effective_statement", StatementRow, needs_periods=True)
EXPLANATION = Question("explanation", ExplanationRow)
EFFECTIVE_EXPLANATION = Question("effective_explanation", ExplanationRow, needs_periods=True)
REFUSALS = {
    index: {order: Question(f"refusals_{index}{order}", RefusalRow) for order in ORDERS}
    for index in ("", "by_code_", "by_caller_", "by_account_")
}
JUDGED = Question("judged", JudgedRow)

QUESTIONS: tuple[Question[Any], ...] = (
    STAMP,
    BOTH_STAMP,
    LOG_STAMP,
    LEDGERS,
    LEDGER,
    ACCOUNT,
    ACCOUNTS,
    LABELLED_ACCOUNTS,
    EITHER_ACCOUNTS,
    STATUS_ACCOUNTS,
    BALANCES,
    EFFECTIVE_BALANCES,
    LISTED_BALANCES,
    EFFECTIVE_LISTED_BALANCES,
    *ENTRIES.values(),
    *EFFECTIVE_ENTRIES.values(),
    TRANSACTION,
    *(question for by_order in TRANSACTIONS.values() for question in by_order.values()),
    SUMS,
    EFFECTIVE_SUMS,
    CHANGES,
    EFFECTIVE_CHANGES,
    STATEMENT,
    DATED_STATEMENT,
    EFFECTIVE_STATEMENT,
    EXPLANATION,
    EFFECTIVE_EXPLANATION,
    *(question for by_order in REFUSALS.values() for question in by_order.values()),
    JUDGED,
)
