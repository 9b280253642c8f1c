"""The relay's topic in a Kafka of three brokers."""

import pytest
from confluent_kafka.admin import AdminClient

from projections.infrastructure.kafka import KafkaPublisher
from projections.infrastructure.kafka_clients import KafkaClients
from projections.settings import RelaySettings
from shared_kernel.breaker import Breaker
from shared_kernel.settings import load
from tests.integration.projections.conftest import until
from tests.services import folder_for_servers
from tests.support.kafka_cluster import running_cluster

pytestmark = [pytest.mark.long, pytest.mark.thorough]


def test_the_topic_has_as_many_replicas_as_the_brokers_give_where_no_setting_names_a_number() -> None:
    with folder_for_servers() as folder, running_cluster(folder, brokers=3) as cluster:
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
