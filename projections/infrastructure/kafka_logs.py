"""librdkafka's own errors as lines of our log: one of a kind now and then, since it tells each failed attempt to connect, twenty a second."""

import logging
from typing import Any, Final

from projections.application.seldom import Seldom

ERRORS_ONLY: Final = 3  # of syslog's levels


class _Now(logging.Filter):
    """Lets one record of a kind through now and then: a kind is the word that librdkafka begins with, and the client."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        return self._seldom.is_due(record.args[:2] if isinstance(record.args, tuple) else record.msg)


_logger = logging.getLogger("daybook.kafka")
_logger.addFilter(_Now())

QUIET: Final[dict[str, Any]] = {"log_level": ERRORS_ONLY, "logger": _logger}
"""For every client of Kafka. What it has to say comes when it is polled."""
