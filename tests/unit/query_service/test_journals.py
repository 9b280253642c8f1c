"""What goes into exports: amounts to the last digit, one line a line, and names that stay apart."""

import csv
import io
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_service.application import journals
from query_service.application.journals import Posting
from shared_kernel.events import Entry
from shared_kernel.words import ADDRESS_LENGTH_MAX, SEGMENT, NormalBalance

AT = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)
segments = st.from_regex(SEGMENT, fullmatch=True).filter(str.isascii)
addresses = (
    st.lists(segments, min_size=1, max_size=3).map(":".join).filter(lambda text: len(text) <= ADDRESS_LENGTH_MAX)
)
# Beancount 3's own words for accounts and currencies.
ACCOUNT = re.compile(r"[A-Z][A-Za-z0-9\-]*(:[A-Z0-9][A-Za-z0-9\-]*)+")
CURRENCY = re.compile(r"[A-Z]([A-Z0-9'._-]*[A-Z0-9])?")


def posting(*entries: Entry, **more: object) -> Posting:
    fields: dict[str, object] = {
        "position": 17,
        "recorded_at": AT,
        "effective_at": AT,
        "transaction": "t-1",
        "entries": entries,
        "reference": None,
        "description": None,
        "reverses": None,
    }
    return Posting(**(fields | more))  # type: ignore[arg-type]


PAIR = (
    Entry(account="bank:cash", direction="debit", amount=70000, asset="CZK/2"),
    Entry(account="users:42", direction="credit", amount=70000, asset="CZK/2"),
)


@given(addresses, addresses, st.sampled_from(("debit", "credit")))
def test_two_accounts_never_become_one_in_beancount(one: str, other: str, side: NormalBalance) -> None:
    names = [journals.beancount_account(address, side) for address in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all(ACCOUNT.fullmatch(name) for name in names)


@given(st.text("aA0_-.", min_size=1, max_size=4), st.text("aA0_-.", min_size=1, max_size=4))
def test_names_that_look_alike_stay_apart_in_beancount(one: str, other: str) -> None:
    if not (one.startswith(".") or other.startswith(".")):
        names = [journals.beancount_account(address, "debit") for address in (one, other)]
        assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("asset", ["CZK/2", "A/38", "X", "USDC/6"])
def test_an_asset_has_a_name_in_beancount(asset: str) -> None:
    assert CURRENCY.fullmatch(journals.beancount_currency(asset))


def test_a_journal_counts_the_ledgers_own_days() -> None:
    assert journals.hledger_posting(posting(*PAIR), UTC).startswith("2026-03-31 ")
    assert journals.hledger_posting(posting(*PAIR), ZoneInfo("Europe/Prague")).startswith("2026-04-01 ")
    last = posting(*PAIR, effective_at=datetime(9999, 12, 31, 23, 30, tzinfo=UTC))
    assert journals.hledger_posting(last, ZoneInfo("Europe/Prague")).startswith("9999-12-31 ")


@given(st.text(), st.text(min_size=1), st.text())
def test_no_text_of_a_client_makes_a_line_of_its_own(description: str, reference: str, transaction: str) -> None:
    what = posting(*PAIR, description=description, reference=reference, transaction=transaction)
    hledger = journals.hledger_posting(what, UTC)
    lines = hledger.splitlines()
    assert [line[:5] for line in lines[1:-1]] == ["    ;"] * 3 + ["    b", "    u"]
    assert ";" not in lines[0]
    beancount = journals.beancount_posting(what, UTC, lambda _: "credit").splitlines()
    assert len(beancount) == 8
    for line in beancount[2:5]:
        assert re.fullmatch(r'  [a-z_]+: "([^"\\]|\\.)*"', line), line


@given(st.text().filter(lambda text: "\0" not in text), st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_row_of_csv_reads_back_as_it_was(description: str, reference: str) -> None:
    what = posting(*PAIR, description=description, reference=reference)
    text = journals.csv_head() + journals.csv_rows([what])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["units"] for row in rows] == ["70000", "70000"]
    assert [row["entry_index"] for row in rows] == ["0", "1"]
    assert {(row["description"], row["reference"]) for row in rows} == {(description, reference)}
