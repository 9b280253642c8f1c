"""Strict JSON: what is refused, and where the fault is said to be."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_kernel.errors import Rejection
from shared_kernel.json_text import DEPTH_MAX, decode, depth


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    account: str
    amount: int


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entries: list[Entry]
    metadata: dict[str, Any] = {}


DECODER = msgspec.json.Decoder(Body)
ANY = msgspec.json.Decoder(Any)
GOOD = b'{"entries": [{"account": "a", "amount": 1}]}'


def fault(body: bytes, decoder: "msgspec.json.Decoder[Any]" = DECODER) -> tuple[object, str]:
    with pytest.raises(Rejection) as caught:
        decode(body, decoder)
    assert caught.value.code == "invalid_request"
    return caught.value.fields["path"], str(caught.value.fields["detail"])


def test_a_good_body_is_decoded() -> None:
    assert decode(GOOD, DECODER) == Body(entries=[Entry(account="a", amount=1)])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"entries": [{"account": "a", "amount": "x"}]}', "$.entries[0].amount"),
        (b'{"entries": [{"account": "a", "amount": 1.5}]}', "$.entries[0].amount"),
        (b'{"entries": [{"account": "a"}]}', "$.entries[0].amount"),
        (b'{"entries": [{"account": "a", "amount": 1, "amuont": 1}]}', "$.entries[0].amuont"),
        (b"{}", "$.entries"),
        (b'{"entries": [], "extra": 1}', "$.extra"),
        (b"[]", "$"),
        (b"null", "$"),
    ],
)
def test_the_path_names_the_field(body: bytes, path: str) -> None:
    assert fault(body)[0] == path


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        GOOD + b"x",
        GOOD[:-1],
        b"{'entries': []}",
        b'{"entries": [],}',
        b"NaN",
        b"[Infinity]",
        b'"\\ud800"',
        b"\xff",
        b'{"entries": [{"account": "\xc3", "amount": 1}]}',
        b"\xef\xbb\xbf" + GOOD,
        b"1" * 5000,
    ],
)
def test_malformed_json_is_refused(body: bytes) -> None:
    assert fault(body, ANY)[0] == "$"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"entries": [], "entries": []}', "$.entries"),
        (b'{"entries": [{"account": "a"}, {"account": "a", "amount": 1, "amount": 2}]}', "$.entries[1].amount"),
        (b'{"entries": [{"account": "a", "amount": 1, "\\u0061mount": 2}]}', "$.entries[0].amount"),
        (b'{"entries": [], "metadata": {"a": {"b": 1, "b": 1}}}', "$.metadata.a.b"),
    ],
)
def test_a_key_twice_in_one_object_is_refused(body: bytes, path: str) -> None:
    told, reason = fault(body)
    assert told == path
    assert "twice" in reason


def test_nesting_has_a_bound() -> None:
    assert decode(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, ANY)
    assert "nested" in fault(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), ANY)[1]
    assert "nested" in fault(b'{"a":' * 100_000, ANY)[1]
    assert decode(b"[" + b"[]," * 1000 + b"[]]", ANY)
    assert decode(json.dumps("[{" * 1000).encode(), ANY)
    assert decode(json.dumps('\\"[{' * 1000).encode(), ANY)


def test_nul_is_refused_and_its_spelling_is_not() -> None:
    assert "NUL" in fault(b'{"entries": [{"account": "a\\u0000", "amount": 1}]}')[1]
    assert "NUL" in fault(b'{"entries": [], "metadata": {"\\u0000": 1}}')[1]
    assert decode(b'"\\\\u0000"', ANY) == "\\u0000"


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner)
    ),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(_values, st.booleans())
def test_any_json_value_comes_back_and_its_depth_is_counted(value: Any, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert decode(body, ANY) == value
    assert depth(body) == _depth(value)


@given(st.binary(max_size=64))
def test_no_bytes_make_it_fail_otherwise(body: bytes) -> None:
    with contextlib.suppress(Rejection):
        decode(body, ANY)


class WholeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    account: str
    amount: int | msgspec.UnsetType = msgspec.UNSET


class Whole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entries: list[WholeEntry] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


WHOLE = msgspec.json.Decoder(Whole)


@pytest.mark.parametrize(
    "body",
    [
        b'{"entries":[{"account":"a","account":"b"}]}',
        b'{"entries": [], "entries": []}',
        b'{"metadata": null, "metadata": {"a": "b"}}',
        b'{"metadata":{"a":"1","a":"2"}}',
        b'{"metadata":{"a" :"1","a" :"2"}}',
        b'{"metadata":{"a\\"":"1","a\\"":"2"}}',
        '{"metadata":{"ä":"1","ä":"2"}}'.encode(),
    ],
)
def test_the_short_way_finds_every_key_that_is_there_twice(body: bytes) -> None:
    with pytest.raises(Rejection) as caught:
        decode(body, WHOLE, is_shape_whole=True)
    assert "twice" in str(caught.value.fields["detail"])


@given(
    st.dictionaries(st.text(), st.text(), max_size=5),
    st.lists(st.tuples(st.text(max_size=3), st.integers()), max_size=4),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_the_short_way_gives_what_the_long_way_gives(
    metadata: dict[str, str], entries: list[tuple[str, int]], indent: int | None, is_ascii: bool
) -> None:
    value = {"metadata": metadata, "entries": [{"account": a, "amount": n} for a, n in entries]}
    body = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode(errors="replace")

    def read(is_shape_whole: bool) -> object:
        try:
            return decode(body, WHOLE, is_shape_whole=is_shape_whole)
        except Rejection as rejection:
            return rejection.fields

    assert read(True) == read(False)
