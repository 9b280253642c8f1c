"""Commands of every kind through two executors on one log, many at a time: every one is answered, no rule is ever broken."""

import asyncio
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings

from command_service.application.outcome import Outcome
from command_service.application.writer import Bounds
from command_service.domain.commands import COMMAND_TYPES, OpenLedger
from shared_kernel.checking import Checker
from shared_kernel.errors import DaybookError
from shared_kernel.events import decode_metadata
from tests.support.workers import Bank
from tests.unit.command_service.rule_book import LEDGER, Told, histories

BURST = 6


@settings(max_examples=40)
@given(histories)
def test_whatever_is_asked_at_once_is_answered_and_leaves_sound_books(history: list[Told]) -> None:
    bank = asyncio.run(asked(history))
    checker = Checker()
    for recorded in bank.log.events["bank"]:
        assert checker.take(recorded) == []
        assert not any(checker.debits_less_credits().values())


async def asked(history: Sequence[Told]) -> Bank:
    """The bank after these commands, a few at a time, each of which had an answer that the log bears out."""
    bank = Bank()
    workers = [bank.worker(Bounds(follow_commands_min=1)), bank.worker(Bounds(follow_commands_min=2))]
    await workers[0].send(msgspec.convert(LEDGER, OpenLedger))
    for begin in range(0, len(history), BURST):
        burst = history[begin : begin + BURST]
        sent = [workers[told.clerk].send(msgspec.convert(told.body, COMMAND_TYPES[told.kind])) for told in burst]
        for answer in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(answer, Outcome):
                recorded = bank.log.events["bank"][answer.position - 1]
                assert Outcome.of(recorded).event == answer.event
                assert decode_metadata(recorded.metadata).key is not None
            else:
                assert isinstance(answer, DaybookError)
                assert answer.code not in ("internal_error", "outcome_unknown", "deadline_passed")
    for worker in bank.workers:
        await worker.stop()
    return bank
