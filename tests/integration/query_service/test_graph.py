"""The GraphQL endpoint: the same answers as the routes, as of one position, a statement a level, and bounded."""

import os
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from query_service.application import questions
from query_service.presentation import graph_types, graph_view
from query_service.presentation.graph_routes import SCHEMA
from shared_kernel.events import HoldPosted, HoldVoided, TransactionHeld
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service, statements, token

pytestmark = [pytest.mark.long, pytest.mark.thorough]

GOLDEN = Path(__file__).parents[2] / "golden" / "graphql" / "query.graphql"
LEDGER = "bank"
USERS = [f"users:{number}" for number in range(8)]


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Eight users, each with three transactions, and a hold."""
    keeper.append(LEDGER, opened(LEDGER), account("cash", normal_balance="debit"))
    keeper.append(LEDGER, *(account(user) for user in USERS))
    for number in range(3):
        for user in USERS:
            name = f"{user.partition(':')[2]}-{number}"
            keeper.append(LEDGER, posting(name, "cash", user, 100 + number, reference=f"r-{name}"))
    hold = posting("hold", USERS[0], USERS[1], 5)
    keeper.append(LEDGER, TransactionHeld(transaction="hold", entries=hold.entries, expires_at="2027-01-01T00:00:00Z"))
    keeper.project(LEDGER)
    return keeper


@pytest.fixture
async def client(bank: Bookkeeper, open_service: Service) -> Client:
    """The service on it."""
    started: Client = await open_service()
    return started


async def post(client: Client, body: Any, *, role: str = "reader", ledgers: tuple[str, ...] = ()) -> httpx.Response:
    return await client.http.post(
        "/v1/graphql", json=body, headers={"authorization": f"Bearer {token(role, *ledgers)}"}
    )


async def ask(client: Client, query: str, *, role: str = "reader", **variables: Any) -> dict[str, Any]:
    """The data of a query without a fault."""
    response = await post(client, {"query": query, "variables": variables}, role=role)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body.get("errors") is None, body["errors"]
    data: dict[str, Any] = body["data"]
    return data


async def fault(client: Client, query: str, **how: Any) -> dict[str, Any]:
    """What is told of the only fault of a query."""
    response = await post(client, {"query": query}, **how)
    assert response.status_code == 200, response.text
    (error,) = response.json()["errors"]
    told: dict[str, Any] = error["extensions"] | {"message": error["message"]}
    return told


EVERYTHING = """
query Everything($first: Int!) {
  ledger(name: "bank") {
    asOf { position }
    complete
    accounts(address: "users:*", first: $first) {
      edges { node {
        address normalBalance limits metadata
        balances { asset posted pending available postedCredits }
        entries(first: 2, order: OLDEST) { edges { node {
          kind amount balance { posted }
          transaction { id reference entries { direction amount account { address status balances { posted } } } }
        } } }
      } }
    }
  }
}
"""


@pytest.mark.parametrize("first", [1, 8])
async def test_a_level_costs_a_statement_however_many_nodes_it_has(client: Client, first: int) -> None:
    await ask(client, EVERYTHING, first=1)
    before = statements(client)
    data = await ask(client, EVERYTHING, first=first)
    # ledger, accounts, their balances, their entries, the transactions, their accounts, and those accounts' balances
    assert statements(client) - before <= 7
    assert len(data["ledger"]["accounts"]["edges"]) == first


async def test_the_graph_says_what_the_routes_say(client: Client) -> None:
    ledger = (await ask(client, EVERYTHING, first=8))["ledger"]
    position = ledger["asOf"]["position"]
    assert ledger["complete"] is True
    for edge in ledger["accounts"]["edges"]:
        node = edge["node"]
        route = await client.ok(f"/{LEDGER}/accounts/{node['address']}?as_of_position={position}")
        assert {name: route["account"][name] for name in ("address", "metadata")} == {
            name: node[name] for name in ("address", "metadata")
        }
        assert node["limits"] == {"EUR/2": {"minimum": "0", "maximum": "500000"}}
        balances = await client.ok(f"/{LEDGER}/accounts/{node['address']}/balances?as_of_position={position}")
        balance = balances["balances"]["EUR/2"]
        assert node["balances"] == [
            {
                "asset": "EUR/2",
                "posted": str(balance["posted"]),
                "pending": str(balance["pending"]),
                "available": str(balance["available"]),
                "postedCredits": str(balance["posted_credits"]),
            }
        ]
        entries = await client.ok(f"/{LEDGER}/accounts/{node['address']}/entries?order=oldest&limit=2")
        assert [each["node"]["amount"] for each in node["entries"]["edges"]] == [
            str(entry["amount"]) for entry in entries["data"]
        ]
        for each, entry in zip(node["entries"]["edges"], entries["data"], strict=True):
            transaction = (await client.ok(f"/{LEDGER}/transactions/{entry['transaction']}"))["transaction"]
            shown = each["node"]["transaction"]
            assert (shown["id"], shown["reference"]) == (transaction["id"], transaction["reference"])
            assert [one["account"]["address"] for one in shown["entries"]] == [
                one["account"] for one in transaction["entries"]
            ]


async def test_everything_below_a_ledger_is_as_of_its_position(client: Client, bank: Bookkeeper) -> None:
    query = """query($at: Position) { ledger(name: "bank", asOfPosition: $at) { asOf { position }
      account(address: "users:0") { balances { posted pending available } }
      hold: transaction(id: "hold") { status } } }"""
    head = bank.heads[LEDGER]
    assert (await ask(client, query, at=head))["ledger"]["account"]["balances"] == [
        {"posted": "303", "pending": "298", "available": "298"}
    ]
    bank.append(LEDGER, HoldVoided(transaction="hold", released=posting("x", USERS[0], USERS[1], 5).entries))
    bank.project(LEDGER)
    assert (await ask(client, query))["ledger"]["hold"] == {"status": "voided"}
    then = (await ask(client, query, at=head))["ledger"]
    assert then["hold"] == {"status": "pending"}
    assert then["account"]["balances"] == [{"posted": "303", "pending": "298", "available": "298"}]
    before = (await ask(client, query, at=head - 1))["ledger"]
    assert (before["hold"], before["asOf"]) == (None, {"position": head - 1})


async def test_a_query_that_says_what_it_knows_waits_for_it(client: Client, bank: Bookkeeper) -> None:
    query = """query($p: Position) { ledger(name: "bank", atLeast: $p) { account(address: "cash") { balances { posted } } } }"""
    head = bank.append(LEDGER, posting("more", "cash", "users:1", 1_000))
    bank.project(LEDGER)
    assert (await ask(client, query, p=head))["ledger"]["account"]["balances"] == [{"posted": "3424"}]
    told = (await post(client, {"query": query, "variables": {"p": head + 1}})).json()["errors"][0]["extensions"]
    assert (told["code"], told["head"], told["status"]) == ("position_beyond_head", head, 409)


LISTS = {
    "accounts": ('accounts(address: "users:**", first: 3, after: $after)', "address"),
    "transactions": ("transactions(first: 3, after: $after)", "id"),
    "oldest": ('transactions(order: OLDEST, account: "users:3", first: 2, after: $after)', "id"),
}


@pytest.mark.parametrize("name", LISTS)
async def test_pages_hold_still_while_others_post(client: Client, bank: Bookkeeper, name: str) -> None:
    arguments, field = LISTS[name]
    query = (
        f'query($after: String) {{ ledger(name: "bank") {{ list: {arguments}'
        f" {{ edges {{ cursor node {{ {field} }} }} pageInfo {{ hasNextPage endCursor }} }} }} }}"
    )
    seen: list[str] = []
    after = None
    while True:
        found = (await ask(client, query, after=after))["ledger"]["list"]
        seen += [edge["node"][field] for edge in found["edges"]]
        after = found["pageInfo"]["endCursor"]
        if not found["pageInfo"]["hasNextPage"]:
            break
        assert found["edges"][-1]["cursor"] == after
        bank.append(LEDGER, account(f"users:9{len(seen)}"), posting(f"later-{len(seen)}", "cash", "users:3", 1))
        bank.project(LEDGER)
    whole = {
        "accounts": USERS,
        "transactions": ["hold", *(f"{n}-{k}" for k in (2, 1, 0) for n in range(7, -1, -1))],
        "oldest": ["3-0", "3-1", "3-2"],
    }
    assert seen == whole[name]


async def test_entries_go_on_where_their_page_ended(client: Client) -> None:
    query = """query($after: String) { ledger(name: "bank") { account(address: "users:0") {
      entries(first: 3, after: $after) { edges { node { position kind } } pageInfo { hasNextPage endCursor } } } } }"""
    first = (await ask(client, query))["ledger"]["account"]["entries"]
    assert [edge["node"]["kind"] for edge in first["edges"]] == ["held", "posted", "posted"]
    rest = (await ask(client, query, after=first["pageInfo"]["endCursor"]))["ledger"]["account"]["entries"]
    assert [edge["node"]["kind"] for edge in rest["edges"]] == ["posted"]
    assert rest["pageInfo"]["hasNextPage"] is False
    other = query.replace("users:0", "users:1")
    body = {"query": other, "variables": {"after": first["pageInfo"]["endCursor"]}}
    assert (await post(client, body)).json()["errors"][0]["extensions"]["code"] == "invalid_cursor"


async def test_ledgers_are_those_that_the_token_covers(client: Client, bank: Bookkeeper) -> None:
    for name in ("acme", "zoo"):
        bank.append(name, opened(name))
        bank.project(name)
    query = "{ ledgers(first: 2) { edges { node { ledger status } } pageInfo { hasNextPage } } }"
    found = (await ask(client, query))["ledgers"]
    assert [edge["node"]["ledger"] for edge in found["edges"]] == ["acme", "bank"]
    assert found["pageInfo"]["hasNextPage"] is True
    response = await post(client, {"query": query}, ledgers=("zoo",))
    assert [edge["node"]["ledger"] for edge in response.json()["data"]["ledgers"]["edges"]] == ["zoo"]


async def test_what_is_not_the_callers_looks_absent(client: Client) -> None:
    query = '{ ledger(name: "bank") { ledger } }'
    assert (await fault(client, query, ledgers=("other",)))["code"] == "ledger_not_found"
    assert (await fault(client, query, role="writer"))["code"] == "forbidden"
    assert (await fault(client, '{ ledger(name: "nowhere") { ledger } }'))["code"] == "ledger_not_found"
    absent = await ask(
        client, '{ ledger(name: "bank") { account(address: "a b") { address } transaction(id: "x") { id } } }'
    )
    assert absent["ledger"] == {"account": None, "transaction": None}
    assert (await client.http.post("/v1/graphql", json={"query": query})).status_code == 401


def nested(levels: int) -> str:
    inner = "id"
    for _ in range(levels):
        inner = f"reverses {{ {inner} }}"
    return f'{{ ledger(name: "bank") {{ transaction(id: "0-0") {{ {inner} }} }} }}'


LARGE = """{ ledger(name: "bank") { accounts(first: 100) { edges { node { entries(first: 100) { edges { node { kind } } } } } } } }"""


@pytest.mark.parametrize(
    "query",
    [
        nested(20),
        "{ " + " ".join(f'a{n}: ledger(name: "bank") {{ ledger }}' for n in range(40)) + " }",
        '{ ledger(name: "bank") { ' + "ledger " * 3_000 + "} }",
        '{ ledger(name: "bank") { accounts(first: 101) { edges { cursor } } } }',
        '{ ledger(name: "bank") { accounts(first: 0) { edges { cursor } } } }',
        '{ ledger(name: "bank") { accounts(address: "a:**:b") { edges { cursor } } } }',
        '{ ledger(name: "bank", asOf: "yesterday") { ledger } }',
        '{ ledger(name: "bank", asOfPosition: 0) { ledger } }',
        '{ ledger(name: "bank") { accounts(status: nope) { edges { cursor } } } }',
        '{ ledger(name: "bank") { accounts(status: "nope") { edges { cursor } } } }',
        '{ ledger(name: "bank") { transactions(status: nope) { edges { cursor } } } }',
        '{ ledger(name: "bank") { transactions(status: "nope") { edges { cursor } } } }',
        'query A { ledger(name: "bank") { ledger } } query B { ledger(name: "bank") { status } }',
        '{ ledger(name: "bank") { nothing } }',
        "{ ledger(",
    ],
)
async def test_what_is_malformed_or_too_large_is_refused(client: Client, query: str) -> None:
    assert (await fault(client, query))["code"] == "invalid_request"


async def test_of_several_operations_the_named_one_is_answered(client: Client) -> None:
    query = 'query A { ledger(name: "bank") { ledger } } query B { ledger(name: "bank") { status } }'
    for name, expected in (("A", {"ledger": "bank"}), ("B", {"status": "open"})):
        response = await post(client, {"query": query, "operationName": name})
        assert response.json() == {"data": {"ledger": expected}}
    response = await post(client, {"query": query, "operationName": "C"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


async def test_lists_of_a_status(client: Client) -> None:
    query = """query($status: TransactionStatus) { ledger(name: "bank") {
      accounts(status: closed) { edges { cursor } }
      transactions(status: $status) { edges { node { id status } } } } }"""
    assert (await ask(client, query, status="pending"))["ledger"] == {
        "accounts": {"edges": []},
        "transactions": {"edges": [{"node": {"id": "hold", "status": "pending"}}]},
    }


async def test_what_the_read_model_lacks_is_told(client: Client, bank: Bookkeeper) -> None:
    query = "complete incomplete { state since position }"
    query = f'{{ ledger(name: "bank") {{ {query} }} ledgers {{ edges {{ node {{ {query} }} }} }} }}'
    whole = {"complete": True, "incomplete": None}
    assert await ask(client, query) == {"ledger": whole, "ledgers": {"edges": [{"node": whole}]}}
    position = bank.append(LEDGER, posting("more", "cash", "users:1", 1_000))
    bank.stand_still(LEDGER, "parked", position)
    route = await client.ok(f"/{LEDGER}")
    lacking = {name: route[name] for name in ("complete", "incomplete")}
    assert (lacking["incomplete"]["state"], lacking["incomplete"]["position"]) == ("parked", position)
    assert await ask(client, query) == {"ledger": lacking, "ledgers": {"edges": [{"node": lacking}]}}


async def test_a_request_reads_no_more_than_its_budget(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_view, "ROWS_MAX", 500)
    before = statements(client)
    told = await fault(client, LARGE)
    assert (told["code"], "500 rows" in told["message"]) == ("invalid_request", True)
    assert statements(client) - before == 2  # the ledger and its accounts; of the entries none


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"query": 5}',
        b"{}",
        b'{"query": "{ ledgers { pageInfo { endCursor } } }", "surprise": 1}',
        b'{"query": "{ ledger(name: \\"a\\\\u0000\\") { ledger } }"}',
        b'{"query": "query($n: String!) { ledger(name: $n) { ledger } }", "variables": {"n": "\\u0000"}}',
        b'[{"query": "{ ledgers { pageInfo { endCursor } } }"}]',
    ],
)
async def test_what_is_no_graphql_request_is_a_400(client: Client, body: bytes) -> None:
    headers = {"authorization": f"Bearer {token('reader')}", "content-type": "application/json"}
    response = await client.http.post("/v1/graphql", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.headers["content-type"] == "application/problem+json"


async def test_there_is_no_page_and_no_query_by_get(client: Client) -> None:
    headers = {"authorization": f"Bearer {token('reader')}", "accept": "text/html"}
    response = await client.http.get("/v1/graphql?query={ledgers{pageInfo{endCursor}}}", headers=headers)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


async def test_a_mutation_is_not_offered(client: Client) -> None:
    assert (await fault(client, "mutation { post }"))["code"] == "invalid_request"


async def test_a_fault_of_ours_tells_nothing_of_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("query_service.application.shaping.ledger", lambda *_: 1 / 0)
    told = await fault(client, '{ ledger(name: "bank") { ledger } }')
    assert (told["code"], "division" in str(told)) == ("internal_error", False)
    assert "ZeroDivisionError" in capsys.readouterr().out


async def test_a_captured_hold_shows_both_of_its_stories(client: Client, bank: Bookkeeper) -> None:
    entries = posting("x", USERS[0], USERS[1], 5).entries
    bank.append(LEDGER, HoldPosted(transaction="hold", entries=entries))
    bank.project(LEDGER)
    query = """{ ledger(name: "bank") { account(address: "users:1") { entries(first: 2) { edges { node { kind
      transaction { status } } } } } } }"""
    found = (await ask(client, query))["ledger"]["account"]["entries"]["edges"]
    assert [(edge["node"]["kind"], edge["node"]["transaction"]["status"]) for edge in found] == [
        ("captured", "posted"),
        ("held", "posted"),
    ]


def test_statuses_are_those_of_the_answers() -> None:
    assert {each.value for each in graph_types.AccountStatus} == set(get_args(questions.AccountStatus))
    assert {each.value for each in graph_types.TransactionStatus} == set(get_args(questions.TransactionStatus))


def test_the_schema_is_the_golden_one() -> None:
    text = SCHEMA.as_str() + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
