"""The checker of logs: it finds nothing in what the decisions wrote, and each rule when it is broken."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given

from command_service.domain.commands import COMMAND_TYPES, OpenLedger
from shared_kernel import events
from shared_kernel.checking import Checker, Finding
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    Known,
    LedgerArchived,
    LedgerOpened,
    LedgerReopened,
    Limit,
    LimitsSet,
    ScheduledCancelled,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from tests.support.clerk import Clerk
from tests.support.histories import recorded
from tests.support.memory_log import MemoryLog
from tests.unit.command_service.rule_book import LEDGER, Told, histories


def check(log: Sequence[RecordedEvent], **how: Any) -> list[Finding]:
    """All findings in a log."""
    checker = Checker(**how)
    return [finding for event in log for finding in checker.take(event)]


@given(histories)
def test_what_the_decisions_wrote_breaks_no_rule(history: list[Told]) -> None:
    clerk = Clerk(MemoryLog())
    clerk.ask(msgspec.convert(LEDGER, OpenLedger))
    for number, (kind, body, minutes, _) in enumerate(history):
        clerk.now += timedelta(minutes=minutes)
        named = {"id": f"made-{number}", **body} if kind in ("post_transaction", "reverse_transaction") else body
        clerk.ask(msgspec.convert(named, COMMAND_TYPES[kind]))
    log = clerk.log.events["bank"]
    assert check(log) == []
    reversed_ones = {
        event.reverses for each in log if isinstance(event := events.decode(each.type, each.data), TransactionPosted)
    }
    assert check(log, may_be_reversed=reversed_ones.__contains__) == []


def entry(account: str, direction: str, amount: int, asset: str = "X", **marks: bool) -> Entry:
    return Entry(
        account=account, direction="debit" if direction == "debit" else "credit", amount=amount, asset=asset, **marks
    )


def pair(debit: str, credit: str, amount: int, **marks: bool) -> list[Entry]:
    """Two balanced entries; the marks are those of the debit."""
    return [entry(debit, "debit", amount, **marks), entry(credit, "credit", amount)]


def posted(name: str, entries: list[Entry], **more: Any) -> TransactionPosted:
    return TransactionPosted(transaction=name, entries=entries, **more)


def held(name: str, entries: list[Entry], **more: Any) -> TransactionHeld:
    return TransactionHeld(transaction=name, entries=entries, **more)


OPENED: list[Event] = [
    LedgerOpened(ledger="bank", accounts="explicit"),
    AccountOpened(address="world", normal_balance="credit"),
    AccountOpened(address="user", normal_balance="credit", limits={"X": Limit(minimum=0, maximum=100)}),
    posted("t1", [entry("world", "debit", 50), entry("user", "credit", 50, fills=True)]),
    held("h1", pair("user", "world", 20, draws=True)),
]
SOUND: list[Event] = [
    *OPENED,
    HoldPosted(transaction="h1", entries=pair("user", "world", 5), is_final=False),
    HoldVoided(transaction="h1", released=pair("user", "world", 15), is_partly_posted=True),
    posted("r1", [entry("world", "credit", 30), entry("user", "debit", 30, draws=True)], reverses="t1"),
    TransactionScheduled(transaction="s1", entries=pair("user", "world", 3), effective_at="2026-11-25T00:00:00Z"),
    posted("s1", pair("user", "world", 3, draws=True), effective_at="2026-11-25T00:00:00Z", scheduled=True),
    AccountFrozen(address="user", scope="debits"),
    posted("t2", [entry("world", "debit", 1), entry("user", "credit", 1, fills=True)]),
    AccountUnfrozen(address="user"),
    LimitsSet(address="user", limits={"X": Limit(minimum=40)}, breached=["X"]),
    posted("t3", pair("world", "user", 1)),
    posted(
        "r2",
        [entry("world", "credit", 20), entry("user", "debit", 20, draws=True)],
        reverses="t1",
        forced=True,
        known={
            "user": {
                "X": Known(
                    normal_balance="credit", posted_debits=58, posted_credits=52, pending_debits=58, pending_credits=52
                )
            }
        },
    ),
    LedgerArchived(ledger="bank"),
    LedgerReopened(ledger="bank"),
    AccountOpened(address="other", normal_balance="debit"),
    AccountClosed(address="other"),
    AccountReopened(address="other"),
]

BROKEN: dict[str, list[Event]] = {
    "unbalanced": [posted("x", [entry("world", "debit", 2), entry("world", "credit", 1)])],
    "amount": [posted("x", pair("world", "world", 0))],
    "too_few_entries": [posted("x", [])],
    "account_not_open": [posted("x", pair("nobody", "world", 1))],
    "account_closed": [AccountOpened(address="a", normal_balance="credit"), AccountClosed(address="a"), posted("x", pair("a", "world", 1))],
    "account_frozen": [AccountFrozen(address="world", scope="debits"), posted("x", pair("world", "world", 1))],
    "account_opened_twice": [AccountOpened(address="world", normal_balance="credit")],
    "account_not_frozen": [AccountUnfrozen(address="world")],
    "account_not_closed": [AccountReopened(address="world")],
    "balance_not_zero": [AccountClosed(address="world")],
    "holds_pending": [
        posted("x", pair("user", "world", 30, draws=True)),
        posted("y", pair("world", "world", 1)),
        AccountOpened(address="a", normal_balance="credit"),
        held("z", pair("a", "a", 1)),
        AccountClosed(address="a"),
    ],
    "marks": [posted("x", pair("user", "world", 1))],
    "minimum_passed": [posted("x", pair("user", "world", 31, draws=True))],
    "maximum_passed": [posted("x", [entry("world", "debit", 51), entry("user", "credit", 51, fills=True)])],
    "forced": [posted("x", pair("user", "world", 31, draws=True), forced=True)],
    "transaction_twice": [posted("t1", pair("world", "world", 1))],
    "reference_twice": [posted("x", pair("world", "world", 1), reference="r"), posted("y", pair("world", "world", 1), reference="r")],
    "not_pending": [HoldExpired(transaction="t1", released=pair("user", "world", 1))],
    "hold_exceeded": [HoldPosted(transaction="h1", entries=pair("user", "world", 21))],
    "released_differs": [HoldVoided(transaction="h1", released=pair("user", "world", 19))],
    "partly_posted_differs": [HoldVoided(transaction="h1", released=pair("user", "world", 20), is_partly_posted=True)],
    "nothing_left": [HoldPosted(transaction="h1", entries=pair("user", "world", 20), is_final=False)],
    "reversal_exceeds": [posted("x", [entry("world", "credit", 51), entry("user", "debit", 51, draws=True)], reverses="t1", forced=True)],
    "not_posted": [posted("x", [entry("world", "credit", 1), entry("user", "debit", 1, draws=True)], reverses="h1")],
    "not_scheduled": [ScheduledCancelled(transaction="t1")],
    "not_as_scheduled": [
        TransactionScheduled(transaction="s", entries=pair("world", "world", 3), effective_at="2026-11-25T00:00:00Z"),
        posted("s", pair("world", "world", 4), scheduled=True),
    ],
    "no_transaction": [TransactionMetadataChanged(transaction="nobody", changes={"a": None})],
    "opened_twice": [LedgerOpened(ledger="bank", accounts="explicit")],
    "other_ledger": [LedgerOpened(ledger="other", accounts="explicit")],
    "ledger_archived": [LedgerArchived(ledger="bank"), posted("x", pair("world", "world", 1))],
    "ledger_not_archived": [LedgerReopened(ledger="bank")],
    "breached_differs": [LimitsSet(address="user", limits={"X": Limit(minimum=40)})],
    "known_differs": [posted("x", pair("world", "world", 1), known={"world": {"X": Known(normal_balance="credit", posted_debits=1)}})],
    "judged_later": [CommandRefused(command="c", code="x", fields={}, asked=msgspec.Raw(b"{}"), judged_at=6)],
    "no_address": [AccountOpened(address="a b", normal_balance="credit")],
}  # fmt: skip


def test_a_sound_log_of_every_kind_has_no_findings() -> None:
    assert check(recorded("bank", SOUND)) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_found_where_it_is_broken(rule: str) -> None:
    log = recorded("bank", [*OPENED, *BROKEN[rule]])
    found = check(log)
    assert (len(log), rule) in {(finding.position, finding.rule) for finding in found}, found
    assert {finding.position for finding in found} == {len(log)}


def test_an_account_opened_by_first_use_has_the_terms_of_the_first_fitting_pattern() -> None:
    defaults = [
        events.AccountDefaults(pattern="a:*", normal_balance="debit"),
        events.AccountDefaults(pattern="**"),
    ]
    opened = LedgerOpened(ledger="bank", accounts="on-first-use", defaults=defaults)
    for address, normal_balance, rules in (
        ("a:1", "debit", []),
        ("b", "credit", []),
        ("a:2", "credit", ["default_terms"]),
    ):
        first_use = AccountOpened(
            address=address, normal_balance="debit" if normal_balance == "debit" else "credit", on_first_use=True
        )
        assert [finding.rule for finding in check(recorded("bank", [opened, first_use]))] == rules
    explicit = LedgerOpened(ledger="bank", accounts="explicit")
    by_use = AccountOpened(address="a", normal_balance="credit", on_first_use=True)
    assert [finding.rule for finding in check(recorded("bank", [explicit, by_use]))] == ["account_not_open"]


def test_places_times_and_bytes_are_looked_at_too() -> None:
    log = recorded("bank", OPENED)
    change = msgspec.structs.replace
    first, second, *others = log
    early = first.recorded_at - timedelta(seconds=1)
    for broken, rule in (
        ([first, *others], "position_gap"),
        ([second], "not_opened"),
        ([first, change(second, recorded_at=early)], "time_goes_back"),
        ([first, change(second, ledger="other")], "other_ledger"),
        ([first, change(second, data="{}")], "unreadable"),
        ([first, change(second, metadata="[]")], "unreadable"),
        ([first, change(second, type="AccountOpened.v9")], "unknown_event_type"),
    ):
        assert rule in {finding.rule for finding in check(broken)}, rule


def test_a_key_stands_once_for_each_caller() -> None:
    def with_key(event: RecordedEvent, actor: str, **more: Any) -> RecordedEvent:
        metadata = events.Metadata(actor=actor, correlation_id="c", key="k", **more)
        return msgspec.structs.replace(event, metadata=events.encode(metadata))

    first, second, third, fourth, fifth = recorded("bank", OPENED)
    distinct = [with_key(first, "a"), with_key(second, "b"), with_key(third, "b", system=True)]
    assert check([*distinct, fourth, fifth]) == []
    assert [finding.rule for finding in check([*distinct, with_key(fourth, "b")])] == ["key_twice"]


def test_debits_equal_credits_over_the_whole_log() -> None:
    checker = Checker()
    for event in recorded("bank", SOUND):
        checker.take(event)
    assert checker.debits_less_credits() == {"X": 0}
