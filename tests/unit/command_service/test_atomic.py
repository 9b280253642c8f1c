"""Atomic batches on a log in memory: all or nothing in one ledger and across, repeated, refused, lost and rolled back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from command_service.application.atomic import AtomicOutcome
from command_service.application.writer import Bounds
from shared_kernel.errors import Contention, Refusal, Rejection, Unavailable
from shared_kernel.events import CommandRefused
from tests.support.commands import Client, transfer, wallet
from tests.support.workers import Bank, asked, code, open_bank


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        yield made


async def opened(client: Client, balance: int = 100) -> None:
    """The ledger is open, and account x with minimum 0 has this balance."""
    await client.open()
    await client.send(wallet("x", minimum=0))
    await client.send(transfer("world", "x", balance))


def across(client: Client, ledger: str) -> Client:
    """The same caller on another ledger, by the same worker."""
    return Client(client.executor, ledger=ledger, actor=client.actor)


async def test_all_commands_stand_one_after_the_other(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    head = len(bank.log.events["bank"])
    commands = [transfer("x", f"shop:{n}", 10) for n in range(5)]
    done = await client.executor.submit_atomic([asked(client, command) for command in commands])
    assert done.refused is None
    # Each opens its account by first use: two events a command, the second answers it.
    assert [outcome.position for outcome in done.outcomes] == [head + 2 * (n + 1) for n in range(5)]
    assert not any(outcome.is_replay for outcome in done.outcomes)
    assert bank.refold().balances["x", "EUR/2"] == 50


async def test_later_commands_see_what_earlier_ones_did(bank: Bank) -> None:
    client = bank.worker()
    await client.open(accounts="explicit")
    for address in ("world", "x"):
        await client.send(wallet(address))
    commands = [wallet("y", minimum=0), transfer("x", "y", 70), transfer("y", "world", 70)]
    done = await client.executor.submit_atomic([asked(client, command) for command in commands])
    assert [code(outcome) for outcome in done.outcomes] == ["accepted"] * 3
    assert bank.refold().balances["y", "EUR/2"] == 0


async def test_the_first_refusal_refuses_the_batch_and_alone_is_recorded(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    head = len(bank.log.events["bank"])
    commands = [transfer("x", "world", 60), transfer("x", "world", 60), transfer("x", "world", 60)]
    done = await client.executor.submit_atomic([asked(client, command) for command in commands])
    assert done.refused == 1
    (refusal,) = done.outcomes
    assert isinstance(refusal.event, CommandRefused)
    assert refusal.event.code == "insufficient_funds"
    assert refusal.event.fields["available"] == 40
    assert refusal.event.after_commands == 1
    assert refusal.position == head + 1 == len(bank.log.events["bank"])
    assert bank.refold().balances["x", "EUR/2"] == 100


async def test_a_refused_batch_is_refused_again_when_repeated_whatever_the_rules_say_now(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    batch = [
        asked(client, transfer("x", "world", 60), "a"),
        asked(client, transfer("x", "world", 60), "b"),
    ]
    first = await client.executor.submit_atomic(batch)
    await client.send(transfer("world", "x", 1_000))
    again = await client.executor.submit_atomic(batch)
    assert again.refused == first.refused == 1
    assert again.outcomes[0].position == first.outcomes[0].position
    assert again.outcomes[0].is_replay
    assert bank.refold().balances["x", "EUR/2"] == 1_100


async def test_a_repeated_batch_gets_its_first_answers_from_any_worker(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await opened(a)
    batch = [asked(a, transfer("x", "world", 50), f"k{n}") for n in range(2)]
    first = await a.executor.submit_atomic(batch)
    again = await b.executor.submit_atomic(batch)
    assert [(one.position, one.event) for one in again.outcomes] == [
        (one.position, one.event) for one in first.outcomes
    ]
    assert all(outcome.is_replay for outcome in again.outcomes)
    assert bank.refold().balances["x", "EUR/2"] == 0


async def test_concurrent_duplicates_of_a_batch_have_one_effect_and_one_answer(bank: Bank) -> None:
    workers = [bank.worker() for _ in range(3)]
    await opened(workers[0])
    batch = [asked(workers[0], transfer("x", "world", 50), f"k{n}") for n in range(2)]
    answers = await asyncio.gather(*(worker.executor.submit_atomic(batch) for worker in workers for _ in range(3)))
    assert len({tuple(one.position for one in answer.outcomes) for answer in answers}) == 1
    assert sum(not answer.outcomes[0].is_replay for answer in answers) == 1
    assert bank.refold().balances["x", "EUR/2"] == 0


async def test_a_batch_that_commits_between_the_looks_at_two_ledgers_is_no_batch_partly_known(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await opened(a)
    other = across(a, "other")
    await opened(other)
    batch = [asked(client, transfer("x", "world", 50), "k") for client in (a, other)]
    first: list[AtomicOutcome] = []

    async def commit() -> None:
        first.append(await b.executor.submit_atomic(batch))

    bank.log.before_load["other"] = commit  # `a` has looked at the first ledger, and found no key
    again = await a.executor.submit_atomic(batch)
    assert [one.position for one in again.outcomes] == [one.position for one in first[0].outcomes]
    assert all(outcome.is_replay for outcome in again.outcomes)
    assert bank.refold().balances["x", "EUR/2"] == 50


async def test_a_batch_of_which_some_commands_were_sent_before_is_not_applied(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    second = transfer("x", "world", 2)
    await client.send(second, key="b")
    batch = [asked(client, transfer("x", "world", 1), "a"), asked(client, second, "b")]
    with pytest.raises(Rejection, match="batch_partly_known") as caught:
        await client.executor.submit_atomic(batch)
    assert caught.value.fields["command"] == 1
    assert bank.refold().balances["x", "EUR/2"] == 98


async def test_a_key_of_another_command_is_refused_with_its_index(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    await client.send(transfer("x", "world", 2), key="b")
    batch = [asked(client, transfer("x", "world", 1), "a"), asked(client, transfer("x", "world", 3), "b")]
    with pytest.raises(Rejection, match="idempotency_key_reused") as caught:
        await client.executor.submit_atomic(batch)
    assert caught.value.fields["command"] == 1


async def test_one_key_twice_in_one_ledger_is_malformed_and_in_two_ledgers_is_not(bank: Bank) -> None:
    client = bank.worker()
    other = across(client, "other")
    await opened(client)
    await opened(other)
    command = transfer("x", "world", 1)
    with pytest.raises(Rejection, match="invalid_request") as caught:
        await client.executor.submit_atomic([asked(client, command, "k"), asked(client, command, "k")])
    assert caught.value.fields["path"] == "$.commands[1].key"
    done = await client.executor.submit_atomic([asked(client, command, "k"), asked(other, command, "k")])
    assert len(done.outcomes) == 2


@pytest.mark.parametrize("field", ["reference", "id"])
async def test_what_is_taken_in_the_batch_or_before_it_is_a_conflict_with_its_index(bank: Bank, field: str) -> None:
    client = bank.worker()
    await opened(client)
    head = len(bank.log.events["bank"])
    mine = transfer("x", "world", 1, **{field: "mine"})
    expected = {"reference": "reference_taken", "id": "transaction_exists"}[field]
    with pytest.raises(Rejection, match=expected) as caught:
        await client.executor.submit_atomic([asked(client, mine), asked(client, mine)])
    assert caught.value.fields["command"] == 1
    assert len(bank.log.events["bank"]) == head
    await client.send(mine)
    # The earlier of two faults is told, also where only the log knows of it.
    batch = [asked(client, mine), asked(client, transfer("x", "world", 1_000))]
    with pytest.raises(Rejection, match=expected) as caught:
        await client.executor.submit_atomic(batch)
    assert caught.value.fields["command"] == 0
    assert len(bank.log.events["bank"]) == head + 1


async def test_a_batch_across_ledgers_is_done_in_all_or_in_none(bank: Bank) -> None:
    client = bank.worker()
    other = across(client, "another")
    await opened(client)
    await opened(other)
    good = [asked(client, transfer("x", "world", 30)), asked(other, transfer("world", "x", 30))]
    done = await client.executor.submit_atomic(good)
    assert [outcome.position for outcome in done.outcomes] == [
        len(bank.log.events[name]) for name in ("bank", "another")
    ]
    assert bank.log.locked == [["another", "bank"]]
    heads = {name: len(events) for name, events in bank.log.events.items()}
    bad = [asked(client, transfer("x", "world", 30)), asked(other, transfer("x", "world", 1_000))]
    refused = await client.executor.submit_atomic(bad)
    assert refused.refused == 1
    assert len(bank.log.events["bank"]) == heads["bank"]
    assert len(bank.log.events["another"]) == heads["another"] + 1
    assert bank.refold().balances["x", "EUR/2"] == 70
    assert bank.refold("another").balances["x", "EUR/2"] == 130


async def test_a_conflict_in_one_ledger_undoes_the_others(bank: Bank) -> None:
    client = bank.worker()
    other = across(client, "zoo")
    await opened(client)
    await opened(other)
    await other.send(transfer("world", "x", 1, reference="taken"))
    heads = {name: len(events) for name, events in bank.log.events.items()}
    batch = [asked(client, transfer("x", "world", 30)), asked(other, transfer("world", "x", 30, reference="taken"))]
    with pytest.raises(Rejection, match="reference_taken") as caught:
        await client.executor.submit_atomic(batch)
    assert caught.value.fields["command"] == 1
    assert {name: len(events) for name, events in bank.log.events.items()} == heads


async def test_an_unknown_ledger_is_a_404_that_names_the_command(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    nowhere = across(client, "nowhere")
    batch = [asked(client, transfer("x", "world", 1)), asked(nowhere, transfer("x", "world", 1))]
    with pytest.raises(Rejection, match="ledger_not_found") as caught:
        await client.executor.submit_atomic(batch)
    assert caught.value.fields == {"ledger": "nowhere", "command": 1}
    assert bank.refold().balances["x", "EUR/2"] == 100


async def test_a_ledger_that_keeps_no_refusals_is_told_and_nothing_is_written(bank: Bank) -> None:
    client = bank.worker()
    await client.open(records_refusals=False)
    await client.send(wallet("x", minimum=0))
    head = len(bank.log.events["bank"])
    with pytest.raises(Refusal, match="insufficient_funds") as caught:
        await client.executor.submit_atomic(
            [asked(client, transfer("world", "x", 1)), asked(client, transfer("x", "world", 2))]
        )
    assert caught.value.fields["command"] == 1
    assert len(bank.log.events["bank"]) == head


async def test_what_others_did_before_the_lock_is_seen_under_it(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await opened(a)

    async def draw() -> None:
        await b.send(transfer("x", "world", 60))

    bank.log.before_lock = draw
    done = await a.executor.submit_atomic([asked(a, transfer("x", "world", 50))])
    assert done.refused == 0
    assert code(done.outcomes[0]) == "insufficient_funds"
    assert bank.refold().balances["x", "EUR/2"] == 40


async def test_the_same_worker_meets_the_batch_in_its_tail(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    await client.send(transfer("x", "world", 1))  # its writer knows x
    await client.executor.submit_atomic([asked(client, transfer("x", "world", 90))])
    assert code(await client.send(transfer("x", "world", 10))) == "insufficient_funds"
    assert bank.refold().balances["x", "EUR/2"] == 9


@pytest.mark.parametrize("fate", ["applied", "not applied"])
async def test_a_lost_commit_is_resolved_by_the_keys(bank: Bank, fate: str) -> None:
    client = bank.worker()
    other = across(client, "other")
    await opened(client)
    await opened(other)
    bank.log.lose_commit = fate
    bank.log.announced.clear()
    batch = [asked(client, transfer("x", "world", 60)), asked(other, transfer("x", "world", 60))]
    done = await client.executor.submit_atomic(batch)
    assert [outcome.is_replay for outcome in done.outcomes] == [fate == "applied"] * 2
    assert bank.counts.unknown == 1
    assert {"bank", "other"} <= set(bank.log.announced)
    assert [bank.refold(name).balances["x", "EUR/2"] for name in ("bank", "other")] == [40, 40]


@pytest.mark.parametrize("fate", ["applied", "not applied"])
async def test_nobody_is_told_of_a_batch_what_nobody_knows(bank: Bank, fate: str) -> None:
    await opened(bank.worker())
    client = bank.worker(deadline_s=0.3)
    batch = [asked(client, transfer("x", "world", 60), f"k{n}") for n in range(1)]
    bank.log.lose_commit, bank.log.goes_down = fate, True
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await client.executor.submit_atomic(batch)
    with pytest.raises(Unavailable, match=r"deadline_passed.*postgres"):
        await client.executor.submit_atomic([asked(client, transfer("x", "world", 1))])
    bank.log.is_down = bank.log.goes_down = False
    done = await client.executor.submit_atomic(batch)
    assert done.outcomes[0].is_replay is (fate == "applied")
    assert bank.refold().balances["x", "EUR/2"] == 40


async def test_what_the_server_rolled_back_is_tried_again_while_there_is_time(bank: Bank) -> None:
    client, hasty = bank.worker(), bank.worker(deadline_s=0.5)
    await opened(client)
    bank.log.rolls_back = 2
    done = await client.executor.submit_atomic([asked(client, transfer("x", "world", 60))])
    assert not done.outcomes[0].is_replay
    bank.log.rolls_back = 10_000
    with pytest.raises(Unavailable, match=r"deadline_passed.*deadlock"):
        await hasty.executor.submit_atomic([asked(hasty, transfer("x", "world", 1))])
    assert bank.refold().balances["x", "EUR/2"] == 40


async def test_a_batch_whose_time_is_over_is_not_applied(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    late = bank.worker(deadline_s=-1.0)
    with pytest.raises(Unavailable, match="deadline_passed"):
        await late.executor.submit_atomic([asked(late, transfer("x", "world", 1))])
    assert bank.refold().balances["x", "EUR/2"] == 100


async def test_a_caller_who_leaves_does_not_take_the_batch_along_and_stopping_waits_for_it(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)
    task = asyncio.create_task(client.executor.submit_atomic([asked(client, transfer("x", "world", 1))]))
    await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
    task.cancel()
    await client.executor.stop()
    assert bank.refold().balances["x", "EUR/2"] == 99
    with pytest.raises(Unavailable, match="shutting_down"):
        await client.executor.submit_atomic([asked(client, transfer("x", "world", 1))])


async def test_too_many_batches_are_turned_away(bank: Bank) -> None:
    client = bank.worker(Bounds(queue_commands_max=4))
    await opened(client)
    batches = [[asked(client, transfer("x", "world", 1)) for _ in range(2)] for _ in range(3)]
    results = await asyncio.gather(*map(client.executor.submit_atomic, batches), return_exceptions=True)
    assert [isinstance(result, AtomicOutcome) for result in results] == [True, True, False]
    assert isinstance(results[2], Contention)
    assert bank.refold().balances["x", "EUR/2"] == 96


async def test_a_bug_in_one_decision_undoes_the_batch(bank: Bank) -> None:
    client = bank.worker()
    await opened(client)

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError

    good = asked(client, transfer("x", "world", 1))
    bad = good._replace(decide=broken, context=client.context(good.command))  # type: ignore[arg-type]
    results = await asyncio.gather(client.executor.submit_atomic([good, bad]), return_exceptions=True)
    assert getattr(results[0], "code", None) == "internal_error"
    assert bank.refold().balances["x", "EUR/2"] == 100
