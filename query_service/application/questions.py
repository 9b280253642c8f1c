"""What can be asked of the books and of the log: each question's statement, and the rows it gives in the order of its columns.

The statements stand in infrastructure/books.sql and events.sql under the same names; a test holds both sides together.
"""

from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from query_service.application.query_handler import Question
from shared_kernel.words import Direction, NormalBalance

Order = Literal["newest", "oldest"]
ORDERS: tuple[Order, ...] = get_args(Order)


class LedgerRow(NamedTuple):
    """A ledger and how far its read model is. `defaults` and `metadata` are JSON text."""

    ledger: str
    opened_at: datetime
    accounts: Literal["explicit", "on-first-use"]
    defaults: str
    records_refusals: bool
    metadata: str
    position: int
    recorded_at: datetime
    state: Literal["waiting", "parked"] | None
    since: datetime | None
    stuck_position: int | None


class AccountRow(NamedTuple):
    """The newest version of an account. `limits` and `metadata` are JSON text."""

    address: str
    normal_balance: NormalBalance
    status: Literal["open", "frozen", "closed"]
    limits: str
    metadata: str
    on_first_use: bool
    opened_at: datetime
    position: int


class BalanceRow(NamedTuple):
    """One asset's totals of an account; a single row without an asset where nothing was ever posted."""

    address: str
    normal_balance: NormalBalance
    asset: str | None
    posted_debits: int
    posted_credits: int
    pending_debits: int
    pending_credits: int


class EntryRow(NamedTuple):
    """An entry and the totals just after it; a single row without a position where the page is empty."""

    address: str
    normal_balance: NormalBalance
    position: int | None
    entry_index: int
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
    """The newest version of a transaction. `entries` and `metadata` are JSON text."""

    transaction_id: str
    position: int
    status: Literal["posted"]
    reference: str | None
    description: str | None
    effective_at: datetime
    recorded_at: datetime
    entries: str
    metadata: str
    actor: str
    correlation_id: str


class TrialRow(NamedTuple):
    """All accounts of one asset together."""

    asset: str
    debits: int
    credits: int
    accounts: int


class EventRow(NamedTuple):
    """An event of the log; data and metadata byte for byte."""

    position: int
    type: str
    recorded_at: datetime
    metadata: str
    data: str


LEDGERS = Question("ledgers", LedgerRow)
LEDGER = Question("ledger", LedgerRow)
ACCOUNTS = Question("accounts", AccountRow)
ACCOUNT = Question("account", AccountRow)
BALANCES = Question("balances", BalanceRow)
ENTRIES = {order: Question(f"entries_{order}", EntryRow) for order in ORDERS}
TRANSACTIONS = {order: Question(f"transactions_{order}", TransactionRow) for order in ORDERS}
ACCOUNT_TRANSACTIONS = {order: Question(f"account_transactions_{order}", TransactionRow) for order in ORDERS}
REFERENCE_TRANSACTIONS = {order: Question(f"reference_transactions_{order}", TransactionRow) for order in ORDERS}
TRANSACTION = Question("transaction", TransactionRow)
TRIAL_BALANCE = Question("trial_balance", TrialRow)
EVENTS = {order: Question(f"events_{order}", EventRow, is_of_log=True) for order in ORDERS}
TAGGED_EVENTS = {order: Question(f"tagged_events_{order}", EventRow, is_of_log=True) for order in ORDERS}

QUESTIONS: tuple[Question[Any], ...] = (
    LEDGERS,
    LEDGER,
    ACCOUNTS,
    ACCOUNT,
    BALANCES,
    *ENTRIES.values(),
    *TRANSACTIONS.values(),
    *ACCOUNT_TRANSACTIONS.values(),
    *REFERENCE_TRANSACTIONS.values(),
    TRANSACTION,
    TRIAL_BALANCE,
    *EVENTS.values(),
    *TAGGED_EVENTS.values(),
)
