"""The routes of ledgers and accounts: each asks one question and shapes its rows. What is answered stands in application/answers.py.

A description ends with an exact example (examples.py); OpenAPI is made from these texts.
"""

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide

from query_service.application import answers, questions, search, shaping
from query_service.application.pages import LIMIT_DEFAULT, Key, Page
from query_service.application.query_handler import Asked, NotModified, QueryHandler
from query_service.application.reports import balances_of, fixed
from query_service.presentation import examples
from query_service.presentation.parameters import (
    AccountStatusFilter,
    AddressPath,
    AddressPattern,
    AssetFilter,
    CursorText,
    FilterText,
    Limit,
    OrderBy,
    Reading,
    WithBalances,
    both,
    dated_reader,
    instant,
    known_address,
    reader,
    reader_of_all,
)
from query_service.presentation.responses import (
    POSITIONED,
    VERSIONED,
    NoneModified,
    answered,
    answered_of_all,
    on_none_modified,
    on_not_modified,
    version_of_all,
)
from shared_kernel.errors import Rejection
from shared_kernel.words import format_time


class Ledgers(Controller):
    """All ledgers that the token covers."""

    path = "/v1/ledgers"
    tags = ("ledgers",)
    dependencies = {"asked": Provide(reader_of_all, sync_to_thread=False)}  # noqa: RUF012
    exception_handlers = {NoneModified: on_none_modified}  # noqa: RUF012
    response_headers = VERSIONED

    @get("/", summary="Ledgers by name", description=examples.LEDGERS)
    async def ledgers(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        request: Reading,
        asked: NamedDependency[Asked],
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.LedgerList]:
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
        answer = answers.LedgerList(
            data=ledgers, next_cursor=next_cursor, as_of=None, complete=all(ledger.complete for ledger in ledgers)
        )
        stamps = [snapshot.stamp._replace(position=row.position, standstill=shaping.standstill(row)) for row in rows]
        versions = [f"{row.ledger} {asked.version(stamp)}" for row, stamp in zip(rows, stamps, strict=True)]
        return answered_of_all(answer, version_of_all((*versions, next_cursor or "")), asked)


class Books(Controller):
    """One ledger and its accounts, from the read model."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("books",)
    dependencies = {  # noqa: RUF012
        "asked": Provide(reader, sync_to_thread=False),
        "dated": Provide(dated_reader, sync_to_thread=False),
    }
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/", summary="One ledger", description=examples.LEDGER)
    async def ledger(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked]
    ) -> Response[answers.LedgerAnswer]:
        """Its terms and how far its read model is."""
        snapshot = await handler.ask(questions.LEDGER, asked)
        if not snapshot.rows:
            raise Rejection("ledger_not_found", ledger=asked.ledger)
        ledger = shaping.ledger(snapshot.rows[0], snapshot.stamp)
        return answered(answers.LedgerAnswer(ledger=ledger, **shaping.stamped(snapshot.stamp)), snapshot.stamp, asked)

    @get("/accounts", summary="Accounts by address", description=examples.ACCOUNTS)
    async def accounts(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        address: AddressPattern = None,
        status: AccountStatusFilter = None,
        filter: FilterText = None,  # noqa: A002 - the parameter's name in the API
        balances: WithBalances = False,
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.AccountList]:
        """Those that fit pattern and filter, on request with their balances."""
        if dated.effective_at is not None and not balances:
            raise Rejection("invalid_request", detail="Only balances have it: add balances=true", path="effective_at")
        tree = both(filter, search.ACCOUNT_FIELDS, address=address, status=status)
        page = Page.of_list("accounts", *dated.named(), address, status, filter, balances, limit=limit, cursor=cursor)
        question, looked_up = search.accounts(tree)
        asked = dated._replace(cursor=page.cursor)
        of_both = None
        if asked.effective_at is not None:  # the list and its balances are of two read models: as of what both have
            of_both = await handler.stamp(questions.EFFECTIVE_LISTED_BALANCES, asked)
            if asked.names_versions() and asked.has(asked.version(of_both)):
                raise NotModified(of_both, asked)
            asked = fixed(asked, of_both)
        snapshot = await handler.ask(
            question,
            asked,
            after=page.after_text(),
            limit=page.rows_max(),
            **looked_up,
        )
        stamp = of_both or snapshot.stamp
        rows, next_cursor = page.found(
            snapshot.rows, stamp, lambda row: Key(text=row.walked_to), walk_max=search.WALK_MAX
        )
        by_address = await balances_of(handler, dated, stamp, [row.address for row in rows]) if balances else None
        answer = answers.AccountList(
            data=[shaping.account(row, by_address) for row in rows],
            next_cursor=next_cursor,
            **shaping.stamped(stamp),
        )
        return answered(answer, stamp, dated)

    @get("/accounts/{address:str}", summary="One account", description=examples.ACCOUNT)
    async def account(
        self, *, handler: NamedDependency[QueryHandler], asked: NamedDependency[Asked], address: AddressPath
    ) -> Response[answers.AccountAnswer]:
        """Its terms."""
        snapshot = await handler.ask(questions.ACCOUNT, asked, address=known_address(address))
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        account = shaping.account(snapshot.rows[0])
        return answered(
            answers.AccountAnswer(account=account, **shaping.stamped(snapshot.stamp)), snapshot.stamp, asked
        )

    @get("/accounts/{address:str}/balances", summary="Balances of an account", description=examples.BALANCES)
    async def balances(
        self, *, handler: NamedDependency[QueryHandler], dated: NamedDependency[Asked], address: AddressPath
    ) -> Response[answers.BalancesAnswer]:
        """By asset."""
        question = questions.BALANCES if dated.effective_at is None else questions.EFFECTIVE_BALANCES
        snapshot = await handler.ask(question, dated, address=known_address(address))
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        answer = answers.BalancesAnswer(
            account=address, balances=shaping.balances(snapshot.rows), **shaping.stamped(snapshot.stamp)
        )
        return answered(answer, snapshot.stamp, dated)

    @get("/accounts/{address:str}/entries", summary="Entries of an account", description=examples.ENTRIES)
    async def entries(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        address: AddressPath,
        asset: AssetFilter = None,
        order: OrderBy = "newest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[answers.EntryList]:
        """With the balance just after each."""
        page = Page.of_list("entries", *dated.named(), address, asset, order, limit=limit, cursor=cursor)
        after = page.after(order)
        is_by_position = dated.effective_at is None
        snapshot = await handler.ask(
            (questions.ENTRIES if is_by_position else questions.EFFECTIVE_ENTRIES)[order],
            dated._replace(cursor=page.cursor),
            address=known_address(address),
            asset=asset,
            after_time=instant(after.text),
            after_position=after.position,
            after_index=after.ordinal,
            limit=page.rows_max(),
        )
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        found = [row for row in snapshot.rows if row.position is not None]
        rows, next_cursor = page.cut(
            found,
            snapshot.stamp,
            lambda row: Key(
                text="" if is_by_position else format_time(row.effective_at),
                position=row.position or 0,
                ordinal=row.entry_index,
            ),
        )
        answer = answers.EntryList(
            data=[shaping.account_entry(row) for row in rows],
            next_cursor=next_cursor,
            **shaping.stamped(snapshot.stamp),
        )
        return answered(answer, snapshot.stamp, dated)
