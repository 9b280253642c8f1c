"""Decisions as flat arrays, bytes as Postgres writes them, and files of statements: all without a server."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_kernel.errors import Contention, Corruption, Rejection, Unavailable
from shared_kernel.event_log import binary, errors
from shared_kernel.event_log.calls import flatten
from shared_kernel.event_log.statements import load_statements
from shared_kernel.event_log.types import Decision, Fence, NewEvent


def new(type_: str, *tags: str) -> NewEvent:
    """A new event."""
    return NewEvent(type=type_, data=f"data of {type_}", metadata=f"metadata of {type_}", tags=tags)


def test_decisions_are_flattened_in_order() -> None:
    flat = flatten(
        [
            Decision(group=7, events=[new("A", "x", "y", "x"), new("B")], fences=[Fence(tag="f", after=3)]),
            Decision(group=2, events=[], fences=[]),
            Decision(group=7, events=[new("C", "y")], fences=[Fence(tag="g", after=0), Fence(tag="h", after=1)]),
        ]
    )
    assert (flat.fence_groups, flat.fence_tags, flat.fence_afters) == ([7, 7, 7], ["f", "g", "h"], [3, 0, 1])
    assert (flat.event_groups, flat.event_types) == ([7, 7, 7], ["A", "B", "C"])
    assert (flat.event_data[2], flat.event_metadata[2]) == ("data of C", "metadata of C")
    assert list(zip(flat.tag_events, flat.tags, strict=True)) == [(1, "x"), (1, "y"), (3, "y")]
    assert flat.failed([3, 1]) == [(0, 0), (2, 1)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_back_from_their_bytes(values: list[str]) -> None:
    assert binary.read_texts(binary.text_array(values)) == values


@pytest.mark.parametrize(
    ("write", "read", "bits"),
    [(binary.int4_array, binary.read_int4s, 32), (binary.int8_array, binary.read_int8s, 64)],
    ids=["integer[]", "bigint[]"],
)
def test_integers_come_back_from_their_bytes(
    write: Callable[[Sequence[int]], bytes], read: Callable[[bytes | None], Sequence[int]], bits: int
) -> None:
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    @given(st.lists(st.integers(least, greatest)))
    def check(values: list[int]) -> None:
        assert list(read(write(values))) == values

    check()


def test_bytes_are_as_postgres_documents_them() -> None:
    one = bytes.fromhex("00000001 00000000 00000019 00000001 00000001 00000002 c3a9")
    assert binary.text_array(["é"]) == one
    nulls = bytes.fromhex("00000001 00000001 00000019 00000001 00000001 ffffffff")
    assert binary.text_array([None]) == nulls
    assert binary.int8_array([]) == bytes.fromhex("00000000 00000000 00000014")
    assert binary.read_time(binary.int8(1)) == datetime(2000, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert (binary.read_texts(None), list(binary.read_int4s(None)), binary.read_times(None)) == ([], [], [])


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("40001", Contention),
        ("40P01", Contention),
        ("55P03", Contention),
        ("57014", Contention),
        ("53100", Contention),
        ("53300", Contention),
        ("25006", Unavailable),
        ("DB001", errors.IncarnationChanged),
        ("DB002", Rejection),
        ("DB003", errors.PositionBeyondHead),
        ("23505", Corruption),
        ("42501", Corruption),
    ],
)
def test_an_error_that_the_server_reported_says_what_may_be_done(sqlstate: str, kind: type[Exception]) -> None:
    assert isinstance(errors.from_sqlstate(sqlstate), kind)
    assert not isinstance(errors.from_sqlstate(sqlstate), errors.OutcomeUnknown)


def test_statements_are_found_by_name_and_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_statements").mkdir()
    (tmp_path / "some_statements" / "__init__.py").touch()
    file = tmp_path / "some_statements" / "some.sql"
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text("-- a file\n\n-- name: first\n-- why\nselect 1,\n       2\n\n-- name: second\nselect 3\n")
    assert load_statements("some_statements", "some.sql") == {"first": "select 1,\n       2", "second": "select 3"}
    file.write_text("-- name: same\nselect 1\n-- name: same\nselect 2\n")
    with pytest.raises(ValueError, match="twice"):
        load_statements("some_statements", "some.sql")
