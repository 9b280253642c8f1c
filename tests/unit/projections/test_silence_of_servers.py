"""A server that falls silent, with the wire still there, holds nobody up for longer than the bound of each call."""

import socket
import threading
import time
from typing import Any, cast

import psycopg
import pytest

from projections.application.figures import Figures
from projections.infrastructure.kafka import KafkaSource
from projections.infrastructure.kafka_clients import KafkaClients
from projections.infrastructure.wire import Wire

CLIENTS = KafkaClients(bootstrap="localhost:1", connect_ms=1_000, request_ms=2_000, admin_ms=1_000)
LATE_S = 10.0


class SilentConsumer:
    """Its group's coordinator never answers."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.committed = False

    def commit(self, *, asynchronous: bool) -> None:
        self.committed = not asynchronous

    def close(self) -> None:
        self.over.wait(60)


class SilentServer:
    """Has taken a COPY and says nothing of it; as much of libpq as a wire uses."""

    def __init__(self, wire: socket.socket) -> None:
        self.socket = wire.fileno()
        self.is_finished = False

    def send_query(self, statement: bytes) -> None: ...

    def flush(self) -> int:
        return 0

    def is_busy(self) -> bool:
        return True

    def finish(self) -> None:
        self.is_finished = True


def test_a_consumer_that_cannot_leave_its_group_is_left_to_itself() -> None:
    source = KafkaSource(
        CLIENTS, topic="t", group="g", session_ms=6_000, close_ms=50, batch_events_max=1, figures=Figures()
    )
    consumer = SilentConsumer()
    source._consumer = cast("Any", consumer)
    began = time.monotonic()
    source.close(is_done=True)
    assert time.monotonic() - began < LATE_S
    assert consumer.committed
    consumer.over.set()


def test_a_wire_that_nothing_comes_from_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = SilentServer(ours)
        wire = Wire(cast("Any", server), {}, wait_ms=50)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            wire.copy([b"copy t from stdin"], [b"1\n"])
        assert time.monotonic() - began < LATE_S
        assert server.is_finished
