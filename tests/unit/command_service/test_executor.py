"""The executor on a log in memory: batches, groups, replays, refusals on record, and every lost reply resolved.

Numbers in the names refer to the counterexamples in section 5 of the executor's measurements.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from command_service.application import cache as cache_module
from command_service.application import writer
from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds, LedgerWriter
from command_service.domain.state import FOLD_VERSION
from shared_kernel.errors import Contention, Refusal, Rejection, Unavailable
from shared_kernel.event_log.types import Tail
from shared_kernel.events import CommandRefused, TransactionPosted
from tests.support.commands import Client, transfer, wallet
from tests.support.workers import Bank, Held, code, open_bank


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    async with open_bank() as made:
        yield made


async def funded(client: Client, amount: int = 100, **limit: int) -> None:
    """Opens the ledger and account x with a limit (minimum 0 by default) and this balance."""
    await client.open()
    await client.send(wallet("x", **(limit or {"minimum": 0})))
    await client.send(transfer("world", "x", amount))


async def test_commands_that_arrive_together_share_one_append(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    before = len(bank.log.appends)
    await asyncio.gather(*(client.send(transfer("world", "x", 1)) for _ in range(30)))
    assert len(bank.log.appends) == before + 1
    assert bank.refold().balances["x", "EUR/2"] == 130


async def test_positions_and_answers_follow_the_order_of_arrival(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    outcomes = await asyncio.gather(*(client.send(transfer("world", f"a{n}", 1)) for n in range(10)))
    positions = [outcome.position for outcome in outcomes]
    assert positions == sorted(positions)
    for outcome in outcomes:
        recorded = bank.log.events["bank"][outcome.position - 1]
        assert Outcome.of(recorded).event == outcome.event


async def test_first_use_opens_an_account_once(bank: Bank) -> None:
    client = bank.worker()
    await client.open(defaults=[{"pattern": "users:*", "limits": {"EUR/2": {"minimum": 0}}}])
    sent = [transfer("world", "users:1", 5), transfer("users:1", "world", 3), transfer("users:1", "world", 3)]
    outcomes = await asyncio.gather(*map(client.send, sent))
    assert [code(outcome) for outcome in outcomes] == ["accepted", "accepted", "insufficient_funds"]
    assert set(bank.refold().accounts) == {"world", "users:1"}


async def test_counterexample_1_a_credit_by_another_worker_does_not_hide_its_draw(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a)
    await b.send(transfer("world", "x", 0 + 1))  # b knows x now, at 101
    await a.send(transfer("x", "world", 101))
    await b.send(transfer("world", "x", 10))
    assert code(await b.send(transfer("x", "world", 111))) == "insufficient_funds"
    assert bank.refold().balances["x", "EUR/2"] == 10


async def test_counterexample_2_a_dropped_credit_takes_the_draw_on_it_along(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a)
    await a.send(wallet("y", minimum=0))
    await a.send(transfer("world", "y", 50))

    async def drain_x() -> None:
        await b.send(transfer("x", "world", 100))

    bank.log.before_append = drain_x
    # x -> y falls with b's draw; y -> z needs the 100 that x -> y would have brought
    outcomes = await asyncio.gather(a.send(transfer("x", "y", 100)), a.send(transfer("y", "z", 150)))
    assert [code(outcome) for outcome in outcomes] == ["insufficient_funds", "insufficient_funds"]
    assert bank.refold().balances["y", "EUR/2"] == 50


async def test_only_the_group_with_the_conflict_is_decided_again(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a)
    await a.send(wallet("y", minimum=0))
    await a.send(transfer("world", "y", 50))

    async def draw_x() -> None:
        await b.send(transfer("x", "world", 10))

    bank.log.before_append = draw_x
    await asyncio.gather(a.send(transfer("x", "world", 10)), a.send(transfer("y", "world", 10)))
    assert bank.counts.conflicts == 1
    refold = bank.refold()
    assert (refold.balances["x", "EUR/2"], refold.balances["y", "EUR/2"]) == (80, 40)


async def test_counterexample_3_the_same_key_twice_in_one_batch_has_one_effect(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    outcomes = await asyncio.gather(*(client.send(transfer("world", "x", 7), key="same") for _ in range(5)))
    assert {outcome.position for outcome in outcomes} == {outcomes[0].position}
    assert [outcome.is_replay for outcome in outcomes] == [False, True, True, True, True]
    assert bank.refold().balances["x", "EUR/2"] == 107


async def test_counterexample_3_one_reference_twice_in_one_batch_is_taken_once(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    sent = [client.send(transfer("world", "x", 7, reference="r")) for _ in range(2)]
    first, second = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(first, Outcome)
    assert isinstance(second, Rejection)
    assert second.code == "reference_taken"
    assert bank.refold().balances["x", "EUR/2"] == 107


async def test_counterexample_3_one_client_given_id_twice_in_one_batch_is_taken_once(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    sent = [client.send(transfer("world", "x", 7, id="mine")) for _ in range(2)]
    _, second = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(second, Rejection)
    assert second.code == "transaction_exists"


async def test_one_account_opened_twice_in_one_batch_exists_once(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    results = await asyncio.gather(*(client.send(wallet("x")) for _ in range(2)), return_exceptions=True)
    assert isinstance(results[0], Outcome)
    assert isinstance(results[1], Rejection)
    assert results[1].code == "account_exists"
    bank.refold()


async def test_another_body_under_a_used_key_is_refused_in_and_between_batches(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    sent = [client.send(transfer("world", "x", amount), key="same") for amount in (1, 2)]
    first, second = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(first, Outcome)
    assert isinstance(second, Rejection)
    with pytest.raises(Rejection, match="idempotency_key_reused"):
        await client.send(transfer("world", "x", 3), key="same")
    assert second.code == "idempotency_key_reused"
    assert bank.refold().balances["x", "EUR/2"] == 101


async def test_a_repeat_gets_its_first_answer_from_any_worker_whatever_the_rules_say_now(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a)
    first = await a.send(transfer("x", "world", 100), key="all of it")
    again = await b.send(transfer("x", "world", 100), key="all of it")
    assert (again.position, again.recorded_at, again.event) == (first.position, first.recorded_at, first.event)
    assert again.is_replay


async def test_a_repeat_of_a_refusal_is_refused_the_same_way_after_the_money_came(bank: Bank) -> None:
    client = bank.worker()
    await funded(client, 10)
    first = await client.send(transfer("x", "world", 11), key="k")
    await client.send(transfer("world", "x", 100))
    again = await client.send(transfer("x", "world", 11), key="k")
    assert code(first) == code(again) == "insufficient_funds"
    assert again.position == first.position


async def test_counterexample_6_a_refusal_is_confirmed_on_what_others_did_meanwhile(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a, 10)

    async def bring_money() -> None:
        await b.send(transfer("world", "x", 100))

    bank.log.before_append = bring_money
    outcome = await a.send(transfer("x", "world", 50))
    assert code(outcome) == "accepted"
    bank.refold()


async def test_counterexample_6_a_refusal_stands_after_one_fresh_look_and_says_where_it_was_judged(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a, 10)

    async def first() -> None:
        await b.send(transfer("world", "x", 1))
        bank.log.before_append = second

    async def second() -> None:
        await b.send(transfer("world", "x", 1))

    bank.log.before_append = first
    outcome = await a.send(transfer("x", "world", 50))
    assert isinstance(outcome.event, CommandRefused)
    assert outcome.event.judged_at is not None
    assert outcome.event.judged_at < outcome.position - 1
    bank.refold()


async def test_a_refusal_that_followed_from_the_batch_names_the_state_before_itself(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)
    outcomes = await asyncio.gather(*(client.send(transfer("x", "world", 60)) for _ in range(3)))
    assert [code(outcome) for outcome in outcomes] == ["accepted", "insufficient_funds", "insufficient_funds"]
    assert len(bank.refold().refusals) == 2


async def test_a_ledger_that_keeps_no_refusals_still_refuses(bank: Bank) -> None:
    client = bank.worker()
    await client.open(records_refusals=False)
    await client.send(wallet("x", minimum=0))
    with pytest.raises(Refusal, match="insufficient_funds"):
        await client.send(transfer("x", "world", 1))
    assert bank.refold().refusals == []


async def test_a_maximum_bounds_what_comes_in(bank: Bank) -> None:
    client = bank.worker()
    await funded(client, 100, maximum=120)
    outcomes = await asyncio.gather(*(client.send(transfer("world", "x", 20)) for _ in range(2)))
    assert [code(outcome) for outcome in outcomes] == ["accepted", "limit_exceeded"]
    bank.refold()


async def test_an_unlimited_account_is_never_a_reason_for_a_conflict(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await a.open()
    await a.send(transfer("cash", "fees", 1))
    await b.send(transfer("cash", "fees", 1))

    async def meanwhile() -> None:
        await b.send(transfer("cash", "fees", 1))

    bank.log.before_append = meanwhile
    await a.send(transfer("fees", "cash", 5))
    assert bank.counts.conflicts == 0
    bank.refold()


@pytest.mark.parametrize("fate", ["applied", "not applied"])
async def test_a_lost_connection_is_resolved_by_asking_the_log(bank: Bank, fate: str) -> None:
    client = bank.worker()
    await funded(client)
    bank.log.lose = fate
    bank.log.announced.clear()
    outcomes = await asyncio.gather(*(client.send(transfer("x", "world", 10)) for _ in range(5)))
    assert [outcome.is_replay for outcome in outcomes] == [fate == "applied"] * 5
    assert bank.counts.unknown == 1
    assert "bank" in bank.log.announced
    assert bank.refold().balances["x", "EUR/2"] == 50


@pytest.mark.parametrize("fate", ["applied", "not applied"])
async def test_nobody_is_told_what_nobody_knows(bank: Bank, fate: str) -> None:
    await funded(bank.worker())
    client = bank.worker(deadline_s=0.2)
    bank.log.lose, bank.log.goes_down = fate, True
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await client.send(transfer("x", "world", 10), key="k")
    with pytest.raises(Unavailable, match=r"deadline_passed.*postgres"):
        await client.send(transfer("x", "world", 10), key="never sent")
    bank.log.is_down = False
    outcome = await client.send(transfer("x", "world", 10), key="k")
    assert outcome.is_replay is (fate == "applied")
    assert bank.refold().balances["x", "EUR/2"] == 90


async def test_an_outage_is_waited_out_as_long_as_the_command_has_time_however_often_it_is_tried(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await funded(bank.worker())
    client = bank.worker()  # who has to look first
    pauses: list[None] = []

    def pause(*_: float) -> float:
        pauses.append(None)
        return 0.0

    monkeypatch.setattr(writer.random, "uniform", pause)
    bank.log.is_down = True
    sent = asyncio.create_task(client.send(transfer("x", "world", 10)))
    async with asyncio.timeout(30):
        while len(pauses) < 200:
            await asyncio.sleep(0)
    bank.log.is_down = False
    assert not (await sent).is_replay
    assert bank.refold().balances["x", "EUR/2"] == 90


@pytest.mark.parametrize("step", ["adopt", "fold"])
async def test_a_fault_in_completion_throws_the_states_away_and_nothing_is_applied_twice(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    client, other = bank.worker(), bank.worker()
    await funded(client)
    sound = getattr(cache_module.LedgerCache, step)

    def failing(*_: object) -> None:
        monkeypatch.setattr(cache_module.LedgerCache, step, sound)
        raise RuntimeError("a bug in the completion")

    async def meanwhile() -> None:
        await other.send(transfer("world", "y", 1))
        monkeypatch.setattr(cache_module.LedgerCache, step, failing)

    if step == "fold":  # only what another worker did makes this one fold its own events again
        bank.log.before_append = meanwhile
    else:
        monkeypatch.setattr(cache_module.LedgerCache, step, failing)
    outcome = await client.send(transfer("x", "world", 60))
    assert outcome.is_replay  # found in the log
    assert code(await client.send(transfer("x", "world", 60))) == "insufficient_funds"
    assert bank.refold().balances["x", "EUR/2"] == 40


async def test_a_fault_after_the_answers_puts_nothing_into_the_queue_twice(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SNAPSHOT_EVERY", 1)
    a, b = bank.worker(Bounds(batch_commands_max=1)), bank.worker()
    await funded(a)
    await a.send(wallet("y", minimum=0))
    await a.send(transfer("world", "y", 50))

    async def draw_x() -> None:
        await b.send(transfer("x", "world", 10))
        bank.log.loses_snapshots = True
        bank.counts.answers.clear()

    bank.log.before_append = draw_x
    await asyncio.gather(a.send(transfer("x", "world", 10)), a.send(transfer("y", "world", 10)))
    await a.send(transfer("world", "y", 1))  # whatever stood in the queue besides has had its turn by now
    assert bank.log.loses_snapshots is False
    assert len(bank.counts.answers) == 3
    refold = bank.refold()
    assert (refold.balances["x", "EUR/2"], refold.balances["y", "EUR/2"]) == (80, 41)


async def test_a_bug_in_one_decision_is_its_own_affair(bank: Bank) -> None:
    client = bank.worker()
    await funded(client)

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError

    command = transfer("world", "x", 1)
    bad = client.executor.submit(broken, command, client.context(command))  # type: ignore[arg-type]
    result, outcome = await asyncio.gather(bad, client.send(command), return_exceptions=True)
    assert getattr(result, "code", None) == "internal_error"
    assert isinstance(outcome, Outcome)


async def test_after_two_conflicts_a_command_is_decided_under_the_lock(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker()
    await funded(a)
    left = 2

    async def draw() -> None:
        nonlocal left
        left -= 1
        if left:
            bank.log.before_append = draw
        disturb, bank.log.before_append = bank.log.before_append, None
        await b.send(transfer("x", "world", 1))
        bank.log.before_append = disturb

    bank.log.before_append = draw
    assert code(await a.send(transfer("x", "world", 98))) == "accepted"
    assert bank.counts.slow == 1
    assert bank.log.transactions == 1
    assert code(await a.send(transfer("x", "world", 1))) == "insufficient_funds"
    bank.refold()


async def test_a_worker_far_behind_forgets_and_loads_again(bank: Bank) -> None:
    a, b = bank.worker(), bank.worker(Bounds(tail=Tail(events_max=5)))
    await funded(a)
    await b.send(transfer("x", "world", 1))
    for _ in range(10):
        await a.send(transfer("x", "world", 1))
    assert code(await b.send(transfer("x", "world", 90))) == "insufficient_funds"
    assert code(await b.send(transfer("x", "world", 89))) == "accepted"
    bank.refold()


async def test_a_cold_worker_folds_from_the_snapshot(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SNAPSHOT_EVERY", 10)
    a = bank.worker()
    await funded(a)
    for _ in range(25):
        await a.send(transfer("x", "world", 1))
    assert ("bank", "x", FOLD_VERSION) in bank.log.snapshots
    b = bank.worker()
    assert code(await b.send(transfer("x", "world", 76))) == "insufficient_funds"
    assert code(await b.send(transfer("x", "world", 75))) == "accepted"


async def test_an_unknown_ledger_is_a_404_until_it_is_opened(bank: Bank) -> None:
    client = bank.worker()
    with pytest.raises(Rejection, match="ledger_not_found"):
        await client.send(transfer("a", "b", 1))
    await client.open()
    assert code(await client.send(transfer("a", "b", 1))) == "accepted"
    with pytest.raises(Rejection, match="ledger_exists"):
        await client.open()
    assert "bank" in bank.log.announced


async def test_opening_and_using_a_ledger_in_one_batch(bank: Bank) -> None:
    client = bank.worker()
    early = client.send(transfer("a", "b", 1))
    results = await asyncio.gather(early, client.open(), client.send(transfer("a", "b", 1)), return_exceptions=True)
    assert isinstance(results[0], Rejection)
    assert isinstance(results[2], Outcome)
    bank.refold()


async def test_a_command_is_found_by_its_callers_key(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    posted = await client.send(transfer("a", "b", 1), key="mine")
    found = await client.executor.find(ledger="bank", actor="teller", key="mine")
    assert isinstance(found.event, TransactionPosted)
    assert found.position == posted.position
    with pytest.raises(Rejection, match="command_not_found"):
        await client.executor.find(ledger="bank", actor="somebody else", key="mine")


async def test_a_full_queue_turns_commands_away(bank: Bank) -> None:
    client = bank.worker(Bounds(queue_commands_max=3))
    await client.open()
    results = await asyncio.gather(*(client.send(transfer("a", "b", 1)) for _ in range(5)), return_exceptions=True)
    assert [isinstance(result, Contention) for result in results] == [False, False, False, True, True]
    bank.refold()


async def test_a_command_whose_time_is_over_is_not_applied(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    late = bank.worker(deadline_s=-1.0)
    with pytest.raises(Unavailable, match="deadline_passed"):
        await late.send(transfer("a", "b", 1))
    assert len(bank.log.events["bank"]) == 1


async def test_a_caller_who_leaves_does_not_take_the_command_along(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    task = asyncio.create_task(client.send(transfer("a", "b", 1), key="left"))
    await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
    task.cancel()
    await client.send(transfer("a", "b", 1))
    assert (await client.executor.find(ledger="bank", actor="teller", key="left")).position > 1


async def test_who_sent_the_same_is_answered_though_the_first_left_and_the_log_was_lost(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    command, left = transfer("a", "b", 1), Held(bank)
    first = asyncio.create_task(client.send(command, key="same"))
    second = asyncio.create_task(client.send(command, key="same"))
    await left.is_there.wait()
    first.cancel()
    bank.log.lose = "not applied"
    left.may_go.set()
    async with asyncio.timeout(10):
        assert code(await second) == "accepted"
    assert bank.refold().balances["b", "EUR/2"] == 1


async def test_stopping_answers_what_is_waiting_and_takes_no_more(bank: Bank) -> None:
    client = bank.worker()
    await client.open()
    sent = asyncio.gather(*(client.send(transfer("a", "b", 1)) for _ in range(5)))
    await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
    await client.executor.stop()
    assert len(await sent) == 5
    with pytest.raises(Unavailable, match="shutting_down"):
        await client.send(transfer("a", "b", 1))


async def test_an_idle_writer_ends_and_the_next_command_starts_another(bank: Bank) -> None:
    client = bank.worker(Bounds(idle_s=0.0))
    await client.open()
    writer: LedgerWriter = client.executor._writers["bank"]
    while not writer.is_closed:
        await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
    assert code(await client.send(transfer("a", "b", 1))) == "accepted"
