"""What the API's description shows besides JSON is what the service would send for the same transaction."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from graphql import parse, validate
from msgspec import json

from query_service.application import journals
from query_service.application.account_statements import Page, Period
from query_service.application.journals import Posting
from query_service.application.query_handler import Stamp
from query_service.application.questions import StatementRow
from query_service.presentation import examples, log_examples, report_examples, statement_forms
from query_service.presentation.graph_routes import SCHEMA, GraphRequest
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Entry, canonical_line
from shared_kernel.words import parse_time

RECORDED = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
EFFECTIVE = datetime(1993, 1, 1, 12, tzinfo=UTC)
ID = "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10"
ROW = StatementRow(
    address="bank:clients:2378",
    normal_balance="credit",
    opening_debits=0,
    opening_credits=0,
    closing_debits=0,
    closing_credits=70_000,
    debits_before=0,
    credits_before=0,
    walked_to=17,
    fits=True,
    position=17,
    entry_index=1,
    kind="posted",
    transaction_id=ID,
    direction="credit",
    amount=70_000,
    asset="CZK/2",
    effective_at=EFFECTIVE,
    recorded_at=RECORDED,
    posted_debits=0,
    posted_credits=70_000,
    reference="berka-695247",
    description="cash in",
    number=1,
)
PERIOD = Period("bank:clients:2378", "CZK/2", "effective", datetime(1993, 1, 1, tzinfo=UTC), None, None)
PAGE = Page(
    Stamp(incarnation="i", generation="1", head=17, reached=17, position=17, recorded_at=RECORDED), ROW, (ROW,), None
)
POSTING = Posting(
    position=17,
    recorded_at=RECORDED,
    effective_at=EFFECTIVE,
    transaction=ID,
    entries=(
        Entry(account="bank:cash", direction="debit", amount=70_000, asset="CZK/2"),
        Entry(account="bank:clients:2378", direction="credit", amount=70_000, asset="CZK/2"),
    ),
    reference="berka-695247",
    description="cash in",
    reverses=None,
)


async def sent(made: Any) -> str:
    async def no_more() -> AsyncGenerator[Page, None]:
        for page in ():
            yield page

    return b"".join([piece async for piece in made(PERIOD, "bank", PAGE, no_more())]).decode()


async def test_a_statement_as_csv() -> None:
    shown = examples.shown_in(report_examples.STATEMENT)["text/csv"]
    assert (await sent(statement_forms.csv_pieces)).splitlines() == shown.splitlines()


async def test_a_statement_to_be_printed() -> None:
    page = await sent(statement_forms.html_pieces)
    parts = examples.shown_in(report_examples.STATEMENT)["text/html"].split("…")
    for part in filter(None, map(str.strip, parts)):
        _, found, page = page.partition(part)
        assert found == part


def test_entries_as_csv() -> None:
    first = (journals.csv_head() + journals.csv_rows([POSTING])).splitlines()[:2]
    assert examples.shown_in(log_examples.CSV)["text/csv"].splitlines() == first


def test_journals() -> None:
    hledger = journals.hledger_posting(POSTING, UTC)
    assert examples.shown_in(log_examples.HLEDGER)["text/plain"] == hledger.strip()
    opened = [journals.beancount_open("bank:cash", "debit"), journals.beancount_open("bank:clients:2378", "credit")]
    posted = journals.beancount_posting(
        POSTING,
        UTC,
        {"bank:cash": "debit", "bank:clients:2378": "credit"}.__getitem__,  # type: ignore[arg-type]
    )
    assert examples.shown_in(log_examples.BEANCOUNT)["text/plain"] == "".join((*opened, posted)).strip()


def test_lines_of_the_log() -> None:
    shown = examples.shown_in(log_examples.EVENTS)
    (event,) = shown["application/json"]["data"]
    line = canonical_line(
        RecordedEvent(
            ledger=event["ledger"],
            position=event["position"],
            type=event["type"],
            recorded_at=parse_time(event["recorded_at"]),
            metadata=json.encode(event["metadata"]).decode(),
            data=json.encode(event["data"]).decode(),
        )
    )
    assert shown["application/x-ndjson"] == line
    assert shown["text/event-stream"].splitlines()[-1] == f"data: {line}"


def test_the_query_of_the_graph() -> None:
    request = json.decode(examples.GRAPH_ASKED, type=GraphRequest)
    assert validate(SCHEMA._schema, parse(request.query or "")) == []
    assert examples.GRAPH_ASKED in examples.GRAPH
