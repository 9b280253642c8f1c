"""Decisions about reversals, conditions, and scheduled transactions."""

from datetime import timedelta
from typing import Any

import pytest

from command_service.domain.books import NotSettled
from command_service.domain.conditions import judge
from command_service.domain.transactions import post_scheduled
from shared_kernel.errors import Refusal
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountOpened,
    HoldPosted,
    LedgerArchived,
    Limit,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionPosted,
    TransactionScheduled,
)
from tests.unit.command_service.given import (
    BANK,
    NOW,
    STRICT,
    Given,
    between,
    command,
    context,
    entry,
    held,
    opened,
    posted,
    recorded,
    transfer,
)

A, B = opened("a"), opened("b")
FLOOR = opened("a", czk=Limit(minimum=0))
PAID = (BANK, A, B, posted("b", "a", 100))
SOON = "2026-11-24T10:00:00.000000Z"
DUE = NOW.replace(hour=10, minute=0)


def reverse(transaction: str = "t0", **more: Any) -> Any:
    return command("reverse_transaction", transaction=transaction, **more)


# --- reversals


def test_a_reversal_turns_every_entry_round_and_names_its_original() -> None:
    asked = reverse(id="r", reference="ref", description="oops", metadata={"k": "v"})
    assert Given(*PAID).then_one(asked) == TransactionPosted(
        transaction="r",
        entries=[
            *(each for each in recorded("a", "b", 100) if each.account == "b"),
            *(each for each in recorded("a", "b", 100) if each.account == "a"),
        ],
        reference="ref",
        description="oops",
        metadata={"k": "v"},
        reverses="t0",
    )


def test_a_reversal_may_be_partial_and_the_rest_comes_later() -> None:
    given = Given(*PAID).and_then(reverse(id="r1", entries=between("b", "a", 30)))
    refusal = given.refuses(reverse(entries=between("b", "a", 71)))
    assert refusal.code == "reversal_exceeds"
    assert refusal.fields == {"account": "b", "asset": "CZK/2", "reversible": 70, "asked": 71, "missing": 1}
    rest = given.then_one(reverse(id="r2"))
    assert {each.amount for each in rest.entries} == {70}
    after = Given(*given.events, rest)
    rejection = after.rejects(reverse())
    assert (rejection.code, rejection.fields) == ("already_reversed", {"transaction": "t0"})
    assert after.rejects(reverse(entries=between("b", "a", 1))).code == "already_reversed"


def test_a_reversal_names_entries_in_the_directions_of_the_original() -> None:
    refusal = Given(*PAID).refuses(reverse(entries=between("a", "b", 1)))
    assert (refusal.code, refusal.fields["reversible"]) == ("reversal_exceeds", 0)


def test_entries_of_one_place_are_reversed_together() -> None:
    entries = [entry("b", "debit", 30), entry("b", "debit", 70), entry("a", "credit", 100)]
    given = Given(BANK, A, B).and_then(command("post_transaction", id="t0", entries=entries))
    event = given.then_one(reverse())
    assert [(each.account, each.direction, each.amount) for each in event.entries] == [
        ("b", "credit", 100),
        ("a", "debit", 100),
    ]


def test_a_reversal_can_be_reversed() -> None:
    given = Given(*PAID).and_then(reverse(id="r"))
    event = given.then_one(reverse("r"))
    assert {(each.account, each.direction) for each in event.entries} == {("b", "debit"), ("a", "credit")}
    assert Given(*given.events, event).rejects(reverse()).code == "already_reversed"


def test_a_limit_forbids_a_reversal_unless_it_is_forced_and_the_event_says_so() -> None:
    given = Given(BANK, FLOOR, B, posted("b", "a", 100)).and_then(transfer("a", "b", 60, id="spent"))
    assert given.refuses(reverse()).fields["missing"] == 60
    event = given.then_one(reverse(force=True))
    assert (event.forced, [each.draws for each in event.entries]) == (True, [False, True])
    after = Given(*given.events, event)
    assert after.refuses(transfer("a", "b", 1)).fields["available"] == -60
    assert after.when(transfer("b", "a", 1))


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (AccountFrozen(address="a", scope="debits"), "account_frozen"),
        (AccountFrozen(address="b", scope="all"), "account_frozen"),
    ],
)
def test_a_frozen_account_refuses_even_a_forced_reversal(trouble: Any, code: str) -> None:
    assert Given(*PAID, trouble).refuses(reverse(force=True)).code == code


def test_a_closed_account_refuses_a_reversal() -> None:
    closed = (*PAID, posted("a", "b", 100, transaction="back"), AccountClosed(address="a"))
    assert Given(*closed).refuses(reverse("t0")).code == "account_closed"


def test_only_what_was_posted_is_reversed() -> None:
    given = Given(BANK, A, B, held("a", "b", 10)).and_then(
        transfer("a", "b", 1, id="s", status="scheduled", effective_at=SOON)
    )
    for name, status in (("h0", "pending"), ("s", "scheduled")):
        rejection = given.rejects(reverse(name))
        assert (rejection.code, rejection.fields["transaction_status"]) == ("transaction_not_posted", status)
    voided = given.and_then(command("void_hold", transaction="h0"))
    assert voided.rejects(reverse("h0")).fields["transaction_status"] == "voided"
    assert given.rejects(reverse("nobody")).code == "transaction_not_found"


def test_of_a_hold_the_sum_of_its_postings_is_reversed() -> None:
    kept = {"transaction": "h0", "keep_remainder": True}
    given = Given(BANK, A, B, held("a", "b", 10)).and_then(
        command("post_hold", **kept, entries=between("a", "b", 4)),
        command("post_hold", **kept, entries=between("a", "b", 3)),
    )
    assert {each.amount for each in given.then_one(reverse("h0")).entries} == {7}
    assert given.refuses(reverse("h0", entries=between("a", "b", 8))).fields["reversible"] == 7


def test_a_reversal_counts_from_now_from_a_time_or_from_when_its_original_does() -> None:
    original = "2026-11-01T00:00:00.000000Z"
    given = Given(BANK, A, B, posted("b", "a", 100, effective_at=original))
    assert given.then_one(reverse()).effective_at is None
    assert given.then_one(reverse(effective_at="original")).effective_at == original
    at = given.then_one(reverse(effective_at="2026-11-02T01:00:00+01:00")).effective_at
    assert at == "2026-11-02T00:00:00.000000Z"
    assert given.refuses(reverse(effective_at="2031-01-01T00:00:00Z")).code == "effective_at_too_late"
    undated = Given(*PAID).then_one(reverse(effective_at="original"))
    assert undated.effective_at == "2026-11-24T09:30:04.000000Z"  # when position 4 was recorded


def test_a_reversal_at_the_time_of_a_hold_counts_from_its_last_posting() -> None:
    first = HoldPosted(transaction="h0", entries=recorded("a", "b", 4), is_final=False)
    given = Given(BANK, A, B, held("a", "b", 10), first)
    assert given.then_one(reverse("h0", effective_at="original")).effective_at == "2026-11-24T09:30:05.000000Z"
    last = HoldPosted(transaction="h0", entries=recorded("a", "b", 6), effective_at="2026-11-03T00:00:00.000000Z")
    event = Given(*given.events, last).then_one(reverse("h0", effective_at="original"))
    assert event.effective_at == "2026-11-03T00:00:00.000000Z"


# --- conditions

MINE = {"account": "a", "asset": "CZK/2"}


def if_(*conditions: dict[str, Any]) -> Any:
    return transfer("a", "b", 1, conditions=list(conditions))


@pytest.mark.parametrize(
    ("balance", "found"), [("posted", 100), ("pending", 95), ("available", 80)]
)  # held: 20 out, 15 in
def test_a_condition_on_any_balance_holds_or_says_what_it_found(balance: str, found: int) -> None:
    given = Given(*PAID, held("a", "b", 20), held("b", "a", 15, transaction="h1"))
    for bounds in ({"gte": found}, {"lte": found}, {"eq": str(found)}, {"gte": found - 1, "lte": found + 1}):
        assert given.when(if_({**MINE, "balance": balance, **bounds}))
    for bounds in ({"gte": found + 1}, {"lte": found - 1}, {"eq": found + 1}):
        refusal = given.refuses(if_({**MINE, "balance": balance, **bounds}))
        assert (refusal.code, refusal.fields) == (
            "condition_failed",
            {"condition": 0, **MINE, "balance": balance, "found": found, **bounds},
        )


def test_conditions_are_judged_in_order_and_the_first_that_fails_is_told() -> None:
    holds, fails = {**MINE, "balance": "posted", "eq": 100}, {**MINE, "balance": "posted", "eq": 7}
    refusal = Given(*PAID).refuses(if_(holds, fails, {"head": 1}))
    assert refusal.fields["condition"] == 1


def test_a_condition_may_name_any_account_even_one_that_nobody_opened() -> None:
    nobody = {"account": "nobody", "asset": "CZK/2", "balance": "available", "eq": 0}
    assert Given(*PAID).when(if_(nobody, {"account": "nobody", "last_position": 0}))


def test_a_condition_on_the_last_position_of_an_account() -> None:
    given = Given(*PAID)
    assert given.when(if_({"account": "a", "last_position": 4}))
    refusal = given.refuses(if_({"account": "b", "last_position": 3}))
    assert refusal.fields == {"condition": 0, "account": "b", "found": 4, "last_position": 3}


def test_a_condition_on_the_head_of_the_ledger() -> None:
    assert Given(*PAID).when(if_({"head": 4}))
    assert Given(*PAID).refuses(if_({"head": 5})).fields == {"condition": 0, "found": 4, "head": 5}


def test_conditions_come_after_the_accounts_and_before_limits() -> None:
    failing = {**MINE, "balance": "posted", "eq": 7}
    given = Given(BANK, FLOOR, B)
    assert given.refuses(transfer("a", "b", 999, conditions=[failing])).code == "condition_failed"
    frozen = Given(BANK, FLOOR, B, AccountFrozen(address="b", scope="all"))
    assert frozen.refuses(transfer("a", "b", 999, conditions=[failing])).code == "account_frozen"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("set_limits", {"address": "a", "limits": {}}),
        ("close_account", {"address": "b"}),
        ("post_hold", {"transaction": "h0", "entries": between("a", "b", 99)}),
        ("reverse_transaction", {"transaction": "t0", "entries": between("b", "a", 999)}),
    ],
)
def test_every_command_with_conditions_judges_them_before_its_amounts(kind: str, fields: dict[str, Any]) -> None:
    given = Given(*PAID, held("a", "b", 20))
    failing = [{**MINE, "balance": "posted", "lte": 0}]
    assert given.refuses(command(kind, **fields, conditions=failing)).code == "condition_failed"


def test_positions_are_not_told_while_they_hang_on_other_commands_of_the_batch() -> None:
    asked = if_({"account": "a", "last_position": 5}, {"head": 5})
    for is_certain in (False, True):
        books = Given(*PAID).books(asked, is_certain=is_certain)
        books.apply([posted("a", "b", 1, transaction="earlier")])
        if is_certain:  # all or nothing, under the lock
            judge(books, asked.conditions)
            with pytest.raises(Refusal):
                judge(books, if_({"head": 4}).conditions)
        else:
            for index in range(2):
                with pytest.raises(NotSettled):
                    judge(books, asked.conditions[index:])


# --- scheduled


def schedule(amount: int = 5, **more: Any) -> Any:
    return transfer("a", "b", amount, id="s", status="scheduled", effective_at=SOON, **more)


def test_a_scheduled_transaction_looks_at_no_account_before_it_comes_due() -> None:
    event = Given(STRICT).then_one(schedule(reference="r", description="rent", metadata={"k": "v"}))
    assert event == TransactionScheduled(
        transaction="s",
        entries=recorded("a", "b", 5),
        effective_at=SOON,
        reference="r",
        description="rent",
        metadata={"k": "v"},
    )


def test_a_scheduled_transaction_lies_in_the_future_but_not_too_far() -> None:
    past = transfer("a", "b", 5, status="scheduled", effective_at=NOW.isoformat())
    refusal = Given(BANK).refuses(past)
    assert (refusal.code, refusal.fields) == ("scheduled_in_the_past", {"effective_at": "2026-11-24T09:30:00.000000Z"})
    far = transfer("a", "b", 5, status="scheduled", effective_at="2031-01-01T00:00:00Z")
    assert Given(BANK).refuses(far).code == "effective_at_too_late"


def test_a_scheduled_transaction_is_posted_at_its_time_as_any_other_would_be_then() -> None:
    given = Given(BANK, FLOOR, posted("b", "a", 100)).and_then(schedule(reference="r"))
    rejection = given.rejects(command("post_scheduled", transaction="s"), now=DUE - timedelta(microseconds=1))
    assert (rejection.code, rejection.fields["effective_at"]) == ("not_due", SOON)
    opening, event = given.when(command("post_scheduled", transaction="s"), now=DUE)
    assert opening == AccountOpened(address="b", normal_balance="credit", on_first_use=True)
    assert (event.transaction, event.scheduled, event.effective_at, event.reference) == ("s", True, SOON, "r")
    assert [each.draws for each in event.entries] == [True, False]
    assert Given(*given.events, opening, event).when(reverse("s"))


@pytest.mark.parametrize(
    ("given", "code", "account"),
    [
        (Given(BANK, FLOOR, B), "insufficient_funds", "a"),
        (Given(BANK, A, B, AccountFrozen(address="b", scope="all")), "account_frozen", "b"),
        (Given(STRICT, A), "account_not_open", "b"),
    ],
)
def test_a_scheduled_transaction_that_the_rules_turn_down_ends_on_record(given: Given, code: str, account: str) -> None:
    due = given.and_then(schedule())
    event = due.then_one(command("post_scheduled", transaction="s"), now=DUE)
    assert isinstance(event, ScheduledRefused)
    assert (event.code, event.accounts, event.fields["account"]) == (code, [account], account)
    after = Given(*due.events, event)
    rejection = after.rejects(command("post_scheduled", transaction="s"), now=DUE)
    assert (rejection.code, rejection.fields["transaction_status"]) == ("transaction_not_scheduled", "refused")


def test_a_scheduled_transaction_that_comes_due_in_an_archived_ledger_is_refused() -> None:
    due = Given(BANK, A, B).and_then(schedule())
    event = Given(*due.events, LedgerArchived(ledger="bank")).then_one(
        command("post_scheduled", transaction="s"), now=DUE
    )
    assert event == ScheduledRefused(transaction="s", code="ledger_archived", fields={"ledger": "bank"})


def test_a_refusal_that_ends_a_scheduled_transaction_is_fenced_on_the_whole_account_it_was_judged_on() -> None:
    due = Given(BANK, FLOOR, B).and_then(schedule())
    asked = command("post_scheduled", transaction="s")
    books = due.books(asked)
    post_scheduled(books, asked, context(now=DUE))
    assert "account:a" in books.fresh


def test_a_scheduled_transaction_can_be_cancelled_once_and_then_stays_so() -> None:
    given = Given(BANK).and_then(schedule(), command("cancel_scheduled", transaction="s"))
    assert given.events[-1] == ScheduledCancelled(transaction="s")
    for kind in ("cancel_scheduled", "post_scheduled"):
        rejection = given.rejects(command(kind, transaction="s"), now=DUE)
        assert (rejection.code, rejection.fields["transaction_status"]) == ("transaction_not_scheduled", "cancelled")


@pytest.mark.parametrize("kind", ["cancel_scheduled", "post_scheduled"])
def test_only_a_scheduled_transaction_is_cancelled_or_comes_due(kind: str) -> None:
    assert Given(*PAID).rejects(command(kind, transaction="t0"), now=DUE).fields["transaction_status"] == "posted"
    assert Given(*PAID).rejects(command(kind, transaction="nobody"), now=DUE).code == "transaction_not_found"
