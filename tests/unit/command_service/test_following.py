"""Appends that follow one another: the second is sent before the first is back, and stands only if the first does as it was.

Executor.md §5, counterexample 2: conditions alone do not notice that a credit fell with the batch ahead.
"""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from command_service.application import cache
from command_service.application.batch import Ticket
from command_service.application.line import Line
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds
from shared_kernel.errors import DaybookError, Unavailable
from tests.support.commands import Client, transfer, wallet
from tests.support.memory_log import MemorySession
from tests.support.workers import Bank, Held, code, open_bank

EAGER = Bounds(follow_commands_min=1)


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        yield made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each append as it is sent: whether it follows another."""
    appends: list[bool] = []
    append = MemorySession.append

    async def noted(self: MemorySession, ledger: str, **more: object) -> object:
        appends.append(bool(more.get("is_following")))
        return await append(self, ledger, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MemorySession, "append", noted)
    return appends


async def funded(bank: Bank, bounds: Bounds = EAGER) -> Client:
    """A worker whose cache knows x (100, minimum 0), y (50, minimum 0) and world."""
    client = bank.worker(bounds)
    await client.open()
    for name, amount in (("x", 100), ("y", 50)):
        await client.send(wallet(name, minimum=0))
        await client.send(transfer("world", name, amount))
    return client


async def sent_behind(sent: list[bool], appends: int) -> None:
    """Returns once so many appends were sent."""
    async with asyncio.timeout(10):
        while len(sent) < appends:
            await asyncio.sleep(0)


async def test_the_next_batch_is_sent_before_the_one_ahead_is_back(bank: Bank, sent: list[bool]) -> None:
    client = await funded(bank)
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "y", 100)))
    await held.is_there.wait()
    second = asyncio.create_task(client.send(transfer("y", "world", 150)))  # has the money only if the first stands
    await sent_behind(sent, before + 2)
    assert sent[before:] == [False, True]
    assert not first.done()
    held.may_go.set()
    outcomes = await asyncio.gather(first, second)
    assert [code(outcome) for outcome in outcomes] == ["accepted", "accepted"]
    assert outcomes[1].position == outcomes[0].position + 1
    assert bank.refold().balances["y", "EUR/2"] == 0


async def test_many_that_wait_together_go_in_two_batches_alike_the_second_behind_the_first(
    bank: Bank, sent: list[bool]
) -> None:
    client = await funded(bank, Bounds(follow_commands_min=16))
    held, before, appends = Held(bank), len(sent), len(bank.log.appends)
    asked = asyncio.gather(*(client.send(transfer("x", "y", 1)) for _ in range(64)))
    await sent_behind(sent, before + 2)
    held.may_go.set()
    await asked
    assert [len(decisions) for decisions in bank.log.appends[appends:]] == [32, 32]
    assert sent[before:] == [False, True]
    assert bank.refold().balances["x", "EUR/2"] == 36


async def test_the_many_that_come_while_one_is_on_its_way_leave_half_for_the_time_after(
    bank: Bank, sent: list[bool]
) -> None:
    client = await funded(bank, Bounds(follow_commands_min=16))
    held, before, appends = Held(bank), len(sent), len(bank.log.appends)
    first = asyncio.create_task(client.send(transfer("x", "y", 1)))
    await held.is_there.wait()
    others = asyncio.gather(*(client.send(transfer("x", "y", 1)) for _ in range(63)))
    await sent_behind(sent, before + 2)
    held.may_go.set()
    await asyncio.gather(first, others)
    assert [len(decisions) for decisions in bank.log.appends[appends:]] == [1, 32, 31]


async def test_what_followed_a_batch_that_fell_is_decided_again(bank: Bank, sent: list[bool]) -> None:
    client, other = await funded(bank), bank.worker(Bounds(follow_commands_min=0))
    await other.send(transfer("world", "x", 1))
    await client.send(transfer("x", "world", 1))  # the client has met that event: nothing of it is left in a tail
    for _ in range(100):  # and is calm again
        await client.send(transfer("world", "z", 1))
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "y", 100)))
    await held.is_there.wait()
    second = asyncio.create_task(client.send(transfer("y", "world", 150)))
    await sent_behind(sent, before + 2)
    await other.send(transfer("x", "world", 60))  # comes between: x -> y falls, and with it the money of the second
    held.may_go.set()
    outcomes = await asyncio.gather(first, second)
    assert [code(outcome) for outcome in outcomes] == ["insufficient_funds", "insufficient_funds"]
    balances = bank.refold().balances
    assert (balances["x", "EUR/2"], balances["y", "EUR/2"]) == (40, 50)
    sent.clear()
    held = Held(bank)
    third = asyncio.create_task(client.send(transfer("world", "x", 1)))
    await held.is_there.wait()
    fourth = asyncio.create_task(client.send(transfer("world", "x", 1)))
    while not client.executor.waiting:
        await asyncio.sleep(0)
    held.may_go.set()
    await asyncio.gather(third, fourth)
    assert sent == [False, False]  # after a conflict nothing follows unasked for a while


async def test_an_event_of_others_between_two_batches_voids_the_second_only(bank: Bank, sent: list[bool]) -> None:
    client, other = await funded(bank), bank.worker(Bounds(follow_commands_min=0))
    await other.send(transfer("world", "z", 1))
    for _ in range(101):
        await client.send(transfer("world", "z", 1))
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "world", 10)))
    await held.is_there.wait()
    second = asyncio.create_task(client.send(transfer("y", "world", 10)))
    await sent_behind(sent, before + 2)
    await other.send(transfer("world", "z", 1))  # disturbs nobody's fence, but moves the first batch's positions
    held.may_go.set()
    outcomes: list[Outcome] = list(await asyncio.gather(first, second))
    assert [code(outcome) for outcome in outcomes] == ["accepted", "accepted"]
    for outcome in outcomes:
        assert Outcome.of(bank.log.events["bank"][outcome.position - 1]).event == outcome.event
    bank.refold()


@pytest.mark.parametrize("fate", ["applied", "not applied"])
async def test_both_batches_are_asked_for_when_the_connection_is_lost(bank: Bank, sent: list[bool], fate: str) -> None:
    client = await funded(bank)
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "y", 100)))
    await held.is_there.wait()
    second = asyncio.create_task(client.send(transfer("y", "world", 150)))
    await sent_behind(sent, before + 2)
    bank.log.lose = fate
    held.may_go.set()
    assert [code(outcome) for outcome in await asyncio.gather(first, second)] == ["accepted", "accepted"]
    assert bank.refold().balances["y", "EUR/2"] == 0
    assert bank.counts.unknown >= 1


async def test_what_stands_behind_a_failed_completion_is_asked_for_and_not_decided_again(
    bank: Bank, sent: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SNAPSHOT_EVERY", 5)
    client = await funded(bank)
    for _ in range(2):  # x's snapshot is due with the next of its events
        await client.send(transfer("world", "x", 1))
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "world", 10)))
    await held.is_there.wait()
    second = asyncio.create_task(client.send(transfer("y", "world", 10)))
    await sent_behind(sent, before + 2)
    bank.log.loses_snapshots = True
    held.may_go.set()
    outcomes = await asyncio.gather(first, second)
    assert [code(outcome) for outcome in outcomes] == ["accepted", "accepted"]
    assert not bank.log.loses_snapshots
    assert bank.refold().balances["y", "EUR/2"] == 40


async def test_commands_that_need_the_lock_never_follow(bank: Bank, sent: list[bool]) -> None:
    client = await funded(bank)
    held = Held(bank)
    first = asyncio.create_task(client.send(transfer("x", "world", 10)))
    await held.is_there.wait()
    locked = transfer("x", "world", 1, conditions=[{"account": "x", "asset": "EUR/2", "balance": "posted", "eq": 90}])
    second = asyncio.create_task(client.send(locked))
    while not client.executor.waiting:
        await asyncio.sleep(0)
    held.may_go.set()
    assert [code(outcome) for outcome in await asyncio.gather(first, second)] == ["accepted", "accepted"]
    assert not any(sent)
    assert bank.counts.slow == 1


async def test_callers_hear_when_the_process_ends_with_two_batches_on_their_way(bank: Bank, sent: list[bool]) -> None:
    client = await funded(bank)
    held, before = Held(bank), len(sent)
    tasks = [asyncio.create_task(client.send(transfer("x", "world", 10)))]
    await held.is_there.wait()
    tasks.append(asyncio.create_task(client.send(transfer("y", "world", 10))))
    await sent_behind(sent, before + 2)
    for task in asyncio.all_tasks():
        if task.get_name() == "writer bank":
            task.cancel()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    held.may_go.set()


async def test_whoever_waits_is_told_when_a_fault_of_ours_ends_the_writer(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await funded(bank)

    def broken(self: Line) -> list[Ticket]:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Line, "take", broken)
        with pytest.raises(DaybookError, match="internal_error"):
            await client.send(transfer("x", "world", 1))
    assert code(await client.send(transfer("x", "world", 1))) == "accepted"  # the next command has a writer of its own


async def test_who_is_answered_is_forgotten_though_one_batch_follows_another_without_an_end(
    bank: Bank, sent: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, before, append = await funded(bank), len(sent), MemorySession.append
    in_turn = asyncio.Lock()

    async def slow(self: MemorySession, ledger: str, **more: object) -> object:
        async with in_turn:
            for _ in range(50):  # turns of the loop: whoever was answered comes back meanwhile
                await asyncio.sleep(0)
            return await append(self, ledger, **more)  # type: ignore[arg-type]

    async def keep_sending() -> None:
        for _ in range(50):
            await client.send(transfer("world", "x", 1))

    async def kept() -> int:
        while len(bank.log.events["bank"]) < 900:
            await asyncio.sleep(0)
        return sum(type(each) is Ticket for each in gc.get_objects())

    monkeypatch.setattr(MemorySession, "append", slow)
    tickets, *_ = await asyncio.gather(kept(), *(keep_sending() for _ in range(20)))
    assert sent[before:].count(False) < 10, "they did not follow one another, so nothing was shown"
    assert tickets <= 60  # of 20 callers: those that wait, those on their way, and those just answered


async def test_none_follows_while_others_wait_for_a_session(bank: Bank, sent: list[bool]) -> None:
    client = await funded(bank)
    held, before = Held(bank), len(sent)
    first = asyncio.create_task(client.send(transfer("x", "y", 1)))
    await held.is_there.wait()
    bank.log.is_contended = True
    second = asyncio.create_task(client.send(transfer("x", "y", 1)))
    for _ in range(100):  # turns enough to be taken and sent
        await asyncio.sleep(0)
    held.may_go.set()
    await asyncio.gather(first, second)
    assert sent[before:] == [False, False]
