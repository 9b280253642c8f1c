"""Carries dead letters from their table to their topic, without ever making the projection wait.

The table is the truth: a letter that Kafka does not take stays there and is handed over again.
"""

from typing import Final

import structlog

from projections.application.figures import Figures
from projections.application.ports import DeadLetter, DeadLetters, DeadLetterTopic, Log

LETTERS_MAX: Final = 100  # chosen: at once; a projection stops long before it has many more

_Key = tuple[int, str, int, int]


class Postbox:
    """The dead letters of one projection on their way."""

    def __init__(self, *, letters: DeadLetters, topic: DeadLetterTopic, log: Log, figures: Figures) -> None:
        self._letters = letters
        self._topic = topic
        self._log = log
        self._figures = figures
        self._under_way: set[_Key] = set()
        self._logger = structlog.get_logger("daybook.projector")

    def forward(self) -> None:
        """What is in the topic is remembered, and what is not is under way, as far as there is room."""
        if self._under_way and (delivered := self._topic.delivered()):
            self._letters.published(delivered)
            self._figures.dead_letters += len(delivered)
            self._under_way.difference_update(map(_key, delivered))
        lost = self._topic.undelivered() if self._under_way else []
        if lost:
            self._under_way.difference_update(map(_key, lost))
            self._logger.warning("dead_letters_not_delivered", count=len(lost))
        for letter in self._letters.unpublished(LETTERS_MAX):
            if _key(letter) in self._under_way:
                continue
            for event in self._log.read({letter.ledger: letter.position - 1}, events_max=1, bytes_max=1):
                if not self._topic.hand_over(letter, event):
                    return
                self._under_way.add(_key(letter))

    def close(self) -> None:
        """Drops what is under way: the table has it."""
        self._topic.close()


def _key(letter: DeadLetter) -> _Key:
    return (letter.generation, letter.ledger, letter.position, letter.attempts)
