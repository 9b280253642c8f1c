"""Balances from raw totals, and the examples of the API's description."""

import json
import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.handlers import HTTPRouteHandler

from query_service.application import shaping
from query_service.application.reports import Sum
from query_service.container import ROUTES
from query_service.presentation.parameters import preferred, wait_ms

totals = st.integers(0, 2**127)


@given(totals, totals, totals, totals)
def test_balances_of_the_two_normal_sides_mirror_each_other(taken: int, given: int, leaving: int, coming: int) -> None:
    credit = shaping.balance("credit", Sum(1, taken, given, taken + leaving, given + coming))
    debit = shaping.balance("debit", Sum(1, given, taken, given + coming, taken + leaving))
    assert (credit.posted, credit.pending, credit.available) == (debit.posted, debit.pending, debit.available)


def test_available_is_posted_less_what_holds_may_take_away() -> None:
    found = shaping.balance("credit", Sum(1, 10, 110, 40, 115))
    assert (found.posted, found.pending, found.available) == (100, 75, 70)
    found = shaping.balance("debit", Sum(1, 110, 10, 115, 40))
    assert (found.posted, found.pending, found.available) == (100, 75, 70)


def test_by_effective_time_there_is_posted_only() -> None:
    found = shaping.balance("debit", Sum(1, 110, 10, None, None))
    assert msgspec.to_builtins(found) == {"posted": 100, "posted_debits": 110, "posted_credits": 10}


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        (None, None),
        ("", None),
        ("wait=5", 5000),
        ("respond-async, wait=0", 0),
        ('Wait="3"; x=y', 3000),
        ("wait=x", None),
        ("wait=-1", None),
        ("wait=²", None),
        ("wait", None),
        ("wait=99999999999999999999", 86_400_000),
    ],
)
def test_wait_that_a_client_prefers(prefer: str | None, expected: int | None) -> None:
    assert wait_ms(prefer) == expected


OFFERED = ("application/json", "text/csv", "text/html")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        ("TEXT/HTML", "text/html"),
        ("text/html;q=0.1, application/json", "application/json"),
        ("application/json;q=0.1, text/csv;q=0.25 , text/html;Q=0.2", "text/csv"),
        ("text/html;charset=utf-8 ; q=0.9, text/csv;q=0.8", "text/html"),
        ("text/html, application/json", "text/html"),
        ("application/json, text/html", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json;q=0.1, */*", "text/csv"),
        ("*/*, application/json;q=0, text/csv;q=0", "text/html"),
        ("text/*;q=0.5, text/csv;q=0, */*;q=0.1", "text/html"),
        ("application/json;q=0", "application/json"),
        ("text/html;q=2, text/csv;q=x, application/json;q=0.001", "application/json"),
    ],
)
def test_media_type_that_a_client_would_rather_have(header: str | None, expected: str) -> None:
    assert preferred(header, OFFERED) == expected


def _handlers() -> list[Any]:
    return [
        handler
        for controller in ROUTES
        for handler in vars(controller).values()
        if isinstance(handler, HTTPRouteHandler)
    ]


def _described() -> list[tuple[str, str, type]]:
    """Name, description and shape of every JSON answer; exports are texts of their own kinds."""
    found = []
    for handler in _handlers():
        declared = handler.fn.__annotations__["return"]
        answer = (get_args(declared) or (declared,))[0]
        if answer is not str:
            found.append((handler.fn.__name__, handler.description, answer))
    return found


@pytest.mark.parametrize(("name", "description", "answer"), _described())
def test_example_in_a_description_is_an_answer_of_that_route(name: str, description: str, answer: type) -> None:
    example = re.search(r"```json\n(.*?)\n```", description, re.DOTALL)
    assert example, name
    read: object = msgspec.json.decode(example[1], type=answer)
    assert json.loads(msgspec.json.encode(read)) == json.loads(example[1])


def test_every_route_has_a_description() -> None:
    assert len(_handlers()) >= 22
    assert all(handler.description for handler in _handlers())
