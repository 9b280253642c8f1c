"""From outcomes to answers: status, body and headers, the same for the first answer and for every repetition.

Pure: an answer is a function of the recorded event alone, but for the mark of a repetition and the trace id of a problem.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from command_service.application.outcome import Outcome
from shared_kernel.errors import DaybookError, Refusal
from shared_kernel.events import AccountOpened, CommandRefused, LedgerOpened, Limit, TransactionPosted
from shared_kernel.problems import problem
from shared_kernel.words import Direction, NormalBalance, format_time

JSON = b"application/json"
PROBLEM = b"application/problem+json"


class EntryBody(msgspec.Struct, frozen=True):
    """One debit or credit; the amount is in smallest units of the asset."""

    account: str
    direction: Direction
    amount: int
    asset: str


class TransactionBody(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as it was recorded. `effective_at` is the recorded time where the client gave none."""

    id: str
    status: Literal["posted"]
    entries: list[EntryBody]
    reference: str | None
    effective_at: str
    description: str | None
    metadata: dict[str, str]
    position: int
    recorded_at: str


class TransactionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The transaction was posted; `position` is where it stands in the ledger's log."""

    transaction: TransactionBody
    position: int


class AccountBody(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it was opened."""

    address: str
    normal_balance: NormalBalance
    status: Literal["open"]
    limits: dict[str, Limit]
    metadata: dict[str, str]
    on_first_use: bool
    opened_at: str
    position: int


class AccountAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The account was opened; `position` is where that stands in the ledger's log."""

    account: AccountBody
    position: int
    recorded_at: str


class DefaultsBody(msgspec.Struct, frozen=True):
    """Terms of accounts that their first use opens and whose address fits the pattern; the first fitting pattern counts."""

    pattern: str
    normal_balance: NormalBalance
    limits: dict[str, Limit]


class LedgerBody(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger as it was opened."""

    ledger: str
    accounts: str
    defaults: list[DefaultsBody]
    records_refusals: bool
    metadata: dict[str, str]
    opened_at: str


class LedgerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger was opened; `position` is 1."""

    ledger: LedgerBody
    position: int
    recorded_at: str


class BatchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one command: the status and the body it would have been answered alone. `replay`: it was in the log before."""

    status: int
    body: msgspec.Raw
    replay: bool = False


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The results in the order of the commands; `position`: the last one that any of them stands at, null if none is recorded."""

    results: list[BatchResult]
    position: int | None


class Answer(NamedTuple):
    """What goes over HTTP."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


_encode = msgspec.json.Encoder().encode


def answer(outcome: Outcome, *, ledger: str, query_url: str, trace_id: str | None) -> Answer:
    """201 with what was made and where it can be read, or 422 with why not. `query_url` has no slash at its end."""
    status, body, place = _body(outcome, ledger, trace_id)
    headers = [
        (b"content-type", PROBLEM if status == 422 else JSON),
        (b"daybook-position", b"%d" % outcome.position),
    ]
    if place is not None:
        headers.append((b"location", f"{query_url}/v1/ledgers/{ledger}{place}".encode()))
    if outcome.is_replay:
        headers.append((b"idempotent-replay", b"true"))
    return Answer(status, _encode(body), headers)


def batch_answer(outcomes: Sequence[Outcome | DaybookError], *, ledger: str, trace_id: str | None) -> Answer:
    """200 with one result a command, in their order."""
    results = [_result(outcome, ledger, trace_id) for outcome in outcomes]
    position = max((outcome.position for outcome in outcomes if isinstance(outcome, Outcome)), default=None)
    headers = [(b"content-type", JSON)]
    if position is not None:
        headers.append((b"daybook-position", b"%d" % position))
    return Answer(200, _encode(BatchAnswer(results=results, position=position)), headers)


def _result(outcome: Outcome | DaybookError, ledger: str, trace_id: str | None) -> BatchResult:
    if isinstance(outcome, DaybookError):
        status, document = problem(outcome, trace_id)
        return BatchResult(status=status, body=msgspec.Raw(_encode(document)))
    status, body, _ = _body(outcome, ledger, trace_id)
    return BatchResult(status=status, body=msgspec.Raw(_encode(body)), replay=outcome.is_replay)


def _body(outcome: Outcome, ledger: str, trace_id: str | None) -> tuple[int, object, str | None]:
    """Status, body, and the path below the ledger where the thing can be read."""
    event, position, recorded_at = outcome.event, outcome.position, format_time(outcome.recorded_at)
    match event:
        case TransactionPosted():
            return 201, _transaction(event, position, recorded_at), f"/transactions/{event.transaction}"
        case CommandRefused():
            refusal = Refusal(event.code, **event.fields, position=position, judged_at=event.judged_at or position - 1)
            return *problem(refusal, trace_id), None
        case AccountOpened():
            account = AccountBody(
                address=event.address,
                normal_balance=event.normal_balance,
                status="open",
                limits=event.limits,
                metadata=event.metadata,
                on_first_use=event.on_first_use,
                opened_at=recorded_at,
                position=position,
            )
            made = AccountAnswer(account=account, position=position, recorded_at=recorded_at)
            return 201, made, f"/accounts/{event.address}"
        case LedgerOpened():
            opened = LedgerBody(
                ledger=event.ledger,
                accounts=event.accounts,
                defaults=[DefaultsBody(one.pattern, one.normal_balance, one.limits) for one in event.defaults],
                records_refusals=event.records_refusals,
                metadata=event.metadata,
                opened_at=recorded_at,
            )
            return 201, LedgerAnswer(ledger=opened, position=position, recorded_at=recorded_at), ""


def _transaction(event: TransactionPosted, position: int, recorded_at: str) -> TransactionAnswer:
    return TransactionAnswer(
        transaction=TransactionBody(
            id=event.transaction,
            status="posted",
            entries=[EntryBody(entry.account, entry.direction, entry.amount, entry.asset) for entry in event.entries],
            reference=event.reference,
            effective_at=event.effective_at or recorded_at,
            description=event.description,
            metadata=event.metadata,
            position=position,
            recorded_at=recorded_at,
        ),
        position=position,
    )
