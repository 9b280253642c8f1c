"""The filter language: what is read, what is refused and where; and the SQL that is made of it holds no text of a client."""

import re
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_service.application.filters import All, Condition, Either, Not, conjuncts, parse
from query_service.application.pages import BEGINNING
from query_service.application.search import (
    ACCOUNT_FIELDS,
    REFUSAL_FIELDS,
    TRANSACTION_FIELDS,
    accounts,
    refusals,
    transactions,
)
from query_service.infrastructure.conditions import compiled
from shared_kernel.errors import Rejection

POSTED = Condition("status", "choice", "=", ("posted",))
SMALL = Condition("amount", "amount", "<", (100,), "EUR/2")


def test_and_binds_before_or_and_not_before_both() -> None:
    label = Condition("metadata", "metadata", "=", ("7",), "shop")
    text = 'status = posted or status = posted and not metadata.shop = "7"'
    assert parse(text, TRANSACTION_FIELDS) == Either((POSTED, All((POSTED, Not(label)))))
    assert parse("(status=posted or status=posted) and amount.EUR/2<100", TRANSACTION_FIELDS) == All(
        (Either((POSTED, POSTED)), SMALL)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("account = users:*:wallet", Condition("account", "pattern", "=", ("users:*:wallet",))),
        ('reference = "r/1 \\"\\u00e4\\""', Condition("reference", "text", "=", ('r/1 "ä"',))),
        ('metadata."a b" != "and"', Condition("metadata", "metadata", "!=", ("and",), "a b")),
        ("metadata.a.b = 1", Condition("metadata", "metadata", "=", ("1",), "a.b")),
        ("status in (posted, pending)", Condition("status", "choice", "in", ("posted", "pending"))),
        ("forced = true", Condition("forced", "flag", "=", (True,))),
        (
            "effective_at >= 2026-01-01T00:00:00+01:00",
            Condition("effective_at", "time", ">=", (datetime(2025, 12, 31, 23, tzinfo=UTC),)),
        ),
    ],
)
def test_values_are_of_their_field(text: str, expected: Condition) -> None:
    assert parse(text, TRANSACTION_FIELDS) == expected


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", 1),
        ("   ", 1),
        ("status", 7),
        ("status posted", 8),
        ("status = ", 9),
        ("status = done", 10),
        ("status < posted", 8),
        ("colour = red", 1),
        ("metadata = x", 1),
        ("metadata. = x", 11),
        ("status.x = posted", 1),
        ("amount = -1", 10),
        ("amount = 1.5", 10),
        ("amount = " + "9" * 61, 10),
        ("effective_at = 2026-01-01T00:00:00Z", 14),
        ("effective_at > 2026-01-01", 16),
        ("account = a::b", 11),
        ("forced = yes", 10),
        ("status = posted or", 19),
        ("status = posted status = posted", 17),
        ("(status = posted", 17),
        ("status = posted)", 16),
        ("status in posted", 11),
        ("status in (posted,)", 19),
        ("and = 1", 1),
        ("reference = not", 13),
        ('reference = "open', 13),
        ("reference = 'x'", 13),
        ('reference = "\\x"', 13),
        ('reference = "\\u0000"', 13),
        ('reference = "\\ud800"', 13),
        ('reference = "' + "x" * 513 + '"', 13),
        ("not " * 12 + "status = posted", 45),
        ("status in (" + ",".join(["posted"] * 21) + ")", 1),
        ("status = posted; drop table", 16),
    ],
)
def test_what_is_no_filter_is_refused_with_where_and_why(text: str, at: int) -> None:
    with pytest.raises(Rejection) as refused:
        parse(text, TRANSACTION_FIELDS)
    assert refused.value.fields["path"] == "filter"
    assert str(refused.value.fields["detail"]).startswith(f"At character {at}: ")


@given(st.text(alphabet=' ()=!<>,."\\abcdeinorstu019:*/-+_\n\té', max_size=60) | st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    for fields, name in (
        (TRANSACTION_FIELDS, "transactions"),
        (ACCOUNT_FIELDS, "accounts"),
        (REFUSAL_FIELDS, "refusals"),
    ):
        with suppress(Rejection):
            compiled(parse(text, fields), name)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100))
def test_no_text_of_a_client_stands_in_the_statement(text: str) -> None:
    tree = Either(
        (Condition("metadata", "metadata", "=", (text,), text), Condition("reference", "text", "in", (text,)))
    )
    statement, values = compiled(tree, "transactions")
    plain, _ = compiled(
        Either((Condition("metadata", "metadata", "=", ("",), ""), Condition("reference", "text", "in", ("",)))),
        "transactions",
    )
    assert statement == plain
    assert set(values.values()) == {text}
    assert set(re.findall(r"%\((\w+)\)s", statement)) == set(values)


def test_only_what_every_row_fulfils_chooses_an_index() -> None:
    tree = parse("status = posted and (account = a or not reference = r)", TRANSACTION_FIELDS)
    assert list(conjuncts(tree)) == [POSTED]


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("status = posted", "transactions_newest"),
        ("id = x and reference = y", "identified_transactions_newest"),
        ("account = a and reference = y", "referenced_transactions_newest"),
        ("account = a and metadata.shop = 7", "labelled_transactions_newest"),
        ("account = a and amount.EUR/2 = 7", "amount_transactions_newest"),
        ("account = a and amount = 7", "account_transactions_newest"),
        ("account = a:* and amount >= 7", "transactions_newest"),
        ("account = a and status = pending", "unsettled_transactions_newest"),
        ("status in (voided)", "status_transactions_newest"),
        ("metadata.shop in (7, 8)", "either_transactions_newest"),
        ("reference = x or id in (y, z)", "either_transactions_newest"),
        ("account = a and (reference = x or metadata.shop = 7 and status = voided)", "either_transactions_newest"),
        ("metadata.shop in (7, 8) and id = x", "identified_transactions_newest"),
        ("reference = x or not metadata.shop = 7", "transactions_newest"),
        ("not metadata.shop in (7, 8)", "transactions_newest"),
        ("not status = pending", "transactions_newest"),
        ("status = pending or account = a", "transactions_newest"),
    ],
)
def test_transactions_go_by_the_most_telling_index(text: str, statement: str) -> None:
    tree = parse(text, TRANSACTION_FIELDS)
    question, _ = transactions(tree, sort="position", order="newest", after=BEGINNING["newest"], is_live=True)
    assert question.statement == statement
    assert question.filter == tree


def test_what_was_unsettled_then_is_not_looked_up_in_what_is_now() -> None:
    tree = parse("status = pending", TRANSACTION_FIELDS)
    question, _ = transactions(tree, sort="position", order="oldest", after=BEGINNING["oldest"], is_live=False)
    assert question.statement == "status_transactions_oldest"


def test_times_bound_the_walk_and_both_ends_are_included() -> None:
    text = "recorded_at > 2026-01-01T00:00:00Z and recorded_at < 2026-02-01T00:00:00Z and recorded_at <= 2027-01-01T00:00:00Z"
    _, bounds = transactions(
        parse(text, TRANSACTION_FIELDS), sort="position", order="newest", after=BEGINNING["newest"], is_live=True
    )
    assert bounds["recorded_from"] == datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert bounds["recorded_until"] == datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    edge = parse("effective_at > 9999-12-31T23:59:59.999999Z", TRANSACTION_FIELDS)
    _, bounds = transactions(edge, sort="effective_at", order="newest", after=BEGINNING["newest"], is_live=True)
    assert bounds["effective_from"] == datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def test_accounts_and_refusals_go_by_their_indexes() -> None:
    def of_accounts(text: str) -> str:
        return accounts(parse(text, ACCOUNT_FIELDS))[0].statement

    def of_refusals(text: str) -> str:
        return refusals(parse(text, REFUSAL_FIELDS), order="oldest")[0].statement

    assert of_accounts("status = open") == "accounts"
    assert of_accounts("status = frozen") == "status_accounts"
    assert of_accounts("status = frozen and metadata.a = b") == "labelled_accounts"
    assert of_accounts("status = frozen and (metadata.a = b or metadata.c in (d, e))") == "either_accounts"
    assert of_accounts("metadata.a = b or status = frozen") == "accounts"
    _, bounds = accounts(parse("address = a:b:* and address = ** and not address = a:b:c:d", ACCOUNT_FIELDS))
    assert (bounds["low"], bounds["high"]) == ("a:b:", "a:b:\x7f")
    assert of_refusals("code != x") == "refusals_oldest"
    assert of_refusals("code = x") == "refusals_by_code_oldest"
    assert of_refusals("code = x and caller = y") == "refusals_by_caller_oldest"
    assert of_refusals("code = x and account = a") == "refusals_by_account_oldest"
