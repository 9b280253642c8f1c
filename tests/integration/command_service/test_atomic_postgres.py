"""Atomic batches and dry runs on real Postgres: workers that compete across ledgers, commits that are lost, and what the log then holds."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest

from command_service.application.atomic import AtomicOutcome
from command_service.application.executor import Executor
from command_service.application.judging import Submission
from command_service.application.rehearsal import Rehearsed
from command_service.application.writer import Bounds
from command_service.domain.commands import PostHold, ReverseTransaction
from shared_kernel.checking import Checker
from shared_kernel.errors import DaybookError, Rejection, Unavailable
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.pool import LogPool
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import decode_metadata
from tests.services import Database
from tests.support.commands import Client, transfer, wallet
from tests.support.proxy import proxied
from tests.support.workers import Counts, NoLocks, asked

pytestmark = pytest.mark.thorough

NewWorker = Callable[..., Executor]
ACCOUNTS = [f"users:{number}" for number in range(6)]


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
async def worker(database: Database, counts: Counts) -> AsyncIterator[NewWorker]:
    """Makes a fresh worker: its own pool, its own states, as another process would have."""
    made: list[tuple[Executor, LogPool]] = []

    def new(url: str = database.urls["command"], deadline_s: float = 60, **pool_settings: int) -> Executor:
        pool = LogPool(url, **{"connections_max": 4, "borrow_timeout_ms": 30_000} | pool_settings)
        executor = Executor(log=pool, locks=NoLocks(), metrics=counts, bounds=Bounds(), deadline_s=deadline_s)
        made.append((executor, pool))
        return executor

    yield new
    for executor, pool in made:
        await executor.stop()
        pool.close()


async def funded(executor: Executor, *ledgers: str, balance: int = 1_000) -> list[Client]:
    """Clients of these ledgers, new and each with some limited accounts with money."""
    clients = [Client(executor, ledger=ledger) for ledger in ledgers]
    for client in clients:
        await client.open()
        for address in ACCOUNTS:
            await client.send(wallet(address, minimum=0))
            await client.send(transfer("world", address, balance))
    return clients


def names(count: int) -> list[str]:
    """New ledgers."""
    return [f"{number}-{uuid4().hex[:8]}" for number in range(count)]


def log(database: Database, ledger: str) -> list[RecordedEvent]:
    """The ledger's events, in which no rule is broken."""
    with psycopg.connect(database.admin_url) as connection:
        rows = connection.execute(
            "select ledger, position, type, data, metadata, recorded_at from daybook.events"
            " where ledger = %s order by position",
            [ledger],
        ).fetchall()
    names = ("ledger", "position", "type", "data", "metadata", "recorded_at")
    events = [RecordedEvent(**dict(zip(names, row, strict=True))) for row in rows]
    checker = Checker()
    assert [finding for event in events for finding in checker.take(event)] == []
    assert not any(checker.debits_less_credits().values())
    return events


def keys_at(events: Sequence[RecordedEvent]) -> dict[str, int]:
    """The position at which each key stands; once, or the checker would have said so."""
    return {key: event.position for event in events if (key := decode_metadata(event.metadata).key) is not None}


def deadlocks(database: Database) -> int:
    """How many Postgres had to resolve in this database."""
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


async def test_batches_across_ledgers_in_opposite_orders_never_deadlock_and_are_done_in_all_or_none(
    database: Database, worker: NewWorker
) -> None:
    ledgers = names(3)
    first = worker()
    await funded(first, *ledgers)
    workers = [first, worker(), worker()]
    done: list[tuple[list[Submission], AtomicOutcome]] = []

    async def run(number: int) -> None:
        chance = random.Random(number)
        executor = workers[number % len(workers)]
        clients = {ledger: Client(executor, ledger=ledger) for ledger in ledgers}
        for _ in range(6):
            order = chance.sample(ledgers, chance.choice((1, 2, 3)))
            batch = []
            for ledger in order:
                for _ in range(chance.randint(1, 3)):
                    source, target = chance.sample(ACCOUNTS, 2)
                    command = transfer(source, target, chance.randint(1, 500))
                    batch.append(asked(clients[ledger], command, f"{number}-{uuid4().hex}"))
            chance.shuffle(batch)
            done.append((batch, await executor.submit_atomic(batch)))
            source, target = chance.sample(ACCOUNTS, 2)
            await clients[order[0]].send(transfer(source, target, chance.randint(1, 500)))

    await asyncio.gather(*(run(number) for number in range(24)))
    positions = {ledger: keys_at(log(database, ledger)) for ledger in ledgers}
    for batch, outcome in done:
        stand = {index: positions[one.context.ledger].get(one.context.key) for index, one in enumerate(batch)}
        if outcome.refused is None:
            assert [one.position for one in outcome.outcomes] == list(stand.values())
            by_ledger: dict[str, list[int]] = {}
            for one, answer in zip(batch, outcome.outcomes, strict=True):
                by_ledger.setdefault(one.context.ledger, []).append(answer.position)
            for found in by_ledger.values():
                assert found == list(range(found[0], found[0] + len(found)))
        else:
            recorded = {index: position for index, position in stand.items() if position is not None}
            assert recorded == {outcome.refused: outcome.outcomes[0].position}
    kinds = Counter(outcome.refused is None for _, outcome in done)
    assert kinds[True] > 20
    assert kinds[False] > 5  # or nothing was shown of refusals
    assert deadlocks(database) == 0


async def test_concurrent_duplicates_of_a_batch_have_one_effect_and_one_answer(
    database: Database, worker: NewWorker
) -> None:
    ledgers = names(2)
    workers = [worker() for _ in range(3)]
    clients = await funded(workers[0], *ledgers)
    batch = [asked(client, transfer("users:0", "users:1", 600), f"k{n}") for client in clients for n in range(1)]
    answers = await asyncio.gather(*(executor.submit_atomic(batch) for executor in workers for _ in range(3)))
    assert (
        len({tuple((one.position, one.recorded_at, one.event.__class__) for one in a.outcomes) for a in answers}) == 1
    )
    assert [answer.refused for answer in answers] == [None] * 9
    assert sum(not answer.outcomes[0].is_replay for answer in answers) == 1
    for ledger in ledgers:
        assert "k0" in keys_at(log(database, ledger))


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_commit_whose_answer_is_lost_is_resolved_by_the_keys(
    database: Database, worker: NewWorker, counts: Counts, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    ledgers = names(2)
    await funded(worker(), *ledgers)
    sound = LogConnection.transaction
    async with proxied(database.urls["command"]) as (proxy, url):

        def cut(frame: bytes) -> bytes | None:
            if frame != b"C":
                return b""
            proxy.rule = None
            return None

        @asynccontextmanager
        async def lost(self: LogConnection, of: Sequence[str]) -> AsyncIterator[None]:
            monkeypatch.setattr(LogConnection, "transaction", sound)
            async with sound(self, of):
                yield
                if is_committed:
                    proxy.rule = cut  # the server says COMMIT, and nobody hears it
                else:
                    await proxy.stop()  # nobody hears us say it

        executor = worker(url)
        clients = [Client(executor, ledger=ledger) for ledger in ledgers]
        batch = [asked(client, transfer("users:0", "users:1", 600), "once") for client in clients]
        monkeypatch.setattr(LogConnection, "transaction", lost)
        done = await executor.submit_atomic(batch)
        assert done.refused is None
        assert [outcome.is_replay for outcome in done.outcomes] == [is_committed] * 2
        if is_committed:
            assert counts.unknown == 1
        for ledger, outcome in zip(ledgers, done.outcomes, strict=True):
            assert keys_at(log(database, ledger))["once"] == outcome.position == len(log(database, ledger))
        await executor.stop()


async def test_other_writers_meet_a_batch_in_their_tail(database: Database, worker: NewWorker, counts: Counts) -> None:
    ledgers = names(1)
    first, second = worker(), worker()
    (client,) = await funded(first, *ledgers, balance=100)
    other = Client(second, ledger=ledgers[0])
    await other.send(transfer("users:0", "users:1", 1))  # both writers know the accounts
    loads = counts.loads
    await second.submit_atomic([asked(other, transfer("users:0", "users:1", 99))])
    counted = counts.loads
    refused = await client.send(transfer("users:0", "users:1", 1))
    assert getattr(refused.event, "code", None) == "insufficient_funds"
    assert counted > loads
    assert counts.loads == counted  # its events came with the append, nothing was loaded anew
    log(database, ledgers[0])


async def test_a_head_that_somebody_holds_turns_a_batch_away_in_time_and_leaves_nothing(
    database: Database, worker: NewWorker
) -> None:
    ledgers = sorted(names(2))
    (client, other) = await funded(worker(), *ledgers)
    hasty = worker(deadline_s=1.0, lock_timeout_ms=200)
    batch = [asked(Client(hasty, ledger=one.ledger), transfer("users:0", "users:1", 1)) for one in (client, other)]
    heads = [len(log(database, ledger)) for ledger in ledgers]
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("select from daybook.ledgers where ledger = %s for update", [ledgers[1]])
        with pytest.raises(Unavailable, match=r"deadline_passed.*lock_timeout"):
            await hasty.submit_atomic(batch)
        await client.send(transfer("users:0", "users:1", 1))  # the other head is free again
    assert [len(log(database, ledger)) for ledger in ledgers] == [heads[0] + 1, heads[1]]


async def test_dry_runs_say_what_the_real_run_then_does_and_write_nothing(
    database: Database, worker: NewWorker
) -> None:
    ledgers = names(2)
    executor = worker()
    client, other = await funded(executor, *ledgers, balance=100)
    hold = transfer("users:0", "users:1", 60, status="pending", id="hold")
    batches = [
        [asked(client, hold), asked(client, PostHold(transaction="hold")), asked(other, transfer("users:2", "w", 100))],
        [asked(client, transfer("users:0", "w", 40)), asked(client, transfer("users:0", "w", 1))],
        [asked(client, ReverseTransaction(transaction="hold")), asked(other, transfer("users:2", "w", 1))],
        [asked(client, transfer("users:3", "w", 1)), asked(client, transfer("users:4", "w", 1, id="hold"))],
    ]
    answers = []
    for batch in batches:
        heads = [len(log(database, ledger)) for ledger in ledgers]
        rehearsed = await told(executor.rehearse(batch, is_atomic=True))
        assert [len(log(database, ledger)) for ledger in ledgers] == heads
        assert rehearsed == await told(executor.submit_atomic(batch))
        answers.append(rehearsed[0])
    assert answers == [None, 1, 1, "transaction_exists"]


async def told(batch: Awaitable[object]) -> list[object]:
    """What a batch came to, without where and when."""
    try:
        found = await batch
    except DaybookError as error:
        return [error.code, error.fields]
    results = getattr(found, "results", None) or getattr(found, "outcomes", ())
    return [getattr(found, "refused", None), [result.event for result in results]]


async def test_a_dry_run_tells_balances_of_accounts_that_nobody_tracks(database: Database, worker: NewWorker) -> None:
    executor = worker()
    (client,) = await funded(executor, *names(1), balance=100)
    rehearsal = await executor.rehearse([asked(client, transfer("users:0", "world", 30))])
    (result,) = rehearsal.results
    assert isinstance(result, Rehearsed)
    known = result.balances["world"]["EUR/2"]
    assert (known.posted_debits, known.posted_credits) == (600, 30)
    assert result.as_of == len(log(database, client.ledger))
    assert result.as_of_at is not None


async def test_an_unknown_ledger_among_known_ones_is_a_404(worker: NewWorker) -> None:
    executor = worker()
    (client,) = await funded(executor, *names(1))
    nowhere = Client(executor, ledger=f"nowhere-{uuid4().hex[:8]}")
    batch = [asked(client, transfer("users:0", "world", 1)), asked(nowhere, transfer("a", "b", 1))]
    with pytest.raises(Rejection, match="ledger_not_found") as caught:
        await executor.submit_atomic(batch)
    assert caught.value.fields["command"] == 1
