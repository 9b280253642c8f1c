"""Consistent looks: the load of the command side, its snapshots, and times as positions."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import psycopg
import pytest

from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.types import Snapshot, SnapshotKey, Tail
from tests.integration.event_log.words import ALL, decision, event, whole
from tests.services import Database

Connect = Callable[..., Awaitable[LogConnection]]


def snapshot(position: int, fold_version: int = 1, state: str = "{}") -> Snapshot:
    """A snapshot of the account `a`."""
    return Snapshot(address="a", fold_version=fold_version, position=position, state=state)


@pytest.fixture
async def busy(connection: LogConnection, ledger: str) -> str:
    """A ledger with five events after its opening: at 2, 4 and 6 of account a, at 3 and 5 of b."""
    events = [event(f"E{n}", f"account:{'ab'[n % 2]}", data=f"{n}" * n) for n in range(5)]
    await connection.append(ledger, seen=None, decisions=[decision(*events)], tail=ALL)
    return ledger


async def test_a_load_gives_the_events_of_each_tag_in_order(connection: LogConnection, busy: str) -> None:
    loaded = await connection.load(busy, seen=4, tags=["account:b", "none", "account:a", "account:b"], tail=ALL)
    assert {tag: [found.position for found in events] for tag, events in loaded.events.items()} == {
        "account:b": [3, 5],
        "none": [],
        "account:a": [2, 4, 6],
    }
    assert [found.position for found in loaded.tail] == [5, 6]
    assert (loaded.head, loaded.is_behind, loaded.recorded_at) == (6, False, loaded.tail[-1].recorded_at)


async def test_a_load_that_is_behind_still_has_its_events(connection: LogConnection, busy: str) -> None:
    for bounds in (Tail(events_max=4), Tail(bytes_max=5)):
        loaded = await connection.load(busy, seen=1, tags=["account:b"], tail=bounds)
        assert (loaded.is_behind, loaded.head, list(loaded.tail)) == (True, 6, [])
        assert len(loaded.events["account:b"]) == 2


async def test_a_long_history_is_read_page_by_page(connection: LogConnection, busy: str) -> None:
    key = SnapshotKey(address="a", fold_version=1)
    first = await connection.page(busy, key, events_max=2)
    assert (first.snapshot, [found.position for found in first.events]) == (None, [2, 4])
    loaded = await connection.load(busy, seen=None, tags=["account:a"], tail=ALL)
    assert first.events == loaded.events["account:a"][:2]
    await connection.write_snapshots(busy, [snapshot(4, state='{"ž":1}')])
    rest = await connection.page(busy, key, events_max=2)
    assert (rest.snapshot, [found.position for found in rest.events]) == (snapshot(4, state='{"ž":1}'), [6])
    other_fold = await connection.page(busy, SnapshotKey(address="a", fold_version=2), events_max=9)
    assert (other_fold.snapshot, len(other_fold.events)) == (None, 3)
    await connection.write_snapshots(busy, [snapshot(6)])
    end = await connection.page(busy, key, events_max=2)
    assert (end.snapshot, list(end.events)) == (None, [])


async def test_a_snapshot_shortens_what_is_read(connection: LogConnection, busy: str) -> None:
    await connection.write_snapshots(busy, [snapshot(4, state='{"ž":1}')])
    loaded = await connection.load(
        busy, seen=None, tags=[], snapshots=[SnapshotKey(address="a", fold_version=1)], tail=ALL
    )
    assert loaded.snapshots == {"a": snapshot(4, state='{"ž":1}')}
    assert [found.position for found in loaded.events["account:a"]] == [6]


async def test_a_snapshot_of_another_fold_or_ledger_or_not_asked_for_is_left_alone(
    connection: LogConnection, busy: str
) -> None:
    await connection.write_snapshots(busy, [snapshot(4, fold_version=2)])
    await connection.write_snapshots(busy + ":other", [snapshot(4)])
    for asked in ([SnapshotKey(address="a", fold_version=1)], []):
        loaded = await connection.load(busy, seen=None, tags=["account:a"], snapshots=asked, tail=ALL)
        assert loaded.snapshots == {}
        assert [found.position for found in loaded.events["account:a"]] == [2, 4, 6]


async def test_an_older_snapshot_never_replaces_a_newer_one(connection: LogConnection, busy: str) -> None:
    await connection.write_snapshots(busy, [snapshot(4, state="new"), snapshot(2, fold_version=9)])
    await connection.write_snapshots(busy, [snapshot(2, state="old")])
    key = SnapshotKey(address="a", fold_version=1)
    assert (await connection.load(busy, seen=None, tags=[], snapshots=[key], tail=ALL)).snapshots["a"].state == "new"
    await connection.write_snapshots(busy, [snapshot(6, state="newest")])
    assert (await connection.load(busy, seen=None, tags=[], snapshots=[key], tail=ALL)).snapshots["a"].state == "newest"


async def test_a_snapshot_of_another_incarnation_is_never_used(
    database: Database, connection: LogConnection, connect: Connect, busy: str
) -> None:
    await connection.write_snapshots(busy, [snapshot(4)])
    with psycopg.connect(database.urls["migrator"], autocommit=True) as migrator:
        migrator.execute("select daybook.restored()")
    await connection.write_snapshots(busy, [snapshot(4)])  # by a process that has not noticed
    after = await connect()
    key = SnapshotKey(address="a", fold_version=1)
    assert (await after.load(busy, seen=None, tags=[], snapshots=[key], tail=ALL)).snapshots == {}


async def test_a_time_is_a_position(database: Database, connection: LogConnection, ledger: str) -> None:
    for _ in range(20):
        await connection.append(ledger, seen=None, decisions=[decision(event(), event())], tail=ALL)
    events = await whole(connection, ledger)
    with psycopg.connect(database.urls["query"]) as session:

        def as_of(at: object, name: str = ledger) -> object:
            row = session.execute("select daybook.position_as_of(%s, %s)", [name, at]).fetchone()
            assert row is not None
            return row[0]

        for found in events:
            last = max(other.position for other in events if other.recorded_at == found.recorded_at)
            before = max((other.position for other in events if other.recorded_at < found.recorded_at), default=0)
            assert as_of(found.recorded_at) == last
            assert as_of(found.recorded_at - timedelta(microseconds=1)) == before
        assert as_of(events[-1].recorded_at + timedelta(days=1)) == 41
        assert as_of(events[-1].recorded_at, "nowhere") is None
