"""Atomic batches over HTTP, in one ledger and across ledgers, their repetitions, refusals and dry runs."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.command_service.conftest import Caller, token
from tests.integration.command_service.test_http import same
from tests.integration.command_service.test_http_commands import move

Events = Callable[[str], list[str]]


def post(key: str, source: str, target: str, amount: int = 5, **more: Any) -> dict[str, Any]:
    """An element that posts a transaction with its key as its id."""
    return {"type": "post_transaction", "key": key, "data": move(source, target, amount) | {"id": key}} | more


@pytest.fixture
async def ledger(caller: Caller) -> str:
    """Wallets hold no less than 0."""
    return await caller.open_ledger(defaults=[{"pattern": "wallet:*", "limits": {"CZK/2": {"minimum": 0}}}])


async def test_all_of_an_atomic_batch_is_done_each_seeing_what_the_earlier_did(
    caller: Caller, ledger: str, events: Events
) -> None:
    commands = [
        {"type": "open_account", "key": "open", "data": {"address": "shop", "limits": {"CZK/2": {"maximum": 100}}}},
        post("fund", "world", "wallet:1", 60),
        {
            "type": "post_transaction",
            "key": "hold",
            "data": move("wallet:1", "shop", 60) | {"id": "h", "status": "pending"},
        },
        {"type": "post_hold", "key": "take", "data": {"transaction": "h"}},
        {"type": "reverse_transaction", "key": "back", "data": {"transaction": "h", "id": "undone"}},
        {"type": "patch_account_metadata", "key": "note", "data": {"address": "shop", "metadata": {"a": "b"}}},
        {"type": "freeze_account", "key": "freeze", "data": {"address": "shop"}},
    ]
    answer = await caller.post(f"/{ledger}/batches", {"atomic": True, "commands": commands})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [one["status"] for one in told["results"]] == [201, 201, 201, 200, 201, 200, 200]
    assert told["position"] == len(events(ledger)) == int(answer.headers["daybook-position"])
    assert told["results"][4]["body"]["transaction"]["reverses"] == "h"
    again = await caller.post(f"/{ledger}/batches", {"atomic": True, "commands": commands})
    assert [one["replay"] for one in again.json()["results"]] == [True] * 7
    assert [one["body"] for one in again.json()["results"]] == [one["body"] for one in told["results"]]
    alone = await caller.get(f"/{ledger}/commands/take")
    assert (alone.status_code, alone.json()) == (200, told["results"][3]["body"])


async def test_the_first_refusal_refuses_the_whole_batch_and_is_the_one_thing_recorded(
    caller: Caller, ledger: str, events: Events
) -> None:
    commands = [post("a", "world", "wallet:1"), post("b", "wallet:1", "shop", 6), post("c", "world", "shop")]
    body = {"atomic": True, "commands": commands}
    first = await caller.post(f"/{ledger}/batches", body)
    told = first.json()
    assert (first.status_code, first.headers["content-type"]) == (422, "application/problem+json")
    assert (told["code"], told["command"], told["missing"], told["position"]) == ("insufficient_funds", 1, 1, 2)
    assert events(ledger) == ["LedgerOpened.v1", "CommandRefused.v1"]
    assert same(first, await caller.post(f"/{ledger}/batches", body))
    assert (await caller.get(f"/{ledger}/commands/b")).json()["code"] == "insufficient_funds"
    for key in "ac":
        assert (await caller.get(f"/{ledger}/commands/{key}")).json()["code"] == "command_not_found"
    assert (await caller.post(f"/{ledger}/transactions", commands[0]["data"], key="a")).status_code == 201


async def test_a_batch_of_which_only_some_is_known_is_neither_repeated_nor_done(
    caller: Caller, ledger: str, events: Events
) -> None:
    assert (
        await caller.post(f"/{ledger}/transactions", post("b", "world", "shop")["data"], key="b")
    ).status_code == 201
    before = events(ledger)
    body = {"atomic": True, "commands": [post("a", "world", "shop"), post("b", "world", "shop")]}
    answer = await caller.post(f"/{ledger}/batches", body)
    assert (answer.status_code, answer.json()["code"], answer.json()["command"]) == (409, "batch_partly_known", 1)
    other = {"atomic": True, "commands": [post("b", "world", "till")]}
    reused = await caller.post(f"/{ledger}/batches", other)
    assert (reused.status_code, reused.json()["code"], reused.json()["command"]) == (409, "idempotency_key_reused", 0)
    assert events(ledger) == before


@pytest.mark.parametrize(
    ("commands", "status", "told"),
    [
        ([post("a", "w", "s"), post("a", "w", "s")], 400, {"path": "$.commands[1].key"}),
        ([post("a", "w", "s"), post("b", "w", "s", data={})], 400, {"path": "$.commands[1].data.entries"}),
        (
            [post("a", "w", "s"), post("b", "w", "s", data=move("w", "s") | {"id": "a"})],
            409,
            {"code": "transaction_exists"},
        ),
        ([{"type": "void_hold", "key": "v", "data": {"transaction": "x"}}], 404, {"code": "transaction_not_found"}),
    ],
)
async def test_what_cannot_be_taken_writes_nothing(
    *, caller: Caller, ledger: str, events: Events, commands: list[Any], status: int, told: dict[str, Any]
) -> None:
    for path, body in (
        (f"/ledgers/{ledger}/batches", {"atomic": True, "commands": commands}),
        ("/batches", {"commands": [one | {"ledger": ledger} for one in commands]}),
    ):
        answer = await caller.send("POST", path, body)
        assert answer.status_code == status, answer.text
        assert {name: answer.json()[name] for name in told} == told
    assert events(ledger) == ["LedgerOpened.v1"]


async def test_a_dry_run_of_a_batch_decides_all_and_writes_nothing(caller: Caller, ledger: str, events: Events) -> None:
    funded = [post("a", "world", "wallet:1", 10), post("b", "wallet:1", "shop", 6)]
    for is_atomic in (True, False):
        body = {"atomic": is_atomic, "commands": funded}
        told = (await caller.post(f"/{ledger}/batches?dry_run=true", body)).json()
        assert (told["dry_run"], told["position"]) == (True, None)
        last = told["results"][1]["body"]["transaction"]
        assert last["balances"]["wallet:1"]["CZK/2"]["available"] == 4
        worse = [*funded, post("c", "wallet:1", "shop", 6)]
        answer = await caller.post(f"/{ledger}/batches?dry_run=true", {"atomic": is_atomic, "commands": worse})
        refusal = answer.json() if is_atomic else answer.json()["results"][2]["body"]
        assert (refusal["code"], refusal["missing"], refusal["dry_run"]) == ("insufficient_funds", 2, True)
        assert answer.status_code == (422 if is_atomic else 200)
    malformed = {"commands": [*funded, {"type": "void_hold", "key": "v", "data": {}}]}
    results = (await caller.post(f"/{ledger}/batches?dry_run=true", malformed)).json()["results"]
    assert [one["status"] for one in results] == [200, 200, 400]
    assert events(ledger) == ["LedgerOpened.v1"]


# --- across ledgers


async def test_a_batch_across_ledgers_is_done_in_all_of_them(caller: Caller, ledger: str, events: Events) -> None:
    other = await caller.open_ledger()
    commands = [
        post("1", "world", "wallet:1", 10, ledger=ledger),
        post("2", "world", "wallet:9", 10, ledger=other),
        post("3", "wallet:1", "shop", 10, ledger=ledger),
    ]
    answer = await caller.send("POST", "/batches", {"commands": commands})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["positions"] == {ledger: len(events(ledger)), other: len(events(other))}
    assert [one["status"] for one in told["results"]] == [201, 201, 201]
    assert "daybook-position" not in answer.headers  # a position is a ledger's own
    again = (await caller.send("POST", "/batches", {"commands": commands})).json()
    assert again == {**told, "results": [one | {"replay": True} for one in told["results"]]}


async def test_a_refusal_in_one_ledger_keeps_the_others_as_they_were(
    caller: Caller, ledger: str, events: Events
) -> None:
    other = await caller.open_ledger()
    commands = [post("1", "world", "shop", ledger=other), post("2", "wallet:1", "shop", ledger=ledger)]
    for _ in range(2):
        answer = await caller.send("POST", "/batches", {"commands": commands})
        told = answer.json()
        assert (answer.status_code, told["code"], told["command"]) == (422, "insufficient_funds", 1)
        assert told["ledger"] == ledger
    assert (events(other), events(ledger)) == (["LedgerOpened.v1"], ["LedgerOpened.v1", "CommandRefused.v1"])


async def test_a_batch_across_ledgers_needs_rights_on_each(caller: Caller, ledger: str, events: Events) -> None:
    mine = "acme:main"
    assert (await caller.post("", {"ledger": mine})).status_code == 201
    body = {"commands": [post("1", "a", "b", ledger=mine), post("2", "a", "b", ledger=ledger)]}
    bearer = f"Bearer {token('writer', ledgers=('acme:*',))}"
    denied = await caller.send("POST", "/batches", body, authorization=bearer)
    assert (denied.status_code, denied.json()["code"]) == (404, "ledger_not_found")
    assert (denied.json()["ledger"], denied.json()["command"]) == (ledger, 1)
    absent = {"commands": [post("1", "a", "b", ledger=mine), post("2", "a", "b", ledger="acme:none")]}
    assert (await caller.send("POST", "/batches", absent, authorization=bearer)).json()["command"] == 1
    reader = await caller.send("POST", "/batches", body, authorization=f"Bearer {token('reader')}")
    assert (reader.status_code, reader.json()["code"]) == (403, "forbidden")
    assert (await caller.send("POST", "/batches", body, authorization=None)).status_code == 401
    assert (events(mine), events(ledger)) == (["LedgerOpened.v1"], ["LedgerOpened.v1"])


async def test_a_batch_across_ledgers_can_be_rehearsed(caller: Caller, ledger: str, events: Events) -> None:
    other = await caller.open_ledger()
    commands = [post("1", "world", "wallet:1", ledger=ledger), post("2", "world", "shop", ledger=other)]
    told = (await caller.send("POST", "/batches?dry_run=true", {"commands": commands})).json()
    assert (told["dry_run"], told["positions"]) == (True, {ledger: None, other: None})
    assert [one["status"] for one in told["results"]] == [200, 200]
    assert (events(ledger), events(other)) == (["LedgerOpened.v1"], ["LedgerOpened.v1"])


async def test_no_ledger_is_opened_in_a_batch(caller: Caller, ledger: str) -> None:
    element = {"type": "open_ledger", "key": "o", "data": {"ledger": "x"}}
    across = await caller.send("POST", "/batches", {"commands": [element | {"ledger": "x"}]})
    assert (across.status_code, across.json()["path"]) == (400, "$.commands[0].type")
    results = (await caller.post(f"/{ledger}/batches", {"commands": [element]})).json()["results"]
    assert (results[0]["status"], results[0]["body"]["path"]) == (400, "$.commands[0].type")
