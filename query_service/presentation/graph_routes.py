"""POST /v1/graphql: the read side as a graph. One query, bounded in length, depth, aliases and rows; no page, no GET, no sockets.

Faults are told as the problem documents of the other routes are: `extensions` has their code and fields.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import strawberry
from cross_web import HTTPException
from graphql import GraphQLError, OperationDefinitionNode
from litestar import Request, Response, post
from litestar.di import NamedDependency, Provide
from litestar.status_codes import HTTP_200_OK
from strawberry.extensions import MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter, SchemaExtension
from strawberry.http import GraphQLRequestData
from strawberry.litestar.controller import GraphQLController
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext, ExecutionResult, Info

from query_service.application import answers, questions, shaping
from query_service.application.pages import Key, Page
from query_service.application.query_handler import Asked, QueryHandler
from query_service.presentation import examples
from query_service.presentation.graph_types import (
    FIRST_DEFAULT,
    SCALARS,
    Account,
    AccountStatus,
    After,
    AsOf,
    Connection,
    First,
    Incomplete,
    Order,
    Position,
    Time,
    Transaction,
    TransactionStatus,
    account_node,
    connection,
    page_size,
    transaction_named,
    transaction_node,
)
from query_service.presentation.graph_view import Budget, Edges, View
from query_service.presentation.parameters import time_of
from shared_kernel import json_text
from shared_kernel.errors import DaybookError, Rejection
from shared_kernel.http_errors import log_error
from shared_kernel.problems import problem
from shared_kernel.security import Principal

PATH: Final = "/v1/graphql"
DEPTH_MAX: Final = 14  # chosen: from a ledger through its accounts, their entries and transactions to balances
ALIASES_MAX: Final = 30
TOKENS_MAX: Final = 2_000


class GraphRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """A GraphQL request over HTTP."""

    query: str | None = None
    operation_name: str | None = None
    variables: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None


_BODY: Final = msgspec.json.Decoder(GraphRequest)
_NUL: Final = re.compile(r"\\u(0000|\{0+\})")


class GraphContext(msgspec.Struct, kw_only=True):
    """What a request brings to its resolvers. `operation_name`: which of its document's operations it asks for."""

    handler: QueryHandler
    principal: Principal
    budget: Budget
    operation_name: str | None = None


GraphInfo = Info[GraphContext, None]


def _context(request: Request[Principal, Any, Any], handler: NamedDependency[QueryHandler]) -> GraphContext:
    return GraphContext(handler=handler, principal=request.user, budget=Budget())


@strawberry.type(description="A ledger, as of one position: all that is asked of it is")
class Ledger:
    """As in answers.Ledger."""

    view: strawberry.Private[View]
    ledger: str
    status: str
    accounts_kind: str
    time_zone: str
    opened_at: Time
    as_of: AsOf
    complete: bool
    incomplete: Incomplete | None

    @strawberry.field(description="One account; null: there is none")
    async def account(self, address: str) -> Account | None:
        """Looked up with others that are asked for beside it."""
        found = await self.view.accounts.load(address)
        return None if found is None else account_node(found, self.view)

    @strawberry.field(description="Accounts by address; `address` is a pattern")
    async def accounts(
        self,
        address: str | None = None,
        status: AccountStatus | None = None,
        first: First = FIRST_DEFAULT,
        after: After = None,
    ) -> Connection[Account]:
        """All, or those that fit."""
        wanted = None if status is None else status.value
        found = await self.view.accounts_like(address, wanted, page_size(first), after)
        return connection(found, [account_node(row, self.view) for row, _ in found.rows])

    @strawberry.field(description="One transaction; null: there is none")
    async def transaction(self, id: strawberry.ID) -> Transaction | None:  # noqa: A002 - its name in the schema
        """Looked up with others that are asked for beside it."""
        return await transaction_named(self.view, id)

    @strawberry.field(description="Transactions by position; `account` is a pattern")
    async def transactions(
        self,
        *,
        account: str | None = None,
        reference: str | None = None,
        status: TransactionStatus | None = None,
        order: Order = Order.NEWEST,
        first: First = FIRST_DEFAULT,
        after: After = None,
    ) -> Connection[Transaction]:
        """All, or those that fit."""
        found = await self.view.transactions_like(
            account=account,
            reference=reference,
            status=None if status is None else status.value,
            order=order.value,
            first=page_size(first),
            after=after,
        )
        return connection(found, [transaction_node(row, self.view) for row, _ in found.rows])


@strawberry.type
class Query:
    """Where every query begins."""

    @strawberry.field(description="One ledger; null: there is none that the token covers")
    async def ledger(
        self,
        info: GraphInfo,
        name: str,
        *,
        at_least: Annotated[
            Position | None, strawberry.argument(description="What a command answered with: the answer knows it")
        ] = None,
        as_of_position: Annotated[
            Position | None, strawberry.argument(description="As the books were just after this event")
        ] = None,
        as_of: Annotated[Time | None, strawberry.argument(description="As the books were known at this time")] = None,
    ) -> Ledger | None:
        """As of the newest position, or the one asked for."""
        context = info.context
        context.principal.require_on("reader", name)
        for path, position in (("atLeast", at_least), ("asOfPosition", as_of_position)):
            if position is not None and not 1 <= position < 2**63:
                raise Rejection("invalid_request", path=path, detail="Not a position: 1, 2, 3 …")
        asked = Asked(ledger=name, position=at_least, at_position=as_of_position, at_time=time_of("asOf", as_of))
        context.budget.spend(1)
        snapshot = await context.handler.ask(questions.LEDGER, asked)
        row = snapshot.rows[0] if snapshot.rows else None
        return None if row is None else _ledger(context, shaping.ledger(row, snapshot.stamp), asked)

    @strawberry.field(description="The ledgers that the token covers, by name; each as of its own position")
    async def ledgers(self, info: GraphInfo, first: First = FIRST_DEFAULT, after: After = None) -> Connection[Ledger]:
        """By name."""
        context = info.context
        context.principal.require("reader")
        context.budget.spend(page_size(first))
        page = Page.of_list("graph-ledgers", limit=first, cursor=after)
        snapshot = await context.handler.ask(
            questions.LEDGERS,
            Asked(ledger=None),
            after=page.after_text(),
            patterns=[fits.regex() for fits in context.principal.ledgers],
            limit=page.rows_max(),
        )
        rows, goes_on = page.cut(snapshot.rows, snapshot.stamp, lambda row: Key(text=row.ledger))
        edges = [(row, page.going_on(Key(text=row.ledger), snapshot.stamp)) for row in rows]
        nodes = [_ledger(context, shaping.ledger(row), Asked(ledger=row.ledger)) for row in rows]
        return connection(Edges(edges, goes_on), nodes)


def _ledger(context: GraphContext, read: answers.Ledger, asked: Asked) -> Ledger:
    view = View(context.handler, context.budget, ledger=read.ledger, position=read.as_of.position, named=asked.named())
    return Ledger(
        view=view,
        ledger=read.ledger,
        status=read.status,
        accounts_kind=read.accounts,
        time_zone=read.time_zone,
        opened_at=Time(read.opened_at),
        as_of=AsOf(position=Position(read.as_of.position), recorded_at=Time(read.as_of.recorded_at)),
        complete=read.complete,
        incomplete=None if read.incomplete is None else _incomplete(read.incomplete),
    )


def _incomplete(read: answers.Incomplete) -> Incomplete:
    return Incomplete(state=read.state, since=Time(read.since), position=Position(read.position))


class NamedOperation(SchemaExtension):
    """Of several operations the request names the one that it asks for (GraphQL §6.1): Strawberry would take the first."""

    def on_validate(self) -> Iterator[None]:
        """Before the rules of the document are looked at, which a fault found here makes needless."""
        asked = self.execution_context
        document = asked.graphql_document
        if document is not None and asked.context.operation_name is None:
            operations = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
            if len(operations) > 1:
                asked.pre_execution_errors = [
                    GraphQLError("Several operations: say which by `operationName`", operations)
                ]
        yield


class Problems(SchemaExtension):
    """Tells faults as problem documents do; of what is our own fault nothing but that it is."""

    def on_operation(self) -> Iterator[None]:
        """After the operation its errors are ours."""
        yield
        result = self.execution_context.result
        if result is not None and result.errors:
            result.errors = [_told(error) for error in result.errors]


def _told(error: GraphQLError) -> GraphQLError:
    original = error.original_error
    if original is None:  # the query itself: syntax, unknown fields, limits
        return GraphQLError(error.message, error.nodes, path=error.path, extensions={"code": "invalid_request"})
    fault = original if isinstance(original, DaybookError) else DaybookError("internal_error")
    _, document = problem(fault)
    message = str(document.pop("detail", document["title"]))
    extensions = {name: value for name, value in document.items() if name not in ("type", "title")}
    return GraphQLError(message, error.nodes, path=error.path, extensions=extensions)


class GraphSchema(strawberry.Schema):
    """Faults of resolvers are logged as those of routes are; a client's own are none of ours."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Called with the errors as they were raised."""
        for error in errors:
            if error.original_error is not None:
                log_error(error.original_error)


SCHEMA: Final = GraphSchema(
    query=Query,
    config=StrawberryConfig(scalar_map=SCALARS),
    extensions=[
        lambda: QueryDepthLimiter(max_depth=DEPTH_MAX),
        lambda: MaxAliasesLimiter(max_alias_count=ALIASES_MAX),
        lambda: MaxTokensLimiter(max_token_count=TOKENS_MAX),
        NamedOperation,
        Problems,
    ],
)


class Graph(GraphQLController[GraphContext, None]):
    """The endpoint, for POST alone. Strawberry's own handlers leave their dependencies unmarked, which Litestar warns of."""

    path = PATH
    schema = SCHEMA
    graphql_ide = None  # a page from a CDN
    allow_queries_via_get = False
    multipart_uploads_enabled = False
    tags = ("graph",)
    dependencies = {"context": Provide(_context, sync_to_thread=False)}  # type: ignore[misc]  # noqa: RUF012
    handle_http_get = None  # type: ignore[assignment]
    websocket_endpoint = None  # type: ignore[assignment]

    @post(status_code=HTTP_200_OK, summary="A query of the graph", description=examples.GRAPH)
    async def handle_http_post(
        self, request: Request[Principal, Any, Any], context: NamedDependency[GraphContext]
    ) -> Response[Any]:
        """The answer to a query, its faults in it; Rejection `invalid_request` where it is none."""
        try:
            answer: Response[Any] = await self.run(request, context=context, root_value=None)
        except HTTPException as error:
            raise json_text.invalid("$", error.reason) from None
        return answer

    async def execute_single(  # noqa: PLR0917 - as Strawberry calls it
        self,
        request: Any,
        request_adapter: Any,
        sub_response: Response[Any],
        context: GraphContext,
        root_value: None,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """The result; the context knows which operation was named."""
        context.operation_name = request_data.operation_name
        return await super().execute_single(request, request_adapter, sub_response, context, root_value, request_data)

    async def get_sub_response(self, request: Any) -> Response[Any]:
        """What an answer's head begins with: nothing."""
        return Response({})

    def decode_json(self, data: str | bytes) -> Any:
        """The body as strictly read as any other; Rejection `invalid_request` with its path."""
        body = json_text.decode(data.encode() if isinstance(data, str) else data, _BODY)
        if body.query is not None and _NUL.search(body.query):
            raise json_text.invalid("$.query", "A text holds the character NUL, which nothing here has.")
        return msgspec.to_builtins(body)
