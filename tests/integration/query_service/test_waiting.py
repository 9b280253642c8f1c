"""Read your own writes: a query that names a position has it, waits for it, or says why it cannot."""

import asyncio
from typing import Any

import pytest

from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service, statements

pytestmark = pytest.mark.thorough

# Long enough to be told apart from a time-out of the test, and never waited for where the test is right.
PATIENCE = {"Prefer": "wait=60"}
BALANCES = "/bank/accounts/users:1:wallet/balances"


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Positions 1 to 4 are in the log, 1 to 3 in the read model."""
    keeper.append("bank", opened("bank"), account("cash"), account("users:1:wallet"))
    keeper.project("bank")
    keeper.append("bank", posting("t1", "cash", "users:1:wallet", 700))
    return keeper


async def _waiting(client: Client, count: int = 1) -> None:
    """Returns when so many queries have looked, found the read model behind, and wait."""
    while client.container.visible().waiting() < count:
        await asyncio.sleep(0)


async def test_notification_wakes_a_query_that_waits(open_service: Service, bank: Bookkeeper) -> None:
    # No poll within the test's life: only the notification can wake it.
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    headers = {"Daybook-Position": "4", **PATIENCE}
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        asked = group.create_task(client.get(BALANCES, headers=headers))
        await _waiting(client)
        await asyncio.to_thread(bank.project, "bank")
    response = asked.result()
    assert response.json()["balances"]["EUR/2"]["posted"] == 700
    assert response.headers["daybook-position"] == "4"


async def test_connection_that_was_lost_is_made_again_and_hears_on(
    open_service: Service, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    visible = client.container.visible()
    ends: list[None] = []
    end = visible.end

    def counted() -> None:
        ends.append(None)
        end()

    monkeypatch.setattr(visible, "end", counted)
    async with asyncio.timeout(9):
        bank.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'daybook query listener'"
        )
        while visible.listening.is_set():
            await asyncio.sleep(0)
        await visible.listening.wait()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(client.get(BALANCES, headers={"Daybook-Position": "4", **PATIENCE}))
            await _waiting(client)
            await asyncio.to_thread(bank.project, "bank")
    assert asked.result().json()["balances"]["EUR/2"]["posted"] == 700
    assert len(ends) == 1  # what is left of the old connection would get into the way of the next


async def test_announcement_of_another_ledger_or_an_older_position_answers_nobody(
    open_service: Service, bank: Bookkeeper
) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    visible = client.container.visible()
    others = ("books/bank/3", "books/bank:1/9", "seals/bank/9", "books/bank", "books/bank/x", "")
    with visible.expect("bank", 4, of_periods=False) as arrival, visible.expect("bank", 4, of_periods=True) as both:
        for payload in others:
            visible.hear(payload)
        assert not arrival._heard.is_set()
        assert not both._heard.is_set()
        visible.hear("periods/bank/5")
        assert both._heard.is_set()
        assert not arrival._heard.is_set()
        visible.hear("books/bank/5")
        assert arrival._heard.is_set()
    assert not visible._expected


async def test_one_look_is_enough_where_the_announcement_is_still_to_come(
    open_service: Service, bank: Bookkeeper
) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    visible = client.container.visible()
    await visible.listening.wait()
    visible.hear("books/bank/3")
    assert visible.is_behind("bank", 4)
    assert not visible.is_behind("bank", 3)
    assert not visible.is_behind("other", 4)
    before = statements(client)
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        asked = group.create_task(client.get(BALANCES, headers={"Daybook-Position": "4", **PATIENCE}))
        await _waiting(client)
        assert statements(client) == before
        await asyncio.to_thread(bank.project, "bank")
    assert asked.result().json()["balances"]["EUR/2"]["posted"] == 700
    assert statements(client) == before + 1


async def test_poll_is_the_net_where_no_notification_comes(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(listens=False, wait_ms_max=60_000)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        asked = group.create_task(client.get(BALANCES, headers={"Daybook-Position": "4", **PATIENCE}))
        await _waiting(client)
        await asyncio.to_thread(bank.project, "bank", announce=False)
    assert asked.result().status_code == 200


@pytest.mark.usefixtures("bank")
async def test_wait_ends_with_where_the_read_model_is(client: Client) -> None:
    headers = {"Daybook-Position": "4", "Prefer": "respond-async, wait=0"}
    response = await client.get(BALANCES, headers=headers)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (503, "read_model_behind")
    assert {name: problem[name] for name in ("position", "head", "visible", "lag")} == {
        "position": 4,
        "head": 4,
        "visible": 3,
        "lag": 1,
    }
    assert int(response.headers["retry-after"]) >= 1
    # Without the header the newest there is, at once.
    assert (await client.ok(BALANCES))["as_of"]["position"] == 3


@pytest.mark.usefixtures("bank")
async def test_longest_wait_is_bounded_whatever_the_client_prefers(open_service: Service) -> None:
    client = await open_service(wait_ms=10, wait_ms_max=20)
    for prefer in (PATIENCE, {"Prefer": "wait=99999999999999999999"}, {}):
        await client.problem(BALANCES, 503, "read_model_behind", headers={"Daybook-Position": "4", **prefer})
    waits = (await client.http.get("/metrics")).text
    assert 'daybook_query_position_wait_seconds_count{outcome="behind"} 3.0' in waits


async def test_position_beyond_the_head_and_a_parked_ledger_are_told_at_once(
    open_service: Service, bank: Bookkeeper
) -> None:
    client = await open_service(wait_ms_max=60_000, visible_poll_ms=10_000)
    problem = await client.problem(BALANCES, 409, "position_beyond_head", headers={"Daybook-Position": "5", **PATIENCE})
    assert (problem["position"], problem["head"]) == (5, 4)
    log = await client.problem(
        "/bank/events", 409, "position_beyond_head", role="auditor", headers={"Daybook-Position": "5"}
    )
    assert log["head"] == 4
    bank.stand_still("bank", "parked", 4)
    parked = await client.problem(BALANCES, 503, "read_model_parked", headers={"Daybook-Position": "4", **PATIENCE})
    assert (parked["visible"], parked["head"], parked["lag"]) == (3, 4, 1)


@pytest.mark.parametrize("state", ["waiting", "parked"])
async def test_answer_from_a_ledger_that_stands_still_says_so(client: Client, bank: Bookkeeper, state: str) -> None:
    bank.stand_still("bank", state, 4)
    stuck = {"state": state, "since": "2026-01-01T09:30:00.000000Z", "position": 4}
    paths = ("", "/accounts", "/accounts/cash", "/accounts/cash/balances", "/accounts/cash/entries", "/transactions")
    for path in (*paths, "/trial-balance"):
        answer = await client.ok(f"/bank{path}", headers={"Daybook-Position": "3"})
        assert (answer["complete"], answer["incomplete"]) == (False, stuck)
    ledgers = await client.ok("")
    assert (ledgers["complete"], ledgers["data"][0]["incomplete"]) == (False, stuck)
    assert (await client.ok("/bank/events", role="auditor"))["complete"]
    bank.go_on("bank")
    assert (await client.ok("/bank/accounts"))["complete"]


async def test_waiting_ledger_is_waited_for(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    bank.stand_still("bank", "waiting", 4)
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        asked = group.create_task(client.get(BALANCES, headers={"Daybook-Position": "4", **PATIENCE}))
        await _waiting(client)
        bank.go_on("bank")
        await asyncio.to_thread(bank.project, "bank")
    assert asked.result().status_code == 200


async def test_ledger_that_is_in_the_log_only_is_waited_for_not_denied(
    open_service: Service, keeper: Bookkeeper
) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    keeper.append("new", opened("new"))
    await client.problem("/new", 503, "read_model_behind", headers={"Prefer": "wait=0"})
    assert (await client.ok(""))["data"] == []
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        asked = group.create_task(client.get("/new", headers=PATIENCE))
        await _waiting(client)
        await asyncio.to_thread(keeper.project, "new")
    assert asked.result().json()["as_of"]["position"] == 1


@pytest.mark.parametrize("first", ["books", "periods"])
async def test_question_that_needs_both_models_waits_for_the_one_that_does_not_know_the_ledger_yet(
    open_service: Service, keeper: Bookkeeper, first: str
) -> None:
    keeper.append("bank", opened("bank"), account("cash"), account("users:1:wallet"))
    keeper.append("bank", posting("t1", "cash", "users:1:wallet", 700, effective_at="2026-03-01T00:00:00Z"))
    keeper.project("bank", only=first)
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    headers = {"Daybook-Position": "4", **PATIENCE}
    asked = "/bank/balances?address=cash&effective_at=2026-03-31T00:00:00Z&as_of_position=4"
    problem = await client.problem(asked, 503, "read_model_behind", headers={"Prefer": "wait=0"})
    assert (problem["visible"], problem["head"]) == (0, 4)
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        answer = group.create_task(client.get(asked, headers=headers))
        await _waiting(client)
        await asyncio.to_thread(keeper.project, "bank")
    assert [(row["asset"], row["accounts"]) for row in answer.result().json()["data"]] == [("EUR/2", 1)]


async def test_positions_of_another_incarnation_count_for_nothing(client: Client, bank: Bookkeeper) -> None:
    before = await client.ok("/bank/accounts?limit=1")
    bank.connection.execute("update projections.positions set incarnation = gen_random_uuid()")
    await client.problem("/bank/accounts", 503, "read_model_behind", headers={"Prefer": "wait=0"})
    bank.connection.execute(
        "update projections.positions set incarnation = (select incarnation from daybook.incarnation)"
    )
    bank.connection.execute("update daybook.incarnation set incarnation = gen_random_uuid()")
    cursor = before["next_cursor"]
    problem = await client.problem(f"/bank/accounts?limit=1&cursor={cursor}", 400, "invalid_cursor")
    assert problem["path"] == "cursor"


async def test_many_who_wait_are_all_answered(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000, postgres_connections_max=2)
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        headers: dict[str, Any] = {"Daybook-Position": "4", **PATIENCE}
        asked = [group.create_task(client.get(BALANCES, headers=headers)) for _ in range(20)]
        await _waiting(client, 20)
        await asyncio.to_thread(bank.project, "bank")
    assert {task.result().status_code for task in asked} == {200}
    waits = (await client.http.get("/metrics")).text
    assert 'daybook_query_position_wait_seconds_count{outcome="answered"} 20.0' in waits
