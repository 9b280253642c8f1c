"""Relay and projector as an operator starts them, and a look into the topic."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from tests.integration.projections.conftest import until
from tests.services import Database, Servers
from tests.support import tokens

QUICK = {"DAYBOOK_POLL_MS": "50", "DAYBOOK_RETRY_MS": "20", "DAYBOOK_RETRY_MAX_MS": "200"}
STOP_WITHIN_S = 30.0


class Process:
    """One process of `projections`, its log in a file."""

    def __init__(self, role: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "projections", role], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        self.pid = self._child.pid

    def says(self, text: str) -> bool:
        """True if the log has it by now. The process must be alive, or have said it."""
        has_ended = self._child.poll() is not None
        told = self.log.read_text()
        assert text in told or not has_ended, f"ended without a word of {text}:\n{told}"
        return text in told

    def started(self) -> "Process":
        """Waits until its health can be asked for."""
        until(lambda: self.says('"port":'))
        return self

    def ready(self) -> bool:
        """What /health/ready says."""
        try:
            with urllib.request.urlopen(self._url("/health/ready"), timeout=10):  # noqa: S310 - loopback
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def checks(self) -> dict[str, Any]:
        """The checks of /health/ready, whatever they found."""
        try:
            with urllib.request.urlopen(self._url("/health/ready"), timeout=10) as page:  # noqa: S310 - loopback
                found = json.load(page)
        except urllib.error.HTTPError as error:
            with error:
                found = json.load(error)
        checks: dict[str, Any] = found["checks"]
        return checks

    def figure(self, name: str) -> float:
        """One figure of /metrics."""
        with urllib.request.urlopen(self._url("/metrics"), timeout=10) as page:  # noqa: S310 - loopback
            found = re.search(rf"^daybook_{name}(?:{{.*}})? (\S+)$", page.read().decode(), re.MULTILINE)
        assert found is not None, name
        return float(found.group(1))

    def kill(self) -> None:
        """kill -9."""
        self._child.kill()
        self._child.wait(STOP_WITHIN_S)

    def freeze(self) -> None:
        """It stands still, as on a host that hangs."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on, knowing nothing of the time that passed."""
        self._child.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; answers the exit code."""
        self._child.terminate()
        return self._child.wait(STOP_WITHIN_S)

    def wait(self) -> int:
        """The exit code of a process that ends by itself."""
        return self._child.wait(STOP_WITHIN_S)

    def end(self) -> None:
        """Whatever it does, it is over."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait(STOP_WITHIN_S)

    def ask(self, method: str, path: str, body: object = None, *, role: str = "operator") -> tuple[int, Any]:
        """Status and body of a request to the operators' API."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            self._url(f"/v1/operations{path}"),
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {tokens.token(role)}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def _url(self, path: str) -> str:
        found = re.search(r'"port":(\d+)', self.log.read_text())
        assert found is not None
        return f"http://127.0.0.1:{found.group(1)}{path}"


class Processes:
    """Starts them with the environment of the contracts; `topic` and group are this test's own."""

    def __init__(self, database: Database, servers: Servers, topic: str, folder: Path) -> None:
        self.topic = topic
        self.bootstrap = servers.kafka_bootstrap
        self._database = database
        self._folder = folder
        self._all: list[Process] = []

    def start(self, role: str, **settings: str) -> Process:
        """A process that has begun."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
        env |= QUICK | {
            "DAYBOOK_POSTGRES_URL": self._database.urls["relay" if role == "relay" else "projector"],
            "DAYBOOK_KAFKA_BOOTSTRAP": self.bootstrap,
            "DAYBOOK_KAFKA_TOPIC": self.topic,
        }
        if role == "relay":
            env["DAYBOOK_HEALTH_PORT"] = "0"
        else:
            env |= {
                "DAYBOOK_HTTP_PORT": "0",
                "DAYBOOK_JWT_KEYS_FILE": str(tokens.keys_file(self._folder)),
                "DAYBOOK_JWT_ISSUER": tokens.ISSUER,
                "DAYBOOK_JWT_AUDIENCE": tokens.AUDIENCE,
            }
            # One projection alone, so that what these tests wait for and lock is that one's.
            env |= {
                "DAYBOOK_KAFKA_GROUP_PREFIX": self.topic,
                "DAYBOOK_HEADS_MS": "200",
                "DAYBOOK_PROJECTIONS": "books",
            }
        process = Process(role, env | settings, self._folder / f"{len(self._all)}-{role}.log")
        self._all.append(process)
        return process

    def end(self) -> None:
        """None is left."""
        for process in self._all:
            process.end()

    @contextmanager
    def admin(self) -> Iterator[AdminClient]:
        """Kafka's administrator."""
        yield AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def make_topic(self, partitions: int) -> None:
        """The topic is there before any relay."""
        with self.admin() as admin:
            [made] = admin.create_topics([NewTopic(self.topic, partitions, 1)]).values()
            made.result(60)

    def add_partitions(self, partitions: int) -> None:
        """The topic has so many from now on."""
        with self.admin() as admin:
            [added] = admin.create_partitions([NewPartitions(self.topic, partitions)]).values()
            added.result(60)

    def delete_topic(self) -> None:
        """The topic is gone, with all that is in it."""
        with self.admin() as admin:
            [deleted] = admin.delete_topics([self.topic]).values()
            deleted.result(60)

    def group_state(self, projection: str = "books") -> ConsumerGroupState:
        """How the consumer group of a projection stands."""
        with self.admin() as admin:
            [described] = admin.describe_consumer_groups([f"{self.topic}.{projection}"]).values()
            return described.result(30).state

    def publish(self, events: Sequence[RecordedEvent], *, incarnation: str, value: bytes | None = None) -> None:
        """The events come through the topic, in this order; `value`: instead of their own."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for event in events:
            line = canonical_line(event).encode() if value is None else value
            headers = {"daybook_incarnation": incarnation}
            producer.produce(self.topic, key=event.ledger, value=line, headers=headers)
        assert producer.flush(60) == 0

    def partitions(self, topic: str | None = None) -> int:
        """How many the topic has; 0: there is no topic."""
        with self.admin() as admin:
            topics = admin.list_topics(timeout=30).topics
        topic = topic or self.topic
        return len(topics[topic].partitions) if topic in topics else 0

    def messages(self, topic: str | None = None) -> list[Message]:
        """All there are in the topic now, in order within each ledger."""
        topic = topic or self.topic
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "-", "enable.partition.eof": True, "log_level": 0}
        )
        partitions = [TopicPartition(topic, number, 0) for number in range(self.partitions(topic))]
        consumer.assign(partitions)
        found, open_partitions = [], len(partitions)
        while open_partitions:
            for message in consumer.consume(1_000, timeout=0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions -= 1
        consumer.close()
        return found
