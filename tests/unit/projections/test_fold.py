"""The fold of a batch: which faults pass and which are final, what they tell, and what is left out."""

import msgspec
import pytest

from projections.application.fold import Folded, RowCache, fold, parts
from projections.application.ports import Unwritable
from projections.domain.projection import Projection, Read, Rows, State, Table
from shared_kernel import events
from shared_kernel.errors import Contention, Unavailable
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Metadata
from tests.support.histories import opened, recorded, transfer

TABLES = {"seen": Table(columns=("ledger", "position"))}
TRACE_ID = "ab" * 16
LOG = recorded("bank", [opened("bank"), *(transfer(f"t{number}", 4711) for number in range(2, 6))])


def folded(
    log: list[RecordedEvent], error: Exception | None = None, *, at: int = 0, skips: set[int] | None = None
) -> Folded:
    """The fold of a ledger by a projection that notes positions, and fails at one."""

    def project(read: Read, state: State) -> Rows:
        if error is not None and read.recorded.position == at:
            raise error
        return {"seen": [(read.recorded.ledger, read.recorded.position)]}

    projection = Projection(name="seen", version=1, tables=TABLES, project=project)
    cache = RowCache(TABLES, 10)
    return fold(projection, {"bank": log}, cache=cache, load=lambda keys: {}, skips={"bank": skips or set()})


@pytest.mark.parametrize(
    ("error", "is_final"),
    [
        (ValueError("4711"), True),
        (ZeroDivisionError(), True),
        (Unwritable("unwritable", reason="22003"), True),
        (Contention("postgres_contention", reason="40P01"), False),
        (Unavailable("postgres_unavailable", reason="57P01"), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (MemoryError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_fault_is_final_unless_a_neighbour_is_to_blame(error: Exception, *, is_final: bool) -> None:
    traced = events.encode(Metadata(actor="a", correlation_id="c", trace=f"00-{TRACE_ID}-{'1' * 16}-01"))
    outcome = folded([*LOG[:2], msgspec.structs.replace(LOG[2], metadata=traced), *LOG[3:]], error, at=3)
    fault = outcome.faults["bank"]
    assert (fault.position, fault.event_type, fault.is_final) == (3, "TransactionPosted.v1", is_final)
    assert (fault.error_class, fault.trace_id) == (type(error).__name__, TRACE_ID)
    assert "4711" not in fault.error
    assert outcome.rows == {"seen": [("bank", 1), ("bank", 2)]}
    assert outcome.reached["bank"] == (2, LOG[1].recorded_at)


@pytest.mark.parametrize(
    ("changes", "error_class", "is_final"),
    [
        ({"type": "TransactionPosted.v7"}, "UnknownEventType", False),
        ({"data": "{"}, "DecodeError", True),
        ({"data": '{"transaction":4711}'}, "ValidationError", True),
        ({"metadata": "{"}, "DecodeError", True),
    ],
)
def test_an_event_of_a_newer_version_is_waited_for_and_one_that_nobody_can_read_is_final(
    changes: dict[str, str], error_class: str, *, is_final: bool
) -> None:
    log = [*LOG[:2], msgspec.structs.replace(LOG[2], **changes), *LOG[3:]]
    fault = folded(log).faults["bank"]
    assert (fault.position, fault.error_class, fault.is_final) == (3, error_class, is_final)
    assert "4711" not in fault.error


def test_what_is_left_out_is_passed_unread_and_named() -> None:
    log = [*LOG[:2], msgspec.structs.replace(LOG[2], data="{"), *LOG[3:]]
    outcome = folded(log, ValueError(), at=5, skips={3, 5})
    assert outcome.rows == {"seen": [("bank", 1), ("bank", 2), ("bank", 4)]}
    assert (outcome.faults, outcome.skipped) == ({}, [("bank", 3), ("bank", 5)])
    assert outcome.reached["bank"] == (5, LOG[4].recorded_at)


def test_a_batch_is_folded_in_parts_of_so_many_events_in_the_same_order() -> None:
    runs = {"a": LOG[:2], "bank": LOG, "c": LOG[:1]}
    divided = list(parts(runs, 3))
    assert [sum(map(len, part.values())) for part in divided] == [3, 3, 2]
    assert [each for part in divided for each in part] == ["a", "bank", "bank", "bank", "c"]
    joined: dict[str, list[RecordedEvent]] = {}
    for part in divided:
        for ledger, run in part.items():
            joined.setdefault(ledger, []).extend(run)
    assert joined == runs


def test_the_cache_forgets_nothing_of_a_batch_that_is_under_way() -> None:
    """What was folded of it may not be written yet, so nobody else knows it."""
    cache = RowCache({"seen": Table(columns=("ledger", "position"), key=1)}, 1)
    for number in range(6):
        cache.keep({("seen", f"l{number}"): (f"l{number}", number)}, is_more=number > 0)
    assert [cache.find(("seen", f"l{number}")) for number in range(6)] == [
        (f"l{number}", number) for number in range(6)
    ]
    for number in range(6, 9):
        cache.keep({("seen", f"l{number}"): (f"l{number}", number)})
    with pytest.raises(KeyError):
        cache.find(("seen", "l0"))
