"""The books projection against the plainest fold, and batches against single events."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.application.fold import Folded, RowCache
from projections.domain.books import BOOKS
from projections.domain.projection import Key
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import (
    TYPES,
    AccountDefaults,
    Entry,
    Event,
    HoldVoided,
    LedgerOpened,
    Limit,
    TransactionPosted,
)
from shared_kernel.words import AMOUNT_MAX, format_time
from tests.support.folding import project_in_batches, written
from tests.support.histories import account, opened, recorded, transfer
from tests.support.lives import Life
from tests.support.plain_books import Rows, comparable, plain_books

RANDOM = st.randoms(use_true_random=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TIMES = st.datetimes(datetime(1800, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC)).map(format_time)  # noqa: DTZ001
METADATA = st.dictionaries(TEXTS, TEXTS, max_size=2)
LIMITS = st.dictionaries(st.just("JPY"), st.builds(Limit, minimum=st.none() | st.integers(-5, 5)), max_size=2)
TRANSFERS = st.builds(
    TransactionPosted,
    transaction=TEXTS,
    entries=st.lists(
        st.builds(
            Entry,
            account=st.sampled_from(["bank:cash", "users:1"]),
            direction=st.sampled_from(["debit", "credit"]),
            amount=st.one_of(st.integers(1, 100), st.integers(1, AMOUNT_MAX)),
            asset=st.sampled_from(["USD/2", "JPY"]),
            draws=st.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
    reference=st.none() | TEXTS,
    description=st.none() | TEXTS,
    effective_at=st.none() | TIMES,
    metadata=METADATA,
)
LEDGERS = st.builds(
    LedgerOpened,
    ledger=st.just("bank"),
    accounts=st.sampled_from(["explicit", "on-first-use"]),
    defaults=st.lists(st.builds(AccountDefaults, pattern=st.just("users:**"), limits=LIMITS), max_size=2),
    records_refusals=st.booleans(),
    metadata=METADATA,
    time_zone=st.sampled_from([None, "Europe/Prague"]),
)


def life(ledger: str, chance: Random, count: int) -> list[RecordedEvent]:
    """A ledger and what became of it."""
    return recorded(ledger, [opened(ledger), *Life(ledger, chance).steps(count)])


def rows_of(batches: Sequence[Folded]) -> Rows:
    """What the tables hold in the end, as the oracle gives it."""
    return {
        name: sorted((comparable(name, row) for row in rows), key=repr)
        for name, rows in written(BOOKS, batches).items()
    }


@settings(max_examples=30)
@given(chance=RANDOM, cuts=st.lists(st.integers(0, 40), max_size=4), rows_max=st.integers(0, 3))
def test_books_equal_the_plain_fold_however_the_events_are_cut_into_batches(
    chance: Random, cuts: list[int], rows_max: int
) -> None:
    events = life("bank", chance, 40)
    edges = [0, *sorted(cuts), len(events)]
    batches = [{"bank": events[begin:end]} for begin, end in pairwise(edges)]
    assert rows_of(project_in_batches(BOOKS, batches, rows_max=rows_max)) == plain_books(events)


@settings(max_examples=30)
@given(history=st.lists(TRANSFERS | LEDGERS, max_size=20))
def test_whatever_texts_and_amounts_an_event_holds_its_rows_hold_them(history: list[Event]) -> None:
    events = recorded("bank", history)
    assert rows_of(project_in_batches(BOOKS, [{"bank": events}])) == plain_books(events)


@settings(max_examples=30)
@given(chance=RANDOM)
def test_ledgers_in_one_batch_never_touch_each_other(chance: Random) -> None:
    runs = {"a": life("a", chance, 20), "b": life("b", chance, 20)}
    together = rows_of(project_in_batches(BOOKS, [runs]))
    assert together == plain_books([*runs["a"], *runs["b"]])


def test_entries_of_one_account_within_a_transaction_add_up_one_after_the_other() -> None:
    entries = [
        Entry(account="a", direction="debit", amount=5, asset="JPY"),
        Entry(account="a", direction="credit", amount=2, asset="JPY"),
        Entry(account="a", direction="credit", amount=3, asset="JPY"),
    ]
    posted = recorded("bank", [TransactionPosted(transaction="t", entries=entries)])
    [folded] = project_in_batches(BOOKS, [{"bank": posted}])
    assert [row[-4:] for row in folded.rows["entries"]] == [(5, 0, 5, 0), (5, 2, 5, 2), (5, 5, 5, 5)]
    assert folded.known["entries", "bank", "a", "JPY"] == (5, 5, 5, 5)


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
    [folded] = project_in_batches(BOOKS, [{"bank": events, "other": others}])
    assert folded.reached["bank"][0] == 2
    assert folded.reached["other"][0] == 2
    assert [row[1] for row in folded.rows["transactions"]] == ["t"]
    fault = folded.faults["bank"]
    assert (fault.position, fault.error_class) == (3, "UnknownEventType")
    assert fault.error == "unknown_event_type event_type=TransactionPosted.v9"


def test_a_fault_in_projecting_comes_before_a_fault_in_decoding_further_on() -> None:
    unreadable_time = TransactionPosted(transaction="t", entries=[], effective_at="yesterday")
    events = recorded("bank", [opened("bank"), unreadable_time, account("users:1")])
    events[2] = RecordedEvent(
        ledger="bank", position=3, type="Later.v1", data="{}", metadata="{}", recorded_at=events[2].recorded_at
    )
    [folded] = project_in_batches(BOOKS, [{"bank": events}])
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
    [folded] = project_in_batches(BOOKS, [{"bank": [broken]}])
    assert folded.faults["bank"].error_class == "ValidationError"
    assert "secret" not in folded.faults["bank"].error


@pytest.mark.parametrize("rows_max", [0, 1, 10])
def test_the_cache_of_rows_is_bounded_and_never_wrong(rows_max: int) -> None:
    cache = RowCache(BOOKS.tables, rows_max)
    keys: list[Key] = [("entries", "bank", f"users:{number}", "JPY") for number in range(20)]
    for number, key in enumerate(keys):
        cache.keep({key: (number, 0, 0, 0)})
    known = {}
    for key in keys:
        with suppress(KeyError):
            known[key] = cache.find(key)
    assert len(known) <= 2 * (rows_max + 1)
    assert all(known[key] == (number, 0, 0, 0) for number, key in enumerate(keys) if key in known)
    cache.clear()
    with pytest.raises(KeyError):
        cache.find(keys[-1])


def test_a_change_of_what_was_never_made_stops_its_ledger() -> None:
    events = recorded("bank", [opened("bank"), HoldVoided(transaction="t", released=[])])
    [folded] = project_in_batches(BOOKS, [{"bank": events}])
    assert folded.reached["bank"][0] == 1
    assert folded.faults["bank"].error == "event_without_subject table=transactions type=HoldVoided.v1"


def test_every_kind_of_event_has_its_fold() -> None:
    chance = Random(1)
    kinds = {event.type for seed in range(5) for event in life("bank", chance, 200)}
    assert kinds == set(TYPES)
    assert not project_in_batches(BOOKS, [{"bank": life("bank", Random(2), 300)}])[0].faults
