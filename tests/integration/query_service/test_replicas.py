"""Queries on a real hot standby: asked where it has the position, passed over where it has not, missed by nobody when it dies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_kernel.breaker import Breaker, State
from shared_kernel.settings import Secret
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, services
from tests.services import Database, Servers
from tests.support.standby import Standby, moved, running_standby

pytestmark = [pytest.mark.long, pytest.mark.thorough]

LEDGER = "bank"
NOBODY = 1  # a port that nothing listens on
CHECK_MS = 100
NOTICED_WITHIN_S = 30


@pytest.fixture(scope="module")
def standby(stack: Servers, database: Database) -> Iterator[Standby]:
    """One for the module. Tests that end it come last, by their fixture."""
    with running_standby(stack) as running:
        yield running


@pytest.fixture
def bank(keeper: Bookkeeper, standby: Standby) -> Bookkeeper:
    """A ledger of five events that the standby has too."""
    keeper.append(LEDGER, opened(LEDGER), account("cash"), account("till"), posting("t1", "cash", "till", 7))
    keeper.append(LEDGER, posting("t2", "cash", "till", 5))
    keeper.project(LEDGER)
    standby.catch_up(keeper.admin_url)
    return keeper


@pytest.fixture
async def client(database: Database, standby: Standby, bank: Bookkeeper, tmp_path: Path) -> AsyncIterator[Client]:
    """The service with that standby and a replica that was never there."""
    role = database.urls["query"]
    async with services(database, tmp_path) as start:
        client: Client = await start(
            postgres_replica_urls=Secret(f"{moved(role, NOBODY)}\n{standby.url(role)}"),
            postgres_replica_check_ms=CHECK_MS,
            postgres_replica_lag_ms_max=3_600_000,
        )
        await is_up(client, True)
        yield client


async def is_up(client: Client, wanted: bool) -> None:
    """The service has noticed that the standby is there, or is not."""
    async with asyncio.timeout(NOTICED_WITHIN_S):
        while figure(client, "daybook_query_replica_is_up", replica="replica-2") != wanted:
            await asyncio.sleep(0.01)
    # The monitor finds it among the breakers.
    state = figure(client, "daybook_breaker_state", dependency="replica-2")
    assert (state == State.CLOSED) == wanted


def figure(client: Client, name: str, **labels: str) -> float:
    return client.container.registry().get_sample_value(name, labels) or 0.0


class Answers:
    """How many questions each has answered since this was made."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._before = self._now()

    def __call__(self) -> dict[str, float]:
        return {source: count - self._before[source] for source, count in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {
            source: figure(self._client, "daybook_query_answers_total", source=source)
            for source in ("replica", "primary")
        }


async def till(client: Client, **how: Any) -> int:
    """The posted balance of an account."""
    body = await client.ok(f"/{LEDGER}/accounts/till/balances", **how)
    posted: int = body["balances"]["EUR/2"]["posted"]
    return posted


async def test_a_replica_answers_what_it_has(client: Client, standby: Standby) -> None:
    answers = Answers(client)
    assert await till(client) == 12
    assert await till(client, headers={"Daybook-Position": "5"}) == 12
    assert (await client.ok(f"/{LEDGER}/events/5", role="auditor"))["event"]["position"] == 5
    assert (await client.ok("")).keys() >= {"data"}
    assert answers() == {"replica": 4, "primary": 0}


async def test_the_primary_answers_what_a_replica_has_not(
    client: Client, standby: Standby, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.execute("select pg_wal_replay_pause()")
    try:
        while standby.execute("select pg_get_wal_replay_pause_state()") != [("paused",)]:
            await asyncio.sleep(0.01)
        bank.append(LEDGER, posting("t3", "cash", "till", 100), account("new"))
        bank.append("young", opened("young"))
        for ledger in (LEDGER, "young"):
            bank.project(ledger)
        answers = Answers(client)
        assert (await till(client), answers()["replica"]) == (12, 1)  # as of the position that it says
        assert await till(client, headers={"Daybook-Position": "6"}) == 112
        body = await client.ok(f"/{LEDGER}/accounts/till/balances?as_of_position=6")
        assert body["balances"]["EUR/2"]["posted"] == 112
        assert answers() == {"replica": 1, "primary": 2}
        # What was recorded before a time is the same whoever is asked: 2026-01-01T12:00 lies after every event.
        later = "2026-01-01T12:00:00Z"
        body = await client.ok(f"/{LEDGER}/accounts/till/balances?as_of={later}")
        assert body["as_of"]["position"] == 7
        # What a replica does not know may be new.
        assert (await client.ok(f"/{LEDGER}/accounts/new"))["account"]["address"] == "new"
        assert (await client.ok("/young"))["ledger"]["ledger"] == "young"
        await client.problem("/nowhere", 404, "ledger_not_found")
        assert (await client.ok(f"/{LEDGER}/events/7", role="auditor"))["event"]["position"] == 7
        await client.problem(f"/{LEDGER}", 409, "position_beyond_head", headers={"Daybook-Position": "8"})
    finally:
        standby.execute("select pg_wal_replay_resume()")


async def test_an_export_that_began_at_the_primary_is_not_cut_short_by_a_replica(
    client: Client, standby: Standby, bank: Bookkeeper
) -> None:
    standby.execute("select pg_wal_replay_pause()")
    try:
        while standby.execute("select pg_get_wal_replay_pause_state()") != [("paused",)]:
            await asyncio.sleep(0.01)
        head = bank.append(LEDGER, *(posting(f"n{number}", "cash", "till", 1) for number in range(700)))
        bank.project(LEDGER)
        lines = await client.get(
            f"/{LEDGER}/events",
            role="auditor",
            headers={"accept": "application/x-ndjson", "Daybook-Position": str(head)},
        )
        assert lines.headers["daybook-position"] == str(head)
        assert lines.text.count("\n") == head
    finally:
        standby.execute("select pg_wal_replay_resume()")


@pytest.fixture
def mortal(stack: Servers, bank: Bookkeeper) -> Iterator[Standby]:
    """A standby of the test's own."""
    with running_standby(stack) as running:
        running.catch_up(bank.admin_url)
        yield running


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_replica_that_dies_costs_no_errors(
    database: Database, mortal: Standby, tmp_path: Path, how: str
) -> None:
    role = database.urls["query"]
    async with services(database, tmp_path) as start:
        client: Client = await start(
            postgres_replica_urls=Secret(f"{moved(role, NOBODY)} {mortal.url(role)}"),
            postgres_replica_check_ms=CHECK_MS * 5,
        )
        await is_up(client, True)
        dead = asyncio.Event()
        found: list[int] = []

        async def ask() -> None:
            while not dead.is_set():
                found.append(await till(client))

        answers = Answers(client)
        asking = [asyncio.create_task(ask()) for _ in range(8)]
        while answers()["replica"] < 50:
            await asyncio.sleep(0.005)
        getattr(mortal, how)()
        await is_up(client, False)
        for _ in range(2):  # those on their way when it was seen to be down may have been answered by it still
            answers = Answers(client)
            while answers()["primary"] < 50:
                await asyncio.sleep(0.005)
        dead.set()
        await asyncio.gather(*asking)  # any status but 200 has failed there
        assert set(found) == {12}
        assert answers()["replica"] == 0
        assert figure(client, "daybook_breaker_refused_total", dependency="replica-2") > 0


async def test_a_replicas_breaker_goes_through_its_three_states_and_the_primary_answers_meanwhile(
    database: Database, mortal: Standby, tmp_path: Path
) -> None:
    role = database.urls["query"]
    async with services(database, tmp_path) as start:
        client: Client = await start(
            postgres_replica_urls=Secret(f"{moved(role, NOBODY)} {mortal.url(role)}"),
            postgres_replica_check_ms=1_000,
            replica_breaker_failures_in_row=2,
            replica_breaker_open_ms=200,
            replica_breaker_probes_max=2,
        )
        await is_up(client, True)
        breaker: Breaker = client.container.replicas()[1].breaker

        async def note() -> dict[str, Any]:
            checks: dict[str, Any] = (await client.http.get("/health/ready")).json()["checks"]
            return checks["replica-2_breaker"]

        async def becomes(state: State) -> None:
            async with asyncio.timeout(NOTICED_WITHIN_S):
                while breaker.state is not state:
                    await asyncio.sleep(0.002)

        assert await note() == {"ok": True}
        mortal.freeze()
        await becomes(State.OPEN)
        await becomes(State.HALF_OPEN)
        assert await note() == {"ok": True, "detail": "breaker half_open"}
        answers = Answers(client)
        assert await till(client) == 12
        assert answers() == {"replica": 0, "primary": 1}  # half-open, it is probed by its health check alone
        mortal.thaw()
        await becomes(State.CLOSED)
        await is_up(client, True)
        assert await till(client) == 12
        assert answers() == {"replica": 1, "primary": 1}
        for state in ("open", "half_open", "closed"):
            assert figure(client, "daybook_breaker_transitions_total", dependency="replica-2", state=state), state
