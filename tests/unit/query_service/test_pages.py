"""Cursors and pages: what goes out comes back, for its own list only; nothing else gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_service.application.cursors import Cursor, fingerprint, read_cursor, write_cursor
from query_service.application.pages import BEGINNING, Key, Page
from query_service.application.query_handler import Stamp
from shared_kernel.errors import Rejection

STAMP = Stamp(incarnation="i", generation="1", head=9, reached=9, position=7, recorded_at=None, standstill=None)
positions = st.integers(1, 2**63 - 1)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
    positions,
    positions,
    st.integers(0, 2**31 - 1),
)
def test_cursor_comes_back_as_it_went(text: str, position: int, number: int, ordinal: int) -> None:
    cursor = Cursor(fingerprint="f", incarnation="i", position=position, text=text, number=number, ordinal=ordinal)
    written = write_cursor(cursor)
    assert written.isascii()
    assert not set(written) & set("+/=&?#%")
    if len(written) <= 2000:
        assert read_cursor(written, "f") == cursor


@given(st.text())
def test_any_text_is_a_cursor_of_this_list_or_refused(text: str) -> None:
    with pytest.raises(Rejection, match="invalid_cursor"):
        read_cursor(text, "f")


def test_fingerprint_tells_lists_and_filters_apart() -> None:
    queries = [("accounts", "a"), ("accounts", "b"), ("entries", "a"), ("accounts", "a", None), ("accounts", "a", "")]
    assert len({fingerprint(*query) for query in queries}) == len(queries)
    assert fingerprint("accounts", "a") == fingerprint("accounts", "a")


def test_last_page_has_no_cursor_and_others_go_on_after_their_last_row() -> None:
    page = Page.of_list("accounts", "bank", limit=2, cursor=None)
    assert page.rows_max() == 3
    assert page.cut(["a", "b"], STAMP, lambda row: Key(text=row)) == (["a", "b"], None)
    rows, cursor = page.cut(["a", "b", "c"], STAMP, lambda row: Key(text=row))
    assert rows == ["a", "b"]
    following = Page.of_list("accounts", "bank", limit=5, cursor=cursor)
    assert following.after_text() == "b"
    assert following.cursor is not None
    assert (following.cursor.position, following.cursor.incarnation) == (7, "i")


def test_list_by_position_begins_before_its_first_row() -> None:
    page = Page.of_list("entries", limit=1, cursor=None)
    assert page.after("newest") == BEGINNING["newest"] == Key(position=2**63 - 1, ordinal=2**31 - 1)
    assert page.after("oldest") == Key(position=0, ordinal=-1)
    rows, cursor = page.cut([(5, 1), (5, 2)], STAMP, lambda row: Key(position=row[0], ordinal=row[1]))
    assert rows == [(5, 1)]
    assert Page.of_list("entries", limit=1, cursor=cursor).after("oldest") == Key(position=5, ordinal=1)
