"""What the write side does with a request: who may ask, the command, its context, the executor, the answer.

Works on the ASGI scope that the edge has prepared (token checked, body read), so that a hot route can skip the framework.
Errors are raised; the edge turns them into problems. The decision of each command is named here, at the call.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from command_service.application.batch import Decide
from command_service.application.executor import Executor
from command_service.application.outcome import Outcome
from command_service.domain.accounts import open_account
from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import OpenAccount, OpenLedger, PostTransaction
from command_service.domain.ledgers import open_ledger
from command_service.domain.transactions import post_transaction
from command_service.presentation.answers import Answer, answer, batch_answer
from command_service.presentation.requests import (
    Asked,
    Caller,
    context,
    read_batch,
    read_key,
    read_open_account,
    read_open_ledger,
    read_post_transaction,
)
from shared_kernel.errors import DaybookError, Rejection
from shared_kernel.events import Event
from shared_kernel.http_context import context_of
from shared_kernel.http_edge import body_of
from shared_kernel.http_errors import log_error
from shared_kernel.json_text import invalid
from shared_kernel.security import Principal
from shared_kernel.words import is_ledger_name

Scope = Mapping[str, Any]
CommandT = TypeVar("CommandT", OpenLedger, OpenAccount, PostTransaction)
Decision = Callable[[Books, CommandT, Context], list[Event]]
KEY_HEADER = b"idempotency-key"


class Commands:
    """One method a route. `query_url`: where clients read, without a slash at its end. `clock`: now, in UTC.

    `effective_ahead`: how far in the future an effective time may lie.
    """

    def __init__(
        self, executor: Executor, *, query_url: str, clock: Callable[[], datetime], effective_ahead: timedelta
    ) -> None:
        self._executor = executor
        self._query_url = query_url
        self._clock = clock
        self._effective_ahead = effective_ahead

    async def open_ledger(self, scope: Scope) -> Answer:
        """The ledger is open. A writer may open every ledger that their token covers."""
        principal = _principal(scope)
        principal.require("writer")
        command = read_open_ledger(body_of(scope))
        principal.require_on("writer", command.ledger)
        return await self._submit(open_ledger, command, command.ledger, scope)

    async def open_account(self, scope: Scope, ledger: str) -> Answer:
        """The account is open."""
        _require_writer(scope, ledger)
        return await self._submit(open_account, read_open_account(body_of(scope)), ledger, scope)

    async def post_transaction(self, scope: Scope, ledger: str) -> Answer:
        """The transaction is posted."""
        _require_writer(scope, ledger)
        return await self._submit(post_transaction, read_post_transaction(body_of(scope)), ledger, scope)

    async def post_batch(self, scope: Scope, ledger: str) -> Answer:
        """Each command of the batch has its own result; they are decided in their order, and none waits for another's answer."""
        _require_writer(scope, ledger)
        asked = read_batch(body_of(scope), _key(scope))
        caller = self._caller(scope)
        queued = [self._enqueue(one, ledger, caller) if isinstance(one, Asked) else one for one in asked]
        for one in queued:  # one after the other: when the first is answered, so are most
            if isinstance(one, asyncio.Future) and not one.done():
                await asyncio.wait((one,))  # unlike `await one`, leaves the command alone if the client goes away
        results = [_settled(one) if isinstance(one, asyncio.Future) else one for one in queued]
        return batch_answer(results, ledger=ledger, trace_id=context_of(scope).trace_id)

    async def find(self, scope: Scope, ledger: str) -> Answer:
        """The recorded answer to the caller's own command with the key in the address, again."""
        _require_writer(scope, ledger)
        # From the bytes of the address: a batch's keys have a slash in them, and the framework tidies those.
        raw: bytes = scope["raw_path"]
        key = read_key(unquote(raw.partition(b"?")[0].partition(b"/commands/")[2].decode("latin-1")), "key") or ""
        outcome = await self._executor.find(ledger=ledger, actor=_principal(scope).subject, key=key)
        return self._answer(outcome, ledger, scope)

    async def _submit(self, decide: Decision[CommandT], command: CommandT, ledger: str, scope: Scope) -> Answer:
        asked = context(command, ledger=ledger, key=_key(scope), caller=self._caller(scope))
        # A decision on one kind of command is only ever given that kind: the line above says so to the reader and mypy.
        outcome = await self._executor.submit(cast("Decide", decide), command, asked)
        return self._answer(outcome, ledger, scope)

    def _enqueue(self, asked: Asked, ledger: str, caller: Caller) -> "asyncio.Future[Outcome] | DaybookError":
        decide = open_account if isinstance(asked.command, OpenAccount) else post_transaction
        made = context(asked.command, ledger=ledger, key=asked.key, caller=caller)
        try:
            return self._executor.enqueue(cast("Decide", decide), asked.command, made)
        except DaybookError as error:  # overloaded, or stopping: this one's, not the batch's
            return error

    def _caller(self, scope: Scope) -> Caller:
        request = context_of(scope)
        now = self._clock()
        subject = _principal(scope).subject
        return Caller(subject, request.correlation_id, request.traceparent, now, now + self._effective_ahead)

    def _answer(self, outcome: Outcome, ledger: str, scope: Scope) -> Answer:
        return answer(outcome, ledger=ledger, query_url=self._query_url, trace_id=context_of(scope).trace_id)


def _principal(scope: Scope) -> Principal:
    principal = context_of(scope).principal
    if principal is None:  # an address the edge lets in without a token; none of ours is
        raise Rejection("unauthenticated")
    return principal


def _require_writer(scope: Scope, ledger: str) -> None:
    """Raises what keeps the caller out. A name that no ledger can have is a ledger that is not there."""
    if not is_ledger_name(ledger):
        raise Rejection("ledger_not_found", ledger=ledger)
    _principal(scope).require_on("writer", ledger)


def _key(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == KEY_HEADER]
    if len(found) > 1:
        raise invalid("Idempotency-Key", "The header is there more than once")
    return read_key(found[0].decode("latin-1")) if found else None


def _settled(future: "asyncio.Future[Outcome]") -> Outcome | DaybookError:
    """What an element is answered: its outcome, its error, or `internal_error` where the fault is ours."""
    error = future.exception()
    if error is None:
        return future.result()
    log_error(error if isinstance(error, Exception) else DaybookError("internal_error"))
    return error if isinstance(error, DaybookError) else DaybookError("internal_error")
