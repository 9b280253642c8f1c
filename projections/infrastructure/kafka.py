"""Kafka at both ends: the relay's idempotent producer and the projector's consumer. Events go in order by ledger.

A message is the event's canonical line with CloudEvents 1.0 attributes in its headers. What arrives is a hint: the consumer
lets through only well-formed events of the expected incarnation, and whoever applies them checks their positions.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from projections.application.figures import Figures
from projections.application.ports import PublishFailed
from projections.application.seldom import Seldom
from projections.infrastructure.kafka_clients import KafkaClients
from shared_kernel.breaker import Breaker, State
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line, decode_metadata, parse_line
from shared_kernel.words import format_time

# Chosen: above the longest event that a command of 4 MiB can make, so that no event is too long to publish.
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
POLL_S: Final = 0.1  # how often a waiting publisher looks at its lease
# Chosen: a batch leaves when it is complete, in as few requests as it can, for each of them wakes the broker and every consumer;
# only one that takes longer than this to hand over leaves in parts meanwhile.
LINGER_MS: Final = 50
AS_BROKERS_GIVE: Final = -1  # replicas, in Kafka's protocol
INCARNATION: Final = "daybook_incarnation"  # the header of every message

Headers = dict[str, str | bytes | None] | list[tuple[str, str | bytes | None]]


class KafkaGone(PublishFailed):
    """Kafka does not answer, said nothing in time of what it took, or said that it failed."""


class KafkaPublisher:
    """Publishes batches; a batch is done when the producer holds no more of it and no report of a failure came.

    After a failure it begins with a fresh producer.
    """

    def __init__(
        self, clients: KafkaClients, *, topic: str, partitions: int, replicas: int, stall_ms: int, breaker: Breaker
    ) -> None:
        self._clients = clients
        self._stall_s = stall_ms / 1_000
        self._breaker = breaker
        self._topic = topic
        self._partitions = partitions
        self._replicas = replicas
        self._producer: Producer | None = None
        self._failed: KafkaError | None = None

    def prepare(self) -> None:
        """The topic exists and a fresh producer stands ready. PublishFailed where Kafka cannot be reached, or is left alone."""
        with self._call():
            self._prepare()

    def probe(self) -> None:
        """Where Kafka was left alone for long enough, it was asked whether it is back: perhaps nobody else here asks."""
        if self._breaker.state is State.HALF_OPEN:
            with suppress(KafkaGone), self._call():
                self._find_topic()

    def _call(self) -> AbstractContextManager[None]:
        """The block is one call of Kafka; KafkaGone at once while it is left alone."""
        if not self._breaker.admits():
            refused = self._breaker.refuse()
            raise KafkaGone(refused.code, **refused.fields)
        return self._breaker.call(KafkaGone)

    def _find_topic(self) -> None:
        admin = self._clients.admin()
        try:
            if self._topic not in admin.list_topics(timeout=self._clients.admin_s).topics:
                self._make_topic(admin)
        except KafkaException as error:
            raise KafkaGone("kafka_unavailable", reason=error.args[0].name()) from None

    def _prepare(self) -> None:
        self.close()
        self._find_topic()
        self._producer = self._clients.producer(
            {
                "client.id": "daybook-relay",
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": 0,  # unlimited: an event is never given up, the log has it anyway
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 256 * 1024,
                "linger.ms": LINGER_MS,
                "compression.type": "lz4",
                "delivery.report.only.error": True,  # no call for each message that is stored
                "on_delivery": self._on_delivery,
                "error_cb": self._on_error,
            }
        )

    def publish(self, events: Sequence[RecordedEvent], *, incarnation: str, meanwhile: Callable[[], None]) -> None:
        """Every event is stored, in order. PublishFailed otherwise. `meanwhile` is called while it waits, and may raise."""
        if self._producer is None:
            self.prepare()
        with self._call():
            self._publish(events, incarnation=incarnation, meanwhile=meanwhile)

    def _publish(self, events: Sequence[RecordedEvent], *, incarnation: str, meanwhile: Callable[[], None]) -> None:
        producer, topic = self._producer, self._topic
        if producer is None:
            raise PublishFailed("no_producer")
        self._failed = None
        asked_at = time.monotonic()
        of_incarnation = (INCARNATION, incarnation)
        try:
            for event in events:
                headers = headers_of(event)
                headers.append(of_incarnation)
                while True:
                    try:
                        producer.produce(topic, canonical_line(event), event.ledger, headers=headers)
                        break
                    except BufferError:  # the queue is full: let reports come in
                        producer.poll(POLL_S)
                        meanwhile()
            left, moved_at = len(producer), time.monotonic()
            while left and self._failed is None:
                before, left = left, producer.flush(POLL_S)  # all that waits leaves now, in one request
                if time.monotonic() - asked_at > POLL_S:
                    meanwhile()
                if left < before:
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > self._stall_s:
                    raise KafkaGone("publish_failed", reason="no_delivery_reports")
        except KafkaException as error:
            raise KafkaGone("publish_failed", reason=error.args[0].name()) from None
        if self._failed is not None:
            raise KafkaGone("publish_failed", reason=self._failed.name())

    def close(self) -> None:
        """Drops what is under way: it was not remembered, so it will be published again."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.poll(0)
            self._producer = None

    def _make_topic(self, admin: AdminClient) -> None:
        topic = NewTopic(
            self._topic,
            num_partitions=self._partitions,
            replication_factor=self._replicas or AS_BROKERS_GIVE,
            config={"max.message.bytes": str(MESSAGE_BYTES_MAX)},
        )
        admin_s = self._clients.admin_s
        [made] = admin.create_topics([topic], operation_timeout=admin_s, request_timeout=admin_s).values()
        try:
            made.result(timeout=admin_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        structlog.get_logger("daybook.relay").info("topic_ready", topic=self._topic, count=self._partitions)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = error

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failed = error


class KafkaSource:
    """A consumer in the projection's group. Single-threaded; joins the group at its first poll."""

    def __init__(
        self,
        clients: KafkaClients,
        *,
        topic: str,
        group: str,
        session_ms: int,
        close_ms: int,
        batch_events_max: int,
        figures: Figures,
    ) -> None:
        self._clients = clients
        self._close_s = close_ms / 1_000
        self._settings: dict[str, Any] = {
            "group.id": group,
            "client.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "fetch.wait.max.ms": 500,  # what arrives is sent at once; this is only how often an idle consumer asks again
            "queued.max.messages.kbytes": 64 * 1024,
            "topic.metadata.refresh.interval.ms": 10_000,  # a topic that was deleted and made again is found by then
            "allow.auto.create.topics": False,
        }
        self._topic = topic
        self._batch_events_max = batch_events_max
        self._figures = figures
        self._incarnation = b""
        self._of_incarnation = (INCARNATION, self._incarnation)
        self._consumer: Consumer | None = None
        self._was_assigned = False
        self._logger = structlog.get_logger("daybook.projector")
        self._seldom = Seldom()

    def expect(self, incarnation: str) -> None:
        """From now on only events of this incarnation are let through."""
        self._incarnation = incarnation.encode()
        self._of_incarnation = (INCARNATION, self._incarnation)

    def poll(self, wait_s: float) -> list[RecordedEvent]:
        """What has arrived; waits for the first, never for more."""
        if self._consumer is None:
            self._consumer = self._clients.consumer(self._settings)
            self._consumer.subscribe([self._topic], on_assign=self._on_assign)
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        # consume() waits until it has all it asked for or its time is over: so it gets none.
        messages = [first, *self._consumer.consume(self._batch_events_max - 1, timeout=0)]
        return [event for message in messages if (event := self._event(message)) is not None]

    def was_assigned(self) -> bool:
        """True once after partitions were given to this process."""
        was_assigned, self._was_assigned = self._was_assigned, False
        return was_assigned

    def commit(self) -> None:
        """Marks what was polled as done: a hint for the next start, nothing more."""
        if self._consumer is not None:
            try:
                self._consumer.commit(asynchronous=True)
            except KafkaException as error:
                self._say("offsets_not_committed", reason=error.args[0].name())

    def close(self, *, is_done: bool) -> None:
        """Leaves the group, and commits before if what was polled is done; left to itself where that takes longer than `close_ms`."""
        if self._consumer is not None:
            # Neither of its calls takes a time-out, and the process is to end in time.
            leaving = threading.Thread(target=_leave, args=(self._consumer, is_done), name="kafka leaving", daemon=True)
            self._consumer = None
            leaving.start()
            leaving.join(self._close_s)
            if leaving.is_alive():
                self._say("consumer_not_closed", wait_ms=round(self._close_s * 1_000))

    def _event(self, message: Message) -> RecordedEvent | None:
        error = message.error()
        if error is not None:
            self._say("kafka_trouble", reason=error.name())
            return None
        if not self._is_expected(message.headers()):
            self._figures.foreign += 1
            self._say("foreign_message_dropped", partition=message.partition(), offset=message.offset())
            return None
        try:
            return parse_line(message.value() or b"")
        except (msgspec.MsgspecError, ValueError):  # the log has it, if it ever was one of ours
            self._figures.malformed += 1
            self._say("malformed_message_dropped", partition=message.partition(), offset=message.offset())
            return None

    def _is_expected(self, headers: Headers | None) -> bool:
        if not headers:
            return False
        # The relay says it last; only of what somebody else sent all headers are looked through.
        if isinstance(headers, list) and headers[-1] == self._of_incarnation:
            return True
        return dict(headers).get(INCARNATION) == self._incarnation

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._was_assigned = self._was_assigned or bool(partitions)

    def _say(self, event: str, **fields: str | int | None) -> None:
        if self._seldom.is_due(event):
            self._logger.warning(event, **fields)


def _leave(consumer: Consumer, is_done: bool) -> None:
    if is_done:
        with suppress(KafkaException):  # nothing new, or no broker: the next start sees some events again
            consumer.commit(asynchronous=False)
    consumer.close()


def headers_of(event: RecordedEvent) -> list[tuple[str, str | bytes | None]]:
    """An event's CloudEvents attributes and its trace, as far as its metadata can be read."""
    headers: list[tuple[str, str | bytes | None]] = [
        ("ce_specversion", "1.0"),
        ("ce_id", f"{event.ledger}/{event.position}"),
        ("ce_source", f"/daybook/{event.ledger}"),
        ("ce_type", event.type),
        ("ce_time", format_time(event.recorded_at)),
        ("content-type", "application/json"),
    ]
    if '"trace"' in event.metadata:
        with suppress(
            msgspec.MsgspecError
        ):  # what nobody can read is published as it is: whoever projects it will say so
            if (trace := decode_metadata(event.metadata).trace) is not None:
                headers.append(("traceparent", trace))
    return headers
