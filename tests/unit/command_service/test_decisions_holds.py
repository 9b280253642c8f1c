"""Decisions about holds: placed, posted in full or in parts, voided, expired."""

from datetime import timedelta
from typing import Any

import pytest

from shared_kernel.events import (
    AccountFrozen,
    AccountOpened,
    Entry,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    Known,
    LedgerArchived,
    Limit,
    TransactionHeld,
)
from tests.unit.command_service.given import (
    BANK,
    NOW,
    STRICT,
    Given,
    between,
    command,
    entry,
    held,
    opened,
    posted,
    recorded,
    transfer,
)

FLOOR = opened("a", czk=Limit(minimum=0))
ROOF = opened("r", czk=Limit(maximum=100))
A, B = opened("a"), opened("b")
SOON = "2026-11-24T10:00:00Z"
LATER = NOW + timedelta(hours=1)
FUNDED = (BANK, FLOOR, B, posted("b", "a", 100))
PLACED = (BANK, A, B, held("a", "b", 10))


def hold(source: str, target: str, amount: int, **more: Any) -> Any:
    return transfer(source, target, amount, status="pending", **more)


# --- placing


def test_a_hold_says_everything_of_itself() -> None:
    asked = hold(
        "a",
        "b",
        5,
        id="h1",
        expires_at="2026-11-24T11:00:00+01:00",
        effective_at="2026-11-01T00:00:00Z",
        reference="r",
        description="deposit",
        metadata={"k": "v"},
    )
    assert Given(BANK, A, B).then_one(asked) == TransactionHeld(
        transaction="h1",
        entries=recorded("a", "b", 5),
        expires_at="2026-11-24T10:00:00.000000Z",
        effective_at="2026-11-01T00:00:00.000000Z",
        reference="r",
        description="deposit",
        metadata={"k": "v"},
    )


def test_a_hold_opens_accounts_by_its_use_as_a_posting_does() -> None:
    opening, _ = Given(BANK, A).when(hold("a", "new", 5))
    assert opening == AccountOpened(address="new", normal_balance="credit", on_first_use=True)
    assert Given(STRICT, A).refuses(hold("a", "new", 5)).code == "account_not_open"


def test_a_hold_must_not_be_over_before_it_begins() -> None:
    given = Given(BANK, A, B)
    refusal = given.refuses(hold("a", "b", 5, expires_at=NOW.isoformat()))
    assert (refusal.code, refusal.fields) == ("expires_at_passed", {"expires_at": "2026-11-24T09:30:00.000000Z"})
    assert given.when(hold("a", "b", 5, expires_at=(NOW + timedelta(microseconds=1)).isoformat()))


def test_a_hold_takes_from_what_is_available_and_is_marked() -> None:
    event = Given(*FUNDED).then_one(hold("a", "b", 60))
    assert [each.draws for each in event.entries] == [True, False]
    given = Given(*FUNDED, event)
    refusal = given.refuses(transfer("a", "b", 41))
    assert refusal.fields == {"account": "a", "asset": "CZK/2", "available": 40, "limit": 0, "missing": 1}
    assert given.when(hold("a", "b", 40, id="other"))


def test_an_incoming_hold_is_not_available_yet_but_fills() -> None:
    given = Given(BANK, ROOF, B, posted("b", "r", 70)).and_then(hold("b", "r", 20, id="in"))
    assert given.events[-1].entries[1].fills  # type: ignore[union-attr]
    refusal = given.refuses(transfer("b", "r", 11))
    assert refusal.fields == {"account": "r", "asset": "CZK/2", "balance": 90, "limit": 100, "missing": 1}
    assert Given(*FUNDED, held("b", "a", 50)).refuses(transfer("a", "b", 101)).fields["available"] == 100


def test_a_hold_is_judged_on_its_gross_parts() -> None:
    """Of 500 out and 450 in, the 500 may be posted and the 450 voided, or the other way round."""
    entries = [entry("a", "debit", 500), entry("a", "credit", 450), entry("b", "credit", 50)]
    out = Given(*FUNDED).refuses(command("post_transaction", status="pending", entries=entries))
    assert (out.code, out.fields["missing"]) == ("insufficient_funds", 400)
    turned = [entry("r", "credit", 110), entry("r", "debit", 60), entry("b", "debit", 50)]
    into = Given(BANK, ROOF, B).refuses(command("post_transaction", status="pending", entries=turned))
    assert (into.code, into.fields["missing"]) == ("limit_exceeded", 10)


def test_counterexample_5_a_maximum_counts_as_if_all_outgoing_holds_were_voided() -> None:
    """Maximum 100, posted 100, outgoing hold 50: a credit of 50 would make 150 once the hold is voided, and a void is never refused."""
    given = Given(BANK, ROOF, B, posted("b", "r", 100), held("r", "b", 50))
    assert given.refuses(transfer("b", "r", 1)).code == "limit_exceeded"
    assert given.and_then(command("void_hold", transaction="h0")).when(transfer("r", "b", 50))


# --- posting


def test_a_hold_is_posted_in_full_where_nothing_else_is_said() -> None:
    event = Given(*PLACED).then_one(command("post_hold", transaction="h0"))
    assert event == HoldPosted(transaction="h0", entries=recorded("a", "b", 10))


def test_of_a_hold_posted_in_part_the_rest_is_released() -> None:
    event = Given(*PLACED).then_one(command("post_hold", transaction="h0", entries=between("a", "b", 4)))
    assert event == HoldPosted(transaction="h0", entries=recorded("a", "b", 4), released=recorded("a", "b", 6))
    after = Given(*PLACED, event)
    assert after.rejects(command("post_hold", transaction="h0")).code == "already_settled"
    assert after.when(transfer("a", "b", 1))


def test_the_rest_can_be_kept_for_several_postings() -> None:
    kept = {"transaction": "h0", "keep_remainder": True}
    given = Given(*PLACED).and_then(command("post_hold", **kept, entries=between("a", "b", 4)))
    assert given.events[-1] == HoldPosted(transaction="h0", entries=recorded("a", "b", 4), is_final=False)
    given = given.and_then(command("post_hold", **kept, entries=between("a", "b", 5)))
    last = given.then_one(command("post_hold", **kept))
    assert last == HoldPosted(transaction="h0", entries=recorded("a", "b", 1))  # nothing is left, so this is the end


def test_no_more_is_posted_than_is_held_by_account_direction_and_asset() -> None:
    given = Given(*PLACED).and_then(
        command("post_hold", transaction="h0", keep_remainder=True, entries=between("a", "b", 4))
    )
    refusal = given.refuses(command("post_hold", transaction="h0", entries=between("a", "b", 7)))
    assert refusal.code == "hold_exceeded"
    assert refusal.fields == {"account": "a", "asset": "CZK/2", "held": 6, "asked": 7, "missing": 1}
    for entries in (between("b", "a", 1), between("a", "b", 1, "USD/2")):
        turned = given.refuses(command("post_hold", transaction="h0", entries=entries))
        assert (turned.code, turned.fields["held"]) == ("hold_exceeded", 0)
    apart = [entry("a", "debit", 3), entry("a", "debit", 4), entry("b", "credit", 7)]
    assert given.refuses(command("post_hold", transaction="h0", entries=apart)).fields["asked"] == 7


def test_a_hold_of_several_assets_is_posted_asset_by_asset() -> None:
    both = [*recorded("a", "b", 10), *recorded("b", "a", 3, "USD/2")]
    given = Given(BANK, A, B, TransactionHeld(transaction="h0", entries=both))
    event = given.then_one(command("post_hold", transaction="h0", entries=between("b", "a", 2, "USD/2")))
    assert event.released == [*recorded("a", "b", 10), *recorded("b", "a", 1, "USD/2")]


def test_posting_a_hold_looks_at_no_limit() -> None:
    given = Given(*FUNDED, held("a", "b", 90)).and_then(
        command("set_limits", address="a", limits={"CZK/2": {"minimum": 50}})
    )
    assert given.events[-1].breached == ["CZK/2"]  # type: ignore[union-attr]
    assert given.when(command("post_hold", transaction="h0"))


def test_a_hold_is_posted_as_of_its_own_effective_time_unless_asked_otherwise() -> None:
    given = Given(BANK, A, B, held("a", "b", 10, effective_at="2026-11-01T00:00:00.000000Z"))
    assert given.then_one(command("post_hold", transaction="h0")).effective_at is None  # which means the hold's
    event = given.then_one(command("post_hold", transaction="h0", effective_at="2026-11-02T01:00:00+01:00"))
    assert event.effective_at == "2026-11-02T00:00:00.000000Z"
    late = command("post_hold", transaction="h0", effective_at="2031-01-01T00:00:00Z")
    assert given.refuses(late).code == "effective_at_too_late"


@pytest.mark.parametrize(("scope", "account"), [("debits", "a"), ("credits", "b"), ("all", "b")])
def test_a_hold_is_not_posted_to_an_account_that_is_frozen_for_it(scope: Any, account: str) -> None:
    given = Given(*PLACED, AccountFrozen(address=account, scope=scope))
    refusal = given.refuses(command("post_hold", transaction="h0"))
    assert (refusal.code, refusal.fields) == ("account_frozen", {"account": account, "scope": scope})


def test_freezing_the_other_side_does_not_matter_to_a_hold() -> None:
    given = Given(*PLACED, AccountFrozen(address="a", scope="credits"))
    assert given.when(command("post_hold", transaction="h0"))


def test_naming_an_account_that_nobody_opened_is_told_before_what_is_held() -> None:
    asked = command("post_hold", transaction="h0", entries=between("nobody", "b", 1))
    assert Given(*PLACED).refuses(asked).code == "account_not_open"


def test_after_its_time_a_hold_is_posted_all_the_same_until_its_end_is_in_the_log() -> None:
    given = Given(BANK, A, B, held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z"))
    assert given.when(command("post_hold", transaction="h0"), now=LATER)


# --- void and expiry


@pytest.mark.parametrize(
    "trouble",
    [
        [AccountFrozen(address="a", scope="all"), AccountFrozen(address="b", scope="all")],
        [LedgerArchived(ledger="bank")],
        [],
    ],
)
def test_void_and_expiry_always_succeed_on_a_pending_one(trouble: list[Any]) -> None:
    given = Given(BANK, A, B, held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z"), *trouble)
    released = recorded("a", "b", 10)
    assert given.then_one(command("void_hold", transaction="h0")) == HoldVoided(transaction="h0", released=released)
    expired = given.then_one(command("expire_hold", transaction="h0"), now=LATER)
    assert expired == HoldExpired(transaction="h0", released=released)


@pytest.mark.parametrize("end", ["void_hold", "expire_hold"])
def test_a_hold_that_was_posted_in_part_ends_as_posted(end: str) -> None:
    given = Given(BANK, A, B, held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z")).and_then(
        command("post_hold", transaction="h0", keep_remainder=True, entries=between("a", "b", 4))
    )
    event = given.then_one(command(end, transaction="h0"), now=LATER)
    assert (event.released, event.is_partly_posted) == (recorded("a", "b", 6), True)
    again = Given(*given.events, event).rejects(command("void_hold", transaction="h0"))
    assert again.fields["transaction_status"] == "posted"


def test_a_hold_does_not_expire_before_its_time_nor_without_one() -> None:
    given = Given(BANK, A, B, held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z"))
    at = NOW.replace(hour=10, minute=0)
    assert given.when(command("expire_hold", transaction="h0"), now=at)
    early = given.rejects(command("expire_hold", transaction="h0"), now=at - timedelta(microseconds=1))
    assert (early.code, early.fields["expires_at"]) == ("not_due", "2026-11-24T10:00:00.000000Z")
    assert Given(*PLACED).rejects(command("expire_hold", transaction="h0"), now=LATER).code == "not_due"


@pytest.mark.parametrize("asked", ["post_hold", "void_hold", "expire_hold"])
@pytest.mark.parametrize(
    ("end", "status"), [("post_hold", "posted"), ("void_hold", "voided"), ("expire_hold", "expired")]
)
def test_a_hold_ends_once(asked: str, end: str, status: str) -> None:
    given = Given(BANK, A, B, held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z"))
    given = given.and_then(command(end, transaction="h0"), now=LATER)
    rejection = given.rejects(command(asked, transaction="h0"), now=LATER)
    assert (rejection.code, rejection.fields) == (
        "already_settled",
        {"transaction": "h0", "transaction_status": status},
    )


@pytest.mark.parametrize("asked", ["post_hold", "void_hold", "expire_hold"])
def test_only_a_hold_can_be_ended(asked: str) -> None:
    given = Given(BANK, A, B, posted("a", "b", 5)).and_then(
        transfer("a", "b", 1, id="s", status="scheduled", effective_at=SOON)
    )
    for name, status in (("t0", "posted"), ("s", "scheduled")):
        rejection = given.rejects(command(asked, transaction=name), now=LATER)
        assert rejection.code == "transaction_not_pending"
        assert rejection.fields == {"transaction": name, "transaction_status": status}
    assert given.rejects(command(asked, transaction="nobody")).code == "transaction_not_found"


# --- known balances


def test_an_answer_tells_the_balances_that_the_decision_knew_and_no_others() -> None:
    given = Given(*FUNDED)
    known = given.then_one(hold("a", "b", 60, balances="known")).known
    assert known == {"a": {"CZK/2": Known(posted_credits=100, pending_debits=60, pending_credits=100)}}
    after = Given(*FUNDED, held("a", "b", 60))
    part = command("post_hold", transaction="h0", entries=between("a", "b", 20), balances="known")
    totals = {"posted_debits": 20, "posted_credits": 100, "pending_debits": 20, "pending_credits": 100}
    assert after.then_one(part).known == {"a": {"CZK/2": Known(**totals)}}
    assert given.then_one(transfer("b", "a", 1)).known == {}


def test_balances_of_an_account_that_the_command_opens_are_known_if_it_has_limits() -> None:
    given = Given(BANK, opened("cash", "debit"))
    asked = command("open_account", address="jar", normal_balance="debit", limits={"CZK/2": {"maximum": 9}})
    event = given.and_then(asked).then_one(transfer("jar", "cash", 4, balances="known"))
    assert event.known == {
        "jar": {"CZK/2": Known(normal_balance="debit", posted_debits=4, pending_debits=4)},
    }


def test_entries_of_a_hold_keep_no_marks_when_they_are_posted() -> None:
    event = Given(*FUNDED).and_then(hold("a", "b", 60, id="h")).then_one(command("post_hold", transaction="h"))
    assert event.entries == [
        Entry(account="a", direction="debit", amount=60, asset="CZK/2"),
        Entry(account="b", direction="credit", amount=60, asset="CZK/2"),
    ]
