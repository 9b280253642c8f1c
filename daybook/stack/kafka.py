"""A real Apache Kafka on loopback: KRaft processes, each broker and controller, from pinned jars; the local stack has one.

The log of events in Postgres is the truth and Kafka its carrier, so the settings here favour a quick
start and a quick return after a crash over throughput.
"""

import base64
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from daybook.stack.jars import KAFKA_LOCK, Report, fetch_jars, read_lock
from daybook.stack.java import find_java
from daybook.stack.layout import Layout, write_whole
from daybook.stack.parts import Launch, Part
from daybook.stack.ports import LOOPBACK
from daybook.stack.users import ServerUser, give_to, run_as, server_environment
from daybook.terminal import CommandFailed

ANSWER_TIMEOUT_S = 3.0

JVM_OPTIONS = (
    "-Xms256m",
    "-Xmx256m",
    # The serial collector stopped the broker for 65 to 95 ms every 16 s at 1,000 transactions a second (one in a hundred of them was
    # visible that much later), this one for 11 to 14 ms, for a twentieth more of the broker's processor time (measured).
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=10",
    "-XX:TieredStopAtLevel=1",
    # Compiled after a tenth of the usual calls: a busy topic's first 500 batches took the broker 5.8 ms each instead of 10.1, and
    # later ones 4.3 instead of 4.9 (one pair of brokers side by side on a full machine; two pairs were ready 1.1 and 1.6 s later).
    "-XX:CompileThresholdScaling=0.1",
    "-Xshare:auto",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.num.partitions": "5",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.partitions": "3",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "4",
    "broker.heartbeat.interval.ms": "500",
    # Measured: this rules how long a broker that was killed waits for its own old session at the
    # next start: 12 s at the default of 9000, 4.5 s at 3000.
    "broker.session.timeout.ms": "3000",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes 128 MB of heap
    "log.segment.bytes": "268435456",
    "log.retention.hours": "168",
}

LOGGING = """\
{"configuration": {"status": "ERROR",
  "appenders": {"console": {"name": "out", "PatternLayout": {"pattern": "%d %p %m (%c{1})%n"}}},
  "loggers": {"root": {"level": "WARN", "AppenderRef": {"ref": "out"}}}}}
"""


class Quorum(msgspec.Struct, frozen=True):
    """All nodes of one Kafka, by the ports of their controllers; the first has the id 1."""

    cluster_id: str
    controller_ports: Sequence[int]


def kafka_part(
    layout: Layout, *, node: int, port: int, quorum: Quorum, user: ServerUser | None, jars_folder: Path | None
) -> Part:
    """The broker of one data folder; ready when it is in its own list of brokers."""
    home = layout.server("kafka")
    java_and_jars: list[str] = []

    def prepare(report: Report) -> None:
        give_to(user, home)
        jars = fetch_jars(read_lock(KAFKA_LOCK), report, offline_folder=jars_folder)
        logging = home / "log4j2.json"
        java_and_jars[:] = [str(find_java(user)), *JVM_OPTIONS, f"-Dlog4j2.configurationFile={logging}"]
        java_and_jars.extend(["-cp", os.pathsep.join(str(jar) for jar in jars)])
        write_whole(logging, LOGGING.encode())
        properties = {**SETTINGS, **_replicas(len(quorum.controller_ports)), **_places(home, node, port, quorum)}
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        write_whole(home / "server.properties", text.encode())
        if not (home / "log" / "meta.properties").exists():
            report("formatting the storage of Kafka")
            _format(java_and_jars, home, quorum.cluster_id, user)

    def launch() -> Launch:
        argv = [*java_and_jars, "kafka.Kafka", str(home / "server.properties")]
        return Launch(argv, server_environment(), Path("/"), user)

    return Part(
        name="kafka",
        address=f"{LOOPBACK}:{port}",
        prepare=prepare,
        launch=launch,
        fault=lambda: broker_fault(f"{LOOPBACK}:{port}"),
    )


def broker_fault(bootstrap: str) -> str | None:
    """None when one of the brokers named answers and knows itself."""
    places = [place.strip() for place in bootstrap.split(",")]
    faults = [fault for place in places if (fault := _connection_fault(place)) is not None]
    if len(faults) == len(places):
        return "; ".join(faults)
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": 3000})
    try:
        brokers = client.list_topics(timeout=ANSWER_TIMEOUT_S).brokers
    except KafkaException as error:
        return str(error.args[0])
    return None if brokers else "no broker has registered yet"


def _connection_fault(place: str) -> str | None:
    """Cheap, and librdkafka would write a line for every refused connection."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return f"{place}: {error}"
    return None


def new_cluster_id() -> str:
    """A new one: 22 characters of URL-safe base64, of which Kafka would read a leading "-" as an option."""
    while True:
        name = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        if not name.startswith("-"):
            return name


def _replicas(nodes: int) -> dict[str, str]:
    """Each node has all, and what most of them have is stored."""
    most = nodes // 2 + 1
    settings = {"default.replication.factor": str(nodes), "min.insync.replicas": str(most)}
    settings["offsets.topic.replication.factor"] = str(nodes)
    for topic in ("transaction.state.log", "share.coordinator.state.topic"):
        settings |= {f"{topic}.replication.factor": str(nodes), f"{topic}.min.isr": str(most)}
    return settings


def _places(home: Path, node: int, port: int, quorum: Quorum) -> dict[str, str]:
    broker, controllers = f"{LOOPBACK}:{port}", [f"{LOOPBACK}:{each}" for each in quorum.controller_ports]
    return {
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{id_}@{place}" for id_, place in enumerate(controllers, start=1)),
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controllers[node - 1]}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "log.dirs": str(home / "log"),
    }


def _format(java_and_jars: list[str], home: Path, cluster_id: str, user: ServerUser | None) -> None:
    argv = [*java_and_jars, "kafka.tools.StorageTool", "format", "-t", cluster_id]
    outcome = run_as(user, [*argv, "-c", str(home / "server.properties")])
    if outcome.returncode != 0:
        raise CommandFailed(f"Kafka's storage could not be formatted: {(outcome.stderr or outcome.stdout).strip()}")
