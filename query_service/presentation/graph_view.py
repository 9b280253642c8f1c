"""One ledger at one position, as a GraphQL query reads it: whatever nodes of a level ask for is looked up together.

A view lives as long as one request. Its budget is shared by all of the request's views and bounds what they read in all.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from strawberry.dataloader import DataLoader

from query_service.application import search, shaping
from query_service.application.answers import Account, AccountEntry, Transaction
from query_service.application.graph_questions import ENTRIES_OF_MANY, NAMED_ACCOUNTS, NAMED_TRANSACTIONS
from query_service.application.pages import Key, Page
from query_service.application.query_handler import Asked, QueryHandler, Stamp
from query_service.application.questions import LISTED_BALANCES, EntryRow, ListedBalanceRow, Order
from query_service.presentation.parameters import both
from shared_kernel.errors import Rejection

ROWS_MAX = 10_000  # chosen: what one request may read in all; about 0.3 s of work
BATCH_MAX = 1_000  # chosen: bounds one statement

NodeT = TypeVar("NodeT")


class Budget:
    """What is left of the rows that a request may read."""

    def __init__(self) -> None:
        self._left = ROWS_MAX

    def spend(self, rows: int) -> None:
        """Rejection `invalid_request` where there would be more: taken before anything is read."""
        self._left -= rows
        if self._left < 0:
            raise Rejection(
                "invalid_request",
                path="$",
                detail=f"The query would read more than {ROWS_MAX} rows: ask for fewer at once",
            )


class Edges(NamedTuple, Generic[NodeT]):
    """Rows of a connection, each with the cursor after it. `goes_on`: where the next page begins; None: there is none."""

    rows: Sequence[tuple[NodeT, str]]
    goes_on: str | None


class EntriesKey(NamedTuple):
    """Which page of which account's entries."""

    address: str
    asset: str | None
    order: Order
    first: int
    after: str | None


class View:
    """What a request reads of one ledger. `position`: as of it."""

    def __init__(
        self, handler: QueryHandler, budget: Budget, *, ledger: str, position: int, named: tuple[str | int | None, ...]
    ) -> None:
        self.budget = budget
        self._handler = handler
        self._asked = Asked(ledger=ledger, at_position=position)
        # What the client itself named: pages of one list agree in it, whatever position its first page was as of.
        self._named = named
        self.accounts = DataLoader(self._load_accounts, max_batch_size=BATCH_MAX)
        self.balances = DataLoader(self._load_balances, max_batch_size=BATCH_MAX)
        self.transactions = DataLoader(self._load_transactions, max_batch_size=BATCH_MAX)
        self.entries = DataLoader(self._load_entries, max_batch_size=BATCH_MAX)

    async def accounts_like(
        self, address: str | None, status: str | None, first: int, after: str | None
    ) -> Edges[Account]:
        """Accounts by address."""
        self.budget.spend(first)
        tree = both(None, search.ACCOUNT_FIELDS, address=address, status=status)
        page = Page.of_list("graph-accounts", *self._named, address, status, limit=first, cursor=after)
        question, looked_up = search.accounts(tree)
        snapshot = await self._handler.ask(
            question,
            self._asked._replace(cursor=page.cursor),
            after=page.after_text(),
            limit=page.rows_max(),
            **looked_up,
        )
        rows, going_on = page.found(
            snapshot.rows, snapshot.stamp, lambda row: Key(text=row.walked_to), walk_max=search.WALK_MAX
        )
        edges = [(shaping.account(row), page.going_on(Key(text=row.walked_to), snapshot.stamp)) for row in rows]
        return Edges(edges, going_on)

    async def transactions_like(
        self,
        *,
        account: str | None,
        reference: str | None,
        status: str | None,
        order: Order,
        first: int,
        after: str | None,
    ) -> Edges[Transaction]:
        """Transactions by position."""
        self.budget.spend(first)
        tree = both(None, search.TRANSACTION_FIELDS, account=account, reference=reference, status=status)
        named = ("graph-transactions", *self._named, account, reference, status, order)
        page = Page.of_list(*named, limit=first, cursor=after)
        start = page.after(order)
        question, looked_up = search.transactions(tree, sort="position", order=order, after=start, is_live=False)
        snapshot = await self._handler.ask(
            question,
            self._asked._replace(cursor=page.cursor),
            limit=page.rows_max(),
            **looked_up,
        )
        rows, going_on = page.found(
            snapshot.rows, snapshot.stamp, lambda row: Key(position=row.walked_to), walk_max=search.WALK_MAX
        )
        edges = [(shaping.transaction(row), page.going_on(Key(position=row.walked_to), snapshot.stamp)) for row in rows]
        return Edges(edges, going_on)

    async def _load_accounts(self, addresses: list[str]) -> list[Account | None]:
        self.budget.spend(len(addresses))
        snapshot = await self._handler.ask(NAMED_ACCOUNTS, self._asked, addresses=addresses)
        found = {row.address: shaping.account(row) for row in snapshot.rows}
        return [found.get(address) for address in addresses]

    async def _load_balances(self, addresses: list[str]) -> list[Sequence[ListedBalanceRow]]:
        self.budget.spend(len(addresses))
        snapshot = await self._handler.ask(LISTED_BALANCES, self._asked, addresses=addresses)
        found: dict[str, list[ListedBalanceRow]] = defaultdict(list)
        for row in snapshot.rows:
            found[row.address].append(row)
        return [found[address] for address in addresses]

    async def _load_transactions(self, ids: list[str]) -> list[Transaction | None]:
        self.budget.spend(len(ids))
        snapshot = await self._handler.ask(NAMED_TRANSACTIONS, self._asked, transactions=ids)
        found = {row.transaction_id: shaping.transaction(row) for row in snapshot.rows}
        return [found.get(transaction) for transaction in ids]

    async def _load_entries(self, keys: list[EntriesKey]) -> list[Edges[AccountEntry]]:
        groups: dict[EntriesKey, list[EntriesKey]] = defaultdict(list)
        for key in keys:
            groups[key._replace(address="")].append(key)
        found: dict[EntriesKey, Edges[AccountEntry]] = {}
        for of, group in groups.items():
            found |= await self._entries_of(of, group)
        return [found[key] for key in keys]

    async def _entries_of(self, of: EntriesKey, keys: Sequence[EntriesKey]) -> dict[EntriesKey, Edges[AccountEntry]]:
        """The same page of many accounts; a later page is one account's own, for its cursor is."""
        self.budget.spend(of.first * len(keys))
        pages = {key: self._entries_page(key) for key in keys}
        some = pages[keys[0]]
        start = some.after(of.order)
        snapshot = await self._handler.ask(
            ENTRIES_OF_MANY[of.order],
            self._asked._replace(cursor=some.cursor),
            addresses=[key.address for key in keys],
            asset=of.asset,
            after_position=start.position,
            after_index=start.ordinal,
            limit=some.rows_max(),
        )
        rows: dict[str, list[EntryRow]] = defaultdict(list)
        for row in snapshot.rows:
            rows[row.address].append(row)
        return {key: _entry_edges(pages[key], rows[key.address], snapshot.stamp) for key in keys}

    def _entries_page(self, key: EntriesKey) -> Page:
        named = ("graph-entries", *self._named, key.address, key.asset, key.order)
        return Page.of_list(*named, limit=key.first, cursor=key.after)


def _entry_edges(page: Page, found: Sequence[EntryRow], stamp: Stamp) -> Edges[AccountEntry]:
    def key(row: EntryRow) -> Key:
        return Key(position=row.position or 0, ordinal=row.entry_index)

    rows, going_on = page.cut(found, stamp, key)
    return Edges([(shaping.account_entry(row), page.going_on(key(row), stamp)) for row in rows], going_on)
