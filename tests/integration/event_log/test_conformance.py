"""The `eventsourcing` library's own recorder suite, unchanged, on real Postgres. Its methods do not run by themselves."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.dcb.tests import DCBRecorderTestCase
from eventsourcing.persistence import IntegrityError, ProgrammingError

from shared_kernel.event_log import recorder as recorder_module
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from tests.services import Database


@pytest.fixture
def recorder(database: Database) -> Iterator[PostgresLedgerRecorder]:
    """The recorder of a new, empty ledger; only the owner may make one without a LedgerOpened."""
    with PostgresLedgerRecorder(database.urls["migrator"], f"conformance:{uuid4().hex}") as recorder:
        recorder.create()
        yield recorder


class Conformance(DCBRecorderTestCase):
    """The library's suite; pytest must not collect it by itself."""

    __test__ = False


def test_the_library_agrees_with_append_and_read(recorder: PostgresLedgerRecorder) -> None:
    Conformance()._test_append_read(recorder)


def test_the_library_agrees_with_append_and_subscribe(recorder: PostgresLedgerRecorder) -> None:
    Conformance()._test_append_subscribe(recorder)


def test_pages_join_without_gap_or_repetition(
    recorder: PostgresLedgerRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAGE_EVENTS_MAX", 3)
    recorder.append([DCBEvent(type="Odd" if n % 2 else "Even", data=b"x", tags=["t"]) for n in range(1, 11)])
    everything = recorder.read()
    assert [found.position for found in everything] == list(range(1, 11))
    assert everything.head == 10
    odd = DCBQuery(items=[DCBQueryItem(types=["Odd"])])
    assert [found.position for found in recorder.read(odd, limit=4)] == [1, 3, 5, 7]
    assert [found.position for found in recorder.read(after=6, limit=100)] == [7, 8, 9, 10]


def test_a_read_ends_at_the_head_of_its_first_look(
    recorder: PostgresLedgerRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PAGE_EVENTS_MAX", 2)
    recorder.append([DCBEvent(type="First", data=b"") for _ in range(3)])
    response = recorder.read()
    recorder.append([DCBEvent(type="Later", data=b"") for _ in range(3)])
    assert [found.event.type for found in response] == ["First"] * 3
    assert response.head == 3


def test_tags_keep_their_order_and_repetitions(recorder: PostgresLedgerRecorder) -> None:
    recorder.append([DCBEvent(type="T", data="größer ¥".encode(), tags=["z", "a", "z", "ü:%"])])
    (found,) = recorder.read(DCBQuery(items=[DCBQueryItem(tags=["ü:%", "z"])]))
    assert found.event == DCBEvent(type="T", data="größer ¥".encode(), tags=["z", "a", "z", "ü:%"])


def test_a_failed_condition_appends_nothing(recorder: PostgresLedgerRecorder) -> None:
    recorder.append([DCBEvent(type="T", data=b"", tags=["a", "b"])])
    with pytest.raises(IntegrityError):
        recorder.append(
            [DCBEvent(type="T", data=b"")], DCBAppendCondition(DCBQuery(items=[DCBQueryItem(tags=["b", "a"])]))
        )
    assert recorder.read().head == 1


def test_an_append_without_events_is_refused(recorder: PostgresLedgerRecorder) -> None:
    with pytest.raises(ProgrammingError):
        recorder.append([])


def test_a_subscription_that_was_left_ends(recorder: PostgresLedgerRecorder) -> None:
    recorder.append([DCBEvent(type="T", data=b"")])
    with recorder.subscribe() as subscription:
        assert next(subscription).position == 1
    with pytest.raises(StopIteration):
        next(subscription)
