"""What is malformed, unknown or not allowed: the right problem with a stable code, and the parameter that is wrong."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.integration.query_service.bookkeeper import account, opened, posting, start_with
from tests.integration.query_service.conftest import Client, services
from tests.services import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """One service for all: nothing here changes anything. A ledger with one transaction."""
    start_with(
        database.admin_url, "bank", opened("bank"), account("cash"), account("till"), posting("t1", "cash", "till", 7)
    )
    async with services(database, tmp_path_factory.mktemp("keys")) as start:
        yield await start()


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/bank/accounts?limit=0", "limit"),
        ("/bank/accounts?limit=1001", "limit"),
        ("/bank/accounts?limit=-1", "limit"),
        ("/bank/accounts?limit=x", "limit"),
        ("/bank/accounts?limit=", "limit"),
        ("/bank/accounts?limit=1.5", "limit"),
        ("/bank/accounts?limit=99999999999999999999999", "limit"),
        ("/bank/accounts?limit=1&limit=2", "limit"),
        ("/bank/accounts?adress=users:**", "adress"),
        ("/bank/accounts?address=", "address"),
        ("/bank/accounts?address=a::b", "address"),
        ("/bank/accounts?address=**:a", "address"),
        ("/bank/accounts?address=a*", "address"),
        ("/bank/accounts?address=a%20b", "address"),
        ("/bank/accounts?address=" + "a" * 257, "address"),
        ("/bank/accounts/cash?x=1", "x"),
        ("/bank/accounts/cash/balances?asset=EUR/2", "asset"),
        ("/bank/accounts/cash/entries?order=up", "order"),
        ("/bank/accounts/cash/entries?asset=" + "A" * 33, "asset"),
        ("/bank/transactions?account=a::*", "account"),
        ("/bank/transactions?account=", "account"),
        ("/bank/transactions?reference=" + "r" * 201, "reference"),
        ("/bank/transactions?status=done", "status"),
        ("/bank/transactions?sort=amount", "sort"),
        ("/bank/transactions?filter=", "filter"),
        ("/bank/transactions?filter=status", "filter"),
        ("/bank/transactions?filter=status%20%3D%20done", "filter"),
        ("/bank/transactions?filter=colour%20%3D%20red", "filter"),
        ("/bank/transactions?filter=" + "(" * 50, "filter"),
        ("/bank/transactions?filter=" + "x" * 2001, "filter"),
        ("/bank/accounts?filter=reference%20%3D%20x", "filter"),
        ("/bank/accounts?balances=maybe", "balances"),
        ("/bank/accounts?effective_at=2026-01-01T00:00:00Z", "effective_at"),
        ("/bank/accounts?as_of_position=0", "as_of_position"),
        ("/bank/accounts?as_of_position=x", "as_of_position"),
        ("/bank/accounts?as_of=2026-01-01", "as_of"),
        ("/bank/accounts?as_of=2026-01-01T00:00:00", "as_of"),
        ("/bank/accounts?as_of=9999-01-01T00:00:00Z", "as_of"),
        ("/bank/balances?effective_at=yesterday", "effective_at"),
        ("/bank/balances?segments=-1", "segments"),
        ("/bank/balances?address=a**", "address"),
        ("/bank/balances/diff", "from_position"),
        ("/bank/balances/diff?from_position=-1", "from_position"),
        ("/bank/balances/diff?from_position=3&to_position=2", "to_position"),
        ("/bank/balances/diff?from_position=3&as_of_position=2", "from_position"),
        ("/bank/balances/diff?from_position=0&effective_until=x", "effective_until"),
        ("/bank/accounts/cash/statement", "asset"),
        ("/bank/accounts/cash/statement?asset=eur/2", "asset"),
        ("/bank/accounts/cash/statement?asset=EUR/39&format=csv", "asset"),
        ("/bank/accounts/cash/statement?asset=EUR/x&format=html", "asset"),
        ("/bank/accounts/cash/statement?asset=EUR/2&effective_at=x", "effective_at"),
        ("/bank/accounts/cash/statement?asset=EUR/2&axis=both", "axis"),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=x", "from"),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("/bank/accounts/cash/statement?asset=EUR/2&format=pdf", "format"),
        ("/bank/accounts/cash/statement?asset=EUR/2&format=csv&limit=7", "limit"),
        ("/bank/accounts/cash/explanation", "asset"),
        ("/bank/refusals?from=x", "from"),
        ("/bank/refusals?account=a::b", "account"),
        ("/bank/refusals?from=9999-01-01T00:00:00Z", "from"),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=9999-01-01T00:00:00Z", "from"),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=9999-01-01T00:00:00Z&as_of_position=4", "from"),
        (
            "/bank/accounts/cash/statement?asset=EUR/2&from=9999-01-01T00:00:00Z&effective_at=2026-02-01T00:00:00Z",
            "from",
        ),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=9999-01-01T00:00:00Z&format=csv", "from"),
        ("/bank/accounts/cash/statement?asset=EUR/2&from=9998-01-01T00:00:00Z&as_of=9999-01-01T00:00:00Z", "as_of"),
        ("/bank/trial-balance?limit=1", "limit"),
        ("/bank/trial-balance?segments=-1", "segments"),
        ("/bank/trial-balance?address=a**", "address"),
        ("/bank/events?from_position=0", "from_position"),
        ("/bank/events?from_position=9223372036854775808", "from_position"),
        ("/bank/events?to_position=-3", "to_position"),
        ("/bank/events?tag=" + "t" * 1001, "tag"),
        ("/bank/events?type=" + "t" * 1001, "type"),
        ("?ledger=bank", "ledger"),
        ("/bank?as_of=1", "as_of"),
        ("/bank?effective_at=2026-01-01T00:00:00Z", "effective_at"),
    ],
)
async def test_bad_parameter_is_named(client: Client, path: str, parameter: str) -> None:
    problem = await client.problem(path, 400, "invalid_request", role="admin")
    assert problem["path"] == parameter


@pytest.mark.parametrize(
    "path",
    [
        "/bank/refusals?until=9999-01-01T00:00:00Z",
        "/bank/accounts/cash/statement?asset=EUR/2&until=9999-01-01T00:00:00Z",
        "/bank/accounts/cash/statement?asset=EUR/2&axis=effective&from=9998-01-01T00:00:00Z",
    ],
)
async def test_a_period_may_end_ahead_and_an_effective_one_begin_there(client: Client, path: str) -> None:
    assert (await client.ok(path, role="auditor"))["as_of"]["position"] == 4


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "", "9223372036854775808"])
@pytest.mark.parametrize("path", ["/bank/accounts", "/bank/events"])
async def test_bad_position_header_is_named(client: Client, path: str, text: str) -> None:
    problem = await client.problem(path, 400, "invalid_request", role="admin", headers={"Daybook-Position": text})
    assert problem["path"] == "Daybook-Position"


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/balances", "ledgers"),
        ("/v1/balances?ledgers=", "ledgers"),
        ("/v1/balances?ledgers=bank,bank", "ledgers"),
        ("/v1/balances?ledgers=bank,", "ledgers"),
        ("/v1/trial-balance?ledgers=" + ",".join(f"l{number}" for number in range(21)), "ledgers"),
        ("/v1/trial-balance?ledgers=bank&as_of_position=1", "as_of_position"),
        ("/v1/trial-balance?ledgers=bank&as_of=9999-01-01T00:00:00Z", "as_of"),
    ],
)
async def test_bad_parameter_across_ledgers_is_named(client: Client, path: str, parameter: str) -> None:
    response = await client.http.get(path, headers=await _authorization(client))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["path"] == parameter


async def test_position_of_no_ledger_in_particular_is_refused(client: Client) -> None:
    problem = await client.problem("", 400, "invalid_request", headers={"Daybook-Position": "1"})
    assert problem["path"] == "Daybook-Position"


@pytest.mark.parametrize(
    "prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "=", ";", ",,", "handling=strict"]
)
async def test_preference_that_is_not_understood_is_passed_over(client: Client, prefer: str) -> None:
    await client.ok("/bank/accounts", headers={"Prefer": prefer, "Daybook-Position": "4"})


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/none", "ledger_not_found"),
        ("/none/accounts/cash", "ledger_not_found"),
        ("/..%2fbank", "not_found"),
        ("/a%20b/accounts", "ledger_not_found"),
        ("/%C3%A4/accounts", "ledger_not_found"),
        ("/" + "a" * 300, "ledger_not_found"),
        ("/bank/accounts/nobody", "account_not_found"),
        ("/bank/accounts/nobody/balances", "account_not_found"),
        ("/bank/accounts/nobody/entries", "account_not_found"),
        ("/bank/accounts/a%20b", "account_not_found"),
        ("/bank/accounts/users:*", "account_not_found"),
        ("/bank/accounts/" + "a" * 300 + "/balances", "account_not_found"),
        ("/bank/transactions/none", "transaction_not_found"),
        ("/bank/transactions/%C3%A4", "transaction_not_found"),
        ("/bank/transactions/" + "t" * 2000, "transaction_not_found"),
        ("/bank/events/5", "event_not_found"),
        ("/bank/events/0", "event_not_found"),
        ("/bank/events/-1", "event_not_found"),
        ("/bank/events/x", "event_not_found"),
        ("/bank/events/%C2%B2", "event_not_found"),
        ("/bank/events/99999999999999999999", "event_not_found"),
        ("/bank/nothing", "not_found"),
    ],
)
async def test_what_is_not_there_is_404(client: Client, path: str, code: str) -> None:
    await client.problem(path, 404, code, role="admin")


@pytest.mark.parametrize("path", ["/bank%00", "/bank/accounts?address=a%00", "/bank/transactions/%00"])
async def test_nul_is_refused_at_the_door(client: Client, path: str) -> None:
    await client.problem(path, 400, "invalid_request")


async def test_only_get_is_offered(client: Client) -> None:
    response = await client.http.request(
        "DELETE", "/v1/ledgers/bank/accounts/cash", headers=(await _authorization(client))
    )
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["", "/bank", "/bank/accounts", "/bank/events"])
async def test_every_route_needs_a_token(client: Client, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp5"}):
        response = await client.http.get(f"/v1/ledgers{path}", headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def _authorization(client: Client) -> httpx.Headers:
    return (await client.get("/bank", role="admin")).request.headers
