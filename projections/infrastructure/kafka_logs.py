"""librdkafka's own errors as lines of our log: one of a kind now and then, since it tells each failed attempt to connect, twenty a second."""

import logging
import time
from typing import Any, Final

SAY_S: Final = 10.0
ERRORS_ONLY: Final = 3  # of syslog's levels


class _Seldom(logging.Filter):
    """Lets one record of a kind through every SAY_S: a kind is the word that librdkafka begins with, and the client."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.args[:2] if isinstance(record.args, tuple) else record.msg
        now = time.monotonic()
        if now - self._said_at.get(kind, -SAY_S) < SAY_S:
            return False
        self._said_at[kind] = now
        return True


_logger = logging.getLogger("daybook.kafka")
_logger.addFilter(_Seldom())

QUIET: Final[dict[str, Any]] = {"log_level": ERRORS_ONLY, "logger": _logger}
"""For every client of Kafka. What it has to say comes when it is polled."""
