"""From outcomes to answers: status, body and headers, the same for the first answer and for every repetition.

Pure: an answer is a function of the recorded event alone, but for the mark of a repetition and the trace id of a problem. A dry
run is answered with the same shapes, of an event that nobody recorded.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from command_service.application.outcome import Outcome
from command_service.application.rehearsal import Rehearsed
from command_service.presentation.shapes import (
    AccountAnswer,
    AccountBody,
    AccountChange,
    AccountChangeAnswer,
    AsOf,
    BalanceBody,
    BatchAcrossAnswer,
    BatchAnswer,
    BatchResult,
    DefaultsBody,
    EntryBody,
    LedgerAnswer,
    LedgerBody,
    LedgerChange,
    LedgerChangeAnswer,
    TransactionAnswer,
    TransactionBody,
    TransactionChange,
    TransactionChangeAnswer,
)
from shared_kernel.errors import DaybookError, Refusal
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    Known,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    LimitsSet,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from shared_kernel.problems import problem
from shared_kernel.words import format_time

JSON = b"application/json"
PROBLEM = b"application/problem+json"
Totals = Mapping[str, Mapping[str, Known]]
"""By account and asset."""


class Answer(NamedTuple):
    """What goes over HTTP."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


class _Place(msgspec.Struct, frozen=True):
    """Where an event stands. In a dry run nowhere: both are None, `as_of` is what it was judged on, `totals` what it leads to."""

    position: int | None
    recorded_at: str | None
    as_of: AsOf | None = None
    totals: Totals | None = None


_encode = msgspec.json.Encoder().encode


def answer(outcome: Outcome | Rehearsed, *, ledger: str, query_url: str, trace_id: str | None) -> Answer:
    """201 with what was made and where it can be read, 200 with what was changed or would be, or 422 with why not.

    `query_url` has no slash at its end.
    """
    status, body, place = _answered(outcome, ledger, trace_id)
    headers = [(b"content-type", PROBLEM if status == 422 else JSON)]
    if isinstance(outcome, Outcome):
        headers.append((b"daybook-position", b"%d" % outcome.position))
        if place is not None:
            headers.append((b"location", f"{query_url}/v1/ledgers/{ledger}{place}".encode()))
        if outcome.is_replay:
            headers.append((b"idempotent-replay", b"true"))
    return Answer(status, _encode(body), headers)


def batch_answer(
    results: Sequence[Outcome | Rehearsed | DaybookError],
    *,
    ledger: str,
    trace_id: str | None,
    is_dry_run: bool = False,
) -> Answer:
    """200 with one result a command, in their order."""
    told = [_result(result, ledger, trace_id) for result in results]
    position = max((result.position for result in results if isinstance(result, Outcome)), default=None)
    headers = [(b"content-type", JSON)]
    if position is not None:
        headers.append((b"daybook-position", b"%d" % position))
    return Answer(
        200, _encode(BatchAnswer(results=told, position=position, dry_run=True if is_dry_run else UNSET)), headers
    )


def batch_across_answer(
    results: Sequence[tuple[str, Outcome | Rehearsed | DaybookError]], *, trace_id: str | None, is_dry_run: bool = False
) -> Answer:
    """200 with one result a command, in their order; each comes with its ledger."""
    told = [_result(result, ledger, trace_id) for ledger, result in results]
    positions: dict[str, int | None] = {ledger: None for ledger, _ in results}
    for ledger, result in results:
        if isinstance(result, Outcome):
            positions[ledger] = max(positions[ledger] or 0, result.position)
    body = BatchAcrossAnswer(results=told, positions=positions, dry_run=True if is_dry_run else UNSET)
    return Answer(200, _encode(body), [(b"content-type", JSON)])


def refused_batch_answer(
    refusal: Outcome | Rehearsed, *, command: int, ledger: str, trace_id: str | None, is_across: bool = False
) -> Answer:
    """422: the refusal of one command, by its index, that keeps the whole atomic batch from being done."""
    status, body, _ = _answered(refusal, ledger, trace_id)
    document = {**msgspec.to_builtins(body), "command": command}
    if is_across:
        document["ledger"] = ledger
    headers = [(b"content-type", PROBLEM)]
    if isinstance(refusal, Outcome):
        if not is_across:
            headers.append((b"daybook-position", b"%d" % refusal.position))
        if refusal.is_replay:
            headers.append((b"idempotent-replay", b"true"))
    return Answer(status, _encode(document), headers)


def _result(result: Outcome | Rehearsed | DaybookError, ledger: str, trace_id: str | None) -> BatchResult:
    if isinstance(result, DaybookError):
        status, document = problem(result, trace_id)
        return BatchResult(status=status, body=msgspec.Raw(_encode(document)))
    status, body, _ = _answered(result, ledger, trace_id)
    is_replay = isinstance(result, Outcome) and result.is_replay
    return BatchResult(status=status, body=msgspec.Raw(_encode(body)), replay=is_replay)


def _answered(outcome: Outcome | Rehearsed, ledger: str, trace_id: str | None) -> tuple[int, object, str | None]:
    """Status, body, and the path below the ledger where the thing that was made can be read."""
    event = outcome.event
    if isinstance(outcome, Outcome):
        if isinstance(event, CommandRefused):
            return *_refused(event, outcome.position, trace_id), None
        return _body(event, _Place(outcome.position, format_time(outcome.recorded_at)))
    if isinstance(event, CommandRefused):
        rehearsed = Refusal(event.code, **event.fields, position=None, judged_at=outcome.as_of, dry_run=True)
        return *problem(rehearsed, trace_id), None
    at = AsOf(position=outcome.as_of, recorded_at=None if outcome.as_of_at is None else format_time(outcome.as_of_at))
    _, body, _ = _body(event, _Place(None, None, at, outcome.balances))
    return 200, msgspec.structs.replace(body, dry_run=True, as_of=at), None


def _refused(event: CommandRefused, position: int, trace_id: str | None) -> tuple[int, object]:
    refusal = Refusal(event.code, **event.fields, position=position, judged_at=event.judged_at or position - 1)
    if event.after_commands:
        refusal.fields["after_commands"] = event.after_commands
    return problem(refusal, trace_id)


def _body(event: Event, at: _Place) -> tuple[int, msgspec.Struct, str | None]:
    match event:
        case TransactionPosted() | TransactionHeld() | TransactionScheduled():
            made = TransactionAnswer(transaction=_transaction(event, at), position=at.position)
            return 201, made, f"/transactions/{event.transaction}"
        case (
            HoldPosted()
            | HoldVoided()
            | HoldExpired()
            | ScheduledCancelled()
            | ScheduledRefused()
            | TransactionMetadataChanged()
        ):
            ended = _transaction_change(event, at)
            return (
                200,
                TransactionChangeAnswer(transaction=ended, position=at.position, recorded_at=at.recorded_at),
                None,
            )
        case AccountOpened():
            opened = AccountAnswer(account=_account(event, at), position=at.position, recorded_at=at.recorded_at)
            return 201, opened, f"/accounts/{event.address}"
        case LedgerOpened():
            ledger = LedgerAnswer(ledger=_ledger(event, at), position=at.position, recorded_at=at.recorded_at)
            return 201, ledger, ""
        case LedgerArchived() | LedgerReopened() | LedgerMetadataChanged():
            change = _ledger_change(event)
            return 200, LedgerChangeAnswer(ledger=change, position=at.position, recorded_at=at.recorded_at), None
        case CommandRefused():
            raise TypeError("a refusal is a problem, not a body")
        case _:
            terms = _account_change(event)
            return 200, AccountChangeAnswer(account=terms, position=at.position, recorded_at=at.recorded_at), None


def _transaction(event: TransactionPosted | TransactionHeld | TransactionScheduled, at: _Place) -> TransactionBody:
    status: Literal["posted", "pending", "scheduled"] = "posted"
    expires_at: str | UnsetType | None = UNSET
    reverses: str | None = None
    is_forced, known = False, at.totals
    match event:
        case TransactionPosted():
            reverses, is_forced, known = event.reverses, event.forced, known or event.known
        case TransactionHeld():
            status, expires_at, known = "pending", event.expires_at, known or event.known
        case TransactionScheduled():
            status = "scheduled"
    return TransactionBody(
        id=event.transaction,
        status=status,
        entries=_entries(event.entries),
        reference=event.reference,
        effective_at=event.effective_at or at.recorded_at,
        description=event.description,
        metadata=event.metadata,
        position=at.position,
        recorded_at=at.recorded_at,
        expires_at=expires_at,
        reverses=reverses or UNSET,
        forced=is_forced or UNSET,
        balances=_balances(known) if known else UNSET,
    )


def _transaction_change(
    event: HoldPosted | HoldVoided | HoldExpired | ScheduledCancelled | ScheduledRefused | TransactionMetadataChanged,
    at: _Place,
) -> TransactionChange:
    known = at.totals or (event.known if isinstance(event, HoldPosted) else None)
    balances = _balances(known) if known else UNSET
    match event:
        case HoldPosted():
            return TransactionChange(
                id=event.transaction,
                status="posted" if event.is_final else "pending",
                posted=_entries(event.entries),
                released=_entries(event.released),
                effective_at=event.effective_at or UNSET,
                balances=balances,
            )
        case HoldVoided() | HoldExpired():
            ended: Literal["voided", "expired"] = "voided" if isinstance(event, HoldVoided) else "expired"
            return TransactionChange(
                id=event.transaction,
                status="posted" if event.is_partly_posted else ended,
                released=_entries(event.released),
                balances=balances,
            )
        case ScheduledCancelled():
            return TransactionChange(id=event.transaction, status="cancelled")
        case ScheduledRefused():
            told = {"code": event.code, **event.fields}
            return TransactionChange(id=event.transaction, status="refused", refusal=told)
        case TransactionMetadataChanged():
            return TransactionChange(id=event.transaction, metadata_changes=event.changes)


def _account(event: AccountOpened, at: _Place) -> AccountBody:
    return AccountBody(
        address=event.address,
        normal_balance=event.normal_balance,
        status="open",
        limits=event.limits,
        metadata=event.metadata,
        on_first_use=event.on_first_use,
        opened_at=at.recorded_at,
        position=at.position,
    )


def _account_change(
    event: LimitsSet | AccountFrozen | AccountUnfrozen | AccountClosed | AccountReopened | AccountMetadataChanged,
) -> AccountChange:
    match event:
        case LimitsSet():
            return AccountChange(address=event.address, limits=event.limits, breached=event.breached)
        case AccountFrozen():
            return AccountChange(address=event.address, status="frozen", frozen=event.scope)
        case AccountUnfrozen() | AccountReopened():
            return AccountChange(address=event.address, status="open", frozen=None)
        case AccountClosed():
            return AccountChange(address=event.address, status="closed")
        case AccountMetadataChanged():
            return AccountChange(address=event.address, metadata_changes=event.changes)


def _ledger(event: LedgerOpened, at: _Place) -> LedgerBody:
    return LedgerBody(
        ledger=event.ledger,
        status="open",
        accounts=event.accounts,
        defaults=[DefaultsBody(one.pattern, one.normal_balance, one.limits) for one in event.defaults],
        records_refusals=event.records_refusals,
        time_zone=event.time_zone or "UTC",
        metadata=event.metadata,
        opened_at=at.recorded_at,
    )


def _ledger_change(event: LedgerArchived | LedgerReopened | LedgerMetadataChanged) -> LedgerChange:
    match event:
        case LedgerArchived():
            return LedgerChange(ledger=event.ledger, status="archived")
        case LedgerReopened():
            return LedgerChange(ledger=event.ledger, status="open")
        case LedgerMetadataChanged():
            return LedgerChange(ledger=event.ledger, metadata_changes=event.changes)


def _entries(entries: Sequence[Entry]) -> list[EntryBody]:
    return [EntryBody(entry.account, entry.direction, entry.amount, entry.asset) for entry in entries]


def _balances(totals: Totals) -> dict[str, dict[str, BalanceBody]]:
    return {
        account: {asset: _balance(known) for asset, known in by_asset.items()} for account, by_asset in totals.items()
    }


def _balance(known: Known) -> BalanceBody:
    """The signed balances from the raw totals (design §2): the normal side is positive."""
    sign = 1 if known.normal_balance == "debit" else -1
    posted = sign * (known.posted_debits - known.posted_credits)
    held_debits = known.pending_debits - known.posted_debits
    held_credits = known.pending_credits - known.posted_credits
    return BalanceBody(
        posted=posted,
        pending=sign * (known.pending_debits - known.pending_credits),
        available=posted - (held_credits if sign == 1 else held_debits),
        posted_debits=known.posted_debits,
        posted_credits=known.posted_credits,
        pending_debits=known.pending_debits,
        pending_credits=known.pending_credits,
    )
