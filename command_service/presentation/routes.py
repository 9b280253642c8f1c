"""The routes of the write side, for Litestar and its OpenAPI document, and the direct way for some of them.

What a route does stands in `commands.py`. Request bodies are read there too (strictly, with the JSON path of what is wrong),
so Litestar is told of their schemas by `openapi.py` instead of by the signatures.
"""

import re
from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import Parameter
from litestar.types import ASGIApp, Receive, Send

from command_service.presentation.answers import AccountAnswer, Answer, BatchAnswer, LedgerAnswer, TransactionAnswer
from command_service.presentation.commands import Commands
from shared_kernel.json_text import invalid
from shared_kernel.security import Principal

LEDGER_PATH = "/v1/ledgers/{ledger}"
TRANSACTIONS = LEDGER_PATH + "/transactions"
BATCHES = LEDGER_PATH + "/batches"
COMMAND = LEDGER_PATH + "/commands/{key}"

CommandsGiven = NamedDependency[Commands]
Asking = Request[Principal, object, State]
LedgerPath = Annotated[str, Parameter(description="A ledger that the token covers")]
KeyPath = Annotated[str, Parameter(description="The idempotency key of a command of the caller's own")]
MADE = "Done, for good; or done before under the same key, then with `Idempotent-Replay: true`"


class Ledgers(Controller):
    """Opening a ledger."""

    path = "/v1/ledgers"
    tags = ("ledgers",)

    @post("/", summary="Open a ledger", responses={201: ResponseSpec(LedgerAnswer, description=MADE)})
    async def open_ledger(self, commands: CommandsGiven, request: Asking) -> Response[bytes]:
        """Role `writer`, with the ledger in the token's patterns. `accounts`: `on-first-use` (an account is opened by the first
        transaction that names it, under the first fitting pattern of `defaults`) or `explicit`.
        """
        return _response(await commands.open_ledger(request.scope))


class Books(Controller):
    """Commands to one ledger."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("commands",)

    @post("/accounts", summary="Open an account", responses={201: ResponseSpec(AccountAnswer, description=MADE)})
    async def open_account(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Under terms of its own: `normal_balance` (credit unless said otherwise) and limits for each asset."""
        return _response(await commands.open_account(request.scope, ledger))

    @post(
        "/transactions",
        summary="Post a transaction",
        responses={201: ResponseSpec(TransactionAnswer, description=MADE)},
    )
    async def post_transaction(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Two or more entries; for each asset debits equal credits. What the rules turn down is a 422, is
        recorded, and is answered the same when repeated.
        """
        return _response(await commands.post_transaction(request.scope, ledger))

    @post(
        "/batches",
        summary="Send up to 1,000 commands",
        status_code=200,
        responses={200: ResponseSpec(BatchAnswer, description="One result a command, in their order")},
    )
    async def post_batch(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Commands are decided in their order, each with its own key and its own result: `status` and `body` as
        it would be answered alone, a malformed one its own 400. Element i without a key gets `<Idempotency-Key>/<i>`.
        """
        return _response(await commands.post_batch(request.scope, ledger))

    @get(
        "/commands/{key:path}",
        summary="What became of a command",
        status_code=201,
        responses={
            201: ResponseSpec(TransactionAnswer, description="The recorded answer, status and body as they were")
        },
    )
    async def command(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, key: KeyPath
    ) -> Response[bytes]:
        """Role `writer`, for the caller's own commands. 404 `command_not_found` with the head looked at means "not in the log
        yet", never "will not be": repeat the command with the same key, never with a new one.
        """
        return _response(await commands.find(request.scope, ledger))


ROUTES = (Ledgers, Books)


class DirectRoutes:
    """An ASGI application that answers three routes itself and leaves all else to the Litestar in `app`.

    The two hot ones, because Litestar's routing, signatures and responses cost as much as the rest of a transaction's way
    through this layer (docs/adr/0008). The look-up by key, because Litestar tidies the slashes that a key may have.
    Everything that the edge does for a request, it does for these too.
    """

    def __init__(self, app: ASGIApp, commands: Commands) -> None:
        self.app = app
        self._routes = {
            ("POST", "transactions"): (TRANSACTIONS, commands.post_transaction),
            ("POST", "batches"): (BATCHES, commands.post_batch),
            ("GET", "commands/"): (COMMAND, commands.find),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        found = _DIRECT.match(scope["path"]) if scope["type"] == "http" else None
        route = self._routes.get((scope["method"], found[2])) if found else None
        if found is None or route is None:
            await self.app(scope, receive, send)
            return
        scope["path_template"], answered = route
        if scope["query_string"]:
            name = scope["query_string"].partition(b"=")[0].decode("latin-1")
            raise invalid(name, "There is no such query parameter")
        status, body, headers = await answered(scope, found[1])
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


_DIRECT = re.compile(r"/v1/ledgers/([^/]+)/(transactions\Z|batches\Z|commands/(?=.))")


def _response(answer: Answer) -> Response[bytes]:
    headers: dict[str, Any] = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, media_type=headers.pop("content-type"), headers=headers)
