"""Decisions in one grammar: given events, when a command is asked, then events or a refusal."""

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from command_service.domain.asking import canonical, fingerprint
from command_service.domain.books import Books, Need, NotLoaded
from command_service.domain.commands import OpenAccount, OpenLedger, PostTransaction
from command_service.domain.state import Account
from command_service.domain.transactions import post_transaction
from shared_kernel.events import (
    AccountDefaults,
    AccountOpened,
    CommandRefused,
    LedgerOpened,
    Limit,
    TransactionPosted,
)
from shared_kernel.words import AMOUNT_MAX
from tests.unit.command_service.given import BANK, NOW, STRICT, Given, context, opened, posted, transfer

# --- ledgers


def test_a_ledger_opens_with_accounts_on_first_use_unless_asked_otherwise() -> None:
    assert Given().when(OpenLedger(ledger="bank")) == [LedgerOpened(ledger="bank", accounts="on-first-use")]
    assert Given().when(OpenLedger(ledger="bank", accounts="explicit")) == [STRICT]


def test_a_ledger_keeps_its_default_patterns_in_order() -> None:
    command = msgspec.convert(
        {
            "ledger": "bank",
            "defaults": [
                {"pattern": "users:*:wallet", "limits": {"EUR/2": {"minimum": 0}}},
                {"pattern": "assets:**", "normal_balance": "debit", "limits": {"EUR/2": {"minimum": None}}},
            ],
        },
        OpenLedger,
    )
    (event,) = Given().when(command)
    assert event.defaults == [
        AccountDefaults(pattern="users:*:wallet", limits={"EUR/2": Limit(minimum=0)}),
        AccountDefaults(pattern="assets:**", normal_balance="debit"),
    ]


def test_an_open_ledger_cannot_be_opened_again() -> None:
    assert Given(BANK).rejects(OpenLedger(ledger="bank")).code == "ledger_exists"


# --- accounts


def test_an_account_opens_under_the_terms_asked_for() -> None:
    command = msgspec.convert(
        {
            "address": "users:42:wallet",
            "normal_balance": "debit",
            "limits": {"EUR/2": {"minimum": "0", "maximum": 500_000}, "USD/2": {}},
            "metadata": {"owner": "42"},
        },
        OpenAccount,
    )
    assert Given(STRICT).when(command) == [
        AccountOpened(
            address="users:42:wallet",
            normal_balance="debit",
            limits={"EUR/2": Limit(minimum=0, maximum=500_000)},
            metadata={"owner": "42"},
        )
    ]


def test_an_account_is_credit_normal_unless_asked_otherwise() -> None:
    (event,) = Given(BANK).when(OpenAccount(address="a"))
    assert event.normal_balance == "credit"


def test_an_account_needs_its_ledger() -> None:
    assert Given().rejects(OpenAccount(address="a")).code == "ledger_not_found"


@pytest.mark.parametrize("first", [opened("a"), AccountOpened(address="a", normal_balance="credit", on_first_use=True)])
def test_an_open_account_cannot_be_opened_again(first: AccountOpened) -> None:
    rejection = Given(BANK, first).rejects(OpenAccount(address="a"))
    assert (rejection.code, rejection.fields) == ("account_exists", {"account": "a"})


# --- transactions


def test_a_transaction_needs_its_ledger() -> None:
    assert Given().rejects(transfer("a", "b", 5)).code == "ledger_not_found"


def test_first_use_opens_accounts_in_the_order_of_the_entries() -> None:
    events = Given(BANK, opened("b")).when(transfer("a", "b", 5))
    assert events == [
        AccountOpened(address="a", normal_balance="credit", on_first_use=True),
        posted("a", "b", 5, transaction="0192-made"),
    ]


def test_first_use_takes_the_terms_of_the_first_fitting_pattern() -> None:
    ledger = LedgerOpened(
        ledger="bank",
        accounts="on-first-use",
        defaults=[
            AccountDefaults(pattern="users:*:wallet", limits={"CZK/2": Limit(minimum=0)}),
            AccountDefaults(pattern="users:**", normal_balance="debit"),
            AccountDefaults(pattern="**", normal_balance="debit", limits={"CZK/2": Limit(maximum=1)}),
        ],
    )
    events = Given(ledger, opened("cash", "debit")).when(transfer("cash", "users:1:wallet", 9))
    assert events[0] == AccountOpened(
        address="users:1:wallet", normal_balance="credit", limits={"CZK/2": Limit(minimum=0)}, on_first_use=True
    )
    assert Given(ledger, opened("cash", "debit")).when(transfer("users:1:loans:7", "cash", 9))[0] == AccountOpened(
        address="users:1:loans:7", normal_balance="debit", on_first_use=True
    )


def test_first_use_is_refused_at_once_where_the_pattern_s_limit_forbids_the_entry() -> None:
    ledger = LedgerOpened(
        ledger="bank",
        accounts="on-first-use",
        defaults=[AccountDefaults(pattern="**", limits={"CZK/2": Limit(minimum=0)})],
    )
    refusal = Given(ledger, opened("b")).refuses(transfer("a", "b", 5))
    assert refusal.code == "insufficient_funds"
    assert refusal.fields == {"account": "a", "asset": "CZK/2", "available": 0, "limit": 0, "missing": 5}


def test_explicit_accounts_must_be_open_and_the_first_missing_one_is_named() -> None:
    refusal = Given(STRICT, opened("a")).refuses(transfer("a", "b", 5))
    assert (refusal.code, refusal.fields) == ("account_not_open", {"account": "b"})


def test_a_transaction_keeps_what_the_client_said_of_it() -> None:
    command = transfer(
        "a",
        "b",
        5,
        id="mine-1",
        reference="ref",
        description="cash in",
        metadata={"k": "v"},
        effective_at="1993-01-01T13:00:00+01:00",
    )
    assert Given(BANK, opened("a"), opened("b")).when(command) == [
        posted(
            "a",
            "b",
            5,
            transaction="mine-1",
            reference="ref",
            description="cash in",
            metadata={"k": "v"},
            effective_at="1993-01-01T12:00:00.000000Z",
        )
    ]


def test_effective_time_may_lie_a_year_ahead_and_no_further() -> None:
    given = Given(BANK, opened("a"), opened("b"))
    last = NOW + timedelta(days=366)
    assert given.when(transfer("a", "b", 5, effective_at=last.isoformat()))
    refusal = given.refuses(transfer("a", "b", 5, effective_at=(last + timedelta(microseconds=1)).isoformat()))
    assert refusal.code == "effective_at_too_late"
    assert refusal.fields["latest"] == "2027-11-25T09:30:00.000000Z"


@pytest.mark.parametrize("hours", [14, -14])
def test_a_time_that_utc_cannot_hold_is_malformed(hours: int) -> None:
    year = 1 if hours > 0 else 9999
    edge = datetime(year, 1 if hours > 0 else 12, 1 if hours > 0 else 31, 12, tzinfo=timezone(timedelta(hours=hours)))
    rejection = Given(BANK).rejects(transfer("a", "b", 5, effective_at=edge))
    assert (rejection.code, rejection.fields["path"]) == ("invalid_request", "$.effective_at")


def test_unbalanced_entries_are_malformed_asset_by_asset() -> None:
    command = msgspec.convert(
        {
            "entries": [
                {"account": "a", "direction": "debit", "amount": 5, "asset": "CZK/2"},
                {"account": "b", "direction": "credit", "amount": "5", "asset": "CZK/2"},
                {"account": "a", "direction": "debit", "amount": 3, "asset": "USD/2"},
                {"account": "b", "direction": "credit", "amount": 4, "asset": "USD/2"},
            ]
        },
        PostTransaction,
    )
    rejection = Given(BANK).rejects(command)
    assert rejection.code == "unbalanced"
    assert (rejection.fields["asset"], rejection.fields["difference"]) == ("USD/2", -1)


def test_an_amount_above_the_bound_is_malformed_and_names_its_entry() -> None:
    rejection = Given(BANK).rejects(transfer("a", "b", AMOUNT_MAX + 1))
    assert (rejection.code, rejection.fields["path"]) == ("invalid_request", "$.entries[0].amount")
    assert Given(BANK).when(transfer("a", "b", AMOUNT_MAX))


@pytest.mark.parametrize(
    "limits",
    [
        {"CZK/2": {"minimum": 5, "maximum": 4}},
        {"CZK/2": {"minimum": -AMOUNT_MAX - 1}},
        {"CZK/2": {"maximum": "9" * 39}},
    ],
)
def test_limits_that_make_no_sense_are_malformed(limits: dict[str, Any]) -> None:
    rejection = Given(BANK).rejects(msgspec.convert({"address": "a", "limits": limits}, OpenAccount))
    assert rejection.code == "invalid_request"
    assert str(rejection.fields["path"]).startswith("$.limits.CZK/2")


# --- limits

WALLET = opened("wallet", czk=Limit(minimum=0))
FUNDED = (BANK, WALLET, opened("cash", "debit"), posted("cash", "wallet", 100))


def test_a_minimum_can_be_reached_and_not_passed() -> None:
    (event,) = Given(*FUNDED).when(transfer("wallet", "cash", 100))
    assert event.entries[0].draws
    refusal = Given(*FUNDED).refuses(transfer("wallet", "cash", 101))
    assert refusal.fields == {"account": "wallet", "asset": "CZK/2", "available": 100, "limit": 0, "missing": 1}


def test_a_minimum_is_judged_per_asset() -> None:
    assert Given(*FUNDED).when(transfer("wallet", "cash", 9_999, asset="USD/2"))


def test_a_maximum_can_be_reached_and_not_passed() -> None:
    given = Given(BANK, opened("cash", "debit"), opened("jar", czk=Limit(maximum=100)), posted("cash", "jar", 60))
    (event,) = given.when(transfer("cash", "jar", 40))
    assert (event.entries[1].fills, event.entries[1].draws) == (True, False)
    refusal = given.refuses(transfer("cash", "jar", 41))
    assert refusal.code == "limit_exceeded"
    assert refusal.fields == {"account": "jar", "asset": "CZK/2", "balance": 60, "limit": 100, "missing": 1}


def test_limits_of_a_debit_normal_account_look_at_its_own_side() -> None:
    till = opened("till", "debit", czk=Limit(minimum=0))
    given = Given(BANK, till, opened("sales"), posted("till", "sales", 10))
    assert given.when(transfer("sales", "till", 10))
    assert given.refuses(transfer("sales", "till", 11)).code == "insufficient_funds"


def test_entries_that_cancel_out_are_judged_by_their_net_and_still_marked() -> None:
    command = msgspec.convert(
        {
            "entries": [
                {"account": "wallet", "direction": "debit", "amount": 500, "asset": "CZK/2"},
                {"account": "wallet", "direction": "credit", "amount": 450, "asset": "CZK/2"},
                {"account": "cash", "direction": "credit", "amount": 50, "asset": "CZK/2"},
            ]
        },
        PostTransaction,
    )
    (event,) = Given(*FUNDED).when(command)
    assert [entry.draws for entry in event.entries] == [True, False, False]


def test_what_lessens_a_breach_is_allowed_and_what_worsens_it_is_not() -> None:
    below = (BANK, opened("cash", "debit"), opened("w", czk=Limit(minimum=100)))
    assert Given(*below).when(transfer("cash", "w", 1))
    assert Given(*below, posted("cash", "w", 50)).refuses(transfer("w", "cash", 1)).fields["missing"] == 51


def test_a_draw_within_a_transaction_that_lessens_a_breach_is_allowed() -> None:
    command = msgspec.convert(
        {
            "entries": [
                {"account": "w", "direction": "debit", "amount": 5, "asset": "CZK/2"},
                {"account": "w", "direction": "credit", "amount": 7, "asset": "CZK/2"},
                {"account": "cash", "direction": "debit", "amount": 2, "asset": "CZK/2"},
            ]
        },
        PostTransaction,
    )
    assert Given(BANK, opened("cash", "debit"), opened("w", czk=Limit(minimum=100))).when(command)


# --- what a decision looks at


def test_only_limited_accounts_that_an_entry_could_break_are_fenced_on_balances() -> None:
    command = transfer("wallet", "cash", 10, reference="r")
    books = Given(*FUNDED).books(command)
    post_transaction(books, command, context("t1"))
    assert list(books.fresh) == ["ledger-terms", "terms:wallet", "terms:cash", "draws:wallet:CZK/2"]
    assert list(books.unique) == ["transaction:t1", "reference:r"]


def test_a_credit_to_an_account_with_a_minimum_is_not_fenced_on_its_draws() -> None:
    command = transfer("cash", "wallet", 10)
    books = Given(*FUNDED).books(command)
    post_transaction(books, command, context("t1"))
    assert list(books.fresh) == ["ledger-terms", "terms:cash", "terms:wallet"]
    assert books.reads == {"ledger-terms", "terms:cash", "terms:wallet", "transaction:t1"}


def test_a_later_command_of_the_batch_sees_and_depends_on_what_an_earlier_one_wrote() -> None:
    first, second = transfer("cash", "wallet", 50), transfer("wallet", "cash", 120)
    books = Given(*FUNDED).books(first)
    writes = books.apply(post_transaction(books, first, context("t1")))
    books.begin()
    assert post_transaction(books, second, context("t2"))
    assert writes & books.reads == {"balance:wallet:CZK/2"}


def test_an_account_opened_in_the_batch_links_what_uses_it() -> None:
    first, second = transfer("a", "b", 5), transfer("b", "c", 5)
    books = Books(terms=Given(BANK).terms, accounts={name: Account(address=name) for name in "abc"})
    writes = books.apply(post_transaction(books, first, context("t1")))
    books.begin()
    assert [type(event) for event in post_transaction(books, second, context("t2"))] == [
        AccountOpened,
        TransactionPosted,
    ]
    assert writes & books.reads == {"terms:b"}


def test_an_account_that_was_not_loaded_is_never_guessed() -> None:
    command = transfer("a", "b", 5)
    incomplete = Account(address="a", status="open", limits={"CZK/2": Limit(minimum=0)}, totals=None)
    books = Books(terms=Given(BANK).terms, accounts={"a": incomplete})
    with pytest.raises(NotLoaded) as caught:
        post_transaction(books, command, context())
    assert caught.value.needs == {Need("account", "a")}


def test_a_refusal_changes_no_balance() -> None:
    refused = CommandRefused(command="post_transaction", code="insufficient_funds", fields={}, asked=msgspec.Raw(b"{}"))
    assert Given(*FUNDED, refused).accounts == Given(*FUNDED).accounts


# --- fingerprints


def test_amounts_as_text_or_number_ask_the_same_thing() -> None:
    number, text = transfer("a", "b", 5), transfer("a", "b", 5)
    text = msgspec.structs.replace(
        text, entries=[msgspec.structs.replace(entry, amount=str(entry.amount)) for entry in text.entries]
    )
    assert canonical(number) == canonical(text)


def test_limits_as_text_or_number_ask_the_same_thing() -> None:
    asked = [{"address": "a", "limits": {"CZK/2": {"minimum": minimum}}} for minimum in (-7, "-7")]
    assert len({canonical(msgspec.convert(one, OpenAccount)) for one in asked}) == 1


def test_a_default_that_was_sent_differs_from_one_that_was_not() -> None:
    sent, unsent = OpenLedger(ledger="bank", accounts="on-first-use"), OpenLedger(ledger="bank")
    assert fingerprint("bank", "open_ledger", canonical(sent)) != fingerprint("bank", "open_ledger", canonical(unsent))


def test_a_fingerprint_is_one_of_ledger_command_and_content() -> None:
    made = {
        fingerprint(ledger, kind, asked)
        for ledger in ("a", "b")
        for kind in ("open_account", "post_transaction")
        for asked in (b"{}", b'{"x":1}')
    }
    assert len(made) == 8
    assert all(one.startswith("01") and len(one) == 66 for one in made)
