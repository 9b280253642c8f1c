"""Pages hold still while others post: what was there at the first page comes exactly once, what came later not at all."""

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from query_service.application import search
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client

pytestmark = pytest.mark.thorough


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Ten accounts, and twelve transactions in two assets, all with account `a:0`."""
    keeper.append("bank", opened("bank"), *(account(f"a:{n}") for n in range(10)))
    for n in range(12):
        keeper.append("bank", posting(f"t{n}", f"a:{n % 9 + 1}", "a:0", n + 1, "EUR/2" if n % 3 else "USD/2"))
    keeper.project("bank")
    return keeper


LISTS = [
    ("/bank/accounts", "reader"),
    ("/bank/accounts?address=a:*", "reader"),
    ("/bank/accounts/a:0/entries", "reader"),
    ("/bank/accounts/a:0/entries?order=oldest", "reader"),
    ("/bank/accounts/a:0/entries?asset=EUR/2", "reader"),
    ("/bank/transactions", "reader"),
    ("/bank/transactions?order=oldest", "reader"),
    ("/bank/transactions?account=a:0", "reader"),
    ("/bank/transactions?account=a:0&order=oldest", "reader"),
    ("/bank/events", "auditor"),
    ("/bank/events?order=newest", "auditor"),
    ("/bank/events?tag=account:a:0", "auditor"),
    ("/bank/events?from_position=3&to_position=20", "auditor"),
]


@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize(("path", "role"), LISTS)
async def test_pages_neither_skip_nor_repeat_while_others_post(
    client: Client, bank: Bookkeeper, path: str, role: str, limit: int
) -> None:
    joint = "&" if "?" in path else "?"
    whole = await client.ok(f"{path}{joint}limit=1000", role=role)
    assert whole["next_cursor"] is None
    found: list[Any] = []
    cursor = ""
    for turn in range(1000):
        page = await client.ok(f"{path}{joint}limit={limit}{cursor}", role=role)
        assert page["as_of"] == whole["as_of"]
        assert len(page["data"]) <= limit
        found += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        # Before, among and after what is being read: addresses sort everywhere.
        bank.append("bank", account(f"a:{turn % 9}{turn}"), posting(f"u{turn}", f"a:{turn % 9 + 1}", "a:0", 1))
        bank.project("bank")
    assert found == whole["data"]


async def test_ledgers_come_in_pages_of_those_the_token_covers(client: Client, keeper: Bookkeeper) -> None:
    for name in ("b:1", "a:1", "b:2", "c", "b:3"):
        keeper.append(name, opened(name))
        keeper.project(name)
    first = await client.ok("?limit=2", ledgers=("b:*", "c"))
    assert [ledger["ledger"] for ledger in first["data"]] == ["b:1", "b:2"]
    second = await client.ok(f"?limit=2&cursor={first['next_cursor']}", ledgers=("b:*", "c"))
    assert [ledger["ledger"] for ledger in second["data"]] == ["b:3", "c"]
    assert second["next_cursor"] is None


@pytest.mark.usefixtures("bank")
async def test_cursor_is_of_one_list_with_its_filters(client: Client, bank: Bookkeeper) -> None:
    bank.append("other", opened("other"), account("a:1"), account("a:2"))
    bank.project("other")
    first = await client.ok("/bank/accounts?address=a:*&limit=1")
    cursor = f"cursor={first['next_cursor']}"
    await client.ok(f"/bank/accounts?address=a:*&limit=7&{cursor}")
    for path in (
        f"/bank/accounts?{cursor}",
        f"/bank/accounts?address=b:*&{cursor}",
        f"/other/accounts?address=a:*&{cursor}",
        f"/bank/transactions?{cursor}",
        f"/bank/accounts/a:0/entries?{cursor}",
        f"?{cursor}",
    ):
        assert (await client.problem(path, 400, "invalid_cursor"))["path"] == "cursor"


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize(
    "change",
    [
        lambda cursor: cursor[:2],
        lambda cursor: [*cursor, "more"],
        lambda cursor: [*cursor[:2], 0, *cursor[3:]],
        lambda cursor: [*cursor[:2], -1, *cursor[3:]],
        lambda cursor: [*cursor[:2], 2**63, *cursor[3:]],
        lambda cursor: [*cursor[:2], "1", *cursor[3:]],
        lambda cursor: [*cursor[:3], "a\0", *cursor[4:]],
        lambda cursor: [*cursor[:3], "a" * 301, *cursor[4:]],
        lambda cursor: [*cursor[:4], -1, 0],
        lambda cursor: [*cursor[:4], 0, 2**64],
        lambda cursor: {"position": 1},
        lambda cursor: None,
    ],
)
async def test_forged_cursor_is_refused(client: Client, change: Any) -> None:
    first = await client.ok("/bank/accounts?limit=1")
    text = first["next_cursor"]
    cursor = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    forged = base64.urlsafe_b64encode(json.dumps(change(cursor)).encode()).decode().rstrip("=")
    await client.problem(f"/bank/accounts?limit=1&cursor={forged}", 400, "invalid_cursor")


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize("text", ["", "x", "!!!", "%C3%A4", "a" * 3000, "bnVsbA", "W10"])
async def test_nonsense_is_no_cursor(client: Client, text: str) -> None:
    await client.problem(f"/bank/accounts?cursor={text}", 400, "invalid_cursor")


@pytest.mark.usefixtures("bank")
async def test_cursor_beyond_the_head_or_of_another_incarnation_is_refused(client: Client) -> None:
    first = await client.ok("/bank/accounts?limit=1")
    text = first["next_cursor"]
    cursor = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    cursor[2] = 1_000
    beyond = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
    await client.problem(f"/bank/accounts?limit=1&cursor={beyond}", 409, "position_beyond_head")
    cursor[1] = "00000000-0000-0000-0000-000000000000"
    foreign = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
    await client.problem(f"/bank/accounts?limit=1&cursor={foreign}", 400, "invalid_cursor")


@pytest.mark.parametrize("sort", ["position", "effective_at"])
@pytest.mark.parametrize(
    "text",
    [
        'metadata.shop = "7"',
        "metadata.shop in (7, 8)",
        "metadata.shop = 8 or reference = r",
        "reference = r",
        "id = rare",
        "amount.EUR/2 = 77",
        "account = a:rare",
    ],
)
async def test_sparse_filter_that_goes_by_an_index_is_one_page_in_either_order(
    client: Client, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch, sort: str, text: str
) -> None:
    monkeypatch.setattr(search, "WALK_MAX", 3)
    bank.append("bank", account("a:rare"), posting("rare", "a:rare", "a:0", 77, reference="r"))
    for n in range(5):
        bank.append("bank", posting(f"v{n}", "a:1", "a:0", 1, effective_at=f"200{n}-01-01T00:00:00Z"))
    bank.project("bank")
    for order in ("newest", "oldest"):
        page = await client.ok(f"/bank/transactions?limit=1000&sort={sort}&order={order}&filter={quote(text)}")
        assert [found["id"] for found in page["data"]] == ["rare"]
        assert page["next_cursor"] is None


async def test_filter_that_leads_to_many_goes_on_by_effective_time(
    client: Client, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        bank.append(
            "bank", posting(f"v{n}", "a:1", "a:2", 5, reference=f"r{n}", effective_at=f"200{n}-01-01T00:00:00Z")
        )
    bank.project("bank")
    path = "/bank/transactions?sort=effective_at&limit=2&filter=metadata.shop%20=%207"
    found: list[str] = []
    cursor = ""
    for walk_max in (7, 6, 3, 6, 7, *[3] * 30):
        monkeypatch.setattr(search, "WALK_MAX", walk_max)  # at 7 the six are sorted, else the walk goes by time
        page = await client.ok(path + cursor)
        found += [transaction["id"] for transaction in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ["v5", "v4", "v3", "v2", "v1", "v0"]


@pytest.mark.parametrize(
    "text",
    [
        "metadata.owner in (b:vip, x)",
        "metadata.owner = x or metadata.owner = b:vip",
        "address = b:**",
        "address = b:vip",
    ],
)
async def test_sparse_filter_of_accounts_is_one_page(
    client: Client, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(search, "WALK_MAX", 3)
    bank.append("bank", account("b:vip"), account("c:1"), account("c:2"), account("c:3"))
    bank.project("bank")
    page = await client.ok(f"/bank/accounts?filter={quote(text)}")
    assert [found["address"] for found in page["data"]] == ["b:vip"]
    assert page["next_cursor"] is None
