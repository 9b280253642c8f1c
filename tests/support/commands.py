"""Commands and contexts in a line, for tests of the executor and the log."""

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import msgspec

from command_service.application.decisions import DECISIONS
from command_service.application.executor import Executor
from command_service.application.outcome import Outcome
from command_service.domain.asking import Context, canonical, fingerprint
from command_service.domain.commands import (
    COMMAND_TYPES,
    SYSTEM_COMMANDS,
    TYPE_OF_COMMAND,
    Command,
    OpenAccount,
    OpenLedger,
    PostTransaction,
)

_numbers = count(1)


def transfer(source: str, target: str, amount: int, asset: str = "EUR/2", **more: object) -> PostTransaction:
    """Debits a credit-normal source, credits the target."""
    entries = [
        {"account": source, "direction": "debit", "amount": amount, "asset": asset},
        {"account": target, "direction": "credit", "amount": amount, "asset": asset},
    ]
    return msgspec.convert({"entries": entries, **more}, PostTransaction)


def wallet(address: str, asset: str = "EUR/2", **limit: int) -> OpenAccount:
    """Opens a credit-normal account, with `minimum` and `maximum` where given."""
    limits = {asset: limit} if limit else {}
    return msgspec.convert({"address": address, "limits": limits}, OpenAccount)


def command(kind: str, **fields: object) -> Command:
    """Any command by its wire name, its fields as a client writes them: command("void_hold", transaction="h")."""
    made = msgspec.convert(fields, COMMAND_TYPES[kind])
    made.check()
    return made


class Client:
    """Somebody who sends commands to one ledger through an executor."""

    def __init__(self, executor: Executor, *, ledger: str = "bank", actor: str = "teller") -> None:
        self.executor = executor
        self.ledger = ledger
        self.actor = actor
        self.now = datetime(2026, 11, 24, tzinfo=UTC)

    def context(self, command: Command, key: str | None = None) -> Context:
        asked, is_system = canonical(command), type(command) in SYSTEM_COMMANDS
        return Context(
            ledger=self.ledger,
            actor="clock" if is_system else self.actor,
            key=key or f"key-{next(_numbers)}-{uuid4().hex[:8]}",
            correlation_id="test",
            now=self.now,
            effective_at_max=self.now + timedelta(days=366),
            transaction_id=str(uuid4()),
            fingerprint=fingerprint(self.ledger, TYPE_OF_COMMAND[type(command)], asked),
            asked=asked,
            is_system=is_system,
        )

    async def send(self, command: Command, key: str | None = None) -> Outcome:
        """The outcome, or the DaybookError raised."""
        decide = DECISIONS[type(command)]
        return await self.executor.submit(decide, command, self.context(command, key))

    async def open(self, **settings: object) -> Outcome:
        """Opens the ledger."""
        return await self.send(msgspec.convert({"ledger": self.ledger, **settings}, OpenLedger))
