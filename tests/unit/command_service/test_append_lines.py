"""What the log says of appends: whose they are and how long they took, loudly where that was long, with nothing more to do at info."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger, capture_logs

from command_service.application.batch import TOLD_MAX, Ticket
from command_service.application.writer import Bounds
from shared_kernel.event_log.errors import RolledBack
from shared_kernel.transactions import Terms, Transactions
from tests.support.clerk import some_ticket
from tests.support.commands import transfer, wallet
from tests.support.workers import Bank, asked, open_bank

TRACE = "0af7651916cd43dd8448eb211c80319c"
ALWAYS_SLOW = Bounds(slow_s=0.0)


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        await made.worker().open()
        yield made


async def time_out() -> None:
    raise RolledBack("55P03")


def lines_of(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


async def test_an_append_that_took_long_names_its_ledger_and_its_first_commands(bank: Bank) -> None:
    client = bank.worker(ALWAYS_SLOW)
    keys = [f"k{number}" for number in range(TOLD_MAX + 2)]
    with capture_logs() as lines:
        await asyncio.gather(*(client.send(transfer("a", "b", 1), key=key) for key in keys))
    (told,) = lines_of(lines, "append_slow")
    assert (told["log_level"], told["ledgers"], told["commands"]) == ("warning", ["bank"], len(keys))
    assert told["keys"] == keys[:TOLD_MAX]
    assert len(told["trace_ids"]) == TOLD_MAX
    assert told["elapsed_ms"] > 0


@pytest.mark.parametrize("is_locked", [False, True])
async def test_an_append_that_failed_names_them_too(bank: Bank, is_locked: bool) -> None:
    await bank.worker().send(wallet("x", minimum=0))
    client = bank.worker(Bounds(conflicts_before_slow_path=0) if is_locked else Bounds())
    if is_locked:
        bank.log.rolls_back = 1
    else:
        bank.log.before_append = time_out
    with capture_logs() as lines:
        await client.send(transfer("world", "x", 1), key="mine")
    (told,) = lines_of(lines, "append_failed")
    assert (told["log_level"], told["ledgers"], told["keys"]) == ("warning", ["bank"], ["mine"])
    assert (told["code"], told["reason"]) == ("rolled_back", "deadlock" if is_locked else "lock_timeout")
    assert told["elapsed_ms"] >= 0


@pytest.mark.parametrize("is_atomic", [False, True])
async def test_under_the_row_s_lock_the_wait_is_told_apart(bank: Bank, is_atomic: bool) -> None:
    client = bank.worker(Bounds(slow_s=0.0, conflicts_before_slow_path=0))
    with capture_logs() as lines:
        if is_atomic:
            await client.executor.submit_atomic([asked(client, transfer("a", "b", 1), "one")])
        else:
            await client.send(transfer("a", "b", 1), key="one")
    (told,) = lines_of(lines, "append_slow")
    assert (told["ledgers"], told["keys"]) == (["bank"], ["one"])
    assert 0 <= told["wait_ms"] <= told["elapsed_ms"]


@pytest.fixture
def at_info() -> Iterator[CapturingLogger]:
    """Lines as a process has them that is not told to debug."""
    before, caught = structlog.get_config(), CapturingLogger()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO), logger_factory=lambda *_: caught
    )
    yield caught
    structlog.configure(**before)


async def test_at_info_no_command_is_named(
    bank: Bank, at_info: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ticket, "identity", lambda ticket: pytest.fail("work that nobody reads"))
    await bank.worker().send(transfer("a", "b", 1))
    assert len(at_info.calls) == 1


def test_a_command_is_known_by_its_key_and_its_trace() -> None:
    ticket = some_ticket()
    assert ticket.identity() == {"command": "PostTransaction", "key": ticket.context.key, "trace_id": "c"}


def test_a_slow_transaction_names_its_ledgers() -> None:
    terms = Terms(name="t", lock_timeout_ms=0, statement_timeout_ms=0, idle_timeout_ms=0, transaction_timeout_ms=0)
    times = iter((0.0, 2.0))
    with capture_logs() as lines, Transactions(monotonic=lambda: next(times)).watched(terms, ["a", "b"]):
        pass
    assert [(line["event"], line["ledgers"]) for line in lines] == [("slow_transaction", ["a", "b"])]
