"""States: whatever the log holds, the fold of its bytes, a snapshot and its tail, and what a worker kept are the same."""

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from command_service.application.cache import LedgerCache
from command_service.application.loading import Loader, snapshot
from command_service.domain.books import Need
from command_service.domain.commands import COMMAND_TYPES, OpenLedger, VoidHold
from command_service.domain.state import Account, Transaction
from shared_kernel.checking import Checker
from shared_kernel.errors import DaybookError
from shared_kernel.event_log.types import Tail
from shared_kernel.events import Event, HoldVoided
from tests.support.clerk import Clerk, run
from tests.support.memory_log import MemoryLog
from tests.unit.command_service.rule_book import ACCOUNTS, LEDGER, Told, histories


@settings(max_examples=50)
@given(histories)
def test_a_cold_load_gives_what_a_worker_kept(history: list[Told]) -> None:
    clerks = done(history)
    cold = loaded(clerks[0].log, everything(clerks[0].log))
    for clerk in clerks:
        run(clerk.loader.fill(clerk.log, clerk.cache, [], is_refreshed=True))
        assert (clerk.cache.seen, clerk.cache.terms) == (cold.seen, cold.terms)
        for address, kept in clerk.cache.accounts.items():
            assert kept == as_known(cold.accounts[address], kept)
        for name, transaction in clerk.cache.transactions.items():
            assert without_time(transaction) == without_time(cold.transactions[name])


@settings(max_examples=50)
@given(histories, st.integers(0, 30))
def test_a_snapshot_and_its_tail_give_what_the_whole_history_gives(history: list[Told], at: int) -> None:
    log = done(history[:at])[0].log
    addresses: list[str | Need] = [Need("in_full", address) for address in ACCOUNTS]
    early = loaded(log, addresses)
    for account in early.accounts.values():
        run(log.write_snapshots("bank", [snapshot(account, early.seen or 0)]))
    clerk = Clerk(log)
    tell([clerk, clerk], history[at:])
    with_snapshots = loaded(log, addresses)
    log.snapshots.clear()
    assert with_snapshots.accounts == loaded(log, addresses).accounts


@settings(max_examples=50)
@given(histories)
def test_no_rule_is_broken_at_any_position_of_the_log(history: list[Told]) -> None:
    """Debits equal credits; no limit is passed but by force; a hold ends once; nothing is reversed beyond what was posted."""
    checker = Checker()
    for recorded in done(history)[0].log.events["bank"]:
        assert checker.take(recorded) == []
        assert not any(checker.debits_less_credits().values())


@settings(max_examples=50)
@given(histories)
def test_whatever_is_pending_can_be_voided(history: list[Told]) -> None:
    (clerk, _) = done(history)
    cold = loaded(clerk.log, everything(clerk.log))
    pending = [name for name, transaction in cold.transactions.items() if transaction.status == "pending"]
    for name in pending:
        answer = clerk.ask(VoidHold(transaction=name))
        assert not isinstance(answer, DaybookError)
        assert isinstance(answer[-1], HoldVoided)


@settings(max_examples=50)
@given(histories)
def test_the_same_question_on_the_same_books_has_the_same_answer(history: list[Told]) -> None:
    clerk, other = Clerk(MemoryLog()), Clerk(MemoryLog())
    for one in (clerk, other):
        one.ask(msgspec.convert(LEDGER, OpenLedger))
    numbered = [told._replace(clerk=0) for told in history]
    assert [plain(answer) for answer in tell([clerk], numbered)] == [
        plain(answer) for answer in tell([other], numbered)
    ]


def done(history: Sequence[Told]) -> list[Clerk]:
    """Two clerks on one ledger who did all this."""
    log = MemoryLog()
    clerks = [Clerk(log), Clerk(log)]
    clerks[0].ask(msgspec.convert(LEDGER, OpenLedger))
    tell(clerks, history)
    return clerks


def tell(clerks: Sequence[Clerk], history: Sequence[Told]) -> list[Sequence[Event] | DaybookError]:
    """What each command came to."""
    answers = []
    for number, told in enumerate(history):
        body = dict(told.body)
        if told.kind in ("post_transaction", "reverse_transaction"):
            body.setdefault("id", f"made-{number}-{len(history)}")
        answers.append(clerks[told.clerk].ask(msgspec.convert(body, COMMAND_TYPES[told.kind])))
    return answers


def everything(log: MemoryLog) -> list[str | Need]:
    """Every account in full, every transaction."""
    transactions = [tag.removeprefix("transaction:") for tag in log.tags["bank"] if tag.startswith("transaction:")]
    transactions += [f"t{number}" for number in range(6)]
    of_accounts: list[str | Need] = [Need("in_full", address) for address in ACCOUNTS]
    return [*of_accounts, *(Need("transaction", name) for name in dict.fromkeys(transactions))]


def loaded(log: MemoryLog, wanted: list[str | Need]) -> LedgerCache:
    """What a worker that knows nothing loads."""
    cache = LedgerCache()
    run(Loader("bank", tail=Tail(), metrics=_Silent()).fill(log, cache, wanted))
    return cache


def as_known(full: Account, kept: Account) -> Account:
    """The account as far as the other one is known."""
    if kept.totals is None:
        full = msgspec.structs.replace(full, totals=None, last_position=None)
    return full if kept.metadata_keys is not None else msgspec.structs.replace(full, metadata_keys=None)


def without_time(transaction: Transaction) -> Transaction:
    """A worker does not keep the time of what it wrote itself."""
    return msgspec.structs.replace(transaction, recorded_at=None)


def plain(answer: Sequence[Event] | DaybookError) -> Any:
    """What can be compared."""
    return (answer.code, answer.fields) if isinstance(answer, DaybookError) else list(answer)


class _Silent:
    def loaded(self) -> None:
        """Nobody counts."""
