"""How every client of Kafka is made: with a bound on connecting and on each answer, and with what librdkafka says in our log.

Nothing else makes one (tests/unit/test_house_rules.py). What a producer or consumer is to do besides, whoever asks for it says.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from projections.application.seldom import Seldom

ERRORS_ONLY: Final = 3  # of syslog's levels
# Chosen: a broker that is back is found so soon; librdkafka's own pauses grow to ten seconds.
RECONNECT_MS_MAX: Final = 1_000


class KafkaClients(msgspec.Struct, frozen=True, kw_only=True):
    """Makes them for one Kafka. A connection may take `connect_ms`, an answer `request_ms`, listing and making topics `admin_ms`."""

    bootstrap: str
    connect_ms: int
    request_ms: int
    admin_ms: int

    @property
    def admin_s(self) -> float:
        """What each call to an `admin` is given."""
        return self.admin_ms / 1_000

    def admin(self) -> AdminClient:
        """A client that lists topics and makes them."""
        return AdminClient(self._bounded())

    def producer(self, settings: Mapping[str, Any]) -> Producer:
        """A producer with these settings besides."""
        return Producer({**self._bounded(), **settings})

    def consumer(self, settings: Mapping[str, Any]) -> Consumer:
        """A consumer with these settings besides."""
        return Consumer({**self._bounded(), **settings})

    def _bounded(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "socket.connection.setup.timeout.ms": self.connect_ms,
            "socket.timeout.ms": self.request_ms,
            "reconnect.backoff.max.ms": RECONNECT_MS_MAX,
            "log_level": ERRORS_ONLY,
            "logger": _logger,  # what a client has to say comes when it is polled
        }


class _Now(logging.Filter):
    """Lets one record of a kind through now and then: librdkafka tells each failed attempt to connect, twenty a second.

    A kind is the word that it begins with, and the client.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        return self._seldom.is_due(record.args[:2] if isinstance(record.args, tuple) else record.msg)


_logger = logging.getLogger("daybook.kafka")
_logger.addFilter(_Now())
