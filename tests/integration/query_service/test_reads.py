"""Every read, as a client sees it: shapes, stamps, filters, orders, pages, and who may see what."""

from typing import Any

import pytest

from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client

pytestmark = pytest.mark.thorough

AT = "2026-01-01T09:30:{:02}.000007Z"
WALLET = "/bank/accounts/users:1:wallet"


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Seven events: a ledger, three accounts, three transactions."""
    keeper.append(
        "bank",
        opened("bank"),
        account("cash", normal_balance="debit"),
        account("users:1:wallet"),
        account("users:2:wallet"),
        posting("t1", "cash", "users:1:wallet", 700, reference="r/1 ä", effective_at="2025-12-31T23:59:59.5Z"),
        posting("t2", "cash", "users:1:wallet", 2**100, "BTC/8"),
        posting("t3", "users:1:wallet", "users:2:wallet", 250),
    )
    keeper.project("bank")
    return keeper


@pytest.mark.usefixtures("bank")
async def test_balances_are_signed_by_the_normal_side_and_exact(client: Client) -> None:
    response = await client.get(f"{WALLET}/balances")
    assert response.headers["daybook-position"] == "7"
    assert response.json() == {
        "account": "users:1:wallet",
        "balances": {
            "BTC/8": _balance(debits=0, credits=2**100, posted=2**100),
            "EUR/2": _balance(debits=250, credits=700, posted=450),
        },
        "as_of": {"position": 7, "recorded_at": AT.format(7)},
        "complete": True,
    }
    cash = await client.ok("/bank/accounts/cash/balances")
    assert cash["balances"]["EUR/2"] == _balance(debits=700, credits=0, posted=700)


@pytest.mark.usefixtures("bank")
async def test_ledger_and_account_show_their_terms(client: Client) -> None:
    as_of = {"position": 7, "recorded_at": AT.format(7)}
    ledger = {
        "ledger": "bank",
        "status": "open",
        "time_zone": "UTC",
        "accounts": "on-first-use",
        "defaults": [{"pattern": "users:*:wallet", "normal_balance": "credit", "limits": {"EUR/2": {"minimum": 0}}}],
        "records_refusals": True,
        "metadata": {"country": "cz"},
        "opened_at": AT.format(1),
        "as_of": as_of,
        "complete": True,
    }
    assert await client.ok("/bank") == {"ledger": ledger, "as_of": as_of, "complete": True}
    assert await client.ok("") == {"data": [ledger], "next_cursor": None, "as_of": None, "complete": True}
    assert (await client.ok("/bank/accounts/cash"))["account"] == {
        "address": "cash",
        "normal_balance": "debit",
        "status": "open",
        "limits": {"EUR/2": {"minimum": 0, "maximum": 500_000}},
        "metadata": {"owner": "cash"},
        "on_first_use": False,
        "opened_at": AT.format(2),
        "position": 2,
    }


@pytest.mark.usefixtures("bank")
async def test_transaction_is_found_by_id_reference_and_account(client: Client) -> None:
    first = {
        "id": "t1",
        "status": "posted",
        "entries": [
            {"account": "cash", "direction": "debit", "amount": 700, "asset": "EUR/2"},
            {"account": "users:1:wallet", "direction": "credit", "amount": 700, "asset": "EUR/2"},
        ],
        "reference": "r/1 ä",
        "effective_at": "2025-12-31T23:59:59.500000Z",
        "description": None,
        "metadata": {"shop": "7"},
        "position": 5,
        "recorded_at": AT.format(5),
        "changed_position": 5,
        "changed_at": AT.format(5),
        "actor": "local-writer",
        "correlation_id": "c-5",
    }
    found = await client.ok("/bank/transactions/t1")
    assert found["transaction"] == first
    assert (await client.ok("/bank/transactions?reference=r/1%20%C3%A4"))["data"] == [first]
    assert (await client.ok("/bank/transactions/t3"))["transaction"]["effective_at"] == AT.format(7)
    assert await _ids(client, "/bank/transactions") == ["t3", "t2", "t1"]
    assert await _ids(client, "/bank/transactions?order=oldest") == ["t1", "t2", "t3"]
    assert await _ids(client, "/bank/transactions?account=users:2:wallet") == ["t3"]
    assert await _ids(client, "/bank/transactions?account=users:1:wallet&order=oldest") == ["t1", "t2", "t3"]
    assert await _ids(client, "/bank/transactions?account=users:2:wallet&reference=r/1%20%C3%A4") == []
    assert await _ids(client, "/bank/transactions?account=cash&reference=r/1%20%C3%A4") == ["t1"]
    assert await _ids(client, "/bank/transactions?account=nobody") == []
    assert await _ids(client, "/bank/transactions?reference=none") == []


@pytest.mark.usefixtures("bank")
async def test_entries_carry_the_balance_after_each(client: Client) -> None:
    newest = (await client.ok(f"{WALLET}/entries"))["data"]
    assert [(e["position"], e["asset"], e["direction"], e["amount"], e["balance"]["posted"]) for e in newest] == [
        (7, "EUR/2", "debit", 250, 450),
        (6, "BTC/8", "credit", 2**100, 2**100),
        (5, "EUR/2", "credit", 700, 700),
    ]
    assert newest[2] | {"balance": None} == {
        "position": 5,
        "entry_index": 1,
        "kind": "posted",
        "transaction": "t1",
        "direction": "credit",
        "amount": 700,
        "asset": "EUR/2",
        "effective_at": "2025-12-31T23:59:59.500000Z",
        "recorded_at": AT.format(5),
        "balance": None,
    }
    assert (await client.ok(f"{WALLET}/entries?order=oldest"))["data"] == newest[::-1]
    assert (await client.ok(f"{WALLET}/entries?asset=BTC/8"))["data"] == newest[1:2]
    assert (await client.ok(f"{WALLET}/entries?asset=USD/2"))["data"] == []


async def test_account_without_entries_has_no_balances_and_an_empty_page(client: Client, keeper: Bookkeeper) -> None:
    keeper.append("bank", opened("bank"), account("cash"))
    keeper.project("bank")
    assert (await client.ok("/bank/accounts/cash/balances"))["balances"] == {}
    assert (await client.ok("/bank/accounts/cash/entries"))["data"] == []
    assert (await client.ok("/bank/trial-balance"))["assets"] == {}
    assert (await client.ok("/bank/transactions"))["data"] == []


@pytest.mark.usefixtures("bank")
async def test_trial_balance_sums_every_account_by_asset(client: Client) -> None:
    assert (await client.ok("/bank/trial-balance"))["assets"] == {
        "BTC/8": {"debits": 2**100, "credits": 2**100, "difference": 0, "accounts": 2},
        "EUR/2": {"debits": 950, "credits": 950, "difference": 0, "accounts": 3},
    }


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("users:*:wallet", ["users:1:wallet", "users:2:wallet"]),
        ("users:**", ["users:1:wallet", "users:2:wallet"]),
        ("users:1:wallet", ["users:1:wallet"]),
        ("**", ["cash", "users:1:wallet", "users:2:wallet"]),
        ("*", ["cash"]),
        ("users:*", []),
        ("user", []),
    ],
)
async def test_accounts_are_filtered_by_pattern(client: Client, pattern: str, expected: list[str]) -> None:
    found = await client.ok(f"/bank/accounts?address={pattern}")
    assert [account["address"] for account in found["data"]] == expected


@pytest.mark.usefixtures("bank")
async def test_events_are_the_canonical_lines_by_position_tag_and_type(client: Client) -> None:
    async def positions(query: str, as_of: int = 7) -> list[int]:
        found = await client.ok(f"/bank/events{query}", role="auditor")
        assert found["complete"]
        assert found["as_of"]["position"] == as_of
        return [event["position"] for event in found["data"]]

    assert await positions("") == [1, 2, 3, 4, 5, 6, 7]
    assert await positions("?order=newest&limit=2") == [7, 6]
    assert await positions("?from_position=3&to_position=5", as_of=5) == [3, 4, 5]
    assert await positions("?tag=account:users:1:wallet") == [3, 5, 6, 7]
    assert await positions("?tag=account:users:1:wallet&type=TransactionPosted.v1&from_position=6") == [6, 7]
    assert await positions("?type=LedgerOpened.v1") == [1]
    assert await positions("?tag=reference:r%252F1%2520%25C3%25A4") == [5]
    one = await client.get("/bank/events/6", role="auditor")
    assert one.headers["daybook-position"] == "6"
    # Byte for byte: what the log holds goes out unread.
    assert (
        '"event":{"ledger":"bank","position":6,"type":"TransactionPosted.v1","recorded_at":"2026-01-01T09:30:06.000007Z",'
        '"metadata":{"actor":"local-writer","correlation_id":"c-6"},"data":{"transaction":"t2","entries":[{"account":"cash",'
        f'"direction":"debit","amount":{2**100},"asset":"BTC/8"}}' in one.text
    )


async def test_account_that_opens_later_is_not_there_yet(client: Client, bank: Bookkeeper) -> None:
    bank.append("bank", account("late"))
    await client.problem("/bank/accounts/late", 404, "account_not_found")
    bank.project("bank")
    await client.ok("/bank/accounts/late")


async def test_events_need_no_read_model(client: Client, keeper: Bookkeeper) -> None:
    keeper.append("bank", opened("bank"))
    keeper.connection.execute("delete from projections.live")
    assert len((await client.ok("/bank/events", role="auditor"))["data"]) == 1
    problem = await client.problem("/bank", 503, "dependency_unavailable")
    assert problem["dependency"] == "books"
    keeper.go_live(1)
    keeper.project("bank")
    await client.ok("/bank")


@pytest.mark.usefixtures("bank")
async def test_a_token_sees_its_own_ledgers_only(client: Client, keeper: Bookkeeper) -> None:
    for name in ("acme:main", "acme:test", "other"):
        keeper.append(name, opened(name))
        keeper.project(name)
    paths = ("", "/accounts", "/accounts/cash", "/accounts/cash/balances", "/accounts/cash/entries", "/transactions")
    for path in (*paths, "/transactions/t1", "/trial-balance", "/events", "/events/1"):
        hidden = await client.get(f"/bank{path}", role="admin", ledgers=("acme:*",))
        unknown = await client.get(f"/none{path}", role="admin", ledgers=("**",))
        assert hidden.status_code == unknown.status_code == 404
        mask = {"ledger": None, "trace_id": None}
        assert hidden.json() | mask == unknown.json() | mask
        assert hidden.json()["code"] == "ledger_not_found"
    seen = await client.ok("", ledgers=("acme:*", "other"))
    assert [ledger["ledger"] for ledger in seen["data"]] == ["acme:main", "acme:test", "other"]
    assert (await client.ok("", ledgers=("none",)))["data"] == []


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize("role", ["reader", "writer", "operator", "auditor", "admin"])
async def test_roles_open_the_books_and_the_log(client: Client, role: str) -> None:
    books = await client.get("/bank/accounts", role=role)
    log = await client.get("/bank/events", role=role)
    assert books.status_code == (403 if role == "writer" else 200)
    assert log.status_code == (200 if role in {"auditor", "admin"} else 403)
    assert (await client.get("", role=role)).status_code == (403 if role == "writer" else 200)


def _balance(*, debits: int, credits: int, posted: int) -> dict[str, int]:  # noqa: A002
    held = {"pending_debits": debits, "pending_credits": credits}
    totals = {"posted_debits": debits, "posted_credits": credits}
    return {"posted": posted, "pending": posted, "available": posted, **totals, **held}


async def _ids(client: Client, path: str) -> list[Any]:
    return [transaction["id"] for transaction in (await client.ok(path))["data"]]
