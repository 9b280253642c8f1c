"""The contract of the batched append, asked of the fast client and of the synchronous recorder alike."""

import pytest

from shared_kernel.event_log.errors import LedgerNotFound, LogFault, PositionBeyondHead
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.types import Tail
from tests.integration.event_log.words import ALL, Admin, BothWays, decision, event, opening, whole


async def test_events_stand_in_the_order_given_without_gaps(log: BothWays, connection: LogConnection) -> None:
    appended = await log.append(decision(event("A"), event("B")), decision(event("C"), group=1))
    assert (appended.base, appended.head) == (1, 4)
    events = await whole(connection, log.ledger)
    assert [(found.position, found.type) for found in events[1:]] == [(2, "A"), (3, "B"), (4, "C")]
    assert {found.recorded_at for found in events[1:]} == {appended.recorded_at}


async def test_each_fence_is_judged_alone_and_named_when_it_fails(log: BothWays) -> None:
    await log.append(decision(event("E", "a", "b")))
    appended = await log.append(
        decision(event(), group=0, a=1, b=2),
        decision(event(), group=1, a=2, b=2),
        decision(event(), group=2, unknown=0, a=0, b=1),
    )
    assert list(appended.failed) == [(0, 0), (2, 1), (2, 2)]
    assert (appended.base, appended.head) == (2, 3)


async def test_a_fence_at_its_own_position_holds_and_one_before_fails(log: BothWays) -> None:
    await log.append(decision(event("E", "a")))
    assert list((await log.append(decision(a=2))).failed) == []
    assert list((await log.append(decision(a=1))).failed) == [(0, 0)]


async def test_only_the_last_event_of_a_tag_counts_and_only_its_own_ledger(
    log: BothWays, connection: LogConnection
) -> None:
    other = log.ledger + ":other"
    await opening(connection, other)
    await connection.append(other, seen=None, decisions=[decision(event("E", "a")) for _ in range(5)], tail=ALL)
    await log.append(decision(event("E", "a"), event("E", "ab"), event("E", "A")))
    assert list((await log.append(decision(a=2))).failed) == []


async def test_groups_stand_or_fall_together_wherever_they_stand(log: BothWays, connection: LogConnection) -> None:
    await log.append(decision(event("E", "a")))
    appended = await log.append(
        decision(event("falls 1"), group=7),
        decision(event("stands 1", "x"), event("stands 2"), group=3),
        decision(event("falls 2"), group=7, a=0),
        decision(event("stands 3", "x"), group=5, a=2),
        decision(event("falls 3"), group=7),
    )
    assert list(appended.failed) == [(2, 0)]
    assert (appended.base, appended.head) == (2, 5)
    kept = await connection.load(log.ledger, seen=2, tags=["x"], tail=ALL)
    assert [(found.position, found.type) for found in kept.tail] == [(3, "stands 1"), (4, "stands 2"), (5, "stands 3")]
    assert [found.position for found in kept.events["x"]] == [3, 5]


async def test_when_all_groups_fall_nothing_is_written(log: BothWays, connection: LogConnection) -> None:
    before = await connection.load(log.ledger, seen=None, tags=(), tail=ALL)
    appended = await log.append(decision(event(), **{"ledger-terms": 0}))
    assert (appended.base, appended.head, list(appended.failed)) == (1, 1, [(0, 0)])
    assert appended.recorded_at == before.recorded_at
    assert len(await whole(connection, log.ledger)) == 1


async def test_fences_without_events_are_judged_and_write_nothing(log: BothWays) -> None:
    appended = await log.append(decision(**{"ledger-terms": 0, "x": 0}), decision(group=1, x=0))
    assert (appended.base, appended.head, list(appended.failed)) == (1, 1, [(0, 0)])


async def test_fences_never_see_the_events_of_their_own_call(log: BothWays) -> None:
    # The overlay of whoever decides must find a key that stands twice in one batch (executor.md §5, 3).
    appended = await log.append(
        decision(event("E", "key:k"), group=0, **{"key:k": 0}), decision(event("E", "key:k"), group=1, **{"key:k": 0})
    )
    assert (appended.head, list(appended.failed)) == (3, [])
    assert list((await log.append(decision(**{"key:k": 0}))).failed) == [(0, 0)]


async def test_the_tail_is_everything_after_seen_up_to_base(log: BothWays) -> None:
    await log.append(*(decision(event(f"E{n}", data=f'{{"n":{n}}}', metadata=f'{{"m":{n}}}')) for n in range(3)))
    appended = await log.append(decision(event("mine")), seen=2)
    assert [(found.position, found.type) for found in appended.tail] == [(3, "E1"), (4, "E2")]
    assert (appended.tail[1].ledger, appended.tail[1].data, appended.tail[1].metadata) == (
        log.ledger,
        '{"n":2}',
        '{"m":2}',
    )
    assert appended.tail[1].recorded_at.utcoffset() is not None
    assert list((await log.append(decision(event()), seen=5)).tail) == []
    assert list((await log.append(decision(event()))).tail) == []


async def test_the_tail_comes_with_failed_fences_too(log: BothWays) -> None:
    await log.append(decision(event("theirs", "a")))
    appended = await log.append(decision(event(), a=1), seen=1)
    assert [found.type for found in appended.tail] == ["theirs"]
    assert (list(appended.failed), appended.head) == ([(0, 0)], 2)


@pytest.mark.parametrize(
    ("bounds", "is_behind"),
    [
        (Tail(events_max=3, bytes_max=60), False),
        (Tail(events_max=2, bytes_max=60), True),
        (Tail(events_max=3, bytes_max=59), True),
    ],
)
async def test_beyond_the_bounds_nothing_is_judged_or_appended(log: BothWays, bounds: Tail, is_behind: bool) -> None:
    await log.append(*(decision(event("E", "a", data="é" * 5, metadata="m" * 10)) for _ in range(3)))
    appended = await log.append(decision(event()), decision(a=0, group=1), seen=1, tail=bounds)
    assert appended.is_behind is is_behind
    assert appended.base == 4
    if is_behind:
        assert (appended.head, list(appended.failed), list(appended.tail)) == (4, [], [])
    else:
        assert (appended.head, list(appended.failed), len(appended.tail)) == (5, [(1, 0)], 3)


async def test_a_seen_position_beyond_the_head_is_an_alarm(log: BothWays) -> None:
    with pytest.raises(PositionBeyondHead):
        await log.append(decision(event()), seen=2)


async def test_text_is_kept_byte_for_byte(log: BothWays, connection: LogConnection) -> None:
    data = '{ "a":1.0,"a":1, "š€𝄞\\u0000":"\'\\"\\\\" }'
    await log.append(decision(event("Žluťoučký.v1", "účet:kůň", data=data, metadata="\n{}\t")))
    found = await connection.load(log.ledger, seen=None, tags=["účet:kůň"], tail=ALL)
    (recorded,) = found.events["účet:kůň"]
    assert (recorded.type, recorded.data, recorded.metadata) == ("Žluťoučký.v1", data, "\n{}\t")


async def test_a_tag_that_an_event_bears_twice_counts_once(log: BothWays, connection: LogConnection) -> None:
    await log.append(decision(event("E", "a", "b", "a")))
    assert len((await connection.load(log.ledger, seen=None, tags=["a"], tail=ALL)).events["a"]) == 1


async def test_what_postgres_cannot_hold_is_refused_and_leaves_nothing(
    log: BothWays, connection: LogConnection
) -> None:
    with pytest.raises(LogFault):
        await log.append(decision(event(data="before")), decision(event(data="nul: \x00"), group=1))
    assert len(await whole(connection, log.ledger)) == 1


async def test_recorded_time_never_decreases_when_the_clock_steps_back(log: BothWays, admin: Admin) -> None:
    (ahead,) = admin.execute(
        "update daybook.ledgers set recorded_at = clock_timestamp() + interval '1 hour' where ledger = %s"
        " returning recorded_at",
        [log.ledger],
    ).fetchall()[0]
    first = await log.append(decision(event()))
    second = await log.append(decision(event()))
    assert first.recorded_at == second.recorded_at == ahead


async def test_a_large_batch_is_one_append(log: BothWays, connection: LogConnection) -> None:
    batch = [decision(event("E", f"key:{n}", "hot", data="x" * 500), group=n, **{f"key:{n}": 0}) for n in range(1_000)]
    assert (await log.append(*batch, seen=1)).head == 1_001
    again = await log.append(*batch, seen=1_001)
    assert (again.head, len(again.failed)) == (1_001, 1_000)


async def test_an_unknown_ledger_is_not_found(connection: LogConnection) -> None:
    with pytest.raises(LedgerNotFound):
        await connection.append("nowhere", seen=None, decisions=[decision(event())], tail=ALL)
    with pytest.raises(LedgerNotFound):
        await connection.append("nowhere", seen=None, decisions=[], tail=ALL)
    with pytest.raises(LedgerNotFound):
        await connection.load("nowhere", seen=None, tags=(), tail=ALL)
    with pytest.raises(LedgerNotFound):
        await connection.append("nowhere", seen=None, decisions=[decision(event(), event("LedgerOpened.v1"))], tail=ALL)
    assert connection.is_usable


async def test_a_ledger_begins_with_its_opening_and_is_opened_once(connection: LogConnection, admin: Admin) -> None:
    first = await opening(connection, "opened once")
    assert (first.base, first.head, list(first.failed)) == (0, 1, [])
    second = await opening(connection, "opened once")
    assert (second.base, second.head, list(second.failed)) == (1, 1, [(0, 0)])
