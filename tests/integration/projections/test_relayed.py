"""What the relay remembers and hears in Postgres, and what it is told of Kafka's refusals: each adapter by itself on the real server."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from projections.application.ports import Move, PublishFailed
from projections.infrastructure.kafka import KafkaPublisher
from projections.infrastructure.kafka_clients import KafkaClients
from projections.infrastructure.postgres_relayed import PostgresRelayed
from projections.infrastructure.postgres_wakeups import PostgresWakeups
from shared_kernel.breaker import Breaker
from shared_kernel.errors import Unavailable
from shared_kernel.event_log.types import RecordedEvent
from tests.integration.projections.conftest import Kit, until
from tests.services import Servers

AT = datetime(2026, 11, 28, tzinfo=UTC)


def move(ledger: str, previous: int, position: int) -> Move:
    return Move(ledger=ledger, previous=previous, position=position, recorded_at=AT)


@pytest.fixture
def relayed(kit: Kit) -> PostgresRelayed:
    return PostgresRelayed(kit.session("relay"))


def incarnation(kit: Kit) -> str:
    [(found,)] = kit.rows("select incarnation::text from daybook.incarnation")
    return str(found)


def positions(kit: Kit) -> dict[str, int]:
    return dict(kit.rows("select ledger, position from projections.relay_positions"))


def test_positions_move_from_where_they_are_under_the_epoch_of_the_lease(kit: Kit, relayed: PostgresRelayed) -> None:
    epoch = relayed.acquire("one", 60_000)
    assert epoch is not None
    assert relayed.advance(epoch, incarnation(kit), [move("bank", 0, 7), move("acme", 0, 2)])
    assert relayed.advance(epoch, incarnation(kit), [move("bank", 7, 9), move("late", 0, 1)])
    assert positions(kit) == relayed.positions(epoch, incarnation(kit)) == {"bank": 9, "acme": 2, "late": 1}
    assert kit.rows("select distinct epoch, incarnation::text from projections.relay_positions") == [
        (epoch, incarnation(kit))
    ]


def test_no_position_moves_and_no_ledger_begins_where_one_previous_position_is_another(
    kit: Kit, relayed: PostgresRelayed
) -> None:
    epoch = relayed.acquire("one", 60_000)
    assert epoch is not None
    assert relayed.advance(epoch, incarnation(kit), [move("bank", 0, 7)])
    for wrong in (move("bank", 6, 8), move("bank", 0, 8), move("never", 3, 4)):
        assert not relayed.advance(epoch, incarnation(kit), [move("acme", 0, 2), wrong])
        assert positions(kit) == {"bank": 7}


def test_no_position_moves_under_another_epoch_or_incarnation(kit: Kit, relayed: PostgresRelayed) -> None:
    epoch = relayed.acquire("one", 1)
    assert epoch is not None
    assert relayed.advance(epoch, incarnation(kit), [move("bank", 0, 7)])
    taken: list[int] = []
    until(lambda: taken or taken.extend(filter(None, [relayed.acquire("other", 60_000)])))
    assert taken == [epoch + 1]
    for held, of, moves in (
        (epoch, incarnation(kit), [move("bank", 7, 8)]),
        (epoch + 1, "6d1cb0d8-4a8e-4b07-8c4e-000000000000", [move("bank", 7, 8)]),
        (epoch + 2, incarnation(kit), [move("new", 0, 1)]),
    ):
        assert not relayed.advance(held, of, moves)
    assert positions(kit) == {"bank": 7}
    assert relayed.advance(epoch + 1, incarnation(kit), [move("bank", 7, 8)])


def test_nobody_takes_the_lease_over_while_positions_move(kit: Kit, relayed: PostgresRelayed) -> None:
    epoch = relayed.acquire("one", 1)
    assert epoch is not None
    assert relayed.advance(epoch, incarnation(kit), [move("bank", 0, 7)])
    with psycopg.connect(kit.database.urls["relay"]) as moving:  # not committed yet
        call = "select projections.advance_relay(%s, %s, %s, %s, %s)"
        moving.execute(call, [epoch, incarnation(kit), ["bank"], [7], [8]])
        with psycopg.connect(kit.database.urls["relay"], autocommit=True) as other:
            other.execute("set lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("update projections.relay_lease set epoch = epoch + 1")
    assert positions(kit) == {"bank": 8}


def test_a_wake_up_names_the_ledgers_and_silence_ends_in_time(kit: Kit) -> None:
    wakeups = PostgresWakeups(kit.session("relay"))
    assert wakeups.wait(60) == set()  # it only begins to listen
    for name in ("", "bank", "acme"):
        kit.admin.execute("select pg_notify('daybook_appended', %s)", [name])
    heard: set[str] = set()
    until(lambda: heard.update(wakeups.wait(1)) or heard == {"bank", "acme"})
    began = time.monotonic()
    assert wakeups.wait(0.05) == set()
    assert time.monotonic() - began >= 0.05


def test_a_listener_that_lost_its_connection_says_so_and_listens_again(kit: Kit) -> None:
    session = kit.session("relay")
    wakeups = PostgresWakeups(session)
    wakeups.wait(0)
    with session.session() as connection:
        pid = connection.info.backend_pid
    kit.admin.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(Unavailable):
        until(lambda: wakeups.wait(1))
    assert wakeups.wait(60) == set()  # it begins to listen anew
    kit.admin.execute("select pg_notify('daybook_appended', 'bank')")
    assert wakeups.wait(60) == {"bank"}


@pytest.fixture
def publisher(stack: Servers, kafka_topic: str) -> Iterator[KafkaPublisher]:
    """Of a topic whose messages may have a thousand bytes."""
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    small = NewTopic(kafka_topic, num_partitions=1, replication_factor=1, config={"max.message.bytes": "1000"})
    admin.create_topics([small])[kafka_topic].result(60)
    made = KafkaPublisher(
        KafkaClients(bootstrap=stack.kafka_bootstrap, connect_ms=30_000, request_ms=60_000, admin_ms=60_000),
        topic=kafka_topic,
        partitions=1,
        replicas=1,
        stall_ms=60_000,
        breaker=Breaker("kafka"),
    )
    yield made
    made.close()


def test_a_batch_with_a_message_that_kafka_refuses_is_not_published_and_the_next_is(publisher: KafkaPublisher) -> None:
    def publish(*texts: str) -> None:
        events = [
            RecordedEvent(ledger="bank", position=1, type="E", data=f'"{text}"', metadata="{}", recorded_at=AT)
            for text in texts
        ]
        publisher.publish(events, incarnation="i", meanwhile=lambda: None)

    publish("one", "two")
    with pytest.raises(PublishFailed) as refused:
        publish("three", "".join(map(chr, range(0x4E00, 0x5A00))))  # nothing that compression makes small
    assert refused.value.fields == {"reason": "MSG_SIZE_TOO_LARGE"}
    publisher.close()  # as the relay does after a failed round
    publish("three")
