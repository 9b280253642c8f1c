"""From outcomes to answers: fixed shapes, the same bytes for the first answer and for its repetition."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from command_service.application.outcome import Outcome
from command_service.presentation.answers import Answer, answer, batch_answer
from shared_kernel.errors import Rejection, Unavailable
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import (
    TYPE_NAMES,
    AccountDefaults,
    AccountOpened,
    CommandRefused,
    Entry,
    Event,
    LedgerOpened,
    Limit,
    Metadata,
    TransactionPosted,
    encode,
)
from shared_kernel.words import AMOUNT_MAX

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
METADATA = Metadata(actor="teller", correlation_id="c", key="k", fingerprint="01")
POSTED = TransactionPosted(
    transaction="t1",
    entries=[
        Entry(account="bank:cash", direction="debit", amount=70_000, asset="CZK/2"),
        Entry(account="bank:clients:2378", direction="credit", amount=70_000, asset="CZK/2", fills=True),
    ],
    reference="berka-695247",
    effective_at="1993-01-01T12:00:00.000000Z",
    description="cash in",
)
REFUSED = CommandRefused(
    command="post_transaction",
    code="insufficient_funds",
    fields={"account": "a", "asset": "CZK/2", "available": 5, "limit": 0, "missing": 2},
    asked=msgspec.Raw(b"{}"),
    accounts=["a"],
)
ACCOUNT = AccountOpened(address="a:b", normal_balance="debit", limits={"CZK/2": Limit(minimum=0)})
LEDGER = LedgerOpened(ledger="bank", accounts="on-first-use", defaults=[AccountDefaults(pattern="users:**")])


def outcome(event: Event, **more: Any) -> Outcome:
    return Outcome(event=event, metadata=METADATA, position=17, recorded_at=AT, **more)


def told(event: Event, **more: Any) -> Answer:
    return answer(outcome(event, **more), ledger="bank", query_url="https://query.example", trace_id="tr")


def test_a_posted_transaction_has_the_fixed_shape() -> None:
    status, body, headers = told(POSTED)
    assert status == 201
    assert json.loads(body) == {
        "transaction": {
            "id": "t1",
            "status": "posted",
            "entries": [
                {"account": "bank:cash", "direction": "debit", "amount": 70000, "asset": "CZK/2"},
                {"account": "bank:clients:2378", "direction": "credit", "amount": 70000, "asset": "CZK/2"},
            ],
            "reference": "berka-695247",
            "effective_at": "1993-01-01T12:00:00.000000Z",
            "description": "cash in",
            "metadata": {},
            "position": 17,
            "recorded_at": "2026-11-24T09:30:00.000000Z",
        },
        "position": 17,
    }
    assert dict(headers) == {
        b"content-type": b"application/json",
        b"daybook-position": b"17",
        b"location": b"https://query.example/v1/ledgers/bank/transactions/t1",
    }


def test_an_absent_effective_time_is_the_recorded_one() -> None:
    made = json.loads(told(msgspec.structs.replace(POSTED, effective_at=None)).body)["transaction"]
    assert made["effective_at"] == made["recorded_at"]


def test_amounts_stay_whole_numbers_however_large() -> None:
    entries = [msgspec.structs.replace(entry, amount=AMOUNT_MAX) for entry in POSTED.entries]
    body = told(msgspec.structs.replace(POSTED, entries=entries)).body
    assert f'"amount":{AMOUNT_MAX},'.encode() in body


def test_an_opened_account_and_ledger_say_their_terms() -> None:
    made = told(ACCOUNT)
    assert json.loads(made.body) == {
        "account": {
            "address": "a:b",
            "normal_balance": "debit",
            "status": "open",
            "limits": {"CZK/2": {"minimum": 0}},
            "metadata": {},
            "on_first_use": False,
            "opened_at": "2026-11-24T09:30:00.000000Z",
            "position": 17,
        },
        "position": 17,
        "recorded_at": "2026-11-24T09:30:00.000000Z",
    }
    assert dict(made.headers)[b"location"] == b"https://query.example/v1/ledgers/bank/accounts/a:b"
    made = told(LEDGER)
    assert json.loads(made.body)["ledger"] == {
        "ledger": "bank",
        "status": "open",
        "accounts": "on-first-use",
        "defaults": [{"pattern": "users:**", "normal_balance": "credit", "limits": {}}],
        "records_refusals": True,
        "time_zone": "UTC",
        "metadata": {},
        "opened_at": "2026-11-24T09:30:00.000000Z",
    }
    assert dict(made.headers)[b"location"] == b"https://query.example/v1/ledgers/bank"


def test_a_refusal_says_which_rule_account_and_amounts_and_where_it_was_judged() -> None:
    status, body, headers = told(REFUSED)
    assert status == 422
    assert json.loads(body) == {
        "type": "urn:daybook:problem:insufficient_funds",
        "title": "The available balance would pass its minimum",
        "status": 422,
        "code": "insufficient_funds",
        "account": "a",
        "asset": "CZK/2",
        "available": 5,
        "limit": 0,
        "missing": 2,
        "position": 17,
        "judged_at": 16,
        "trace_id": "tr",
    }
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    assert json.loads(told(msgspec.structs.replace(REFUSED, judged_at=12)).body)["judged_at"] == 12


@pytest.mark.parametrize("event", [POSTED, REFUSED, ACCOUNT, LEDGER])
def test_a_repetition_gives_the_same_status_and_body_and_is_marked(event: Event) -> None:
    first = told(event)
    recorded = RecordedEvent(
        ledger="bank",
        position=17,
        type=TYPE_NAMES[type(event)],
        data=encode(event),
        metadata=encode(METADATA),
        recorded_at=AT,
    )
    again = answer(Outcome.of(recorded), ledger="bank", query_url="https://query.example", trace_id="tr")
    assert (again.status, again.body) == (first.status, first.body)
    assert set(again.headers) - set(first.headers) == {(b"idempotent-replay", b"true")}


def test_a_batch_answers_each_command_as_if_it_stood_alone() -> None:
    made = batch_answer(
        [
            outcome(POSTED),
            outcome(REFUSED, is_replay=True),
            Rejection("invalid_request", path="$.commands[2].data"),
            Unavailable("dependency_unavailable"),
        ],
        ledger="bank",
        trace_id="tr",
    )
    answered = json.loads(made.body)
    assert made.status == 200
    assert [(one["status"], one.get("replay", False)) for one in answered["results"]] == [
        (201, False),
        (422, True),
        (400, False),
        (503, False),
    ]
    assert answered["results"][0]["body"] == json.loads(told(POSTED).body)
    assert answered["results"][2]["body"]["path"] == "$.commands[2].data"
    assert answered["position"] == 17
    assert (b"daybook-position", b"17") in made.headers


def test_a_batch_of_which_nothing_is_recorded_has_no_position() -> None:
    made = batch_answer([Rejection("invalid_request", path="$")], ledger="bank", trace_id=None)
    assert json.loads(made.body)["position"] is None
    assert made.headers == [(b"content-type", b"application/json")]
