"""The books projection against the plainest fold, and batches against single events."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.application.fold import Folded, TotalsCache, fold
from projections.domain.books import BOOKS, ZERO
from projections.domain.projection import Key, Totals
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountDefaults, AccountOpened, Entry, Event, LedgerOpened, Limit, TransactionPosted
from shared_kernel.words import AMOUNT_MAX, format_time
from tests.support.histories import account, opened, recorded, transfer
from tests.support.plain_books import Rows, comparable, plain_books

ADDRESSES = st.sampled_from(["bank:cash", "users:1", "users:2", "fees"])
ASSETS = st.sampled_from(["USD/2", "JPY"])
AMOUNTS = st.one_of(st.integers(1, 100), st.integers(1, AMOUNT_MAX))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TIMES = st.datetimes(datetime(1800, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC)).map(format_time)  # noqa: DTZ001
METADATA = st.dictionaries(TEXTS, TEXTS, max_size=2)
ENTRIES = st.builds(
    Entry,
    account=ADDRESSES,
    direction=st.sampled_from(["debit", "credit"]),
    amount=AMOUNTS,
    asset=ASSETS,
    draws=st.booleans(),
    fills=st.booleans(),
)
TRANSACTIONS = st.builds(
    TransactionPosted,
    transaction=TEXTS,
    entries=st.lists(ENTRIES, min_size=1, max_size=5),
    reference=st.none() | TEXTS,
    description=st.none() | TEXTS,
    effective_at=st.none() | TIMES,
    metadata=METADATA,
)
LIMITS = st.dictionaries(ASSETS, st.builds(Limit, minimum=st.none() | st.integers(-5, 5)), max_size=2)
SIDES = st.sampled_from(["debit", "credit"])
ACCOUNTS = st.builds(
    AccountOpened, address=ADDRESSES, normal_balance=SIDES, limits=LIMITS, metadata=METADATA, on_first_use=st.booleans()
)
LEDGERS = st.builds(
    LedgerOpened,
    ledger=st.just("bank"),
    accounts=st.sampled_from(["explicit", "on-first-use"]),
    defaults=st.lists(
        st.builds(AccountDefaults, pattern=st.just("users:**"), normal_balance=SIDES, limits=LIMITS), max_size=2
    ),
    records_refusals=st.booleans(),
    metadata=METADATA,
)
HISTORIES = st.lists(st.one_of(TRANSACTIONS, TRANSACTIONS, ACCOUNTS, LEDGERS), max_size=30)


def project_in_batches(
    runs: Sequence[Mapping[str, Sequence[RecordedEvent]]], *, totals_max: int = 1_000
) -> list[Folded]:
    """Folds batch after batch, with a read model in memory that knows every total ever written."""
    cache = TotalsCache(totals_max)
    stored: dict[Key, Totals] = {}
    batches = []
    for run in runs:
        folded = fold(BOOKS, run, cache=cache, load=lambda keys: {key: stored[key] for key in keys if key in stored})
        stored.update(folded.totals)
        cache.keep(folded.totals)
        batches.append(folded)
    return batches


def rows_of(batches: Sequence[Folded]) -> Rows:
    """All rows, as the oracle gives them."""
    return {
        table: sorted((comparable(table, row) for batch in batches for row in batch.rows[table]), key=repr)
        for table in BOOKS.tables
    }


@given(history=HISTORIES, cuts=st.lists(st.integers(0, 30), max_size=4), totals_max=st.integers(0, 3))
def test_books_equal_the_plain_fold_however_the_events_are_cut_into_batches(
    history: list[Event], cuts: list[int], totals_max: int
) -> None:
    events = recorded("bank", history)
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    batches = [{"bank": events[begin:end]} for begin, end in pairwise(edges)]
    assert rows_of(project_in_batches(batches, totals_max=totals_max)) == plain_books(events)


@given(first=HISTORIES, second=HISTORIES)
def test_ledgers_in_one_batch_never_touch_each_other(first: list[Event], second: list[Event]) -> None:
    runs = {"a": recorded("a", first), "b": recorded("b", second)}
    together = rows_of(project_in_batches([runs]))
    assert together == plain_books([*runs["a"], *runs["b"]])


def test_entries_of_one_account_within_a_transaction_add_up_one_after_the_other() -> None:
    entries = [
        Entry(account="a", direction="debit", amount=5, asset="JPY"),
        Entry(account="a", direction="credit", amount=2, asset="JPY"),
        Entry(account="a", direction="credit", amount=3, asset="JPY"),
    ]
    posted = recorded("bank", [TransactionPosted(transaction="t", entries=entries)])
    [folded] = project_in_batches([{"bank": posted}])
    assert [row[-4:-2] for row in folded.rows["entries"]] == [(5, 0), (5, 2), (5, 5)]
    assert folded.totals[("bank", "a", "JPY")] == (5, 5, 0, 0)


def test_the_rows_before_a_failing_event_are_kept_and_nothing_after_it() -> None:
    events = recorded("bank", [opened("bank"), account("users:1"), transfer("t1", 5), transfer("t2", 6)])
    events[2] = RecordedEvent(
        ledger="bank",
        position=3,
        type="TransactionPosted.v9",
        data="{}",
        metadata=events[2].metadata,
        recorded_at=events[2].recorded_at,
    )
    others = recorded("other", [opened("other"), transfer("t", 7)])
    [folded] = project_in_batches([{"bank": events, "other": others}])
    assert folded.reached["bank"][0] == 2
    assert folded.reached["other"][0] == 2
    assert [row[1] for row in folded.rows["transactions"]] == ["t"]
    fault = folded.faults["bank"]
    assert (fault.position, fault.error_class) == (3, "UnknownEventType")
    assert fault.error == "unknown_event_type type=TransactionPosted.v9"


def test_a_fault_in_projecting_comes_before_a_fault_in_decoding_further_on() -> None:
    unreadable_time = TransactionPosted(transaction="t", entries=[], effective_at="yesterday")
    events = recorded("bank", [opened("bank"), unreadable_time, account("users:1")])
    events[2] = RecordedEvent(
        ledger="bank", position=3, type="Later.v1", data="{}", metadata="{}", recorded_at=events[2].recorded_at
    )
    [folded] = project_in_batches([{"bank": events}])
    assert folded.faults["bank"].position == 2
    assert "yesterday" not in folded.faults["bank"].error


def test_what_events_say_never_stands_in_a_fault() -> None:
    event = recorded("bank", [transfer("secret-id", 5)])[0]
    broken = RecordedEvent(
        ledger="bank",
        position=1,
        type=event.type,
        data='{"transaction":"secret-id","entries":"secret"}',
        metadata=event.metadata,
        recorded_at=event.recorded_at,
    )
    [folded] = project_in_batches([{"bank": [broken]}])
    assert folded.faults["bank"].error_class == "ValidationError"
    assert "secret" not in folded.faults["bank"].error


@pytest.mark.parametrize("totals_max", [0, 1, 10])
def test_the_cache_of_totals_is_bounded_and_never_wrong(totals_max: int) -> None:
    cache = TotalsCache(totals_max)
    keys = [("bank", f"users:{number}", "JPY") for number in range(20)]
    for number, key in enumerate(keys):
        cache.keep({key: (number, 0, 0, 0)})
    known, missing = cache.find(keys)
    assert len(known) + len(missing) == 20
    assert len(known) <= 2 * (totals_max + 1)
    assert all(known[key][0] == number for number, key in enumerate(keys) if key in known)
    cache.clear()
    assert cache.find(keys) == ({}, keys)


def test_zero_totals_have_one_place_for_each_column() -> None:
    assert len(ZERO) == len([column for column in BOOKS.tables["entries"] if column.startswith(("posted", "pending"))])
