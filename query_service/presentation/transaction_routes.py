"""The routes of transactions: lists with a filter, by position or by effective time, and one by its id."""

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide

from query_service.application import answers, questions, search, shaping
from query_service.application.filters import Condition
from query_service.application.filters import both as all_of
from query_service.application.pages import LIMIT_DEFAULT, Key, Page
from query_service.application.query_handler import Asked, NotModified, QueryHandler
from query_service.application.questions import TransactionRow
from query_service.presentation import examples
from query_service.presentation.parameters import (
    AccountFilter,
    CursorText,
    FilterText,
    Limit,
    OrderBy,
    ReferenceFilter,
    SortBy,
    TransactionPath,
    TransactionStatusFilter,
    both,
    dated_reader,
    instant,
    reader,
)
from query_service.presentation.responses import POSITIONED, answered, on_not_modified
from shared_kernel.errors import Rejection
from shared_kernel.words import format_time


class Transactions(Controller):
    """The transactions of one ledger."""

    path = "/v1/ledgers/{ledger:str}/transactions"
    tags = ("books",)
    dependencies = {  # noqa: RUF012
        "asked": Provide(reader, sync_to_thread=False),
        "dated": Provide(dated_reader, sync_to_thread=False),
    }
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/", summary="Transactions by filter", description=examples.TRANSACTIONS)
    async def transactions(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        account: AccountFilter = None,
        reference: ReferenceFilter = None,
        status: TransactionStatusFilter = None,
        filter: FilterText = None,  # noqa: A002 - the parameter's name in the API
        sort: SortBy = "position",
        order: OrderBy = "newest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.TransactionList]:
        """All, or those that fit."""
        tree = both(filter, search.TRANSACTION_FIELDS, account=account, reference=reference, status=status)
        if dated.effective_at is not None:
            tree = all_of(Condition("effective_at", "time", "<=", (dated.effective_at,)), tree)
        page = Page.of_list(
            *("transactions", *dated.named(), account, reference, status, filter, sort, order),
            limit=limit,
            cursor=cursor,
        )
        asked = dated._replace(cursor=page.cursor)
        after = page.after(order)
        question, looked_up = search.transactions(tree, sort=sort, order=order, after=after, is_live=asked.is_live())
        snapshot = await handler.ask(
            question,
            asked,
            after_time=instant(after.text),
            after_position=after.position,
            after_version=after.ordinal,
            limit=page.rows_max(),
            **looked_up,
        )
        rows, next_cursor = page.found(snapshot.rows, snapshot.stamp, _key, walk_max=search.WALK_MAX)
        answer = answers.TransactionList(
            data=[shaping.transaction(row) for row in rows],
            next_cursor=next_cursor,
            **shaping.stamped(snapshot.stamp),
        )
        return answered(answer, snapshot.stamp, dated)

    @get("/{transaction:str}", summary="One transaction", description=examples.TRANSACTION)
    async def transaction(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked], transaction: TransactionPath
    ) -> Response[answers.TransactionAnswer]:
        """By its id."""
        if "\x00" in transaction:  # Postgres has no such text
            raise Rejection("transaction_not_found")
        snapshot = await handler.ask(questions.TRANSACTION, asked, transaction=transaction)
        if not snapshot.rows:
            raise Rejection("transaction_not_found", transaction=transaction)
        found = shaping.transaction(snapshot.rows[0])
        return answered(
            answers.TransactionAnswer(transaction=found, **shaping.stamped(snapshot.stamp)), snapshot.stamp, asked
        )


def _key(row: TransactionRow) -> Key:
    """By effective time an index row is a version, and the same time may stand there many times."""
    if row.walked_at is None:
        return Key(position=row.walked_to)
    return Key(text=format_time(row.walked_at), position=row.walked_to, ordinal=row.walked_version)
