"""Dry runs on a log in memory: the same answers as the real run, and nothing written."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from command_service.application.judging import Submission
from command_service.application.outcome import Outcome
from command_service.application.rehearsal import Rehearsed
from command_service.domain.commands import OpenLedger, PostHold
from shared_kernel.errors import DaybookError, Refusal, Rejection, Unavailable
from shared_kernel.events import CommandRefused, Known, TransactionPosted
from tests.support.commands import Client, transfer, wallet
from tests.support.workers import Bank, asked, open_bank

Result = Rehearsed | Outcome | DaybookError


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        yield made


async def opened(client: Client, balance: int = 100) -> None:
    """The ledger is open, and account x with minimum 0 has this balance."""
    await client.open()
    await client.send(wallet("x", minimum=0))
    await client.send(transfer("world", "x", balance))


def told(result: Result) -> object:
    """What a result says, without where and when."""
    if isinstance(result, DaybookError):
        return (result.code, result.fields)
    if isinstance(result.event, CommandRefused):
        return (result.event.code, result.event.fields)
    return result.event


async def rehearsed(client: Client, batch: Sequence[Submission], *, is_atomic: bool = False) -> list[object]:
    """What a dry run says, having checked that it left no trace."""
    before = {ledger: list(events) for ledger, events in client_log(client).items()}
    rehearsal = await client.executor.rehearse(batch, is_atomic=is_atomic)
    assert client_log(client) == before
    return [told(result) for result in rehearsal.results]


def client_log(client: Client) -> dict[str, list[object]]:
    """All events of all ledgers."""
    events: dict[str, list[object]] = client.executor._log.events  # type: ignore[attr-defined]
    return events


async def test_a_dry_run_says_what_the_real_run_then_does(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    for command in (transfer("x", "world", 60), transfer("x", "world", 60), wallet("x"), wallet("y", maximum=5)):
        one = asked(client, command)
        (expected,) = await rehearsed(client, [one])
        try:
            outcome: Result = await client.executor.submit(*one)
        except DaybookError as error:
            outcome = error
        assert told(outcome) == expected
    assert bank.log.transactions == 0


async def test_an_independent_batch_is_rehearsed_in_order_each_for_itself(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    taken = transfer("x", "world", 1, reference="once")
    commands = [
        transfer("x", "world", 60),
        transfer("x", "world", 60),
        transfer("x", "shop", 40),
        taken,
        transfer("world", "x", 1),
        taken,
        transfer("world", "x", 1, reference="once"),
    ]
    batch = [asked(client, command) for command in commands]
    batch.append(batch[0])  # the same key again
    expected = await rehearsed(client, batch)
    futures = [client.executor.enqueue(*one) for one in batch]
    results: list[object] = []
    for future in futures:
        try:
            results.append(told(await future))
        except DaybookError as error:
            results.append(told(error))
    assert results == expected
    refused = [result[0] if isinstance(result, tuple) else None for result in expected]
    assert refused == [
        None, "insufficient_funds", None, "insufficient_funds", None, None, "reference_taken", None,
    ]  # fmt: skip


async def test_what_is_taken_in_the_log_is_told_and_later_commands_do_without_it(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    await client.send(transfer("x", "world", 1, reference="once"))
    batch = [asked(client, transfer("x", "world", 99, reference="once")), asked(client, transfer("x", "world", 99))]
    first, second = await rehearsed(client, batch)
    assert first == ("reference_taken", {"reference": "once"})
    assert isinstance(second, TransactionPosted)


async def test_a_key_whose_first_command_leaves_no_record_is_free_for_the_next(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    unknown, known = PostHold(transaction="nowhere"), transfer("x", "world", 1)
    batch = [asked(client, command, key="k") for command in (unknown, known, known, unknown, transfer("x", "world", 2))]
    expected = await rehearsed(client, batch)
    results = await asyncio.gather(*(client.executor.enqueue(*one) for one in batch), return_exceptions=True)
    found = [told(result) for result in results if isinstance(result, Outcome | DaybookError)]
    assert (expected[:-1], expected[-1]) == (found[:-1], ("idempotency_key_reused", {}))  # a dry run has no position
    assert [result[0] for result in expected if isinstance(result, tuple)] == [
        *("transaction_not_found", "transaction_not_found", "idempotency_key_reused")
    ]


async def test_an_atomic_dry_run_answers_as_the_real_one(bank: Bank) -> None:
    client = bank.worker()
    other = Client(client.executor, ledger="other")
    await opened(client)
    await opened(other)
    good = [asked(client, transfer("x", "world", 100)), asked(other, transfer("x", "world", 100))]
    bad = [*good, asked(client, transfer("x", "world", 1))]
    rehearsal = await client.executor.rehearse(bad, is_atomic=True)
    real = await client.executor.submit_atomic(bad)
    assert rehearsal.refused == real.refused == 2
    assert [told(one) for one in rehearsal.results] == [told(one) for one in real.outcomes]
    expected = await rehearsed(client, good, is_atomic=True)
    done = await client.executor.submit_atomic(good)
    assert [told(one) for one in done.outcomes] == expected


async def test_an_atomic_dry_run_raises_what_the_real_one_raises(bank: Bank) -> None:
    client = bank.worker()
    nowhere = Client(client.executor, ledger="nowhere")
    await opened(client)
    await client.send(transfer("x", "world", 1, id="taken"), key="known")
    fine = transfer("x", "world", 1)
    for batch, code in (
        ([asked(client, fine), asked(nowhere, fine)], "ledger_not_found"),
        ([asked(client, fine), asked(client, transfer("x", "world", 1, id="taken"))], "transaction_exists"),
        ([asked(client, fine), asked(client, transfer("x", "world", 1, id="taken"), "known")], "batch_partly_known"),
        ([asked(client, fine), asked(client, wallet("x"))], "account_exists"),
    ):
        with pytest.raises(Rejection, match=code) as dry:
            await client.executor.rehearse(batch, is_atomic=True)
        with pytest.raises(Rejection, match=code) as real:
            await client.executor.submit_atomic(batch)
        assert dry.value.fields == real.value.fields
        assert dry.value.fields["command"] == 1


async def test_accepted_commands_tell_the_balances_of_all_accounts_they_move(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    batch = [asked(client, transfer("x", "new", 30)), asked(client, transfer("x", "world", 30, status="pending"))]
    rehearsal = await client.executor.rehearse(batch)
    first, second = rehearsal.results
    assert isinstance(first, Rehearsed)
    assert isinstance(second, Rehearsed)
    assert first.balances == {
        "x": {"EUR/2": Known(posted_debits=30, posted_credits=100, pending_debits=30, pending_credits=100)},
        "new": {"EUR/2": Known(posted_credits=30, pending_credits=30)},
    }
    assert second.balances == {
        "x": {"EUR/2": Known(posted_debits=30, posted_credits=100, pending_debits=60, pending_credits=100)},
        "world": {"EUR/2": Known(posted_debits=100, pending_debits=100, pending_credits=30)},
    }
    assert (first.as_of, first.as_of_at) == (4, bank.log.events["bank"][-1].recorded_at)


async def test_a_hold_is_placed_and_posted_in_one_dry_run(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    batch = [
        asked(client, transfer("x", "world", 60, status="pending", id="hold")),
        asked(client, PostHold(transaction="hold")),
    ]
    rehearsal = await client.executor.rehearse(batch, is_atomic=True)
    posted = rehearsal.results[1]
    assert isinstance(posted, Rehearsed)
    assert posted.balances["x"]["EUR/2"].posted_debits == 60


async def test_a_key_in_the_log_gets_its_recorded_answer(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    command = transfer("x", "world", 60)
    done = await client.send(command, key="k")
    again, reused, wallet_now = (
        await client.executor.rehearse(
            [asked(client, command, "k"), asked(client, transfer("x", "world", 1), "k"), asked(client, wallet("z"))]
        )
    ).results
    assert isinstance(again, Outcome)
    assert (again.position, again.is_replay) == (done.position, True)
    assert isinstance(reused, Rejection)
    assert reused.code == "idempotency_key_reused"
    assert isinstance(wallet_now, Rehearsed)


async def test_a_ledger_that_is_not_there_may_be_opened_in_a_dry_run(bank: Bank) -> None:
    client = bank.worker()
    opening = asked(client, msgspec.convert({"ledger": "bank"}, OpenLedger))
    (result,) = (await client.executor.rehearse([opening])).results
    assert isinstance(result, Rehearsed)
    assert (result.as_of, result.as_of_at) == (0, None)
    (unknown,) = (await client.executor.rehearse([asked(client, transfer("a", "b", 1))])).results
    assert isinstance(unknown, Rejection)
    assert unknown.code == "ledger_not_found"
    assert bank.log.events == {}


async def test_a_refusal_that_would_not_be_recorded_is_told_all_the_same(bank: Bank) -> None:
    client = bank.worker()
    await client.open(records_refusals=False)
    await client.send(wallet("x", minimum=0))
    (result,) = (await client.executor.rehearse([asked(client, transfer("x", "world", 1))])).results
    assert isinstance(result, Refusal)
    with pytest.raises(Refusal, match="insufficient_funds"):
        await client.executor.rehearse([asked(client, transfer("x", "world", 1))], is_atomic=True)


async def test_nothing_asked_is_nothing_told_and_a_log_that_is_away_is_said(bank: Bank) -> None:
    client = bank.worker()
    assert (await client.executor.rehearse([])).results == []
    bank.log.is_down = True
    with pytest.raises(Unavailable):
        await client.executor.rehearse([asked(client, transfer("x", "world", 1))])
