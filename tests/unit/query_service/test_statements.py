"""How a statement comes to the server: with numbers for its parameters, read once."""

import re

import pytest

from query_service.infrastructure.statements import Statements, numbered

STATEMENTS = Statements.load()


def test_parameters_are_numbered_in_the_order_in_which_they_first_come() -> None:
    text, names = numbered("select %(b)s, %(a)s, %(b)s where x like 'y%%' and {condition}")
    assert text == b"select $1, $2, $1 where x like 'y%' and {condition}"
    assert names == ("b", "a")


def test_a_statement_without_parameters_is_left_as_it_is() -> None:
    assert numbered("select 'a', 1") == (b"select 'a', 1", ())


@pytest.mark.parametrize("name", sorted(STATEMENTS._templates))
def test_no_statement_keeps_a_place_of_the_driver(name: str) -> None:
    text, names = numbered(STATEMENTS.text(name, "books_1 periods_1"))
    assert b"%" not in text
    assert set(re.findall(rb"\$(\d+)", text)) == {b"%d" % number for number in range(1, len(names) + 1)}


def test_a_text_is_read_once() -> None:
    text = STATEMENTS.text("effective_statement", "books_1 periods_1")
    assert numbered(text) is numbered(text[:1] + text[1:])
