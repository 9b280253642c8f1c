"""Who may be decided now and who is set aside, with account locks on a real Redis and the books in memory."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import msgspec
import pytest
from structlog.testing import capture_logs

from command_service.application.batch import Ticket
from command_service.application.locks import Wanted, admit, holding
from command_service.domain.commands import Command
from tests.integration.command_service.test_account_locks import Worker, workers
from tests.support.clerk import Clerk, some_ticket
from tests.support.commands import command, transfer, wallet
from tests.support.memory_log import MemoryLog
from tests.support.workers import Counts

DRAWS_A = "draws:a:EUR/2"


@pytest.fixture
def clerk() -> Clerk:
    """A ledger with a (at least 0), b (at most 100), both (both bounds), and free."""
    made = Clerk(MemoryLog())
    opened = command("open_ledger", ledger="bank", defaults=[{"pattern": "new:*", "limits": {"EUR/2": {"minimum": 0}}}])
    wallets = [wallet("a", minimum=0), wallet("b", maximum=100), wallet("both", minimum=0, maximum=100), wallet("free")]
    made.send(opened, *wallets, *(transfer("world", name, 50) for name in ("a", "b", "both")))
    return made


async def admitted(clerk: Clerk, worker: Worker, tickets: Sequence[Ticket], wait_s: float = 60) -> list[bool]:
    """Of each command, whether it may be decided now. Orders are kept, and what was taken is given back."""
    found = await admit(worker.locks, "bank", tickets, clerk.cache, wait_s=wait_s, metrics=Counts())
    assert found.free == [ticket for ticket in tickets if ticket in found.free]
    assert found.aside == [ticket for ticket in tickets if ticket not in found.free]
    await worker.give_back(found.grip)
    return [ticket in found.free for ticket in tickets]


def of_one_request(clerk: Clerk, *commands: Command) -> list[Ticket]:
    """As the elements of one batch: the clerk has one correlation id for all it sends."""
    return [clerk.ticket(each) for each in commands]


async def test_of_one_request_whatever_hangs_on_a_command_that_is_set_aside_waits_with_it(
    clerk: Clerk, redis_url: str
) -> None:
    tickets = of_one_request(
        clerk,
        transfer("a", "both", 1, id="first"),  # blocked
        transfer("both", "free", 1),  # may need what the first brings
        transfer("free", "new:1", 1),  # opens an account; nothing to do with it
        transfer("new:1", "free", 1),
        command("reverse_transaction", transaction="first"),
        transfer("free", "world", 1),
    )
    async with workers(redis_url, 2) as (worker, other):
        await other.take((DRAWS_A,))
        assert await admitted(clerk, worker, tickets) == [False, False, True, True, False, True]


async def test_commands_of_other_requests_do_not_wait_with_it(clerk: Clerk, redis_url: str) -> None:
    blocked, free = of_one_request(clerk, transfer("a", "both", 1), transfer("both", "free", 1))
    free.context = msgspec.structs.replace(free.context, correlation_id="another")
    async with workers(redis_url, 2) as (worker, other):
        await other.take((DRAWS_A,))
        assert await admitted(clerk, worker, [blocked, free]) == [False, True]


async def test_who_waited_long_enough_goes_without_and_takes_no_lock(clerk: Clerk, redis_url: str) -> None:
    (ticket,) = of_one_request(clerk, transfer("a", "free", 1))
    async with workers(redis_url, 2) as (worker, other):
        await other.take((DRAWS_A,))
        assert await admitted(clerk, worker, [ticket]) == [False]
        with capture_logs() as lines:
            assert await admitted(clerk, worker, [ticket], wait_s=0) == [True]
        (told,) = lines
        assert (told["event"], told["log_level"]) == ("lock_wait_over", "warning")
        assert (told["ledger"], told["locks"], told["commands"]) == ("bank", [DRAWS_A], 1)
        assert (told["keys"], told["trace_ids"]) == ([ticket.context.key], ["c"])
        assert told["wait_ms"] > 0
        assert worker.seen.locks["taken"] == 0


async def test_ledgers_are_locked_in_sorted_order_and_nothing_is_kept_while_another_is_waited_for(
    redis_url: str,
) -> None:
    log = uuid4()
    wanted = {ledger: Wanted([f"draws:{ledger}:X"], some_ticket()) for ledger in ("z", "m", "a")}
    async with workers(redis_url, 2, log) as (worker, other):
        grip = await other.locks.take("z", [wanted["z"]])
        with capture_logs() as lines:
            async with holding(worker.locks, wanted, wait_s=0.3):
                pass
        told = [f"{line['status']} {line['ledger']}" for line in lines if line["status"] != "released"]
        rounds = told.count("refused z")
        assert rounds >= 2
        assert told == ["taken a", "taken m", "refused z", "given_back a", "given_back m"] * rounds
        await other.give_back(grip)
        async with holding(worker.locks, wanted, wait_s=60) as ends:
            for ledger, names in wanted.items():
                assert (await other.locks.take(ledger, [names])).blocked
            ends["m"] = 7
        await asyncio.gather(*worker.locks._returning)
        positions = [(await other.locks.take(ledger, [wanted[ledger]])).position for ledger in ("a", "m", "z")]
        assert positions == [0, 7, 0]
