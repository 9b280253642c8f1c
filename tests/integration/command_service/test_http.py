"""Commands over HTTP: what is answered, what is recorded, and that repeating changes nothing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from tests.integration.command_service.conftest import QUERY_URL, Caller, NewWorker, token

Events = Callable[[str], list[str]]


def transaction(amount: object = 5, **more: object) -> dict[str, Any]:
    """From the wallet to cash: a draw."""
    return {
        "entries": [
            {"account": "wallet", "direction": "debit", "amount": amount, "asset": "CZK/2"},
            {"account": "cash", "direction": "credit", "amount": amount, "asset": "CZK/2"},
        ],
        **more,
    }


def same(first: httpx.Response, again: httpx.Response) -> bool:
    """True if the second is the first answer given again, marked as such."""
    bodies = [{name: value for name, value in r.json().items() if name != "trace_id"} for r in (first, again)]
    return (
        first.status_code == again.status_code
        and bodies[0] == bodies[1]
        and "idempotent-replay" not in first.headers
        and again.headers["idempotent-replay"] == "true"
        and first.headers["daybook-position"] == again.headers["daybook-position"]
    )


async def test_a_ledger_an_account_and_a_transaction(caller: Caller, events: Events) -> None:
    ledger = await caller.open_ledger(accounts="explicit")
    opened = await caller.post(f"/{ledger}/accounts", {"address": "wallet", "limits": {"CZK/2": {"minimum": -10}}})
    assert opened.status_code == 201
    assert opened.headers["location"] == f"{QUERY_URL}/v1/ledgers/{ledger}/accounts/wallet"
    assert opened.json()["account"]["limits"] == {"CZK/2": {"minimum": -10}}
    await caller.post(f"/{ledger}/accounts", {"address": "cash", "normal_balance": "debit"})
    posted = await caller.post(f"/{ledger}/transactions", transaction(10, reference="r", metadata={"k": "v"}))
    assert posted.status_code == 201
    made = posted.json()
    assert made["position"] == made["transaction"]["position"] == 4
    assert posted.headers["daybook-position"] == "4"
    assert posted.headers["location"] == f"{QUERY_URL}/v1/ledgers/{ledger}/transactions/{made['transaction']['id']}"
    assert made["transaction"]["effective_at"] == made["transaction"]["recorded_at"]
    assert events(ledger) == ["LedgerOpened.v1", "AccountOpened.v1", "AccountOpened.v1", "TransactionPosted.v1"]


async def test_repeating_gives_the_first_answer_again(caller: Caller, worker: NewWorker, events: Events) -> None:
    ledger = await caller.open_ledger()
    other = await worker()
    for path, body in (("accounts", {"address": "wallet"}), ("transactions", transaction(effective_at=None))):
        first = await caller.post(f"/{ledger}/{path}", body, key=path)
        assert first.status_code == 201
        assert same(first, await caller.post(f"/{ledger}/{path}", body, key=path))
        assert same(first, await other.post(f"/{ledger}/{path}", body, key=path))
    assert len(events(ledger)) == 4


async def test_a_repeated_opening_of_a_ledger_is_answered_and_another_is_refused(caller: Caller) -> None:
    body = {"ledger": "once"}
    first = await caller.post("", body, key="open")
    assert same(first, await caller.post("", body, key="open"))
    again = await caller.post("", body, key="other")
    assert (again.status_code, again.json()["code"]) == (409, "ledger_exists")


async def test_repeated_at_the_same_time_it_is_applied_once(caller: Caller, worker: NewWorker, events: Events) -> None:
    ledger = await caller.open_ledger()
    other = await worker()
    answers = await asyncio.gather(
        *(asker.post(f"/{ledger}/transactions", transaction(), key="k") for asker in (caller, other) * 10)
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["transaction"]["id"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert events(ledger).count("TransactionPosted.v1") == 1


async def test_a_refusal_is_recorded_and_repeated_even_when_it_would_now_be_allowed(
    caller: Caller, events: Events
) -> None:
    ledger = await caller.open_ledger(defaults=[{"pattern": "wallet", "limits": {"CZK/2": {"minimum": 0}}}])
    first = await caller.post(f"/{ledger}/transactions", transaction(5), key="k")
    assert first.status_code == 422
    assert first.headers["content-type"] == "application/problem+json"
    told = first.json()
    assert told["code"] == "insufficient_funds"
    assert (told["account"], told["asset"], told["available"], told["missing"]) == ("wallet", "CZK/2", 0, 5)
    fund = transaction(100)
    fund["entries"][0]["direction"], fund["entries"][1]["direction"] = "credit", "debit"
    assert (await caller.post(f"/{ledger}/transactions", fund)).status_code == 201
    assert same(first, await caller.post(f"/{ledger}/transactions", transaction(5), key="k"))
    assert (await caller.post(f"/{ledger}/transactions", transaction(5), key="k2")).status_code == 201
    assert events(ledger).count("CommandRefused.v1") == 1


async def test_explicit_accounts_are_not_opened_by_use(caller: Caller) -> None:
    ledger = await caller.open_ledger(accounts="explicit")
    answer = await caller.post(f"/{ledger}/transactions", transaction())
    assert (answer.status_code, answer.json()["code"], answer.json()["account"]) == (422, "account_not_open", "wallet")


async def test_a_key_stands_for_one_command_of_one_caller_in_one_ledger(caller: Caller) -> None:
    ledger, elsewhere = await caller.open_ledger(), await caller.open_ledger()
    path = f"/{ledger}/transactions"
    assert (await caller.post(path, transaction(5), key="k")).status_code == 201
    reused = await caller.post(path, transaction(6), key="k")
    assert (reused.status_code, reused.json()["code"]) == (409, "idempotency_key_reused")
    assert (await caller.post(f"/{ledger}/accounts", {"address": "a"}, key="k")).json()["code"] == reused.json()["code"]
    colleague = f"Bearer {token('writer', subject='colleague')}"
    for answer in (
        await caller.post(path, transaction(6), key="k", authorization=colleague),
        await caller.post(f"/{elsewhere}/transactions", transaction(6), key="k"),
    ):
        assert answer.status_code == 201
        assert "idempotent-replay" not in answer.headers


async def test_ids_and_references_are_taken_once(caller: Caller) -> None:
    path = f"/{await caller.open_ledger()}/transactions"
    assert (await caller.post(path, transaction(id="mine", reference="r"))).json()["transaction"]["id"] == "mine"
    assert (await caller.post(path, transaction(id="mine"))).json()["code"] == "transaction_exists"
    assert (await caller.post(path, transaction(reference="r"))).json()["code"] == "reference_taken"
    assert (await caller.post(f"{path[:-13]}/accounts", {"address": "wallet"})).json()["code"] == "account_exists"


async def test_amounts_up_to_the_bound_go_in_and_come_out_whole(caller: Caller) -> None:
    path = f"/{await caller.open_ledger()}/transactions"
    most = 2**127 - 1
    assert (await caller.post(path, transaction(most))).json()["transaction"]["entries"][0]["amount"] == most
    first = await caller.post(path, transaction(str(most)), key="k")
    assert first.json()["transaction"]["entries"][0]["amount"] == most
    assert same(first, await caller.post(path, transaction(most), key="k"))


async def test_texts_of_every_script_come_out_as_they_went_in(caller: Caller) -> None:
    path = f"/{await caller.open_ledger()}/transactions"
    said = {"reference": "účet/100 % ☃:", "description": '\u2028\t"\\ \U0001f600', "metadata": {"ключ": "значение"}}
    made = (await caller.post(path, transaction(**said))).json()["transaction"]
    assert {name: made[name] for name in said} == said


# --- batches


async def test_each_command_of_a_batch_has_its_own_result(caller: Caller, events: Events) -> None:
    ledger = await caller.open_ledger(accounts="explicit")
    accounts = [
        {"type": "open_account", "data": {"address": "wallet", "limits": {"CZK/2": {"minimum": -10}}}},
        {"type": "open_account", "data": {"address": "cash", "normal_balance": "debit"}},
    ]
    posts = [{"type": "post_transaction", "data": transaction(amount)} for amount in (10, 1, 1.5)]
    answer = await caller.post(f"/{ledger}/batches", {"commands": [*accounts, *posts]}, key="b")
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 201, 201, 422, 400]
    assert results[3]["body"]["code"] == "insufficient_funds"
    assert results[4]["body"]["path"] == "$.commands[4].data.entries[0].amount"
    assert answer.json()["position"] == 5 == int(answer.headers["daybook-position"])
    again = (await caller.post(f"/{ledger}/batches", {"commands": [*accounts, *posts]}, key="b")).json()["results"]
    assert [result.get("replay", False) for result in again] == [True, True, True, True, False]
    assert [result["body"].get("position") for result in again] == [2, 3, 4, 5, None]
    assert len(events(ledger)) == 5


async def test_a_command_is_the_same_alone_and_in_a_batch(caller: Caller) -> None:
    ledger = await caller.open_ledger()
    element = {"type": "post_transaction", "key": "k", "data": transaction(reference="r")}
    first = (await caller.post(f"/{ledger}/batches", {"commands": [element]})).json()["results"][0]
    again = await caller.post(f"/{ledger}/transactions", transaction(reference="r"), key="k")
    assert again.headers["idempotent-replay"] == "true"
    assert again.json() == first["body"]


async def test_one_key_twice_in_a_batch_is_one_command(caller: Caller, events: Events) -> None:
    ledger = await caller.open_ledger()
    element = {"type": "post_transaction", "key": "k", "data": transaction()}
    other = {"type": "post_transaction", "key": "k", "data": transaction(6)}
    results = (await caller.post(f"/{ledger}/batches", {"commands": [element, element, other]})).json()["results"]
    assert [result["status"] for result in results] == [201, 201, 409]
    assert results[0]["body"] == results[1]["body"]
    assert events(ledger).count("TransactionPosted.v1") == 1


async def test_a_thousand_commands_go_in_one_batch_in_their_order(caller: Caller) -> None:
    ledger = await caller.open_ledger()
    commands = [{"type": "post_transaction", "data": transaction(1, id=f"t{n}")} for n in range(1000)]
    answer = await caller.post(f"/{ledger}/batches", {"commands": commands}, key="b")
    positions = [result["body"]["position"] for result in answer.json()["results"]]
    assert positions == sorted(positions)
    assert len(set(positions)) == 1000


# --- what became of a command


@pytest.mark.parametrize(
    "key", ["plain", "load:abc:17", "b/0", "a%2Fb", "q?x=1", "~!$&'()*+,;=@#[]", "//", "a/../b", "100%"]
)
async def test_a_caller_finds_their_own_command_by_its_key(caller: Caller, key: str) -> None:
    ledger = await caller.open_ledger()
    first = await caller.post(f"/{ledger}/transactions", transaction(), key=key)
    assert same(first, await caller.get(f"/{ledger}/commands/{quote(key, safe='')}"))
    other = await caller.get(f"/{ledger}/commands/{quote(key, safe='')}", subject="colleague")
    assert (other.status_code, other.json()["code"], other.json()["head"]) == (404, "command_not_found", 4)


async def test_a_refused_command_is_found_as_it_was_answered(caller: Caller) -> None:
    ledger = await caller.open_ledger(accounts="explicit")
    first = await caller.post(f"/{ledger}/transactions", transaction(), key="k")
    assert same(first, await caller.get(f"/{ledger}/commands/k"))


async def test_commands_of_an_absent_ledger_are_not_found(caller: Caller) -> None:
    answer = await caller.get("/nowhere/commands/k")
    assert (answer.status_code, answer.json()["code"]) == (404, "ledger_not_found")


async def test_correlation_and_trace_are_recorded_with_the_event(caller: Caller, database: Any) -> None:
    ledger = await caller.open_ledger()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await caller.post(
        f"/{ledger}/transactions", transaction(), key="k", headers={"x-correlation-id": "c-1", "traceparent": trace}
    )
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute(
            "select metadata from daybook.events where ledger = %s order by position desc limit 1", (ledger,)
        ).fetchone()
    assert row is not None
    metadata = json.loads(row[0])
    assert (metadata["actor"], metadata["correlation_id"], metadata["trace"], metadata["key"]) == (
        "teller",
        "c-1",
        trace,
        "k",
    )
