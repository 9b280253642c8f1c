"""The executor on real Postgres: workers that compete, replies that are lost, and a refold of the whole log afterwards.

The oracle (tests/support/refold.py) shares no code with the domain.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from command_service.application.executor import Executor
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds
from command_service.domain.commands import PostTransaction
from command_service.infrastructure.locks import NoLocks
from shared_kernel.errors import Rejection
from shared_kernel.event_log.pool import LogPool
from shared_kernel.events import CommandRefused, HoldExpired, HoldPosted
from tests.services import Database
from tests.support.commands import Client, command, transfer, wallet
from tests.support.oracle_log import LogOracle
from tests.support.refold import Refold

pytestmark = pytest.mark.thorough

NewWorker = Callable[..., Client]
ACCOUNTS = [f"users:{number}" for number in range(10)]


class Counts:
    """Metrics that only count."""

    def __init__(self) -> None:
        self.conflicts = self.slow = self.unknown = 0

    def appended(self, *, commands: int, seconds: float) -> None:
        """Not looked at here."""

    def conflicted(self, *, commands: int) -> None:
        self.conflicts += commands

    def loaded(self) -> None:
        """Not looked at here."""

    def took_slow_path(self) -> None:
        self.slow += 1

    def set_aside(self, *, commands: int) -> None:
        """Not looked at here."""

    def went_without_lock(self, *, commands: int) -> None:
        """Not looked at here."""

    def outcome_unknown(self) -> None:
        self.unknown += 1

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        """Not looked at here."""


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
async def worker(database: Database, counts: Counts) -> AsyncIterator[NewWorker]:
    """Makes a client of a fresh worker: its own pool, its own cache, as another process would have."""
    made: list[tuple[Executor, LogPool]] = []

    def new(ledger: str, *, connections_max: int = 3, bounds: Bounds | None = None) -> Client:
        pool = LogPool(database.urls["command"], connections_max=connections_max, borrow_timeout_ms=60_000)
        executor = Executor(log=pool, locks=NoLocks(), metrics=counts, bounds=bounds or Bounds(), deadline_s=60)
        made.append((executor, pool))
        return Client(executor, ledger=ledger)

    yield new
    for executor, pool in made:
        await executor.stop()
        pool.close()


def refold(database: Database, ledger: str) -> Refold:
    """Replays the ledger's whole log; nothing may be found."""
    with psycopg.connect(database.admin_url) as connection:
        rows = connection.execute(
            "select position, type, data, metadata from daybook.events where ledger = %s order by position", [ledger]
        ).fetchall()
    replayed = Refold().replay(rows)
    assert replayed.findings == []
    assert all(difference == 0 for difference in replayed.debits_less_credits.values())
    return replayed


async def compete(
    clients: list[Client], command: Callable[[random.Random], PostTransaction], *, each: int, seed: int
) -> dict[str, Outcome]:
    """Every client sends so many commands, one after the other; one in twenty again, by another worker. Outcomes by key."""
    answers: dict[str, Outcome] = {}

    async def run(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for turn in range(each):
            asked, key = command(chance), f"{number}-{turn}"
            sent: list[Awaitable[Outcome]] = [clients[number % len(clients)].send(asked, key)]
            if chance.random() < 0.05:
                sent.append(clients[(number + 1) % len(clients)].send(asked, key))
            outcomes = await asyncio.gather(*sent)
            assert len({(outcome.position, outcome.recorded_at) for outcome in outcomes}) == 1
            answers[key] = outcomes[0]

    await asyncio.gather(*(run(number) for number in range(64)))
    return answers


def check(answers: dict[str, Outcome], replayed: Refold) -> None:
    """Every acknowledged command stands in the log once, where its answer says; nothing else does."""
    positions = {key: position for (_, key), position in replayed.keys.items()}
    for key, outcome in answers.items():
        assert positions.pop(key) == outcome.position
    assert not [key for key in positions if not key.startswith("key-")]  # those of the set-up


async def test_two_workers_never_pass_a_limit(database: Database, worker: NewWorker, counts: Counts) -> None:
    ledger = f"compete-{uuid4().hex[:8]}"
    clients = [worker(ledger), worker(ledger)]
    await clients[0].open()
    for address in ACCOUNTS:
        await clients[0].send(wallet(address, minimum=0, maximum=400))
        await clients[0].send(transfer("world", address, 100))

    def command(chance: random.Random) -> PostTransaction:
        source, target = chance.sample(ACCOUNTS, 2)
        return transfer(source, target, chance.randint(1, 60))

    answers = await compete(clients, command, each=40, seed=1)
    replayed = refold(database, ledger)
    check(answers, replayed)
    assert {answer.event.code for answer in answers.values() if isinstance(answer.event, CommandRefused)}
    assert counts.conflicts > 0  # or nothing was shown
    with psycopg.connect(database.admin_url) as connection:
        deadlocks = connection.execute("select deadlocks from pg_stat_database where datname = current_database()")
        assert deadlocks.fetchone() == (0,)


async def test_hot_unlimited_accounts_never_conflict(database: Database, worker: NewWorker, counts: Counts) -> None:
    ledger = f"hot-{uuid4().hex[:8]}"
    clients = [worker(ledger), worker(ledger)]
    await clients[0].open()
    await clients[0].send(transfer("bank:cash", "bank:fees", 1))
    await clients[1].send(transfer("bank:cash", "bank:fees", 1))
    answers = await compete(clients, lambda _: transfer("bank:cash", "bank:fees", 1), each=10, seed=2)
    assert counts.conflicts == 0
    check(answers, refold(database, ledger))


async def test_an_expiry_that_races_a_post_leaves_one_end_and_a_retry_of_the_hold_its_first_answer(
    database: Database, worker: NewWorker
) -> None:
    ledger = f"ends-{uuid4().hex[:8]}"
    teller, clock = worker(ledger), worker(ledger)
    await teller.open()
    await teller.send(wallet("users:1", minimum=0))
    await teller.send(transfer("world", "users:1", 40))
    soon = (teller.now + timedelta(minutes=1)).isoformat()
    holds = [transfer("users:1", "shop", 1, id=f"h{number}", status="pending", expires_at=soon) for number in range(40)]
    placed = [await teller.send(hold, hold.id or None) for hold in holds]
    teller.now = clock.now = teller.now + timedelta(minutes=2)

    winners: Counter[type] = Counter()
    for number, hold in enumerate(holds):
        both = [
            teller.send(command("post_hold", transaction=hold.id)),
            clock.send(command("expire_hold", transaction=hold.id)),
        ]
        order = both if number % 2 else both[::-1]
        # Most race, and who wins those is the machine's affair; of every tenth two, each has one to itself.
        told: list[object] = []
        for together in [order[:1], order[1:]] if number % 10 < 2 else [order]:
            told += await asyncio.gather(*together, return_exceptions=True)
        (ended,) = (outcome for outcome in told if isinstance(outcome, Outcome))
        (late,) = (error for error in told if isinstance(error, Rejection))
        assert late.code == "already_settled"
        winners[type(ended.event)] += 1
    assert set(winners) == {HoldPosted, HoldExpired}

    again = await teller.send(holds[0], holds[0].id or None)
    assert (again.is_replay, again.event, again.position) == (True, placed[0].event, placed[0].position)
    with psycopg.connect(database.admin_url) as connection:
        rows = connection.execute(
            "select position, type, data, metadata, recorded_at from daybook.events where ledger = %s order by 1",
            [ledger],
        ).fetchall()
    replayed = LogOracle().replay(rows)
    assert replayed.findings == []
    assert replayed.books.accounts["users:1"].available("EUR/2") == 40 - winners[HoldPosted]


async def test_killed_backends_lose_nothing_and_repeat_nothing(
    database: Database, worker: NewWorker, counts: Counts
) -> None:
    ledger = f"killed-{uuid4().hex[:8]}"
    clients = [worker(ledger), worker(ledger)]
    await clients[0].open()
    for address in ACCOUNTS:
        await clients[0].send(wallet(address, minimum=0))
        await clients[0].send(transfer("world", address, 1_000))
    ended = 0

    async def kill() -> None:
        nonlocal ended
        async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as connection:
            while (ended < 12 or not counts.unknown) and not work.done():
                rows = await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                    " and usename = 'daybook_command' and state = 'active' limit 1"
                )
                ended += len(await rows.fetchall())
                await connection.execute("select pg_sleep(0.05)")

    def command(chance: random.Random) -> PostTransaction:
        source, target = chance.sample(ACCOUNTS, 2)
        return transfer(source, target, chance.randint(1, 200))

    work = asyncio.create_task(compete(clients, command, each=60, seed=3))
    await kill()
    check(await work, refold(database, ledger))
    assert ended > 0
    assert counts.unknown > 0


async def test_a_cold_worker_decides_on_the_whole_history(database: Database, worker: NewWorker) -> None:
    ledger = f"cold-{uuid4().hex[:8]}"
    first = worker(ledger)
    await first.open(defaults=[{"pattern": "users:*", "limits": {"EUR/2": {"minimum": 0}}}])
    await first.send(transfer("world", "users:1", 100))
    await asyncio.gather(*(first.send(transfer("users:1", "world", 1)) for _ in range(60)))
    second = worker(ledger)
    refused = await second.send(transfer("users:1", "world", 41))
    assert isinstance(refused.event, CommandRefused)
    assert refused.event.fields["available"] == 40
    accepted = await second.send(transfer("users:1", "world", 40))
    assert not isinstance(accepted.event, CommandRefused)
    refold(database, ledger)


async def test_two_openers_make_one_ledger(database: Database, worker: NewWorker) -> None:
    ledger = f"open-{uuid4().hex[:8]}"
    clients = [worker(ledger) for _ in range(4)]
    results = await asyncio.gather(*(client.open() for client in clients), return_exceptions=True)
    assert sum(isinstance(result, Outcome) for result in results) == 1
    rejections = [result for result in results if isinstance(result, Rejection)]
    assert [rejection.code for rejection in rejections] == ["ledger_exists"] * 3
    refold(database, ledger)


async def test_a_busy_ledger_gives_its_only_connection_back_while_another_ledger_waits(
    database: Database, worker: NewWorker
) -> None:
    busy = worker(f"busy-{uuid4().hex[:8]}", connections_max=1, bounds=Bounds(follow_commands_min=1))
    quiet = Client(busy.executor, ledger=f"quiet-{uuid4().hex[:8]}")
    await busy.open()
    answered, is_over = 0, False

    async def keep_sending() -> None:
        nonlocal answered
        while not is_over:
            await busy.send(transfer("world", "till", 1))
            answered += 1

    crowd = [asyncio.create_task(keep_sending()) for _ in range(64)]
    try:
        async with asyncio.timeout(20):  # without an end, one batch follows the other
            while answered < 1_000:
                await asyncio.sleep(0)
            before = answered
            await quiet.open()
        assert answered - before <= 2 * len(crowd)  # no more than was on its way
    finally:
        is_over = True
        await asyncio.gather(*crowd)
    refold(database, busy.ledger)
