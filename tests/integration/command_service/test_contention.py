"""Many clients, two command processes, few accounts: what everybody wants at once is still decided once and rightly."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from shared_kernel.checking import Checker
from shared_kernel.events import CommandRefused, TransactionPosted, decode, decode_metadata
from tests.integration.command_service.conftest import KEY, token
from tests.services import Database, Servers
from tests.support.command_process import CommandProcess, command_processes
from tests.support.lock_orders import LockOrders
from tests.support.oracle_log import LogOracle
from tests.support.plain_books import read_log

pytestmark = [pytest.mark.long, pytest.mark.thorough]
CLIENTS = 64
SECONDS = {"adaptive": 20.0, "off": 5.0, "always": 5.0}  # by DAYBOOK_LOCKS; the first: the rule-book issue
REPEATS = 0.05
ACCOUNTS = [f"limited:{number}" for number in range(10)]
CONTENDED = ("conflict", "redecisions", "slow_path", "account_locks", "set_aside", "without_lock")
"""Parts of the names of what counts commands that were in each other's way."""


@pytest.fixture(scope="module", params=list(SECONDS))
def locks(request: pytest.FixtureRequest) -> str:
    """How the two keep out of each other's way: it must not matter to what the books say."""
    setting: str = request.param
    return setting


@pytest.fixture(scope="module")
def processes(
    locks: str, database: Database, stack: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[CommandProcess]]:
    """Two workers on one database. Where account locks are always used, every lock is in their logs."""
    authorization = f"Bearer {token('writer')}"
    folder = tmp_path_factory.mktemp("contention")
    with command_processes(
        2,
        database=database,
        servers=stack,
        folder=folder,
        key=KEY,
        authorization=authorization,
        DAYBOOK_LOCKS=locks,
        DAYBOOK_LEASE_MS="1500",  # short, so that the holder of the lease steps down early
        DAYBOOK_LOG_LEVEL="debug" if locks == "always" else "info",
    ) as made:
        yield made


def transfer(source: str, target: str, amount: int) -> bytes:
    entries = [
        {"account": source, "direction": "debit", "amount": amount, "asset": "X"},
        {"account": target, "direction": "credit", "amount": amount, "asset": "X"},
    ]
    return json.dumps({"entries": entries}).encode()


class Clients:
    """Sixty-four of them; what each was told, by key."""

    def __init__(self, processes: list[CommandProcess], ledger: str, seconds: float) -> None:
        self._path = f"/v1/ledgers/{ledger}/transactions"
        self._processes = processes
        self._seconds = seconds
        self.told: dict[str, tuple[int, dict[str, Any]]] = {}
        self.repeats = 0

    async def run(self) -> None:
        """All of them, at once, until the time is over."""
        until = time.monotonic() + self._seconds
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        headers = dict(self._processes[0].http.headers)
        async with (
            httpx.AsyncClient(base_url=self._processes[0].url, headers=headers, limits=limits, timeout=60) as first,
            httpx.AsyncClient(base_url=self._processes[1].url, headers=headers, limits=limits, timeout=60) as second,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CLIENTS):
                group.create_task(self._client(number, [first, second], until))

    async def _client(self, number: int, doors: list[httpx.AsyncClient], until: float) -> None:
        chance = random.Random(number)
        door = doors[number % 2]
        for count in range(1_000_000):
            if time.monotonic() > until:
                return
            key = f"c{number}-{count}"
            source, target = chance.sample(ACCOUNTS, 2)
            body = transfer(source, target, chance.randint(1, 60))
            if chance.random() < REPEATS:  # the same twice at once, at both processes
                self.repeats += 1
                await asyncio.gather(*(self._send(each, key, body) for each in doors))
            else:
                await self._send(door, key, body)

    async def _send(self, door: httpx.AsyncClient, key: str, body: bytes) -> None:
        answer = await door.post(self._path, content=body, headers={"idempotency-key": key})
        assert answer.status_code in (201, 422), answer.text
        told = {name: value for name, value in answer.json().items() if name != "trace_id"}
        before = self.told.setdefault(key, (answer.status_code, told))
        assert before == (answer.status_code, told)  # a repeat is told the same


def test_sixty_four_clients_at_two_processes_break_no_limit_and_wait_for_no_deadlock(
    processes: list[CommandProcess], database: Database, locks: str
) -> None:
    ledger = f"contended-{locks}"
    opener = processes[0].http
    opened = {
        "ledger": ledger,
        "defaults": [{"pattern": "limited:*", "limits": {"X": {"minimum": 0, "maximum": 250}}}],
    }
    assert opener.post("/v1/ledgers", json=opened).status_code == 201
    for address in ACCOUNTS:
        assert (
            opener.post(f"/v1/ledgers/{ledger}/transactions", content=transfer("world", address, 100)).status_code
            == 201
        )
    clients = Clients(processes, ledger, SECONDS[locks])
    asyncio.run(clients.run())

    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        log = [event for event in read_log(admin) if event.ledger == ledger]
        deadlocks = admin.execute(
            "select deadlocks from pg_stat_database where datname = current_database()"
        ).fetchone()
        rows = admin.execute(
            "select position, type, data, metadata, recorded_at from daybook.events where ledger = %s order by 1",
            [ledger],
        ).fetchall()
    assert deadlocks == (0,)
    # Design §4: whatever the fences watched, each command was right on the full state at its position.
    assert LogOracle().replay(rows).findings == []
    checker = Checker()
    for event in log:  # at every position: debits equal credits, no limit broken
        assert checker.take(event) == []
    assert set(checker.debits_less_credits().values()) == {0}

    answered: Counter[str] = Counter()
    for recorded in log:
        metadata = decode_metadata(recorded.metadata)
        if metadata.key in clients.told:
            answered[metadata.key or ""] += 1
            status, told = clients.told[metadata.key or ""]
            event = decode(recorded.type, recorded.data)
            assert isinstance(event, TransactionPosted if status == 201 else CommandRefused)
            assert told["position"] == recorded.position
    assert answered == dict.fromkeys(clients.told, 1)  # every acknowledged command once
    assert clients.repeats > 0
    assert {status for status, _ in clients.told.values()} == {201, 422}

    taken = 'daybook_account_locks_total{result="taken"}'
    assert all((process.metrics().get(taken, 0) > 0) == (locks != "off") for process in processes)
    orders = LockOrders()
    for process in processes:
        orders.read(process.url, process.log_file)
    assert orders.cycles() == []
    assert locks != "always" or orders.edges


def test_an_account_without_limits_that_everybody_uses_is_no_reason_for_a_lock_or_a_conflict(
    processes: list[CommandProcess], locks: str
) -> None:
    ledger = f"hot-{locks}"
    opener = processes[0].http
    opened = {"ledger": ledger, "defaults": [{"pattern": "limited:**", "limits": {"X": {"minimum": 0}}}]}
    assert opener.post("/v1/ledgers", json=opened).status_code == 201
    names = [f"limited:{number}" for number in range(40)]
    for name in names:
        assert (
            opener.post(f"/v1/ledgers/{ledger}/transactions", content=transfer("hot", name, 1_000)).status_code == 201
        )

    before = contended(processes)
    assert any("conflict" in name for name in before[0])
    free = [transfer("hot", f"free:{index % 40}", 1) for index in range(160)]
    assert asyncio.run(all_at_once(processes, ledger, free)) == {201}
    assert contended(processes) == before  # no lock either, for nothing here has a limit

    drawing = [
        transfer(names[index % 40], "hot", 1) for index in range(200)
    ]  # each limited account at one process only
    assert asyncio.run(all_at_once(processes, ledger, drawing)) == {201}
    for now, earlier in zip(contended(processes), before, strict=True):
        for name in ("conflict", "redecisions", "slow_path"):
            assert _of(now, name) == _of(earlier, name)


async def all_at_once(processes: list[CommandProcess], ledger: str, transactions: list[bytes]) -> set[int]:
    """The statuses, when every second one goes to the other process."""
    headers = dict(processes[0].http.headers)
    async with (
        httpx.AsyncClient(base_url=processes[0].url, headers=headers, timeout=60) as one,
        httpx.AsyncClient(base_url=processes[1].url, headers=headers, timeout=60) as two,
    ):
        sends = [
            (one, two)[index % 2].post(f"/v1/ledgers/{ledger}/transactions", content=content)
            for index, content in enumerate(transactions)
        ]
        return {answer.status_code for answer in await asyncio.gather(*sends)}


def contended(processes: list[CommandProcess]) -> list[dict[str, float]]:
    """What each process has counted of commands in each other's way."""
    return [
        {name: value for name, value in process.metrics().items() if any(part in name for part in CONTENDED)}
        for process in processes
    ]


def _of(counted: dict[str, float], part: str) -> dict[str, float]:
    return {name: value for name, value in counted.items() if part in name}
