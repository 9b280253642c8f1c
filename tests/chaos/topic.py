"""What Kafka holds of a run's ledgers. Projectors fill from the log what is missing there, so that only here is seen what a relay has left out."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, Message, TopicPartition

from shared_kernel.events import parse_line

ANSWER_S_MAX = 30.0
AT_ONCE = 10_000


class Published(NamedTuple):
    """An event as it stands in a partition. Seconds since 1970: when it was recorded, and when the relay gave it away."""

    partition: int
    ledger: str
    position: int
    recorded_at: float
    given_at: float


class Topic:
    """A topic, read from where it ended when this was made; or all of it."""

    def __init__(self, bootstrap: str, name: str, *, is_whole: bool = False) -> None:
        self._bootstrap = bootstrap
        self._name = name
        self._begins = {} if is_whole else self._ends()

    def published(self, ledgers: Iterable[str]) -> list[Published]:
        """What came of these ledgers since, each partition in its order."""
        wanted = {ledger.encode() for ledger in ledgers}
        found = []
        for message in self.messages():
            if message.key() in wanted:
                event = parse_line(message.value() or b"")
                found.append(
                    Published(
                        message.partition() or 0,
                        event.ledger,
                        event.position,
                        event.recorded_at.timestamp(),
                        message.timestamp()[1] / 1_000,
                    )
                )
        return found

    def messages(self) -> list[Message]:
        """Every message, each partition in its order."""
        consumer = self._consumer()
        found: list[Message] = []
        try:
            for number, high in self._ends().items():
                at = self._begins.get(number, 0)
                consumer.assign([TopicPartition(self._name, number, at)])
                while at < high:
                    some = consumer.consume(min(AT_ONCE, high - at), timeout=ANSWER_S_MAX)
                    assert some, "Kafka gives no message"
                    for message in some:
                        assert message.error() is None, message.error()
                    at = (some[-1].offset() or 0) + 1
                    found += some
        finally:
            consumer.close()
        return found

    def _ends(self) -> dict[int, int]:
        consumer = self._consumer()
        try:
            partitions = consumer.list_topics(self._name, timeout=ANSWER_S_MAX).topics[self._name].partitions
            of = {number: TopicPartition(self._name, number) for number in partitions}
            return {
                number: consumer.get_watermark_offsets(each, timeout=ANSWER_S_MAX)[1] for number, each in of.items()
            }
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        return Consumer({"bootstrap.servers": self._bootstrap, "group.id": "chaos", "enable.auto.commit": False})


def pauses(published: Iterable[Published]) -> list[float]:
    """For each event the first time that it was given away: for how many seconds it had been there, and nothing else was given away."""
    found, given_at, known = [], 0.0, set()
    for each in sorted(published, key=lambda each: each.given_at):
        if (each.ledger, each.position) not in known:
            known.add((each.ledger, each.position))
            found.append(max(0.0, each.given_at - max(each.recorded_at, given_at)))
            given_at = each.given_at
    return found


def left_out(published: Iterable[Published], heads: Mapping[str, int]) -> list[str]:
    """What was given away before its predecessor, or not at all. Given away twice is allowed."""
    found = []
    reached: dict[str, int] = dict.fromkeys(heads, 0)
    for each in published:
        known = reached[each.ledger]
        if each.position > known + 1:
            found.append(f"{each.ledger}: Kafka has {each.position} directly after {known}")
        reached[each.ledger] = max(known, each.position)
    found += [
        f"{ledger}: Kafka ends at {known} of {heads[ledger]}"
        for ledger, known in reached.items()
        if known < heads[ledger]
    ]
    return found
