"""Decisions about accounts and the ledger as a whole: terms, freezing, closing, archiving, metadata."""

from datetime import timedelta
from typing import Any

import pytest

from command_service.domain.accounts import set_limits
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    HoldVoided,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    Limit,
    LimitsSet,
    TransactionMetadataChanged,
    TransactionPosted,
)
from tests.unit.command_service.given import (
    BANK,
    NOW,
    Given,
    between,
    command,
    context,
    held,
    opened,
    posted,
    recorded,
    transfer,
)

A, B = opened("a"), opened("b")
FROZEN = AccountFrozen(address="a", scope="all")
CLOSED = AccountClosed(address="a")
OF_ACCOUNTS: dict[str, dict[str, Any]] = {
    "set_limits": {"limits": {}},
    "freeze_account": {},
    "unfreeze_account": {},
    "close_account": {},
    "reopen_account": {},
    "patch_account_metadata": {"metadata": {"k": "v"}},
}


# --- freezing


@pytest.mark.parametrize(
    ("scope", "forbidden", "allowed"),
    [("all", ("a", "b"), None), ("debits", ("a", "b"), ("b", "a")), ("credits", ("b", "a"), ("a", "b"))],
)
def test_nothing_of_the_frozen_scope_is_posted_or_held(
    scope: Any, forbidden: tuple[str, str], allowed: tuple[str, str] | None
) -> None:
    given = Given(BANK, A, B).and_then(command("freeze_account", address="a", scope=scope))
    for status in ("posted", "pending"):
        refusal = given.refuses(transfer(*forbidden, 5, status=status))
        assert (refusal.code, refusal.fields) == ("account_frozen", {"account": "a", "scope": scope})
        assert allowed is None or given.when(transfer(*allowed, 5, status=status))


def test_freezing_stops_both_sides_unless_asked_otherwise_and_its_scope_can_be_replaced() -> None:
    given = Given(BANK, A, B).and_then(command("freeze_account", address="a"))
    assert given.events[-1] == FROZEN
    given = given.and_then(command("freeze_account", address="a", scope="credits"))
    assert given.when(transfer("a", "b", 5))
    assert given.refuses(transfer("b", "a", 5)).fields["scope"] == "credits"


def test_an_unfrozen_account_takes_both_sides_again() -> None:
    given = Given(BANK, A, B, FROZEN).and_then(command("unfreeze_account", address="a"))
    assert given.events[-1] == AccountUnfrozen(address="a")
    assert given.when(transfer("a", "b", 5))
    assert given.refuses(command("unfreeze_account", address="a")).code == "account_not_frozen"


# --- closing


def test_an_account_closes_with_zero_balances_and_then_takes_nothing() -> None:
    given = Given(BANK, A, B, posted("a", "b", 5), posted("b", "a", 5, transaction="t1"))
    given = given.and_then(command("close_account", address="a"))
    assert given.events[-1] == CLOSED
    for way in (("a", "b"), ("b", "a")):
        refusal = given.refuses(transfer(*way, 5))
        assert (refusal.code, refusal.fields) == ("account_closed", {"account": "a"})


def test_a_frozen_account_can_be_closed_and_is_not_frozen_when_it_is_reopened() -> None:
    given = Given(BANK, A, B, FROZEN).and_then(command("close_account", address="a"))
    given = given.and_then(command("reopen_account", address="a"))
    assert given.events[-1] == AccountReopened(address="a")
    assert given.when(transfer("a", "b", 5))


def test_a_reopened_account_has_the_limits_it_had() -> None:
    floor = opened("a", czk=Limit(minimum=0))
    given = Given(BANK, floor, B).and_then(
        command("close_account", address="a"), command("reopen_account", address="a")
    )
    assert given.refuses(transfer("a", "b", 1)).code == "insufficient_funds"


def test_the_first_asset_by_name_that_is_not_zero_keeps_an_account_open() -> None:
    given = Given(BANK, A, B, posted("b", "a", 3, "USD/2"), posted("a", "b", 5, transaction="t1"))
    refusal = given.refuses(command("close_account", address="a"))
    assert (refusal.code, refusal.fields) == ("balance_not_zero", {"account": "a", "asset": "CZK/2", "balance": -5})


@pytest.mark.parametrize("way", [("a", "b"), ("b", "a")])
def test_a_hold_of_either_side_keeps_an_account_open(way: tuple[str, str]) -> None:
    refusal = Given(BANK, A, B, held(*way, 5)).refuses(command("close_account", address="a"))
    assert (refusal.code, refusal.fields) == ("holds_pending", {"account": "a", "asset": "CZK/2"})
    voided = HoldVoided(transaction="h0", released=recorded(*way, 5))
    assert Given(BANK, A, B, held(*way, 5), voided).when(command("close_account", address="a"))


# --- what needs an account that was opened, or is not closed


@pytest.mark.parametrize("kind", OF_ACCOUNTS)
def test_an_account_that_nobody_opened_has_no_terms_to_change(kind: str) -> None:
    refusal = Given(BANK).refuses(command(kind, address="a", **OF_ACCOUNTS[kind]))
    assert (refusal.code, refusal.fields) == ("account_not_open", {"account": "a"})


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("set_limits", "account_closed"),
        ("freeze_account", "account_closed"),
        ("close_account", "account_closed"),
        ("unfreeze_account", "account_not_frozen"),
        ("patch_account_metadata", None),
        ("reopen_account", None),
    ],
)
def test_of_a_closed_account_only_notes_and_reopening_are_taken(kind: str, code: str | None) -> None:
    given, asked = Given(BANK, A, CLOSED), command(kind, address="a", **OF_ACCOUNTS[kind])
    if code is None:
        assert given.when(asked)
    else:
        assert (refusal := given.refuses(asked)).code == code
        assert refusal.fields == {"account": "a"}


@pytest.mark.parametrize("first", [A, AccountOpened(address="a", normal_balance="credit", on_first_use=True)])
def test_an_open_account_is_not_reopened(first: AccountOpened) -> None:
    refusal = Given(BANK, first).refuses(command("reopen_account", address="a"))
    assert (refusal.code, refusal.fields) == ("account_not_closed", {"account": "a"})


def test_a_closed_account_cannot_be_opened_again_but_by_reopening() -> None:
    assert Given(BANK, A, CLOSED).rejects(command("open_account", address="a")).code == "account_exists"


# --- limits


def test_limits_replace_all_limits() -> None:
    given = Given(BANK, opened("a", czk=Limit(minimum=0)), B)
    given = given.and_then(command("set_limits", address="a", limits={"USD/2": {"maximum": "7"}}))
    assert given.events[-1] == LimitsSet(address="a", limits={"USD/2": Limit(maximum=7)})
    assert given.when(transfer("a", "b", 99))
    assert given.refuses(transfer("b", "a", 8, "USD/2")).code == "limit_exceeded"


def test_limits_that_the_balances_are_beyond_already_are_set_and_say_so() -> None:
    given = Given(BANK, A, B, posted("b", "a", 50), posted("a", "b", 5, "USD/2", transaction="t1"))
    limits = {"CZK/2": {"maximum": 20}, "USD/2": {"minimum": 0}, "JPY": {"minimum": 0}}
    event = given.then_one(command("set_limits", address="a", limits=limits))
    assert event.breached == ["CZK/2", "USD/2"]
    after = Given(*given.events, event)
    assert after.refuses(transfer("b", "a", 1)).code == "limit_exceeded"
    assert after.when(transfer("a", "b", 1))  # less of a breach


def test_breaches_count_holds_as_the_limits_do() -> None:
    given = Given(BANK, A, B, posted("b", "a", 10), held("a", "b", 4), held("b", "a", 3, transaction="h1"))
    for limit, is_breached in (
        ({"minimum": 6}, False),  # available: 10 less the outgoing 4
        ({"minimum": 7}, True),
        ({"maximum": 13}, False),  # 10 and the incoming 3, as if the outgoing were voided
        ({"maximum": 12}, True),
    ):
        event = given.then_one(command("set_limits", address="a", limits={"CZK/2": limit}))
        assert event.breached == ["CZK/2"] * is_breached


def test_counterexample_4_a_limit_on_an_unlimited_account_is_judged_on_all_of_it_and_fenced_so() -> None:
    """Earlier draws bear no `draws:` tag: nobody had set a limit that made them matter."""
    given = Given(BANK, A, B, posted("a", "b", 5))
    asked = command("set_limits", address="a", limits={"CZK/2": {"minimum": 0}})
    books = given.books(asked)
    (event,) = given.when(asked)
    assert event.breached == ["CZK/2"]
    set_limits(books, asked, context())
    assert "account:a" in books.fresh


# --- the ledger


def test_an_archived_ledger_takes_only_the_end_of_holds_and_its_reopening() -> None:
    at = (NOW + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    given = Given(BANK, A, B, posted("a", "b", 5), held("a", "b", 5, expires_at=at)).and_then(command("archive_ledger"))
    assert given.events[-1] == LedgerArchived(ledger="bank")
    asked = [
        command("archive_ledger"),
        command("patch_ledger_metadata", metadata={"k": "v"}),
        command("open_account", address="c"),
        *(command(kind, address="a", **fields) for kind, fields in OF_ACCOUNTS.items()),
        transfer("a", "b", 5),
        transfer("a", "b", 5, status="pending"),
        transfer("a", "b", 5, status="scheduled", effective_at=at),
        command("post_hold", transaction="h0"),
        command("reverse_transaction", transaction="t0"),
        command("cancel_scheduled", transaction="t0"),
        command("patch_transaction_metadata", transaction="t0", metadata={"k": "v"}),
    ]
    for one in asked:
        refusal = given.refuses(one)
        assert (refusal.code, refusal.fields) == ("ledger_archived", {"ledger": "bank"})
    assert given.when(command("void_hold", transaction="h0"))
    assert given.when(command("expire_hold", transaction="h0"), now=NOW + timedelta(hours=1))
    assert given.then_one(command("reopen_ledger")) == LedgerReopened(ledger="bank")


def test_a_reopened_ledger_takes_commands_again_and_is_not_reopened_twice() -> None:
    given = Given(BANK, A, B, LedgerArchived(ledger="bank"), LedgerReopened(ledger="bank"))
    assert given.when(transfer("a", "b", 5))
    assert given.refuses(command("reopen_ledger")).code == "ledger_not_archived"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *((kind, {"address": "a", **fields}) for kind, fields in OF_ACCOUNTS.items()),
        ("archive_ledger", {}),
        ("reopen_ledger", {}),
        ("patch_ledger_metadata", {"metadata": {"k": "v"}}),
        ("post_transaction", {"entries": between("a", "b", 5)}),
        *((kind, {"transaction": "t"}) for kind in ("post_hold", "void_hold", "expire_hold", "reverse_transaction")),
        *((kind, {"transaction": "t"}) for kind in ("post_scheduled", "cancel_scheduled")),
        ("patch_transaction_metadata", {"transaction": "t", "metadata": {"k": "v"}}),
    ],
)
def test_every_command_needs_its_ledger(kind: str, fields: dict[str, Any]) -> None:
    assert Given().rejects(command(kind, **fields)).code == "ledger_not_found"


def test_a_ledger_keeps_the_time_zone_it_was_opened_with() -> None:
    event = Given().then_one(command("open_ledger", ledger="bank", time_zone="Europe/Prague"))
    assert event == LedgerOpened(ledger="bank", accounts="on-first-use", time_zone="Europe/Prague")


@pytest.mark.parametrize("name", ["Nowhere/Town", "Europe", "prague", "+01", "-"])
def test_a_time_zone_that_nobody_knows_is_malformed(name: str) -> None:
    rejection = Given().rejects(command("open_ledger", ledger="bank", time_zone=name))
    assert (rejection.code, rejection.fields["path"]) == ("invalid_request", "$.time_zone")
    assert Given().when(command("open_ledger", ledger="bank", time_zone="UTC"))


# --- metadata

FIFTY = {f"k{number}": "v" for number in range(50)}


def test_a_patch_of_metadata_is_recorded_as_it_was_asked() -> None:
    changes = {"note": "new", "old": None}
    given = Given(BANK, A, posted("a", "b", 5))
    assert given.then_one(command("patch_account_metadata", address="a", metadata=changes)) == AccountMetadataChanged(
        address="a", changes=changes
    )
    assert given.then_one(command("patch_ledger_metadata", metadata=changes)) == LedgerMetadataChanged(
        ledger="bank", changes=changes
    )
    assert given.then_one(
        command("patch_transaction_metadata", transaction="t0", metadata=changes)
    ) == TransactionMetadataChanged(transaction="t0", changes=changes)


@pytest.mark.parametrize("of", ["account", "ledger", "transaction"])
def test_metadata_has_fifty_keys_at_most_after_a_patch(of: str) -> None:
    given = Given(
        LedgerOpened(ledger="bank", accounts="on-first-use", metadata=FIFTY),
        AccountOpened(address="a", normal_balance="credit", metadata=FIFTY),
        posted("a", "b", 5, metadata=FIFTY),
    )
    named = {"account": {"address": "a"}, "ledger": {}, "transaction": {"transaction": "t0"}}[of]
    kind = f"patch_{of}_metadata"
    refusal = given.refuses(command(kind, **named, metadata={"k50": "v"}))
    name = {"account": "a", "ledger": "bank", "transaction": "t0"}[of]
    assert (refusal.code, refusal.fields) == ("metadata_too_large", {of: name, "keys": 51, "limit": 50})
    assert given.when(command(kind, **named, metadata={"k0": "other"}))
    swapped = given.and_then(command(kind, **named, metadata={"k50": "v", "k0": None}))
    assert swapped.refuses(command(kind, **named, metadata={"k0": "v"})).fields["keys"] == 51


def test_a_transaction_that_does_not_exist_has_no_metadata() -> None:
    rejection = Given(BANK).rejects(command("patch_transaction_metadata", transaction="t9", metadata={"k": "v"}))
    assert (rejection.code, rejection.fields) == ("transaction_not_found", {"transaction": "t9"})


def test_metadata_of_a_scheduled_transaction_goes_with_it_when_it_is_posted() -> None:
    at = (NOW + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    given = Given(BANK, A, B).and_then(
        transfer("a", "b", 5, id="s", status="scheduled", effective_at=at, metadata={"x": "1", "y": "2"}),
        command("patch_transaction_metadata", transaction="s", metadata={"x": None, "z": "3"}),
    )
    event = given.then_one(command("post_scheduled", transaction="s"), now=NOW + timedelta(hours=1))
    assert isinstance(event, TransactionPosted)
    assert event.metadata == {"y": "2", "z": "3"}
