"""The routes of the write side, for Litestar and its OpenAPI document, and the direct way for some of them.

What a route does stands in `commands.py`. Request bodies are read there too (strictly, with the JSON path of what is wrong),
so Litestar is told of their schemas by `openapi.py` instead of by the signatures.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from litestar import Controller, Request, Response, get, patch, post, put
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter, ParameterKwarg, QueryParameter
from litestar.types import Receive, Send

from command_service.domain import commands as kinds
from command_service.presentation.answers import Answer
from command_service.presentation.commands import DRY_RUN, Commands
from command_service.presentation.examples import ID, KEY
from command_service.presentation.shapes import (
    AccountAnswer,
    AccountChangeAnswer,
    BatchAcrossAnswer,
    BatchAnswer,
    LedgerAnswer,
    LedgerChangeAnswer,
    TransactionAnswer,
    TransactionChangeAnswer,
)
from shared_kernel import amounts
from shared_kernel.http_edge import App
from shared_kernel.json_text import invalid
from shared_kernel.security import Principal

LEDGER_PATH = "/v1/ledgers/{ledger}"
TRANSACTIONS = LEDGER_PATH + "/transactions"
BATCHES = LEDGER_PATH + "/batches"
COMMAND = LEDGER_PATH + "/commands/{key}"

CommandsGiven = NamedDependency[Commands]
Asking = Request[Principal, object, State]
LedgerPath = Annotated[str, Parameter(description="A ledger that the token covers", examples=[Example(value="bank")])]
AddressPath = Annotated[
    str,
    Parameter(description="An account's address, such as users:42:wallet", examples=[Example(value="users:42:wallet")]),
]
TransactionPath = Annotated[str, Parameter(description="A transaction's id", examples=[Example(value=ID)])]
KeyPath = Annotated[
    str,
    Parameter(description="The idempotency key of a command of the caller's own", examples=[Example(value=KEY)]),
]
PARAMETERS: dict[str, ParameterKwarg] = {  # read by commands.py from the query string, for direct routes too
    DRY_RUN: QueryParameter(
        name=DRY_RUN,
        annotation=Literal["true", "false"],
        default="false",
        required=False,
        description="`true`: decide as ever and show what it would come to, but write nothing",
    )
}
MADE = "Done, for good; or done before under the same key, then with `Idempotent-Replay: true`"
TRANSACTION_MADE = {201: ResponseSpec(TransactionAnswer, description=MADE)}
TRANSACTION_CHANGED = {200: ResponseSpec(TransactionChangeAnswer, description=MADE)}
ACCOUNT_CHANGED = {200: ResponseSpec(AccountChangeAnswer, description=MADE)}
LEDGER_CHANGED = {200: ResponseSpec(LedgerChangeAnswer, description=MADE)}


class Ledgers(Controller):
    """Ledgers as a whole, and batches across them."""

    path = "/v1"
    tags = ("ledgers",)
    parameters = PARAMETERS

    @post("/ledgers", summary="Open a ledger", responses={201: ResponseSpec(LedgerAnswer, description=MADE)})
    async def open_ledger(self, commands: CommandsGiven, request: Asking) -> Response[bytes]:
        """Role `writer`, with the ledger in the token's patterns. `accounts`: `on-first-use` (an account is opened by the first
        transaction that names it, under the first fitting pattern of `defaults`) or `explicit`.
        """
        return _response(await commands.open_ledger(request.scope))

    @post(
        "/batches",
        summary="Send up to 1,000 commands across ledgers",
        status_code=200,
        responses={200: ResponseSpec(BatchAcrossAnswer, description="One result a command, in their order")},
    )
    async def post_batch_across(self, commands: CommandsGiven, request: Asking) -> Response[bytes]:
        """Role `writer` on each of the ledgers. All or nothing, whatever their ledgers: 422 with `command` (the index) where a rule
        turns one down, and that refusal alone is recorded.
        """
        return _response(await commands.post_batch_across(request.scope))


class Books(Controller):
    """Commands to one ledger."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("commands",)
    parameters = PARAMETERS

    @post("/accounts", summary="Open an account", responses={201: ResponseSpec(AccountAnswer, description=MADE)})
    async def open_account(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Under terms of its own: `normal_balance` (credit unless said otherwise) and limits for each asset."""
        return _response(await commands.open_account(request.scope, ledger))

    @post("/transactions", summary="Post, hold or schedule a transaction", responses=TRANSACTION_MADE)
    async def post_transaction(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Two or more entries; for each asset debits equal credits. `status`: `posted` (the default), `pending`
        (a hold: the amounts are set aside until it is posted, voided or expired) or `scheduled` (posts itself at `effective_at`).
        What the rules turn down is a 422, is recorded, and is answered the same when repeated.
        """
        return _response(await commands.post_transaction(request.scope, ledger))

    @post(
        "/batches",
        summary="Send up to 1,000 commands",
        status_code=200,
        responses={200: ResponseSpec(BatchAnswer, description="One result a command, in their order")},
    )
    async def post_batch(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Commands are decided in their order, each with its own key. Independent ones (`atomic` false) have each
        its own result: `status` and `body` as it would be answered alone, a malformed one its own 400. Atomic ones are all done
        or none: 422 with `command` (the index) where a rule turns one down. Element i without a key gets `<Idempotency-Key>/<i>`.
        """
        return _response(await commands.post_batch(request.scope, ledger))

    @post("/archive", summary="Make the ledger read-only", status_code=200, responses=LEDGER_CHANGED)
    async def archive(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Only the ends of holds are taken from then on, and reopening."""
        return _response(await commands.change(request.scope, ledger, kinds.ArchiveLedger))

    @post("/reopen", summary="Reopen the archived ledger", status_code=200, responses=LEDGER_CHANGED)
    async def reopen(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`."""
        return _response(await commands.change(request.scope, ledger, kinds.ReopenLedger))

    @patch("/metadata", summary="Change the ledger's metadata", responses=LEDGER_CHANGED)
    async def patch_metadata(self, commands: CommandsGiven, request: Asking, ledger: LedgerPath) -> Response[bytes]:
        """Role `writer`. Keys that are named get their value, or with null are gone; the others stay. At most 50 in all."""
        return _response(await commands.change(request.scope, ledger, kinds.PatchLedgerMetadata))


class Accounts(Controller):
    """Commands to one account."""

    path = "/v1/ledgers/{ledger:str}/accounts/{address:str}"
    tags = ("accounts",)
    parameters = PARAMETERS

    @put("/limits", summary="Set the account's limits", responses=ACCOUNT_CHANGED)
    async def set_limits(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`. These and no others, whatever the balance is: `breached` names the assets that are beyond them already."""
        return _response(await commands.change(request.scope, ledger, kinds.SetLimits, address))

    @post("/freeze", summary="Freeze the account", status_code=200, responses=ACCOUNT_CHANGED)
    async def freeze(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`. `scope`: `all` (the default), `debits` or `credits`; it replaces that of a frozen account."""
        return _response(await commands.change(request.scope, ledger, kinds.FreezeAccount, address))

    @post("/unfreeze", summary="Unfreeze the account", status_code=200, responses=ACCOUNT_CHANGED)
    async def unfreeze(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`."""
        return _response(await commands.change(request.scope, ledger, kinds.UnfreezeAccount, address))

    @post("/close", summary="Close the account", status_code=200, responses=ACCOUNT_CHANGED)
    async def close(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`. Only with zero balances in every asset and without holds."""
        return _response(await commands.change(request.scope, ledger, kinds.CloseAccount, address))

    @post("/reopen", summary="Reopen the closed account", status_code=200, responses=ACCOUNT_CHANGED)
    async def reopen(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`. Under the limits it had."""
        return _response(await commands.change(request.scope, ledger, kinds.ReopenAccount, address))

    @patch("/metadata", summary="Change the account's metadata", responses=ACCOUNT_CHANGED)
    async def patch_metadata(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, address: AddressPath
    ) -> Response[bytes]:
        """Role `writer`. Keys that are named get their value, or with null are gone; the others stay. At most 50 in all."""
        return _response(await commands.change(request.scope, ledger, kinds.PatchAccountMetadata, address))


class Transactions(Controller):
    """Commands to one transaction."""

    path = "/v1/ledgers/{ledger:str}/transactions/{transaction:str}"
    tags = ("transactions",)
    parameters = PARAMETERS

    @post("/post", summary="Post the pending transaction", status_code=200, responses=TRANSACTION_CHANGED)
    async def post_hold(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, transaction: TransactionPath
    ) -> Response[bytes]:
        """Role `writer`. All that is held, or these `entries`, up to the held amounts; the rest is released, or with
        `keep_remainder` stays held for another time.
        """
        return _response(await commands.change(request.scope, ledger, kinds.PostHold, transaction))

    @post("/void", summary="Void the pending transaction", status_code=200, responses=TRANSACTION_CHANGED)
    async def void_hold(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, transaction: TransactionPath
    ) -> Response[bytes]:
        """Role `writer`. What is still held is released, whatever the state of accounts and ledger."""
        return _response(await commands.change(request.scope, ledger, kinds.VoidHold, transaction))

    @post("/cancel", summary="Cancel the scheduled transaction", status_code=200, responses=TRANSACTION_CHANGED)
    async def cancel_scheduled(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, transaction: TransactionPath
    ) -> Response[bytes]:
        """Role `writer`. As long as it has not been posted or refused."""
        return _response(await commands.change(request.scope, ledger, kinds.CancelScheduled, transaction))

    @post("/reverse", summary="Reverse the transaction", responses=TRANSACTION_MADE)
    async def reverse(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, transaction: TransactionPath
    ) -> Response[bytes]:
        """Role `writer`; `force` needs `admin`. A new transaction with all `entries` turned round, or those named (as they were
        posted, up to what is not reversed yet). `effective_at`: a time, or `original`.
        """
        return _response(await commands.change(request.scope, ledger, kinds.ReverseTransaction, transaction))

    @patch("/metadata", summary="Change the transaction's metadata", responses=TRANSACTION_CHANGED)
    async def patch_metadata(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, transaction: TransactionPath
    ) -> Response[bytes]:
        """Role `writer`. Keys that are named get their value, or with null are gone; the others stay. At most 50 in all."""
        return _response(await commands.change(request.scope, ledger, kinds.PatchTransactionMetadata, transaction))


class Answers(Controller):
    """What became of commands."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("commands",)

    @get(
        "/commands/{key:path}",
        summary="What became of a command",
        status_code=201,
        responses={
            200: ResponseSpec(
                TransactionChangeAnswer, description="The recorded answer of a command that changed something"
            ),
            201: ResponseSpec(TransactionAnswer, description="The recorded answer, status and body as they were"),
        },
    )
    async def command(
        self, commands: CommandsGiven, request: Asking, ledger: LedgerPath, key: KeyPath
    ) -> Response[bytes]:
        """Role `writer`, for the caller's own commands. 404 `command_not_found` with the head looked at means "not in the log
        yet", never "will not be": repeat the command with the same key, never with a new one.
        """
        return _response(await commands.find(request.scope, ledger))


ROUTES = (Ledgers, Books, Accounts, Transactions, Answers)


class DirectRoutes:
    """An application that answers three routes itself and leaves all else to the Litestar in `app`.

    The two hot ones, because Litestar's routing, signatures and responses cost as much as the rest of a transaction's way
    through this layer (docs/adr/0008). The look-up by key, because Litestar tidies the slashes that a key may have.
    Everything that the edge does for a request, it does for these too.
    """

    def __init__(self, app: App, commands: Commands) -> None:
        self.app = app
        self._routes = {
            ("POST", "transactions"): (TRANSACTIONS, commands.post_transaction),
            ("POST", "batches"): (BATCHES, commands.post_batch),
            ("GET", "commands/"): (COMMAND, commands.find),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> Answer | None:
        """The answer of one of the three; of all else nothing, for it was sent."""
        found = _DIRECT.match(scope["path"]) if scope["type"] == "http" else None
        route = self._routes.get((scope["method"], found[2])) if found else None
        if found is None or route is None:
            await self.app(scope, receive, send)
            return None
        scope["path_template"], answered = route
        if scope["query_string"]:
            _check_parameters(scope["query_string"], is_command=scope["method"] == "POST")
        return await answered(scope, found[1])


_DIRECT = re.compile(r"/v1/ledgers/([^/]+)/(transactions\Z|batches\Z|commands/(?=.))")


def _check_parameters(query: bytes, *, is_command: bool) -> None:
    """As `refuse_unknown_parameters` does for the routes that Litestar answers."""
    seen: set[str] = set()
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100):
        if name != amounts.PARAMETER and not (is_command and name == DRY_RUN):
            raise invalid(name, "There is no such query parameter")
        if name in seen:
            raise invalid(name, "The query parameter is given twice")
        seen.add(name)


def _response(answer: Answer) -> Response[bytes]:
    headers: dict[str, Any] = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, media_type=headers.pop("content-type"), headers=headers)
