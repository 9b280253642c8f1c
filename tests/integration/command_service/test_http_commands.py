"""Every command over HTTP: its answer, its repetition, what became of it by its key, and every refusal of the rule book."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shared_kernel.problems import PROBLEMS
from tests.integration.command_service.conftest import QUERY_URL, Caller, token
from tests.integration.command_service.test_http import same

pytestmark = pytest.mark.thorough

Events = Callable[[str], list[str]]
LATER = "2026-12-01T00:00:00Z"
ADMIN = f"Bearer {token('admin')}"


def soon(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


def move(source: str, target: str, amount: int = 5, asset: str = "CZK/2") -> dict[str, Any]:
    """A transaction that debits the one and credits the other: all accounts here are credit-normal."""
    return {
        "entries": [
            {"account": source, "direction": "debit", "amount": amount, "asset": asset},
            {"account": target, "direction": "credit", "amount": amount, "asset": asset},
        ]
    }


def lines(*entries: tuple[str, str, int]) -> list[dict[str, Any]]:
    return [
        {"account": account, "direction": direction, "amount": amount, "asset": "CZK/2"}
        for account, direction, amount in entries
    ]


class Desk:
    """A ledger with `wallet` (no less than 0, 100 in it) and `shop`, and whoever works at it."""

    def __init__(self, caller: Caller, ledger: str) -> None:
        self.caller = caller
        self.ledger = ledger

    async def ask(self, method: str, path: str, body: object = None, **more: Any) -> httpx.Response:
        """Sends a command twice, and looks it up: the same answer each time."""
        key = more.pop("key", hashlib.sha256(f"{method} {path} {json.dumps(body)}".encode()).hexdigest())
        first = await self.caller.send(method, f"/ledgers/{self.ledger}{path}", body, key=key, **more)
        if first.status_code in (200, 201, 422) and "?" not in path:
            again = await self.caller.send(method, f"/ledgers/{self.ledger}{path}", body, key=key, **more)
            assert same(first, again), (first.text, again.text)
        return first

    async def done(self, method: str, path: str, body: object = None, **more: Any) -> dict[str, Any]:
        """The answer of a command that is done."""
        response = await self.ask(method, path, body, **more)
        assert response.status_code in (200, 201), response.text
        told: dict[str, Any] = response.json()
        assert int(response.headers["daybook-position"]) == told["position"]
        return told

    async def refused(self, method: str, path: str, body: object = None, **more: Any) -> dict[str, Any]:
        """The problem that says why not."""
        response = await self.ask(method, path, body, **more)
        told: dict[str, Any] = response.json()
        assert response.headers["content-type"] == "application/problem+json", response.text
        assert told["status"] == response.status_code == PROBLEMS[told["code"]].status
        return told

    async def hold(self, name: str = "hold", amount: int = 60, **more: Any) -> dict[str, Any]:
        """From wallet to shop."""
        body = move("wallet", "shop", amount) | {"id": name, "status": "pending"} | more
        return await self.done("POST", "/transactions", body)

    async def balances(self, account: str) -> dict[str, Any]:
        """What a rehearsed entry of a unit on both sides says of the account: nothing changes, so it is as it stands."""
        told = await self.caller.send(
            "POST",
            f"/ledgers/{self.ledger}/transactions?dry_run=true",
            {"entries": lines((account, "debit", 1), (account, "credit", 1))},
        )
        assert told.status_code == 200, told.text
        found: dict[str, Any] = told.json()["transaction"]["balances"][account]["CZK/2"]
        return found


@pytest.fixture
async def desk(caller: Caller) -> Desk:
    ledger = await caller.open_ledger(defaults=[{"pattern": "wallet", "limits": {"CZK/2": {"minimum": 0}}}])
    made = Desk(caller, ledger)
    await made.done("POST", "/transactions", move("world", "wallet", 100) | {"id": "funding"})
    return made


# --- holds


async def test_a_hold_is_placed_posted_in_part_and_the_rest_released(desk: Desk, events: Events) -> None:
    ends = soon(days=1)
    placed = (await desk.hold(expires_at=ends, reference="r", description="d", metadata={"k": "v"}))["transaction"]
    assert placed["status"] == "pending"
    assert placed["expires_at"].startswith(ends[:19])
    assert (placed["reference"], placed["description"], placed["metadata"]) == ("r", "d", {"k": "v"})
    part = lines(("wallet", "debit", 40), ("shop", "credit", 40))
    told = await desk.done("POST", "/transactions/hold/post", {"entries": part})
    rest = lines(("wallet", "debit", 20), ("shop", "credit", 20))
    assert told["transaction"] == {"id": "hold", "status": "posted", "posted": part, "released": rest}
    assert set(told) == {"transaction", "position", "recorded_at"}
    settled = await desk.refused("POST", "/transactions/hold/void")
    assert (settled["code"], settled["transaction"]) == ("already_settled", "hold")
    assert events(desk.ledger)[-2:] == ["TransactionHeld.v1", "HoldPosted.v1"]


async def test_a_hold_is_captured_in_several_parts_and_then_voided(desk: Desk) -> None:
    await desk.hold()
    part = {"entries": lines(("wallet", "debit", 10), ("shop", "credit", 10)), "keep_remainder": True}
    for key in ("first", "second"):
        told = await desk.done("POST", "/transactions/hold/post", part, key=key)
        assert (told["transaction"]["status"], told["transaction"]["released"]) == ("pending", [])
    told = await desk.done("POST", "/transactions/hold/void")
    rest = lines(("wallet", "debit", 40), ("shop", "credit", 40))
    assert told["transaction"] == {"id": "hold", "status": "posted", "released": rest}


async def test_a_hold_counts_against_what_is_available_and_a_void_gives_it_back(desk: Desk) -> None:
    await desk.hold(amount=60)
    found = await desk.balances("wallet")
    assert (found["posted"], found["pending"], found["available"]) == (100, 40, 40)
    told = await desk.refused("POST", "/transactions", move("wallet", "shop", 41))
    assert (told["code"], told["available"], told["limit"], told["missing"]) == ("insufficient_funds", 40, 0, 1)
    assert (await desk.done("POST", "/transactions/hold/void"))["transaction"]["status"] == "voided"
    await desk.done("POST", "/transactions", move("wallet", "shop", 100))


async def test_more_than_is_held_is_not_posted(desk: Desk) -> None:
    await desk.hold()
    asked = {"entries": lines(("wallet", "debit", 61), ("shop", "credit", 61))}
    told = await desk.refused("POST", "/transactions/hold/post", asked)
    assert {name: told[name] for name in ("code", "account", "asset", "held", "asked", "missing")} == {
        "code": "hold_exceeded",
        "account": "wallet",
        "asset": "CZK/2",
        "held": 60,
        "asked": 61,
        "missing": 1,
    }
    assert (await desk.done("POST", "/transactions/hold/post"))["transaction"]["posted"][0]["amount"] == 60


async def test_only_holds_are_settled_and_only_what_exists(desk: Desk) -> None:
    for path in ("post", "void"):
        assert (await desk.refused("POST", f"/transactions/funding/{path}"))["code"] == "transaction_not_pending"
        assert (await desk.refused("POST", f"/transactions/nobody/{path}"))["code"] == "transaction_not_found"
    assert (await desk.refused("POST", "/transactions/nobody/reverse"))["code"] == "transaction_not_found"


async def test_a_hold_that_would_have_ended_is_not_placed(desk: Desk) -> None:
    body = move("wallet", "shop") | {"status": "pending", "expires_at": "2020-01-01T00:00:00Z"}
    assert (await desk.refused("POST", "/transactions", body))["code"] == "expires_at_passed"


# --- reversals


async def test_a_transaction_is_reversed_in_part_and_then_the_rest_but_no_more(desk: Desk) -> None:
    await desk.done("POST", "/transactions", move("wallet", "shop", 50) | {"id": "sale"})
    part = {
        "entries": lines(("wallet", "debit", 20), ("shop", "credit", 20)),
        "id": "back-1",
        "effective_at": "original",
    }
    response = await desk.ask("POST", "/transactions/sale/reverse", part)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"{QUERY_URL}/v1/ledgers/{desk.ledger}/transactions/back-1"
    made = response.json()["transaction"]
    assert (made["status"], made["reverses"], "forced" in made) == ("posted", "sale", False)
    assert made["entries"] == lines(("wallet", "credit", 20), ("shop", "debit", 20))
    assert made["effective_at"] < made["recorded_at"]
    asked = {"entries": lines(("wallet", "debit", 31), ("shop", "credit", 31))}
    told = await desk.refused("POST", "/transactions/sale/reverse", asked)
    assert (told["code"], told["reversible"], told["asked"], told["missing"]) == ("reversal_exceeds", 30, 31, 1)
    rest = await desk.done("POST", "/transactions/sale/reverse", {"reference": "r", "metadata": {"why": "all"}})
    assert [entry["amount"] for entry in rest["transaction"]["entries"]] == [30, 30]
    assert (await desk.refused("POST", "/transactions/sale/reverse", key="x"))["code"] == "already_reversed"


async def test_what_is_not_posted_is_not_reversed(desk: Desk) -> None:
    await desk.hold()
    assert (await desk.refused("POST", "/transactions/hold/reverse"))["code"] == "transaction_not_posted"


async def test_limits_refuse_a_reversal_unless_an_admin_forces_it(desk: Desk) -> None:
    await desk.done("POST", "/transactions", move("wallet", "shop", 50))
    told = await desk.refused("POST", "/transactions/funding/reverse", key="a")
    assert (told["code"], told["missing"]) == ("insufficient_funds", 50)
    denied = await desk.refused("POST", "/transactions/funding/reverse", {"force": True}, key="b")
    assert (denied["code"], denied["role"], denied["path"]) == ("forbidden", "admin", "$.force")
    forced = await desk.done("POST", "/transactions/funding/reverse", {"force": True}, key="b", authorization=ADMIN)
    assert forced["transaction"]["forced"] is True
    assert (await desk.balances("wallet"))["available"] == -50


async def test_force_needs_an_admin_in_batches_too(desk: Desk, events: Events) -> None:
    element = {"type": "reverse_transaction", "key": "f", "data": {"transaction": "funding", "force": True}}
    other = {"type": "post_transaction", "key": "o", "data": move("a", "b")}
    before = events(desk.ledger)
    for path, body in (
        (f"/ledgers/{desk.ledger}/batches", {"atomic": True, "commands": [other, element]}),
        ("/batches", {"commands": [one | {"ledger": desk.ledger} for one in (other, element)]}),
    ):
        answer = await desk.caller.send("POST", path, body)
        assert (answer.status_code, answer.json()["path"]) == (403, "$.commands[1].data.force")
    assert events(desk.ledger) == before
    answer = await desk.caller.send("POST", f"/ledgers/{desk.ledger}/batches", {"commands": [other, element]})
    assert [one["status"] for one in answer.json()["results"]] == [201, 403]


# --- scheduled transactions


async def test_a_transaction_is_scheduled_and_cancelled(desk: Desk) -> None:
    at = soon(days=2)
    body = move("wallet", "shop", 1000) | {"id": "rent", "status": "scheduled", "effective_at": at}
    made = (await desk.done("POST", "/transactions", body))["transaction"]
    assert (made["status"], made["effective_at"][:19]) == ("scheduled", at[:19])
    assert (await desk.done("POST", "/transactions/rent/cancel"))["transaction"] == {
        "id": "rent",
        "status": "cancelled",
    }
    again = await desk.refused("POST", "/transactions/rent/cancel", key="x")
    assert (again["code"], again["transaction"]) == ("transaction_not_scheduled", "rent")


async def test_nothing_is_scheduled_for_the_past_or_for_too_far_ahead(desk: Desk) -> None:
    for at, code in (
        ("2020-01-01T00:00:00Z", "scheduled_in_the_past"),
        ("2600-01-01T00:00:00Z", "effective_at_too_late"),
    ):
        body = move("wallet", "shop") | {"status": "scheduled", "effective_at": at}
        assert (await desk.refused("POST", "/transactions", body))["code"] == code


# --- accounts


async def test_limits_are_replaced_and_what_is_beyond_them_is_told(desk: Desk) -> None:
    limits = {"CZK/2": {"minimum": 200}, "EUR/2": {"maximum": "5", "minimum": None}}
    told = await desk.done("PUT", "/accounts/wallet/limits", {"limits": limits})
    assert told["account"] == {
        "address": "wallet",
        "limits": {"CZK/2": {"minimum": 200}, "EUR/2": {"maximum": 5}},
        "breached": ["CZK/2"],
    }
    assert (await desk.refused("POST", "/transactions", move("wallet", "shop", 1)))["code"] == "insufficient_funds"
    over = await desk.refused("POST", "/transactions", move("world", "wallet", 6, "EUR/2"))
    assert (over["code"], over["balance"], over["limit"], over["missing"]) == ("limit_exceeded", 0, 5, 1)
    assert (await desk.done("PUT", "/accounts/wallet/limits", {"limits": {}}))["account"]["limits"] == {}
    await desk.done("POST", "/transactions", move("wallet", "shop", 1000))


async def test_an_account_is_frozen_on_one_side_and_unfrozen(desk: Desk) -> None:
    told = await desk.done("POST", "/accounts/wallet/freeze", {"scope": "debits"})
    assert told["account"] == {"address": "wallet", "status": "frozen", "frozen": "debits"}
    refused = await desk.refused("POST", "/transactions", move("wallet", "shop", 1))
    assert (refused["code"], refused["account"], refused["scope"]) == ("account_frozen", "wallet", "debits")
    await desk.done("POST", "/transactions", move("world", "wallet", 1))
    assert (await desk.done("POST", "/accounts/wallet/freeze", key="all"))["account"]["frozen"] == "all"
    told = await desk.done("POST", "/accounts/wallet/unfreeze")
    assert told["account"] == {"address": "wallet", "status": "open", "frozen": None}
    again = await desk.refused("POST", "/accounts/wallet/unfreeze", key="again")
    assert (again["code"], again["account"]) == ("account_not_frozen", "wallet")


async def test_an_account_closes_with_zero_balances_and_no_holds_and_is_reopened(desk: Desk) -> None:
    told = await desk.refused("POST", "/accounts/wallet/close", key="1")
    assert (told["code"], told["asset"], told["balance"]) == ("balance_not_zero", "CZK/2", 100)
    await desk.hold(amount=100)
    await desk.done("POST", "/transactions", move("world", "till", 7))
    await desk.done("POST", "/transactions", move("till", "world", 7))
    await desk.done("POST", "/transactions", move("till", "world", 7) | {"id": "h2", "status": "pending"})
    told = await desk.refused("POST", "/accounts/till/close", key="2")
    assert (told["code"], told["asset"]) == ("holds_pending", "CZK/2")
    await desk.done("POST", "/transactions/hold/post")
    assert (await desk.done("POST", "/accounts/wallet/close", key="3"))["account"]["status"] == "closed"
    assert (await desk.refused("POST", "/transactions", move("world", "wallet")))["code"] == "account_closed"
    assert (await desk.refused("POST", "/accounts/wallet/freeze"))["code"] == "account_closed"
    told = await desk.done("POST", "/accounts/wallet/reopen")
    assert told["account"] == {"address": "wallet", "status": "open", "frozen": None}
    assert (await desk.refused("POST", "/accounts/wallet/reopen", key="x"))["code"] == "account_not_closed"


async def test_nothing_is_done_to_an_account_that_nobody_opened(desk: Desk) -> None:
    for method, path, body in (
        ("PUT", "limits", {"limits": {}}),
        ("POST", "freeze", {}),
        ("POST", "unfreeze", {}),
        ("POST", "close", {}),
        ("POST", "reopen", {}),
        ("PATCH", "metadata", {"metadata": {"a": "b"}}),
    ):
        told = await desk.refused(method, f"/accounts/nobody:here/{path}", body)
        assert (told["code"], told["account"]) == ("account_not_open", "nobody:here"), path


# --- ledgers and metadata


async def test_an_archived_ledger_takes_only_the_ends_of_holds_until_it_is_reopened(desk: Desk) -> None:
    await desk.hold()
    told = await desk.done("POST", "/archive")
    assert told["ledger"] == {"ledger": desk.ledger, "status": "archived"}
    refused = await desk.refused("POST", "/transactions", move("world", "shop"))
    assert (refused["code"], refused["ledger"]) == ("ledger_archived", desk.ledger)
    await desk.done("POST", "/transactions/hold/void")
    assert (await desk.done("POST", "/reopen"))["ledger"] == {"ledger": desk.ledger, "status": "open"}
    assert (await desk.refused("POST", "/reopen", key="again"))["code"] == "ledger_not_archived"
    await desk.done("POST", "/transactions", move("world", "shop", 6))


@pytest.mark.parametrize(
    ("path", "name", "subject"),
    [
        ("/metadata", "ledger", {}),
        ("/accounts/wallet/metadata", "account", {"address": "wallet"}),
        ("/transactions/funding/metadata", "transaction", {"id": "funding"}),
    ],
)
async def test_metadata_is_patched_and_stays_bounded(desk: Desk, path: str, name: str, subject: dict[str, str]) -> None:
    changes: dict[str, str | None] = {"a": "b", "gone": None}
    told = (await desk.done("PATCH", path, {"metadata": changes}))[name]
    assert told == {**(subject or {"ledger": desk.ledger}), "metadata_changes": changes}
    many = {f"key-{number}": "" for number in range(50)}
    refused = await desk.refused("PATCH", path, {"metadata": many})
    assert (refused["code"], refused["keys"], refused["limit"]) == ("metadata_too_large", 51, 50)
    await desk.done("PATCH", path, {"metadata": many | {"key-0": None}}, key="fits")


# --- conditions


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (
            {"account": "wallet", "asset": "CZK/2", "balance": "available", "gte": 101},
            {"account": "wallet", "asset": "CZK/2", "balance": "available", "found": 100, "gte": 101},
        ),
        (
            {"account": "wallet", "asset": "CZK/2", "balance": "posted", "lte": "99"},
            {"account": "wallet", "asset": "CZK/2", "balance": "posted", "found": 100, "lte": 99},
        ),
        (
            {"account": "wallet", "asset": "EUR/2", "balance": "pending", "eq": 1},
            {"account": "wallet", "asset": "EUR/2", "balance": "pending", "found": 0, "eq": 1},
        ),
        ({"account": "wallet", "last_position": 3}, {"account": "wallet", "found": 4, "last_position": 3}),
        ({"head": 3}, {"found": 4, "head": 3}),
    ],
)
async def test_a_condition_that_does_not_hold_says_what_it_found(
    desk: Desk, condition: dict[str, Any], told: dict[str, Any]
) -> None:
    holds = {"account": "wallet", "asset": "CZK/2", "balance": "posted", "eq": 100}
    body = move("wallet", "shop", 1) | {"conditions": [holds, condition]}
    refused = await desk.refused("POST", "/transactions", body)
    assert (refused["code"], refused["condition"]) == ("condition_failed", 1)
    assert {name: refused[name] for name in told} == told


async def test_commands_whose_conditions_hold_are_done(desk: Desk) -> None:
    exact = [{"account": "wallet", "asset": "CZK/2", "balance": "posted", "eq": "100"}, {"head": 4}]
    await desk.done("POST", "/transactions", move("wallet", "shop", 100) | {"conditions": exact})
    await desk.done("POST", "/accounts/wallet/close", {"conditions": [{"account": "wallet", "last_position": 6}]})


# --- known balances, and amounts as strings


async def test_known_balances_are_answered_and_recorded(desk: Desk) -> None:
    body = move("wallet", "shop", 30) | {"balances": "known"}
    made = (await desk.done("POST", "/transactions", body))["transaction"]
    assert made["balances"]["wallet"] == {
        "CZK/2": {
            "posted": 70,
            "pending": 70,
            "available": 70,
            "posted_debits": 30,
            "posted_credits": 100,
            "pending_debits": 30,
            "pending_credits": 100,
        }
    }


@pytest.mark.parametrize(("query", "headers"), [("?amounts=string", {}), ("", {"prefer": "amounts=string"})])
async def test_amounts_are_answered_as_strings_on_request(desk: Desk, query: str, headers: dict[str, str]) -> None:
    body = move("wallet", "shop", 30) | {"balances": "known"}
    path = f"/ledgers/{desk.ledger}/transactions{query}"
    made = (await desk.caller.send("POST", path, body, headers=headers)).json()
    assert made["position"] == 6
    assert [entry["amount"] for entry in made["transaction"]["entries"]] == ["30", "30"]
    assert made["transaction"]["balances"]["wallet"]["CZK/2"]["available"] == "70"
    refused = (await desk.caller.send("POST", path, move("wallet", "shop", 71), headers=headers)).json()
    assert (refused["available"], refused["limit"], refused["missing"], refused["status"]) == ("70", "0", "1", 422)
    element = {"type": "post_transaction", "key": "k", "data": move("wallet", "shop", 1)}
    batch = f"/ledgers/{desk.ledger}/batches{query}"
    results = (await desk.caller.send("POST", batch, {"commands": [element]}, headers=headers)).json()["results"]
    assert results[0]["body"]["transaction"]["entries"][0]["amount"] == "1"


# --- dry runs


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/accounts", {"address": "new"}),
        ("POST", "/transactions", move("wallet", "shop", 30) | {"id": "sale"}),
        ("POST", "/transactions", move("wallet", "shop", 30) | {"status": "pending", "expires_at": LATER}),
        ("POST", "/transactions/funding/reverse", {"id": "back"}),
        ("POST", "/transactions/hold/post", {}),
        ("POST", "/transactions/hold/void", None),
        ("PUT", "/accounts/wallet/limits", {"limits": {"CZK/2": {"minimum": 7}}}),
        ("POST", "/accounts/wallet/freeze", None),
        ("POST", "/accounts/till/close", None),
        ("POST", "/archive", None),
        ("PATCH", "/metadata", {"metadata": {"a": "b"}}),
    ],
)
async def test_a_dry_run_answers_as_the_real_run_does_and_writes_nothing(
    desk: Desk, events: Events, method: str, path: str, body: dict[str, Any] | None
) -> None:
    await desk.done("POST", "/accounts", {"address": "till"})
    await desk.hold(amount=10)
    before = events(desk.ledger)
    if path.endswith("/reverse"):
        await desk.done("POST", "/transactions/hold/void")
        before = events(desk.ledger)
    sent = await desk.caller.send(method, f"/ledgers/{desk.ledger}{path}?dry_run=true", body)
    assert sent.status_code == 200, sent.text
    rehearsed = sent.json()
    assert events(desk.ledger) == before
    assert (rehearsed["dry_run"], rehearsed["position"]) == (True, None)
    assert rehearsed["as_of"]["position"] == len(before)
    assert "daybook-position" not in sent.headers
    real = await desk.done(method, path, body)
    plain = {"position", "recorded_at", "effective_at", "opened_at", "balances"}
    resource = next(iter(set(real) & {"transaction", "account", "ledger"}))
    for name in set(real[resource]) - plain - ({"id"} if "id" not in (body or {}) else set()):
        assert rehearsed[resource][name] == real[resource][name], name
    if "entries" in (body or {}):
        assert rehearsed[resource]["balances"]["wallet"]["CZK/2"]["available"] == 60


async def test_a_dry_run_is_refused_as_the_real_run_is(desk: Desk, events: Events) -> None:
    before = events(desk.ledger)
    path = f"/ledgers/{desk.ledger}/transactions?dry_run=true"
    told = (await desk.caller.send("POST", path, move("wallet", "shop", 101), key="k")).json()
    assert (told["code"], told["missing"], told["dry_run"], told["position"]) == ("insufficient_funds", 1, True, None)
    taken = await desk.caller.send("POST", path, move("world", "shop") | {"id": "funding"})
    assert (taken.status_code, taken.json()["code"], taken.json()["dry_run"]) == (409, "transaction_exists", True)
    absent = await desk.caller.send("POST", "/ledgers/nowhere/transactions?dry_run=true", move("a", "b"))
    assert (absent.status_code, absent.json()["code"]) == (404, "ledger_not_found")
    assert events(desk.ledger) == before
    real = await desk.refused("POST", "/transactions", move("wallet", "shop", 101), key="k")
    assert real["missing"] == 1


async def test_a_dry_run_under_a_known_key_gives_the_recorded_answer(desk: Desk) -> None:
    body = move("wallet", "shop", 1)
    first = await desk.ask("POST", "/transactions", body, key="k")
    path = f"/ledgers/{desk.ledger}/transactions?dry_run=true"
    assert same(first, await desk.caller.send("POST", path, body, key="k"))
    other = await desk.caller.send("POST", path, move("wallet", "shop", 2), key="k")
    assert other.json()["code"] == "idempotency_key_reused"


async def test_opening_a_ledger_can_be_rehearsed(caller: Caller) -> None:
    body = {"ledger": "dry:one", "time_zone": "Europe/Prague"}
    told = await caller.send("POST", "/ledgers?dry_run=true", body)
    assert (told.status_code, told.json()["ledger"]["time_zone"]) == (200, "Europe/Prague")
    assert (await caller.send("POST", "/ledgers", body)).json()["ledger"]["time_zone"] == "Europe/Prague"
    again = await caller.send("POST", "/ledgers?dry_run=true", body)
    assert (again.status_code, again.json()["code"]) == (409, "ledger_exists")
