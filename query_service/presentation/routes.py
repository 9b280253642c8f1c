"""The routes of the read side: each asks one question and shapes its rows. What is answered stands in application/answers.py.

A description ends with an exact example (examples.py); OpenAPI is made from these texts.
"""

from typing import Protocol, TypeVar

from litestar import Controller, Response, get
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency, Provide

from query_service.application import answers, questions, shaping
from query_service.application.pages import LIMIT_DEFAULT, POSITION_MAX, Key, Page
from query_service.application.query_handler import Asked, QueryHandler
from query_service.presentation import examples
from query_service.presentation.parameters import (
    POSITION_HEADER,
    AccountFilter,
    AddressPath,
    AddressPattern,
    AssetFilter,
    CursorText,
    FromPosition,
    Limit,
    OrderBy,
    PositionPath,
    Reading,
    ReferenceFilter,
    TagFilter,
    ToPosition,
    TransactionPath,
    TypeFilter,
    auditor,
    pattern,
    reader,
    reader_of_all,
)
from shared_kernel.errors import Rejection
from shared_kernel.words import is_address

POSITIONED = (
    ResponseHeader(
        name=POSITION_HEADER,
        documentation_only=True,
        description="The position that the answer is as of: give it with the next query, and it is no older",
        required=True,
    ),
)
AFTER_ASCII = "\x7f"  # after every character of an address: ends the range of a prefix


class _AsOf(Protocol):
    @property
    def as_of(self) -> answers.AsOf: ...


AnswerT = TypeVar("AnswerT", bound=_AsOf)


class Ledgers(Controller):
    """All ledgers that the token covers."""

    path = "/v1/ledgers"
    tags = ("ledgers",)
    dependencies = {"asked": Provide(reader_of_all, sync_to_thread=False)}  # noqa: RUF012

    @get("/", summary="Ledgers by name", description=examples.LEDGERS)
    async def ledgers(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        request: Reading,
        asked: NamedDependency[Asked],
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> answers.LedgerList:
        """Those that the token covers; each with its own position."""
        page = Page.of_list("ledgers", limit=limit, cursor=cursor)
        snapshot = await handler.ask(
            questions.LEDGERS,
            asked,
            after=page.after_text(),
            patterns=[fits.regex() for fits in request.user.ledgers],
            limit=page.rows_max(),
        )
        rows, next_cursor = page.cut(snapshot.rows, snapshot.stamp, lambda row: Key(text=row.ledger))
        ledgers = [shaping.ledger(row) for row in rows]
        return answers.LedgerList(
            data=ledgers, next_cursor=next_cursor, as_of=None, complete=all(ledger.complete for ledger in ledgers)
        )


class Books(Controller):
    """One ledger, from the read model."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("books",)
    dependencies = {"asked": Provide(reader, sync_to_thread=False)}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/", summary="One ledger", description=examples.LEDGER)
    async def ledger(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked]
    ) -> Response[answers.LedgerAnswer]:
        """Its terms and how far its read model is."""
        snapshot = await handler.ask(questions.LEDGER, asked)
        if not snapshot.rows:
            raise Rejection("ledger_not_found", ledger=asked.ledger)
        ledger = shaping.ledger(snapshot.rows[0])
        return _positioned(answers.LedgerAnswer(ledger=ledger, **shaping.stamped(snapshot.stamp)))

    @get("/accounts", summary="Accounts by address", description=examples.ACCOUNTS)
    async def accounts(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        asked: NamedDependency[Asked],
        address: AddressPattern = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.AccountList]:
        """Those that fit the pattern."""
        fits = pattern(address)
        page = Page.of_list("accounts", asked.ledger, fits.text, limit=limit, cursor=cursor)
        snapshot = await handler.ask(
            questions.ACCOUNTS,
            asked._replace(cursor=page.cursor),
            after=page.after_text(),
            low=fits.prefix(),
            high=fits.prefix() + AFTER_ASCII,
            matching=fits.regex(),
            limit=page.rows_max(),
        )
        rows, next_cursor = page.cut(snapshot.rows, snapshot.stamp, lambda row: Key(text=row.address))
        return _positioned(
            answers.AccountList(
                data=[shaping.account(row) for row in rows], next_cursor=next_cursor, **shaping.stamped(snapshot.stamp)
            )
        )

    @get("/accounts/{address:str}", summary="One account", description=examples.ACCOUNT)
    async def account(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked], address: AddressPath
    ) -> Response[answers.AccountAnswer]:
        """Its terms."""
        snapshot = await handler.ask(questions.ACCOUNT, asked, address=_known(address))
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        account = shaping.account(snapshot.rows[0])
        return _positioned(answers.AccountAnswer(account=account, **shaping.stamped(snapshot.stamp)))

    @get("/accounts/{address:str}/balances", summary="Balances of an account", description=examples.BALANCES)
    async def balances(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked], address: AddressPath
    ) -> Response[answers.BalancesAnswer]:
        """By asset; one probe each, however long the history."""
        snapshot = await handler.ask(questions.BALANCES, asked, address=_known(address))
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        balances = shaping.balances(snapshot.rows)
        return _positioned(
            answers.BalancesAnswer(account=address, balances=balances, **shaping.stamped(snapshot.stamp))
        )

    @get("/accounts/{address:str}/entries", summary="Entries of an account", description=examples.ENTRIES)
    async def entries(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        asked: NamedDependency[Asked],
        address: AddressPath,
        asset: AssetFilter = None,
        order: OrderBy = "newest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.EntryList]:
        """With the balance just after each."""
        page = Page.of_list("entries", asked.ledger, address, asset, order, limit=limit, cursor=cursor)
        after = page.after(order)
        snapshot = await handler.ask(
            questions.ENTRIES[order],
            asked._replace(cursor=page.cursor),
            address=_known(address),
            asset=asset,
            after_position=after.position,
            after_index=after.ordinal,
            limit=page.rows_max(),
        )
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        found = [row for row in snapshot.rows if row.position is not None]
        rows, next_cursor = page.cut(
            found, snapshot.stamp, lambda row: Key(position=row.position or 0, ordinal=row.entry_index)
        )
        return _positioned(
            answers.EntryList(
                data=[shaping.account_entry(row) for row in rows],
                next_cursor=next_cursor,
                **shaping.stamped(snapshot.stamp),
            )
        )

    @get("/transactions", summary="Transactions by position", description=examples.TRANSACTIONS)
    async def transactions(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        asked: NamedDependency[Asked],
        account: AccountFilter = None,
        reference: ReferenceFilter = None,
        order: OrderBy = "newest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.TransactionList]:
        """All, those of an account, the one with a reference, or both."""
        page = Page.of_list("transactions", asked.ledger, account, reference, order, limit=limit, cursor=cursor)
        if account is not None and not is_address(account):
            raise Rejection("invalid_request", detail="Not an address", path="account")
        by_order = questions.TRANSACTIONS
        if reference is not None:
            by_order = questions.REFERENCE_TRANSACTIONS
        elif account is not None:
            by_order = questions.ACCOUNT_TRANSACTIONS
        snapshot = await handler.ask(
            by_order[order],
            asked._replace(cursor=page.cursor),
            address=account,
            reference=reference,
            after_position=page.after(order).position,
            limit=page.rows_max(),
        )
        rows, next_cursor = page.cut(snapshot.rows, snapshot.stamp, lambda row: Key(position=row.position))
        return _positioned(
            answers.TransactionList(
                data=[shaping.transaction(row) for row in rows],
                next_cursor=next_cursor,
                **shaping.stamped(snapshot.stamp),
            )
        )

    @get("/transactions/{transaction:str}", summary="One transaction", description=examples.TRANSACTION)
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
        return _positioned(answers.TransactionAnswer(transaction=found, **shaping.stamped(snapshot.stamp)))

    @get("/trial-balance", summary="Trial balance", description=examples.TRIAL_BALANCE)
    async def trial_balance(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked]
    ) -> Response[answers.TrialBalanceAnswer]:
        """Debits and credits of all accounts by asset."""
        snapshot = await handler.ask(questions.TRIAL_BALANCE, asked)
        assets = shaping.trial_balance(snapshot.rows)
        return _positioned(answers.TrialBalanceAnswer(assets=assets, **shaping.stamped(snapshot.stamp)))


class Log(Controller):
    """One ledger's events, from the log itself."""

    path = "/v1/ledgers/{ledger:str}/events"
    tags = ("log",)
    dependencies = {"asked": Provide(auditor, sync_to_thread=False)}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/", summary="Events by position, tag and type", description=examples.EVENTS)
    async def events(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        asked: NamedDependency[Asked],
        from_position: FromPosition = 1,
        to_position: ToPosition = None,
        tag: TagFilter = None,
        type: TypeFilter = None,  # noqa: A002 - the parameter's name in the API
        order: OrderBy = "oldest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.EventList]:
        """The canonical lines, a page at a time."""
        page = Page.of_list(
            "events", asked.ledger, from_position, to_position, tag, type, order, limit=limit, cursor=cursor
        )
        snapshot = await handler.ask(
            (questions.EVENTS if tag is None else questions.TAGGED_EVENTS)[order],
            asked._replace(cursor=page.cursor),
            from_position=from_position,
            to_position=POSITION_MAX if to_position is None else to_position,
            tag=tag,
            type=type,
            after_position=page.after(order).position,
            limit=page.rows_max(),
        )
        rows, next_cursor = page.cut(snapshot.rows, snapshot.stamp, lambda row: Key(position=row.position))
        events = [shaping.event(asked.ledger or "", row) for row in rows]
        return _positioned(
            answers.EventList(data=events, next_cursor=next_cursor, as_of=shaping.as_of(snapshot.stamp), complete=True)
        )

    @get("/{position:str}", summary="One event", description=examples.EVENT)
    async def event(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked], position: PositionPath
    ) -> Response[answers.EventAnswer]:
        """By its position."""
        number = int(position) if position.isascii() and position.isdigit() and len(position) < 19 else 0
        snapshot = await handler.ask(
            questions.EVENTS["oldest"],
            asked,
            from_position=number,
            to_position=number,
            type=None,
            after_position=0,
            limit=1,
        )
        if not snapshot.rows:
            raise Rejection("event_not_found", position=number)
        event = shaping.event(asked.ledger or "", snapshot.rows[0])
        return _positioned(answers.EventAnswer(event=event, as_of=shaping.as_of(snapshot.stamp), complete=True))


ROUTES = (Ledgers, Books, Log)


def _positioned(answer: AnswerT) -> Response[AnswerT]:
    """The answer, and in a header the position that it is as of."""
    return Response(answer, headers={POSITION_HEADER: str(answer.as_of.position)})


def _known(address: str) -> str:
    """No account can have an address outside the grammar."""
    if not is_address(address):
        raise Rejection("account_not_found", account=address)
    return address
