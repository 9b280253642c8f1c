"""The GraphQL schema's types: what the other routes answer, as a graph over one ledger at one position.

Every field below a ledger is as of the ledger's `asOf`. Amounts are decimal digits in a string, since GraphQL's integers have 32
bits; positions are integers. Nothing here asks the books: a view does, for many nodes at once.
"""

from enum import Enum
from typing import Annotated, Any, Generic, NewType, TypeVar

import strawberry
from strawberry.scalars import JSON

from query_service.application import answers, shaping
from query_service.presentation.graph_view import Edges, EntriesKey, View
from shared_kernel.errors import Rejection

FIRST_MAX = 100  # chosen: lists stand in lists here
FIRST_DEFAULT = 20

NodeT = TypeVar("NodeT")

Amount = NewType("Amount", str)
Position = NewType("Position", int)
Time = NewType("Time", str)
SCALARS: dict[object, Any] = {
    Amount: strawberry.scalar(name="Amount", description="Smallest units of the asset, decimal digits", serialize=str),
    Position: strawberry.scalar(
        name="Position", description="The number of an event in its ledger's log", serialize=int, parse_value=int
    ),
    Time: strawberry.scalar(name="Time", description="RFC 3339, UTC, microseconds", serialize=str, parse_value=str),
}

First = Annotated[int, strawberry.argument(description=f"How many at most: 1 to {FIRST_MAX}")]
After = Annotated[str | None, strawberry.argument(description="`endCursor` of the page before, of the same list")]


@strawberry.enum(description="By position")
class Order(Enum):
    """How a list runs."""

    NEWEST = "newest"
    OLDEST = "oldest"


@strawberry.enum(description="Of an account, spelled as in every answer")
class AccountStatus(Enum):
    """As in answers.Account."""

    open = "open"
    frozen = "frozen"
    closed = "closed"


@strawberry.enum(description="Of a transaction, spelled as in every answer")
class TransactionStatus(Enum):
    """As in answers.Transaction."""

    posted = "posted"
    pending = "pending"
    voided = "voided"
    expired = "expired"
    scheduled = "scheduled"
    refused = "refused"
    cancelled = "cancelled"


@strawberry.type(description="Where a page of a list ends")
class PageInfo:
    """As in Relay's connections."""

    has_next_page: bool
    end_cursor: str | None


@strawberry.type(description="A node of a list and its cursor")
class Edge(Generic[NodeT]):
    """As in Relay's connections."""

    node: NodeT
    cursor: str


@strawberry.type(description="A page of a list")
class Connection(Generic[NodeT]):
    """As in Relay's connections."""

    edges: list[Edge[NodeT]]
    page_info: PageInfo


@strawberry.type(description="The last event that the answer knows")
class AsOf:
    """As in every answer."""

    position: Position
    recorded_at: Time


@strawberry.type(description="What the read model lacks of a ledger: `position` is the first event that is missing")
class Incomplete:
    """As in answers.Incomplete."""

    state: str
    since: Time
    position: Position


@strawberry.type(description="The balances of an account in one asset, normal side positive, and the raw totals")
class Balance:
    """As in answers.Balance."""

    asset: str
    posted: Amount
    pending: Amount
    available: Amount
    posted_debits: Amount
    posted_credits: Amount
    pending_debits: Amount
    pending_credits: Amount


@strawberry.type(description="One debit or credit of one account")
class Entry:
    """As in answers.Entry."""

    view: strawberry.Private[View]
    address: str
    direction: str
    amount: Amount
    asset: str

    @strawberry.field(description="The account that it is of")
    async def account(self) -> "Account":
        """Looked up with those of all entries beside it."""
        found = await self.view.accounts.load(self.address)
        if found is None:
            raise Rejection("account_not_found", account=self.address)
        return account_node(found, self.view)


@strawberry.type(description="A transaction: for each asset debits equal credits")
class Transaction:
    """As in answers.Transaction."""

    view: strawberry.Private[View]
    read: strawberry.Private[answers.Transaction]
    id: strawberry.ID
    status: TransactionStatus
    reference: str | None
    description: str | None
    effective_at: Time
    expires_at: Time | None
    recorded_at: Time
    position: Position
    metadata: JSON
    forced: bool
    actor: str
    correlation_id: str

    @strawberry.field(description="What was posted, or is held or scheduled")
    def entries(self) -> list[Entry]:
        """In their order."""
        return [
            Entry(
                view=self.view,
                address=entry.account,
                direction=entry.direction,
                amount=_amount(entry.amount),
                asset=entry.asset,
            )
            for entry in self.read.entries
        ]

    @strawberry.field(description="The transaction whose entries these turn round")
    async def reverses(self) -> "Transaction | None":
        """Looked up with those of all transactions beside it."""
        return None if self.read.reverses is None else await transaction_named(self.view, self.read.reverses)

    @strawberry.field(description="The transactions that turn these entries round")
    async def reversed_by(self) -> list["Transaction"]:
        """As above."""
        found = await self.view.transactions.load_many(self.read.reversed_by)
        return [transaction_node(transaction, self.view) for transaction in found if transaction is not None]


@strawberry.type(description="What moved on an account, and its balance just after it")
class AccountEntry:
    """As in answers.AccountEntry."""

    view: strawberry.Private[View]
    transaction_id: strawberry.ID
    position: Position
    entry_index: int
    kind: str
    direction: str
    amount: Amount
    asset: str
    effective_at: Time
    recorded_at: Time
    balance: Balance

    @strawberry.field(description="The transaction that it belongs to")
    async def transaction(self) -> Transaction | None:
        """Looked up with those of all entries beside it."""
        return await transaction_named(self.view, self.transaction_id)


@strawberry.type(description="An account")
class Account:
    """As in answers.Account."""

    view: strawberry.Private[View]
    read: strawberry.Private[answers.Account]
    address: str
    normal_balance: str
    status: AccountStatus
    frozen: str | None
    limits: JSON
    metadata: JSON
    opened_at: Time
    position: Position

    @strawberry.field(description="By asset; one without entries is absent")
    async def balances(self) -> list[Balance]:
        """Looked up with those of all accounts beside it."""
        rows = await self.view.balances.load(self.address)
        return [
            balance_node(row.asset, shaping.balance(self.read.normal_balance, row))
            for row in sorted(rows, key=lambda row: row.asset)
        ]

    @strawberry.field(description="What moved on it")
    async def entries(
        self, asset: str | None = None, order: Order = Order.NEWEST, first: First = FIRST_DEFAULT, after: After = None
    ) -> Connection[AccountEntry]:
        """Looked up with those of all accounts beside it."""
        key = EntriesKey(self.address, asset, order.value, page_size(first), after)
        found = await self.view.entries.load(key)
        return connection(found, [entry_node(row, self.view) for row, _ in found.rows])


def account_node(read: answers.Account, view: View) -> Account:
    """The account in the graph."""
    return Account(
        view=view,
        read=read,
        address=read.address,
        normal_balance=read.normal_balance,
        status=AccountStatus(read.status),
        frozen=read.frozen,
        limits=JSON({asset: _limit(limit) for asset, limit in read.limits.items()}),
        metadata=JSON(read.metadata),
        opened_at=Time(read.opened_at),
        position=Position(read.position),
    )


def transaction_node(read: answers.Transaction, view: View) -> Transaction:
    """The transaction in the graph."""
    return Transaction(
        view=view,
        read=read,
        id=strawberry.ID(read.id),
        status=TransactionStatus(read.status),
        reference=read.reference,
        description=read.description,
        effective_at=Time(read.effective_at),
        expires_at=None if read.expires_at is None else Time(read.expires_at),
        recorded_at=Time(read.recorded_at),
        position=Position(read.position),
        metadata=JSON(read.metadata),
        forced=read.forced,
        actor=read.actor,
        correlation_id=read.correlation_id,
    )


async def transaction_named(view: View, name: str) -> Transaction | None:
    """The transaction with this id, as of the view's position."""
    found = await view.transactions.load(name)
    return None if found is None else transaction_node(found, view)


def entry_node(read: answers.AccountEntry, view: View) -> AccountEntry:
    """An account's entry in the graph."""
    return AccountEntry(
        view=view,
        transaction_id=strawberry.ID(read.transaction),
        position=Position(read.position),
        entry_index=read.entry_index,
        kind=read.kind,
        direction=read.direction,
        amount=_amount(read.amount),
        asset=read.asset,
        effective_at=Time(read.effective_at),
        recorded_at=Time(read.recorded_at),
        balance=balance_node(read.asset, read.balance),
    )


def balance_node(asset: str, read: answers.Balance) -> Balance:
    """A balance in the graph; as of a position nothing of it is unknown."""
    return Balance(
        asset=asset,
        posted=_amount(read.posted),
        pending=_amount(read.pending),
        available=_amount(read.available),
        posted_debits=_amount(read.posted_debits),
        posted_credits=_amount(read.posted_credits),
        pending_debits=_amount(read.pending_debits),
        pending_credits=_amount(read.pending_credits),
    )


def connection(found: Edges[Any], nodes: list[NodeT]) -> Connection[NodeT]:
    """The nodes with the cursors of their rows."""
    cursors = [cursor for _, cursor in found.rows]
    last = cursors[-1] if cursors else None
    return Connection(
        edges=[Edge(node=node, cursor=cursor) for node, cursor in zip(nodes, cursors, strict=True)],
        # Where a walk was broken off among rows that do not fit, the list goes on after them.
        page_info=PageInfo(has_next_page=found.goes_on is not None, end_cursor=found.goes_on or last),
    )


def page_size(first: int) -> int:
    """Rejection `invalid_request` outside of its bounds."""
    if not 1 <= first <= FIRST_MAX:
        raise Rejection("invalid_request", path="first", detail=f"1 to {FIRST_MAX}")
    return first


def _amount(units: int | None) -> Amount:
    return Amount(str(units or 0))


def _limit(limit: answers.Limit) -> dict[str, str]:
    bounds = {"minimum": limit.minimum, "maximum": limit.maximum}
    return {name: str(bound) for name, bound in bounds.items() if bound is not None}
