"""How long a command may wait: it is turned away before the append or not at all, and a line that stands still takes no more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from command_service.application.writer import Bounds
from shared_kernel.errors import Contention, Unavailable
from tests.support.commands import transfer, wallet
from tests.support.workers import Bank, code, open_bank

SHORT_S = 0.05


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        await made.worker().open()
        yield made


def taking_longer_than(seconds: float) -> Callable[[], Awaitable[None]]:
    """Something that happens only after so long, by the clock that deadlines are of."""

    async def take_long() -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() <= until:
            await asyncio.sleep(seconds / 10)

    return take_long


def held(bank: Bank) -> asyncio.Event:
    """The next append is on its way until this is set."""
    release = asyncio.Event()

    async def hold() -> None:
        await release.wait()

    bank.log.before_append = hold
    return release


async def sent(bank: Bank) -> None:
    """Returns when the held append is on its way."""
    while bank.log.before_append is not None:
        await asyncio.sleep(0)


async def test_who_waits_behind_an_append_hears_in_time_and_the_append_itself_is_waited_for(bank: Bank) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    release = held(bank)
    first = asyncio.create_task(client.send(transfer("a", "b", 1), key="first"))
    await sent(bank)
    with pytest.raises(Unavailable, match="deadline_passed"):
        await client.send(transfer("a", "b", 1), key="second")
    assert not first.done()  # its time is over as well, but it may be in the log: only the answer can say
    release.set()
    assert code(await first) == "accepted"
    assert not any('"second"' in event.metadata for event in bank.log.events["bank"])


async def test_a_deadline_that_passes_during_a_load_is_honoured_before_the_append(bank: Bank) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    bank.log.before_load["bank"] = taking_longer_than(SHORT_S)
    before = len(bank.log.appends)
    with pytest.raises(Unavailable, match="deadline_passed"):
        await client.send(transfer("a", "b", 1))
    assert len(bank.log.appends) == before


async def test_who_has_time_left_is_not_turned_away_with_those_who_have_not(bank: Bank) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    bank.log.before_load["bank"] = taking_longer_than(SHORT_S)
    late = asyncio.create_task(client.send(transfer("a", "b", 1), key="late"))
    await asyncio.sleep(0)
    client.executor._deadline_s = 60
    in_time = asyncio.create_task(client.send(transfer("a", "b", 1), key="in time"))
    with pytest.raises(Unavailable, match="deadline_passed"):
        await late
    assert code(await in_time) == "accepted"
    bank.refold()


async def test_under_the_lock_too_a_deadline_is_honoured_before_the_append(bank: Bank) -> None:
    await bank.worker().send(wallet("x", minimum=0))
    client = bank.worker(Bounds(conflicts_before_slow_path=0), deadline_s=SHORT_S)
    bank.log.before_lock = taking_longer_than(SHORT_S)
    before = len(bank.log.appends)
    with pytest.raises(Unavailable, match="deadline_passed"):
        await client.send(transfer("world", "x", 1))
    assert bank.log.transactions == 1
    assert len(bank.log.appends) == before


async def test_a_line_whose_first_has_waited_too_long_takes_no_more(bank: Bank) -> None:
    client = bank.worker(Bounds(queue_wait_s_max=SHORT_S))
    release = held(bank)
    first = asyncio.create_task(client.send(transfer("a", "b", 1)))
    await sent(bank)
    second = asyncio.create_task(client.send(transfer("a", "b", 1)))
    await asyncio.sleep(0)
    third = asyncio.create_task(client.send(transfer("a", "b", 1)))
    await taking_longer_than(SHORT_S)()
    with pytest.raises(Contention, match="overloaded"):
        await client.send(transfer("a", "b", 1))
    release.set()
    assert [code(each) for each in await asyncio.gather(first, second, third)] == ["accepted"] * 3
    assert code(await client.send(transfer("a", "b", 1))) == "accepted"


async def test_an_unknown_outcome_is_not_told_as_a_passed_deadline(bank: Bank) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    bank.log.lose, bank.log.goes_down = "applied", True
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await client.send(transfer("a", "b", 1))
