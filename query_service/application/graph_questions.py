"""What the GraphQL endpoint asks for many at once. The statements stand in infrastructure/graph.sql under the same names."""

from typing import Any

from query_service.application.query_handler import Question
from query_service.application.questions import ORDERS, AccountRow, EntryRow, TransactionRow

NAMED_ACCOUNTS = Question("named_accounts", AccountRow)
NAMED_TRANSACTIONS = Question("named_transactions", TransactionRow)
ENTRIES_OF_MANY = {order: Question(f"entries_of_many_{order}", EntryRow) for order in ORDERS}

GRAPH_QUESTIONS: tuple[Question[Any], ...] = (NAMED_ACCOUNTS, NAMED_TRANSACTIONS, *ENTRIES_OF_MANY.values())
