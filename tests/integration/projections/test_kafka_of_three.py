"""A Kafka of three brokers: the relay's topic in it, and who asks whether it is there."""

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from daybook.stack.kafka import broker_fault
from projections.infrastructure.kafka import KafkaPublisher
from projections.infrastructure.kafka_clients import KafkaClients
from projections.settings import RelaySettings
from shared_kernel.breaker import Breaker
from shared_kernel.settings import load
from tests.integration.projections.conftest import until
from tests.services import folder_for_servers
from tests.support.kafka_cluster import KafkaCluster, running_cluster

pytestmark = [pytest.mark.long, pytest.mark.thorough]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with folder_for_servers() as folder, running_cluster(folder, brokers=3) as cluster:
        yield cluster


def test_the_topic_has_as_many_replicas_as_the_brokers_give_where_no_setting_names_a_number(
    cluster: KafkaCluster,
) -> None:
    environment = {"POSTGRES_URL": "none", "KAFKA_BOOTSTRAP": cluster.bootstrap, "HEALTH_PORT": "1"}
    settings = load(RelaySettings, environment, prefix="")
    publisher = KafkaPublisher(
        KafkaClients(bootstrap=cluster.bootstrap, connect_ms=30_000, request_ms=60_000, admin_ms=60_000),
        topic=settings.kafka_topic,
        partitions=settings.kafka_partitions,
        replicas=settings.kafka_replicas,
        stall_ms=60_000,
        breaker=Breaker("kafka"),
    )
    publisher.prepare()
    publisher.close()
    admin, topic = AdminClient({"bootstrap.servers": cluster.bootstrap}), settings.kafka_topic
    until(lambda: topic in admin.list_topics(timeout=30).topics)  # the brokers hear of it one after another
    partitions = admin.list_topics(topic, timeout=30).topics[topic].partitions.values()
    assert [len(each.replicas) for each in partitions] == [3] * settings.kafka_partitions


def test_a_kafka_is_there_while_one_of_its_brokers_is(cluster: KafkaCluster) -> None:
    cluster.stop(1)
    assert broker_fault(cluster.bootstrap) is None
    first, _, _ = cluster.bootstrap.partition(",")
    assert first in (broker_fault(first) or "")
    cluster.start(1)
