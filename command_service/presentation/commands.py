"""What the write side does with a request: who may ask, the command, its context, the executor, the answer.

Works on the ASGI scope that the edge has prepared (token checked, body read), so that a hot route can skip the framework.
Errors are raised; the edge turns them into problems. Which decision a command asks for stands in `application/decisions.py`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote

from command_service.application.decisions import DECISIONS
from command_service.application.executor import Executor
from command_service.application.judging import Submission
from command_service.application.outcome import Outcome
from command_service.application.rehearsal import Rehearsed
from command_service.domain.commands import Command, ReverseTransaction
from command_service.presentation.answers import (
    Answer,
    answer,
    batch_across_answer,
    batch_answer,
    refused_batch_answer,
)
from command_service.presentation.batches import Asked, read_batch, read_batch_across
from command_service.presentation.requests import (
    Caller,
    context,
    read_change,
    read_key,
    read_open_account,
    read_open_ledger,
    read_post_transaction,
)
from shared_kernel.errors import DaybookError, Rejection
from shared_kernel.http_context import context_of
from shared_kernel.http_edge import body_of
from shared_kernel.http_errors import log_error
from shared_kernel.json_text import invalid
from shared_kernel.security import Principal
from shared_kernel.words import is_ledger_name

Scope = Mapping[str, Any]
Result = Outcome | Rehearsed | DaybookError
KEY_HEADER = b"idempotency-key"
DRY_RUN = "dry_run"


class Commands:
    """One method a kind of route. `query_url`: where clients read, without a slash at its end. `clock`: now, in UTC.

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
        return await self._submit(command, command.ledger, scope)

    async def open_account(self, scope: Scope, ledger: str) -> Answer:
        """The account is open."""
        _require_writer(scope, ledger)
        return await self._submit(read_open_account(body_of(scope)), ledger, scope)

    async def post_transaction(self, scope: Scope, ledger: str) -> Answer:
        """The transaction is posted, held or scheduled."""
        _require_writer(scope, ledger)
        return await self._submit(read_post_transaction(body_of(scope)), ledger, scope)

    async def change(self, scope: Scope, ledger: str, kind: type[Command], subject: str | None = None) -> Answer:
        """A command of this kind is done to its subject: the account with this address, the transaction with this id, or the ledger."""
        _require_writer(scope, ledger)
        command = read_change(kind, body_of(scope), subject)
        _require_force(_principal(scope), command, "$")
        return await self._submit(command, ledger, scope)

    async def post_batch(self, scope: Scope, ledger: str) -> Answer:
        """All commands of the batch are done or none, if it is atomic; else each has its own result. They are decided in their order."""
        _require_writer(scope, ledger)
        principal, caller = _principal(scope), self._caller(scope)
        batch = read_batch(body_of(scope), _key(scope))
        asked = [_allowed(one, principal, index, batch.is_atomic) for index, one in enumerate(batch.commands)]
        given = [one if isinstance(one, DaybookError) else _submission(one, ledger, caller) for one in asked]
        trace_id = context_of(scope).trace_id
        if batch.is_atomic or _is_dry_run(scope):
            whole = [one for one in given if isinstance(one, Submission)]  # all of an atomic one, as read_batch sees to
            results, refusal, is_dry_run = await self._together(whole, batch.is_atomic, scope)
            if refusal is not None:
                return refused_batch_answer(refusal[1], command=refusal[0], ledger=ledger, trace_id=trace_id)
            told = iter(results)
            results = [next(told) if isinstance(one, Submission) else one for one in given]
            return batch_answer(results, ledger=ledger, trace_id=trace_id, is_dry_run=is_dry_run)
        return batch_answer(await self._each(given), ledger=ledger, trace_id=trace_id)

    async def post_batch_across(self, scope: Scope) -> Answer:
        """All commands of the batch are done, whatever their ledgers, or none."""
        principal, caller = _principal(scope), self._caller(scope)
        principal.require("writer")
        asked = read_batch_across(body_of(scope), _key(scope))
        submissions = []
        for index, one in enumerate(asked):
            ledger = one.ledger or ""
            try:
                principal.require_on("writer", ledger)
            except Rejection as rejection:
                rejection.fields["command"] = index
                raise
            _allowed(one, principal, index, is_atomic=True)
            submissions.append(_submission(one, ledger, caller))
        results, refusal, is_dry_run = await self._together(submissions, True, scope)
        trace_id = context_of(scope).trace_id
        if refusal is not None:
            index, refused = refusal
            ledger = submissions[index].context.ledger
            return refused_batch_answer(refused, command=index, ledger=ledger, trace_id=trace_id, is_across=True)
        pairs = [(one.context.ledger, result) for one, result in zip(submissions, results, strict=True)]
        return batch_across_answer(pairs, trace_id=trace_id, is_dry_run=is_dry_run)

    async def find(self, scope: Scope, ledger: str) -> Answer:
        """The recorded answer to the caller's own command with the key in the address, again."""
        _require_writer(scope, ledger)
        # From the bytes of the address: a batch's keys have a slash in them, and the framework tidies those.
        raw: bytes = scope["raw_path"]
        key = read_key(unquote(raw.partition(b"?")[0].partition(b"/commands/")[2].decode("latin-1")), "key") or ""
        outcome = await self._executor.find(ledger=ledger, actor=_principal(scope).subject, key=key)
        return self._answer(outcome, ledger, scope)

    async def _submit(self, command: Command, ledger: str, scope: Scope) -> Answer:
        asked = context(command, ledger=ledger, key=_key(scope), caller=self._caller(scope))
        decide = DECISIONS[type(command)]
        if not _is_dry_run(scope):
            return self._answer(await self._executor.submit(decide, command, asked), ledger, scope)
        (result,) = (await self._executor.rehearse([Submission(decide, command, asked)])).results
        if isinstance(result, DaybookError):
            result.fields[DRY_RUN] = True
            raise result
        return self._answer(result, ledger, scope)

    async def _each(self, given: Sequence[Submission | DaybookError]) -> list[Outcome | DaybookError]:
        queued = [self._enqueue(one) if isinstance(one, Submission) else one for one in given]
        for one in queued:  # one after the other: when the first is answered, so are most
            if isinstance(one, asyncio.Future) and not one.done():
                await asyncio.wait((one,))  # unlike `await one`, leaves the command alone if the client goes away
        return [_settled(one) if isinstance(one, asyncio.Future) else one for one in queued]

    async def _together(
        self, asked: Sequence[Submission], is_atomic: bool, scope: Scope
    ) -> "tuple[Sequence[Result], tuple[int, Outcome | Rehearsed] | None, bool]":
        """Results; the index and the refusal of the command that an atomic batch stumbled over; whether it was only rehearsed."""
        if not _is_dry_run(scope):
            done = await self._executor.submit_atomic(asked)
            return done.outcomes, None if done.refused is None else (done.refused, done.outcomes[0]), False
        try:
            rehearsal = await self._executor.rehearse(asked, is_atomic=is_atomic)
        except DaybookError as error:
            error.fields[DRY_RUN] = True
            raise
        for result in rehearsal.results:
            if isinstance(result, DaybookError):
                result.fields[DRY_RUN] = True
        first = rehearsal.results[0] if rehearsal.refused is not None else None
        if rehearsal.refused is None or first is None or isinstance(first, DaybookError):
            return rehearsal.results, None, True
        return (), (rehearsal.refused, first), True

    def _enqueue(self, asked: Submission) -> "asyncio.Future[Outcome] | DaybookError":
        try:
            return self._executor.enqueue(asked.decide, asked.command, asked.context)
        except DaybookError as error:  # overloaded, or stopping: this one's, not the batch's
            return error

    def _caller(self, scope: Scope) -> Caller:
        request = context_of(scope)
        now = self._clock()
        subject = _principal(scope).subject
        return Caller(subject, request.correlation_id, request.traceparent, now, now + self._effective_ahead)

    def _answer(self, outcome: Outcome | Rehearsed, ledger: str, scope: Scope) -> Answer:
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


def _require_force(principal: Principal, command: Command, root: str) -> None:
    """Only an admin overrules limits."""
    if isinstance(command, ReverseTransaction) and command.force is True and not principal.may("admin"):
        raise Rejection("forbidden", role="admin", path=f"{root}.force")


def _allowed(one: Asked | Rejection, principal: Principal, index: int, is_atomic: bool) -> Asked | Rejection:
    """The element, or what keeps the caller from asking for it; raised where it is the whole batch's affair."""
    if isinstance(one, Asked):
        try:
            _require_force(principal, one.command, f"$.commands[{index}].data")
        except Rejection as rejection:
            if is_atomic:
                raise
            return rejection
    return one


def _submission(asked: Asked, ledger: str, caller: Caller) -> Submission:
    made = context(asked.command, ledger=ledger, key=asked.key, caller=caller)
    return Submission(DECISIONS[type(asked.command)], asked.command, made)


def _is_dry_run(scope: Scope) -> bool:
    """What the query string says of it; read here, for routes with and without the framework alike."""
    query: bytes = scope["query_string"]
    if not query:
        return False
    value = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get(DRY_RUN, "false")
    if value not in ("true", "false"):
        raise invalid(DRY_RUN, "Either true or false")
    return value == "true"


def _key(scope: Scope) -> str | None:
    headers = context_of(scope).headers
    if len(headers) != len(scope["headers"]) and sum(name == KEY_HEADER for name, _ in scope["headers"]) > 1:
        raise invalid("Idempotency-Key", "The header is there more than once")
    key = headers.get(KEY_HEADER)
    return None if key is None else read_key(key.decode("latin-1"))


def _settled(future: "asyncio.Future[Outcome]") -> Outcome | DaybookError:
    """What an element is answered: its outcome, its error, or `internal_error` where the fault is ours."""
    error = future.exception()
    if error is None:
        return future.result()
    log_error(error if isinstance(error, Exception) else DaybookError("internal_error"))
    return error if isinstance(error, DaybookError) else DaybookError("internal_error")
