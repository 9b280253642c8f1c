"""The grammar of decision tests: *given* events, *when* a command is asked, *then* events, a refusal or a rejection."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from command_service.application.decisions import DECISIONS
from command_service.domain.asking import Context
from command_service.domain.books import Books, Need, NotLoaded
from command_service.domain.commands import COMMAND_TYPES, Command, PostTransaction
from command_service.domain.state import (
    Account,
    Terms,
    Transaction,
    evolve_account,
    evolve_accounts,
    evolve_terms,
    evolve_transaction,
)
from shared_kernel import tags
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import (
    AccountOpened,
    Entry,
    Event,
    LedgerOpened,
    Limit,
    Metadata,
    TransactionHeld,
    TransactionPosted,
)

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
BANK = LedgerOpened(ledger="bank", accounts="on-first-use")
STRICT = LedgerOpened(ledger="bank", accounts="explicit")
_NOBODY = Metadata(actor="a", correlation_id="c")


class Given:
    """Events that stand in the log, and what a command asked on top of them leads to.

    Accounts are known as their use demands it; what a decision misses is folded from the events, as the executor would.
    """

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.terms: Terms | None = None
        self.accounts: dict[str, Account] = {}
        self.transactions: dict[str, Transaction] = {}
        for position, event in enumerate(events, start=1):
            self.terms = evolve_terms(self.terms, event)
            self.accounts.update(
                evolve_accounts(lambda address: self.accounts.get(address, Account(address=address)), event, position)
            )
        for account in list(self.accounts.values()):
            if not account.is_complete:
                self._load(Need("in_full", account.address))

    def books(self, command: Command, *, now: datetime = NOW, is_certain: bool = False) -> Books:
        """The books before the command's decision, with all that it asks for."""
        while True:
            books = self._books(command, is_certain=is_certain)
            try:
                DECISIONS[type(command)](books, command, context(now=now))
            except NotLoaded as absent:
                for need in absent.needs:
                    self._load(need)
                continue
            except (Refusal, Rejection):
                pass
            return self._books(command, is_certain=is_certain)

    def when(self, command: Command, *, now: datetime = NOW) -> list[Event]:
        """What is decided."""
        command.check()
        return DECISIONS[type(command)](self.books(command, now=now), command, context(now=now))

    def then_one(self, command: Command, *, now: datetime = NOW) -> Any:
        """The only event that is decided."""
        (event,) = self.when(command, now=now)
        return event

    def refuses(self, command: Command, *, now: datetime = NOW) -> Refusal:
        """The refusal."""
        with pytest.raises(Refusal) as caught:
            self.when(command, now=now)
        return caught.value

    def rejects(self, command: Command, *, now: datetime = NOW) -> Rejection:
        """The rejection."""
        with pytest.raises(Rejection) as caught:
            self.when(command, now=now)
        return caught.value

    def and_then(self, *commands: Command, now: datetime = NOW) -> "Given":
        """The same after these commands, all of which are accepted."""
        given = self
        for command in commands:
            given = Given(*given.events, *given.when(command, now=now))
        return given

    def _books(self, command: Command, *, is_certain: bool) -> Books:
        known = {address: Account(address=address) for address in command.addresses()}
        return Books(
            terms=self.terms,
            accounts={**known, **self.accounts},
            transactions=self.transactions,
            position=len(self.events),
            is_certain=is_certain,
        )

    def _load(self, need: Need) -> None:
        if need.kind in ("transaction", "original", "recorded_at"):
            story = Transaction(transaction=need.name)
            for position, event in self._bearing(tags.transaction_tag(need.name)):
                story = evolve_transaction(story, event, NOW + timedelta(seconds=position))
            self.transactions[need.name] = story
            return
        account = Account(address=need.name)
        if need.kind != "account":
            account = Account(address=need.name, totals={}, last_position=0, metadata_keys=frozenset())
        for position, event in self._bearing(tags.account_tag(need.name)):
            account = evolve_account(account, event, position)
        self.accounts[need.name] = account

    def _bearing(self, tag: str) -> Sequence[tuple[int, Event]]:
        return [
            (position, event) for position, event in enumerate(self.events, start=1) if tag in tags.of(event, _NOBODY)
        ]


def context(transaction: str = "0192-made", *, now: datetime = NOW) -> Context:
    """Who asks, and when."""
    return Context(
        ledger="bank",
        actor="teller",
        key="k",
        correlation_id="c",
        now=now,
        effective_at_max=now + timedelta(days=366),
        transaction_id=transaction,
        fingerprint="01",
        asked=b"{}",
    )


def command(kind: str, **fields: Any) -> Any:
    """The command of this wire name."""
    return msgspec.convert(fields, COMMAND_TYPES[kind])


def entry(account: str, direction: str, amount: int, asset: str = "CZK/2") -> dict[str, Any]:
    """One entry as a client writes it."""
    return {"account": account, "direction": direction, "amount": amount, "asset": asset}


def between(source: str, target: str, amount: int, asset: str = "CZK/2") -> list[dict[str, Any]]:
    """Debits the source and credits the target: for credit-normal accounts the amount moves from source to target."""
    return [entry(source, "debit", amount, asset), entry(target, "credit", amount, asset)]


def transfer(source: str, target: str, amount: int, asset: str = "CZK/2", **more: Any) -> PostTransaction:
    """Posts that."""
    return msgspec.convert({"entries": between(source, target, amount, asset), **more}, PostTransaction)


def recorded(source: str, target: str, amount: int, asset: str = "CZK/2") -> list[Entry]:
    """The same as the log has it, without marks."""
    return [
        Entry(account=source, direction="debit", amount=amount, asset=asset),
        Entry(account=target, direction="credit", amount=amount, asset=asset),
    ]


def posted(source: str, target: str, amount: int, asset: str = "CZK/2", **more: Any) -> TransactionPosted:
    """It was posted (t0 unless named)."""
    return TransactionPosted(
        transaction=more.pop("transaction", "t0"), entries=recorded(source, target, amount, asset), **more
    )


def held(source: str, target: str, amount: int, asset: str = "CZK/2", **more: Any) -> TransactionHeld:
    """It is held (h0 unless named)."""
    return TransactionHeld(
        transaction=more.pop("transaction", "h0"), entries=recorded(source, target, amount, asset), **more
    )


def opened(address: str, normal_balance: Any = "credit", **limits: Limit) -> AccountOpened:
    """An account with limits in CZK/2, under the name `czk`."""
    named = {"CZK/2": limits["czk"]} if limits else {}
    return AccountOpened(address=address, normal_balance=normal_balance, limits=named)
