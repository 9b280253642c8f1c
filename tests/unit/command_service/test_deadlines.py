"""How long a command may wait: it is turned away before the append or not at all, and a line that stands still takes no more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from command_service.application.writer import Bounds
from shared_kernel.errors import Contention, Unavailable
from shared_kernel.event_log.errors import RolledBack
from tests.support.commands import Client, transfer, wallet
from tests.support.workers import Bank, asked, code, open_bank

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


@pytest.fixture
async def release(bank: Bank) -> AsyncIterator[asyncio.Event]:
    """What waits for it goes on at the latest when the test is over."""
    made = asyncio.Event()
    yield made
    made.set()


def until(release: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """Something that does not happen before the event."""

    async def wait() -> None:
        await release.wait()

    return wait


async def settled(client: Client) -> None:
    """Returns when nothing of the client's worker is under way any more."""
    while client.executor._writers or client.executor._in_flight or client.executor.waiting:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stage", ["load", "lock", "append under the lock"])
async def test_a_command_that_is_held_up_before_it_is_sent_hears_in_time_and_is_never_sent(
    bank: Bank, release: asyncio.Event, stage: str
) -> None:
    await bank.worker().send(wallet("x", minimum=0))
    bounds = Bounds(idle_s=0.0) if stage == "load" else Bounds(idle_s=0.0, conflicts_before_slow_path=0)
    client = bank.worker(bounds, deadline_s=SHORT_S)
    wait = until(release)
    if stage == "load":
        bank.log.before_load["bank"] = wait
    elif stage == "lock":
        bank.log.before_lock = wait
    else:
        bank.log.before_append = wait
    before = len(bank.log.events["bank"])
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="deadline_passed"):
            await client.send(transfer("world", "x", 1), key="late")
        release.set()
        await settled(client)
    assert len(bank.log.events["bank"]) == before
    assert [each[1] for each in bank.counts.answers].count("deadline_passed") == 1


async def test_what_is_left_over_from_a_batch_hears_in_time_while_that_is_on_its_way(
    bank: Bank, release: asyncio.Event
) -> None:
    client = bank.worker(Bounds(follow_commands_min=0), deadline_s=SHORT_S)
    bank.log.before_append = until(release)
    taken = transfer("a", "b", 1, id="one")
    first = asyncio.create_task(client.send(taken, key="first"))
    twin = asyncio.create_task(client.send(transfer("b", "a", 1, id="one"), key="deferred"))  # judged in the next batch
    await sent(bank)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="deadline_passed"):
            await twin
    assert not first.done()
    release.set()
    assert code(await first) == "accepted"


@pytest.mark.parametrize("is_atomic", [False, True])
async def test_who_waited_for_a_held_row_all_the_time_hears_that(bank: Bank, is_atomic: bool) -> None:
    client = bank.worker(deadline_s=0.2)

    async def time_out() -> None:
        bank.log.before_append = time_out
        await asyncio.sleep(0.01)
        raise RolledBack("55P03")

    bank.log.before_append = time_out
    command = transfer("a", "b", 1)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable) as told:
            await (client.executor.submit_atomic([asked(client, command)]) if is_atomic else client.send(command))
    assert (told.value.code, told.value.fields) == ("deadline_passed", {"reason": "lock_timeout"})


@pytest.mark.parametrize("is_dry", [False, True])
async def test_what_goes_beside_the_writers_hears_in_time_and_is_never_sent(
    bank: Bank, release: asyncio.Event, is_dry: bool
) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    wait = until(release)
    if is_dry:
        bank.log.before_load["bank"] = wait
    else:
        bank.log.before_append = wait
    before, command = len(bank.log.events["bank"]), asked(client, transfer("a", "b", 1))
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="deadline_passed"):
            await (client.executor.rehearse([command]) if is_dry else client.executor.submit_atomic([command]))
        release.set()
        while client.executor._in_flight:
            await asyncio.sleep(0.01)
    assert len(bank.log.events["bank"]) == before


async def test_a_batch_whose_commit_is_on_its_way_is_waited_for(bank: Bank, release: asyncio.Event) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    wait = until(release)
    bank.log.before_commit = wait
    batch = asyncio.create_task(client.executor.submit_atomic([asked(client, transfer("a", "b", 1))]))
    await taking_longer_than(4 * SHORT_S)()
    assert not batch.done()
    release.set()
    assert [code(outcome) for outcome in (await batch).outcomes] == ["accepted"]


async def test_what_became_of_a_command_is_not_waited_for_without_end(bank: Bank, release: asyncio.Event) -> None:
    client = bank.worker(deadline_s=SHORT_S)
    bank.log.before_load["bank"] = until(release)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="no_answer"):
            await client.executor.find(ledger="bank", actor="teller", key="k")
    release.set()


async def test_who_was_sent_and_could_not_be_looked_up_is_never_told_that_it_was_not_applied(bank: Bank) -> None:
    """The old backend is seen gone, and then the log is: what it did before nobody knows."""
    client = bank.worker(deadline_s=0.5)
    bank.log.is_settled = True
    bank.log.lose, bank.log.goes_down = "applied", True
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await client.send(transfer("a", "b", 1))
