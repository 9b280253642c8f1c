"""A Kafka of several brokers on loopback, each a controller too and with a replica of everything: of three, one may be away."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from daybook.stack.kafka import Quorum, kafka_part, new_cluster_id
from daybook.stack.layout import Layout
from daybook.stack.users import server_user
from tests.services import free_port
from tests.support.as_server import start_as_server

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 60.0
ANSWER_S_MAX = 5.0


class KafkaCluster:
    """Its brokers by their ids, from 1; each is prepared, and runs from `start` to `stop`."""

    def __init__(self, folder: Path, brokers: int) -> None:
        jars = os.environ.get("DAYBOOK_KAFKA_JARS")
        quorum = Quorum(new_cluster_id(), [free_port() for _ in range(brokers)])
        self.layouts = {node: Layout.at(folder / f"kafka-{node}") for node in range(1, brokers + 1)}
        self._parts = {
            node: kafka_part(
                layout,
                node=node,
                port=free_port(),
                quorum=quorum,
                user=server_user(os.environ),
                jars_folder=Path(jars) if jars else None,
            )
            for node, layout in self.layouts.items()
        }
        for node, layout in self.layouts.items():
            layout.make()
            self._parts[node].prepare(lambda text: None)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.bootstrap = ",".join(part.address for part in self._parts.values())
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def start(self, *nodes: int) -> None:
        """They answer."""
        for node in nodes:
            self._running[node] = self._launched(node)
        deadline = time.monotonic() + READY_WITHIN_S
        for node in nodes:
            while (fault := self._parts[node].fault()) is not None:
                assert self._running[node].poll() is None, self.layouts[node].log("kafka").read_text()
                assert time.monotonic() < deadline, fault
                time.sleep(0.05)

    def stop(self, node: int, number: signal.Signals = signal.SIGTERM) -> None:
        """It has ended by this signal; nothing starts it again by itself."""
        process = self._running.pop(node)
        process.send_signal(number)
        process.wait(STOP_WITHIN_S)

    def is_whole(self) -> bool:
        """All brokers are in the list, and each has all of every partition."""
        try:
            found = self._admin.list_topics(timeout=ANSWER_S_MAX)
        except KafkaException:
            return False
        partitions = [each for topic in found.topics.values() for each in topic.partitions.values()]
        having = [len(found.brokers), *(len(each.isrs) for each in partitions)]
        return having == [len(self._parts)] * len(having)

    def kill(self) -> None:
        """None runs."""
        for node in list(self._running):
            self.stop(node, signal.SIGKILL)

    def _launched(self, node: int) -> "subprocess.Popen[bytes]":
        launch = self._parts[node].launch
        assert launch is not None
        log = self.layouts[node].open_log("kafka")
        try:
            return start_as_server(launch().argv, log=log)
        finally:
            os.close(log)


@contextmanager
def running_cluster(folder: Path, brokers: int) -> Iterator[KafkaCluster]:
    """All of its brokers answer; at the end none runs."""
    cluster = KafkaCluster(folder, brokers)
    try:
        cluster.start(*cluster.layouts)
        yield cluster
    finally:
        cluster.kill()
