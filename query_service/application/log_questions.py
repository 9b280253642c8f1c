"""What can be asked of the event log beside the books: its statements stand in infrastructure/log.sql under the same names."""

from datetime import datetime
from typing import Any, NamedTuple

from query_service.application.query_handler import Question
from query_service.application.questions import ORDERS


class LogRow(NamedTuple):
    """An event of the log, data and metadata byte for byte; a single row without a position where nothing fits.

    `scanned`: the same in every row: the position looked at last if there may be more behind it, 0 if there is none.
    """

    scanned: int
    position: int | None
    type: str
    recorded_at: datetime
    metadata: str
    data: str


class BirthRow(NamedTuple):
    """The first event that bears one of the tags asked for."""

    position: int
    type: str
    recorded_at: datetime
    metadata: str
    data: str


LOG = {order: Question(f"log_{order}", LogRow, is_of_log=True) for order in ORDERS}
TAGGED_LOG = {order: Question(f"tagged_log_{order}", LogRow, is_of_log=True) for order in ORDERS}

BIRTHS = Question("births", BirthRow, is_of_log=True)

LOG_QUESTIONS: tuple[Question[Any], ...] = (*LOG.values(), *TAGGED_LOG.values(), BIRTHS)
