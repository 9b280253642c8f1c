"""The decisions against the rule book told a second time (tests/support/oracle.py): same answers, same books, whatever is asked.

Two clerks share one log, so that most decisions are made on states that the other has made stale; only the fences tell.
"""

import copy
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from command_service.domain.commands import COMMAND_TYPES, OpenLedger
from shared_kernel.errors import DaybookError
from shared_kernel.events import CommandRefused, Event, ScheduledRefused, decode, decode_metadata
from tests.support import oracle
from tests.support.clerk import Clerk
from tests.support.memory_log import MemoryLog
from tests.support.oracle_books import Asked, Books, Refused, Rejected
from tests.unit.command_service.rule_book import ASSETS, LEDGER, Json, Told, histories

Answer = Sequence[Event] | DaybookError


@given(histories)
def test_every_answer_is_the_one_of_the_rule_book(history: list[Told]) -> None:
    clerks, books = opened()
    for number, told in enumerate(history):
        clerk = clerks[told.clerk]
        pass_time(clerks, told.minutes)
        body = named(told.kind, told.body, number)
        answer = clerk.ask(msgspec.convert(body, COMMAND_TYPES[told.kind]))
        assert said(answer) == expected(books, told.kind, body, clerk, answer), (told.kind, body)
        agree(clerk, books)


@given(histories, st.integers(2, 6))
def test_a_batch_comes_to_what_its_commands_come_to_one_by_one(history: list[Told], size: int) -> None:
    """In the order of the log, that is: what hangs on a position that is not certain yet waits for the next batch."""
    clerks, books = opened()
    for begin in range(0, len(history), size):
        batch = history[begin : begin + size]
        clerk = clerks[batch[0].clerk]
        pass_time(clerks, batch[0].minutes)
        bodies = [named(told.kind, told.body, begin + index) for index, told in enumerate(batch)]
        head = len(clerk.log.events["bank"])
        kinds = [told.kind for told in batch]
        pairs = list(zip(kinds, bodies, strict=True))
        tickets = [clerk.ticket(msgspec.convert(body, COMMAND_TYPES[kind])) for kind, body in pairs]
        clerk.settle(tickets)
        asked = {ticket.context.key: pair for ticket, pair in zip(tickets, pairs, strict=True)}
        for recorded in clerk.log.events["bank"][head:]:
            metadata = decode_metadata(recorded.metadata)
            if metadata.key is not None:
                kind, body = asked[metadata.key]
                answer = [decode(recorded.type, recorded.data)]
                assert said(answer) == expected(books, kind, body, clerk, answer), (kind, body)
        agree(clerk, books)


def opened() -> tuple[list[Clerk], Books]:
    """Two clerks on one open ledger, and the oracle's books of it."""
    log = MemoryLog()
    clerks = [Clerk(log), Clerk(log)]
    clerks[0].ask(msgspec.convert(LEDGER, OpenLedger))
    return clerks, oracle.open_books(LEDGER)


def pass_time(clerks: Sequence[Clerk], minutes: int) -> None:
    """All clerks have one clock."""
    for clerk in clerks:
        clerk.now += timedelta(minutes=minutes)


def named(kind: str, body: Json, number: int) -> Json:
    """With an id that both sides know."""
    return {"id": f"made-{number}", **body} if kind in ("post_transaction", "reverse_transaction") else body


def said(answer: Answer) -> str:
    """What became of it: "accepted", or the code."""
    if isinstance(answer, DaybookError):
        return answer.code
    last = answer[-1]
    return last.code if isinstance(last, CommandRefused | ScheduledRefused) else "accepted"


def expected(books: Books, kind: str, body: Json, clerk: Clerk, answer: Answer) -> str:
    """What the oracle says, whose books then are those after the command. The numbers that it gives must be told too."""
    asked = Asked(now=clerk.now, new_id=body.get("id", ""))
    if (
        kind == "post_scheduled" and books.is_archived
    ):  # a refusal ends the transaction: it must be one that waits, and is due
        alike = copy.deepcopy(books)
        alike.is_archived = False
        rejection = _refusal(alike, kind, body, asked)
        if isinstance(rejection, Rejected):
            return rejection.code
    refusal = _refusal(books, kind, body, asked)
    if refusal is None:
        return "accepted"
    if not isinstance(answer, DaybookError):
        last: Any = answer[-1]
        fields = getattr(last, "fields", {})
        assert {name: fields.get(name) for name in refusal.fields} == refusal.fields
        books.record()
        if kind == "post_scheduled":
            books.transactions[body["transaction"]].status = "refused"
    return refusal.code


def agree(clerk: Clerk, books: Books) -> None:
    """Whatever the clerk's cache knows is what the oracle's books say."""
    assert clerk.cache.seen == books.head
    for address, account in clerk.cache.accounts.items():
        theirs = books.accounts.get(address)
        status = ("absent", None) if theirs is None else (theirs.status, theirs.scope)
        assert (account.status, account.scope) == status
        if account.totals is not None:
            assert account.last_position == books.touched.get(address, 0)
        if account.totals is not None and theirs is not None:
            for asset in ASSETS:
                for balance in ("posted", "pending", "available", "filled"):
                    assert getattr(account, balance)(asset) == getattr(theirs, balance)(asset)
    for name, transaction in clerk.cache.transactions.items():
        kept = books.transactions.get(name)
        assert transaction.status == ("absent" if kept is None else kept.status)
        if kept is not None:
            assert transaction.metadata == kept.metadata


def _refusal(books: Books, kind: str, body: Json, asked: Asked) -> Refused | None:
    try:
        oracle.decide(books, kind, body, asked)
    except Refused as refusal:
        return refusal
    return None
