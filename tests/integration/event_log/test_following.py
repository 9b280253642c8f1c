"""Appends sent before the one ahead is back, on real Postgres: the second stands only if the first did all it was to do."""

import asyncio

import pytest

from shared_kernel.event_log.errors import PositionBeyondHead
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.types import Appended, Decision
from tests.integration.event_log.conftest import Connect
from tests.integration.event_log.words import ALL, decision, event, whole


@pytest.fixture
async def another(connect: Connect) -> LogConnection:
    """A connection of another worker."""
    return await connect()


async def following(connection: LogConnection, ledger: str, seen: int, *decisions: Decision) -> Appended:
    """An append decided on what the one before it makes of the ledger."""
    return await connection.append(ledger, seen=seen, decisions=decisions, tail=ALL, is_following=True)


async def test_an_append_may_be_sent_before_the_one_ahead_of_it_is_back(ledger: str, connection: LogConnection) -> None:
    ahead = connection.append(ledger, seen=1, decisions=[decision(event("A"), event("B"))], tail=ALL)
    behind = following(connection, ledger, 3, decision(event("C"), **{"ledger-terms": 3}))
    first, second = await asyncio.gather(ahead, behind)
    assert (first.head, second.base, second.head, second.is_unchained) == (3, 3, 4, False)
    third = await following(connection, ledger, 4, decision(event("D")))  # a chain has as many links as it likes
    assert (third.head, third.is_unchained) == (5, False)


async def test_an_append_of_fences_alone_is_a_link_of_the_chain(ledger: str, connection: LogConnection) -> None:
    await connection.append(ledger, seen=1, decisions=[decision(unknown=0)], tail=ALL)
    assert not (await following(connection, ledger, 1, decision(event("A")))).is_unchained


async def test_what_follows_is_void_where_a_fence_ahead_failed(ledger: str, connection: LogConnection) -> None:
    ahead = connection.append(
        ledger, seen=1, decisions=[decision(event("A")), decision(event("B"), group=1, **{"ledger-terms": 0})], tail=ALL
    )
    first, second = await asyncio.gather(ahead, following(connection, ledger, 3, decision(event("C"))))
    assert (first.head, second.is_unchained) == (2, True)
    assert len(await whole(connection, ledger)) == 2


async def test_what_follows_is_void_where_others_came_in_ahead(
    ledger: str, connection: LogConnection, another: LogConnection
) -> None:
    await another.append(ledger, seen=None, decisions=[decision(event("A"))], tail=ALL)
    ahead = connection.append(ledger, seen=1, decisions=[decision(event("B"))], tail=ALL)
    first, second = await asyncio.gather(ahead, following(connection, ledger, 2, decision(event("C"))))
    assert (first.head, len(first.tail), second.is_unchained) == (3, 1, True)


async def test_what_others_appended_between_the_two_is_in_the_tail_of_the_second(
    ledger: str, connection: LogConnection, another: LogConnection
) -> None:
    await connection.append(ledger, seen=1, decisions=[decision(event("A"))], tail=ALL)
    await another.append(ledger, seen=None, decisions=[decision(event("B", "b"))], tail=ALL)
    appended = await following(connection, ledger, 2, decision(event("C")), decision(event("D"), group=1, b=2))
    assert not appended.is_unchained
    assert [found.type for found in appended.tail] == ["B"]
    assert list(appended.failed) == [(1, 0)]


async def test_what_follows_is_void_where_the_one_ahead_was_rolled_back(ledger: str, connection: LogConnection) -> None:
    broken = connection.append(ledger, seen=99, decisions=[decision(event("A"))], tail=ALL)
    ahead, behind = await asyncio.gather(
        broken, following(connection, ledger, 100, decision(event("B"))), return_exceptions=True
    )
    assert isinstance(ahead, PositionBeyondHead)
    assert isinstance(behind, Appended)
    assert behind.is_unchained
    assert len(await whole(connection, ledger)) == 1


async def test_no_other_session_continues_a_chain(
    ledger: str, connection: LogConnection, another: LogConnection
) -> None:
    await connection.append(ledger, seen=1, decisions=[decision(event("A"))], tail=ALL)
    assert (await following(another, ledger, 2, decision(event("B")))).is_unchained
