"""The parts of the chaos oracle that look at order and at what was read: each sees what it is there for, and nothing else."""

import json
import random
from datetime import UTC, datetime

import msgspec

from shared_kernel.event_log.types import RecordedEvent
from tests.chaos.load import Acknowledged
from tests.chaos.oracle import judged_too_early, misread, out_of_order, to_repeat, wrongly_refused
from tests.chaos.readers import Seen
from tests.chaos.topic import Published, left_out, pauses

LEDGER = "bank"


def acknowledged(position: int, *, first: float, ended: float) -> Acknowledged:
    return Acknowledged(LEDGER, f"key-{position}", 201, position, b"", 1, first, first, ended)


def posted(position: int, amount: int) -> RecordedEvent:
    entries = [
        {"account": "a", "direction": "debit", "amount": amount, "asset": "EUR/2"},
        {"account": "b", "direction": "credit", "amount": amount, "asset": "EUR/2"},
    ]
    return RecordedEvent(
        ledger=LEDGER,
        position=position,
        type="TransactionPosted.v1",
        data=json.dumps({"entries": entries}),
        metadata="{}",
        recorded_at=datetime(2026, 11, 28, tzinfo=UTC),
    )


LOG = [posted(2, 10), posted(3, 5), posted(5, 1)]


def test_commands_that_were_under_way_together_may_stand_in_either_order() -> None:
    together = [acknowledged(2, first=1.0, ended=3.0), acknowledged(1, first=2.0, ended=4.0)]
    assert out_of_order(together) == []


def test_a_command_that_was_sent_after_an_answer_and_stands_before_it_is_found() -> None:
    told = out_of_order(
        [
            acknowledged(1, first=5.0, ended=6.0),
            acknowledged(2, first=0.0, ended=7.0),
            acknowledged(3, first=1.0, ended=2.0),
        ]
    )
    assert told == ["bank: key-3 was answered at 3 before key-1 was sent, which stands at 1"]


def test_what_the_log_says_as_of_the_position_is_read_right() -> None:
    right = [
        Seen(LEDGER, "a", 1, 1, 0, 0),
        Seen(LEDGER, "a", 2, 2, 10, 0),
        Seen(LEDGER, "b", 2, 4, 0, 15),
        Seen(LEDGER, "a", 5, 9, 16, 0),
        Seen(LEDGER, "never", 5, 5, 0, 0),
    ]
    assert misread(right, LOG) == []


def test_an_answer_that_is_older_than_what_was_asked_for_is_found() -> None:
    assert misread([Seen(LEDGER, "a", 3, 2, 10, 0)], LOG) == ["bank: a was read as of 2, which is older than 3"]


def test_an_answer_that_lacks_an_entry_or_has_one_too_early_is_found() -> None:
    told = misread([Seen(LEDGER, "a", 3, 3, 10, 0), Seen(LEDGER, "b", 3, 3, 0, 16)], LOG)
    assert told == [
        "bank: a was read as of 3 with 10, 0, and the log says 15, 0",
        "bank: b was read as of 3 with 0, 16, and the log says 0, 15",
    ]


def given(position: int, *, partition: int = 0) -> Published:
    return Published(partition, LEDGER, position, 0.0, 0.0)


def test_what_a_relay_gave_in_order_and_once_more_is_whole() -> None:
    assert left_out([given(1), given(2), given(2), given(1), given(2), given(3)], {LEDGER: 3}) == []


def test_an_event_that_a_relay_has_left_out_is_found_even_if_it_comes_later() -> None:
    assert left_out([given(1), given(3), given(2)], {LEDGER: 3}) == ["bank: Kafka has 3 directly after 1"]


def test_events_that_never_came_to_kafka_are_found() -> None:
    assert left_out([given(1)], {LEDGER: 2, "other": 1}) == [
        "bank: Kafka ends at 1 of 2",
        "other: Kafka ends at 0 of 1",
    ]


def test_every_command_that_was_under_way_is_repeated() -> None:
    cut_off = [acknowledged(position, first=1.0, ended=2.0)._replace(attempts=2) for position in range(1, 101)]
    others = [acknowledged(position, first=1.0, ended=2.0) for position in range(101, 1_001)]
    repeated = to_repeat([*cut_off, *others], random.Random(1))
    assert set(cut_off) <= set(repeated)
    assert set(others) & set(repeated)


def test_a_relay_pauses_where_an_event_is_there_and_nothing_is_given_away() -> None:
    at = [
        Published(0, LEDGER, 1, 1.0, 1.25),  # it waited
        Published(0, LEDGER, 2, 1.0, 1.5),  # behind the first
        Published(1, LEDGER, 3, 4.0, 4.0),  # nothing was there
        Published(0, LEDGER, 1, 1.0, 9.0),  # again
    ]
    assert pauses(at) == [0.25, 0.25, 0.0]


def refused(position: int, amount: int, *, judged_at: int | None = None) -> RecordedEvent:
    asked = {"entries": [{"account": "b", "direction": "debit", "amount": amount, "asset": "EUR/2"}]}
    data = {"command": "post_transaction", "code": "insufficient_funds", "fields": {}, "asked": asked}
    told = data if judged_at is None else data | {"judged_at": judged_at}
    return msgspec.structs.replace(posted(position, 0), type="CommandRefused.v1", data=json.dumps(told))


def test_a_transfer_may_be_refused_where_the_money_was_not_there_yet() -> None:
    assert wrongly_refused([posted(2, 10), refused(3, 11), posted(4, 5), refused(5, 15, judged_at=3)]) == []


def test_a_refusal_judged_on_a_state_without_what_had_been_answered_before_is_found() -> None:
    answers = [acknowledged(position, first=float(position), ended=position + 0.5) for position in (2, 3, 5, 6)]
    assert judged_too_early(answers, [*LOG, refused(6, 1, judged_at=5)]) == []
    assert judged_too_early(answers, [*LOG, refused(6, 1)]) == []
    assert judged_too_early(answers, [*LOG, refused(6, 1, judged_at=4)]) == [
        "bank: key-6 was refused as of 4, and 5 had been answered before"
    ]


def test_a_transfer_that_was_refused_on_an_older_state_than_its_own_is_found() -> None:
    told = wrongly_refused([posted(2, 10), refused(3, 10)])
    assert told == ["bank: b had 10 as of 2, and 10 were refused at 3"]
