"""The topic of dead letters: the event as the log has it, and in the headers why a projection could not apply it.

Nothing here waits: the topic is asked for and messages are queued, and whatever comes of it is told later.
"""

from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from projections.application.ports import DeadLetter
from projections.infrastructure.kafka import MESSAGE_BYTES_MAX, headers_of
from projections.infrastructure.kafka_clients import KafkaClients
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from shared_kernel.words import format_time

TOPIC_SUFFIX: Final = ".dead-letters"


class KafkaDeadLetterTopic:
    """A producer of its own, made with the first letter."""

    def __init__(self, clients: KafkaClients, *, events_topic: str, delivery_ms: int) -> None:
        self._clients = clients
        self._delivery_ms = delivery_ms
        self._topic = events_topic + TOPIC_SUFFIX
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._delivered: list[DeadLetter] = []
        self._undelivered: list[DeadLetter] = []

    def hand_over(self, letter: DeadLetter, event: RecordedEvent) -> bool:
        """The letter is under way. False: the queue is full."""
        try:
            self._ready().produce(
                self._topic,
                key=letter.ledger,
                value=canonical_line(event),
                headers=_headers(letter, event),
                on_delivery=partial(self._on_delivery, letter),
            )
        except (BufferError, KafkaException):
            return False
        return True

    def delivered(self) -> list[DeadLetter]:
        """What has arrived since the last call."""
        if self._producer is not None:
            self._producer.poll(0)
        delivered, self._delivered = self._delivered, []
        return delivered

    def undelivered(self) -> list[DeadLetter]:
        """What could not be delivered since the last call."""
        undelivered, self._undelivered = self._undelivered, []
        return undelivered

    def close(self) -> None:
        """Drops what is under way: the table has it."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.poll(0)
            self._producer = None

    def _ready(self) -> Producer:
        if self._producer is None:
            self._admin = self._clients.admin()
            # One partition: letters are few, and read by people. Replicas: as many as the brokers give by default.
            topic = NewTopic(self._topic, num_partitions=1, config={"max.message.bytes": str(MESSAGE_BYTES_MAX)})
            self._admin.create_topics(
                [topic], request_timeout=self._clients.admin_s
            )  # not waited for: it may be there, or come later
            self._producer = self._clients.producer(
                {
                    "client.id": "daybook-dead-letters",
                    "enable.idempotence": True,
                    "acks": "all",
                    "message.timeout.ms": self._delivery_ms,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "compression.type": "lz4",
                }
            )
        return self._producer

    def _on_delivery(self, letter: DeadLetter, error: KafkaError | None, message: Message) -> None:
        (self._delivered if error is None else self._undelivered).append(letter)


def _headers(letter: DeadLetter, event: RecordedEvent) -> list[tuple[str, str | bytes | None]]:
    return [
        *headers_of(event),
        ("daybook_incarnation", letter.incarnation),
        ("daybook_projection", letter.projection),
        ("daybook_generation", str(letter.generation)),
        ("daybook_error_class", letter.error_class),
        ("daybook_error", letter.error),
        ("daybook_attempts", str(letter.attempts)),
        ("daybook_first_attempt_at", format_time(letter.first_attempt_at)),
        ("daybook_last_attempt_at", format_time(letter.last_attempt_at)),
    ]
