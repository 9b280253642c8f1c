"""Exports: whole, as of one position, and read by hledger and beancount to the balances that the log has."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from query_service.application import exports, log_reader
from shared_kernel import events
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountOpened, Entry, Event, HoldPosted, TransactionHeld
from shared_kernel.words import NormalBalance
from tests.integration.query_service.conftest import Client, services
from tests.services import Database
from tests.support import histories
from tests.support.plain_books import read_log
from tests.support.plain_text import Sums, beancount_sums, hledger_sums
from tests.unit.shared_kernel.test_checking import SOUND, pair, posted

LEDGER = "bank"
HUGE = 10**26 + 7  # beancount counts with 28 digits
NAMES = ("Wallet", "wallet", "a_b", "a-b", "a.b", "0")
EXTRA: list[Event] = [
    *(AccountOpened(address=f"shop:{name}", normal_balance="debit" if name == "0" else "credit") for name in NAMES),
    posted("huge", pair("world", "shop:0", HUGE), description='quotes " and ; and\nlines', reference="r (1); 2"),
    posted(
        "many",
        [
            *pair("shop:Wallet", "shop:wallet", 12345),
            *(Entry(account=e.account, direction=e.direction, amount=7, asset="CZK/2") for e in pair("shop:a_b", "shop:a-b", 1)),
            *(Entry(account=e.account, direction=e.direction, amount=9, asset="A/38") for e in pair("shop:a.b", "shop:0", 1)),
        ],
        effective_at="0999-12-31T00:00:00Z",
    ),
    TransactionHeld(transaction="h", entries=pair("shop:Wallet", "shop:0", 9), effective_at="2025-05-05T05:05:05Z", reference="hold"),
    HoldPosted(transaction="h", entries=pair("shop:Wallet", "shop:0", 4), is_final=False),
    HoldPosted(transaction="h", entries=pair("shop:Wallet", "shop:0", 5), effective_at="2025-06-06T00:00:00Z"),
    TransactionHeld(transaction="h2", entries=pair("shop:0", "shop:a_b", 3), description="never posted"),
]  # fmt: skip


@pytest.fixture(scope="module")
def log(database: Database) -> list[RecordedEvent]:
    """A ledger with every kind of event and names that are hard to spell."""
    histories.append(database.urls["command"], LEDGER, [*SOUND, *EXTRA])
    with psycopg.connect(database.admin_url) as connection:
        return read_log(connection)


@pytest.fixture
async def client(database: Database, log: list[RecordedEvent], tmp_path: Path) -> Any:
    """The service; streams and lookups in the smallest pieces."""
    async with services(database, tmp_path) as start:
        yield await start(listens=False)


@pytest.fixture(params=["at once", "in small pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "at once":
        monkeypatch.setattr(log_reader, "PIECE_EVENTS_MAX", 2)
        monkeypatch.setattr(log_reader, "SCAN_EVENTS_MAX", 5)
        monkeypatch.setattr(exports, "ACCOUNTS_KEPT_MAX", 1)


def posted_entries(log: Sequence[RecordedEvent]) -> list[tuple[RecordedEvent, Entry]]:
    found = []
    for event in log:
        said = events.decode(event.type, event.data)
        if isinstance(said, events.TransactionPosted | HoldPosted):
            found += [(event, each) for each in said.entries]
    return found


def expected(log: Sequence[RecordedEvent]) -> Sums:
    sums: Counter[tuple[str, str]] = Counter()
    for _, each in posted_entries(log):
        sums[each.account, each.asset] += each.amount if each.direction == "debit" else -each.amount
    return {place: units for place, units in sums.items() if units}


def sides(log: Sequence[RecordedEvent]) -> dict[str, NormalBalance]:
    decoded = [events.decode(event.type, event.data) for event in log]
    return {said.address: said.normal_balance for said in decoded if isinstance(said, AccountOpened)}


async def download(client: Client, name: str, query: str = "") -> tuple[str, int, str]:
    """The text, the position that it is as of, and the file's name."""
    response = await client.get(f"/{LEDGER}/exports/{name}{query}")
    assert response.status_code == 200, response.text
    disposition = response.headers["content-disposition"]
    return response.text, int(response.headers["daybook-position"]), disposition.partition("filename=")[2]


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("prefix", [None, 1, 4, 12, 25])
async def test_csv_holds_every_posted_entry_once_in_order(
    client: Client, log: list[RecordedEvent], prefix: int | None
) -> None:
    text, position, name = await download(client, "entries.csv", f"?as_of_position={prefix}" if prefix else "")
    assert position == (prefix or len(log))
    assert name == f'"bank-{position}.csv"'
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    wanted = posted_entries(log[:position])
    assert [
        (int(row["position"]), row["account"], row["direction"], int(row["units"]), row["asset"]) for row in rows
    ] == [(event.position, each.account, each.direction, each.amount, each.asset) for event, each in wanted]


async def test_a_holds_posting_takes_from_the_hold_what_it_does_not_say_itself(client: Client) -> None:
    text, _, _ = await download(client, "entries.csv")
    rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row["transaction"] == "h"]
    assert [(row["effective_at"], row["reference"]) for row in rows] == [
        *[("2025-05-05T05:05:05.000000Z", "hold")] * 2,
        *[("2025-06-06T00:00:00.000000Z", "hold")] * 2,
    ]


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("prefix", [None, 12])
async def test_hledger_reports_our_balances(
    client: Client, log: list[RecordedEvent], tmp_path: Path, prefix: int | None
) -> None:
    text, position, _ = await download(client, "hledger.journal", f"?as_of_position={prefix}" if prefix else "")
    assert text.endswith(f"; End of the ledger bank as of position {position}\n")
    journal = tmp_path / "bank.journal"
    journal.write_text(text)
    assert hledger_sums(journal) == expected(log[:position])


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("prefix", [None, 12])
async def test_beancount_reports_our_balances(
    client: Client, log: list[RecordedEvent], tmp_path: Path, prefix: int | None
) -> None:
    text, position, _ = await download(client, "ledger.beancount", f"?as_of_position={prefix}" if prefix else "")
    journal = tmp_path / "bank.beancount"
    journal.write_text(text)
    wanted = expected(log[:position])
    assert beancount_sums(journal, sides(log), {asset for _, asset in wanted}) == wanted


@pytest.mark.parametrize("name", ["entries.csv", "hledger.journal", "ledger.beancount"])
async def test_an_export_is_for_readers_of_a_ledger_that_is_there(client: Client, name: str) -> None:
    await client.problem(f"/nowhere/exports/{name}", 404, "ledger_not_found")
    await client.problem(f"/{LEDGER}/exports/{name}", 404, "ledger_not_found", ledgers=("other",))
    await client.problem(f"/{LEDGER}/exports/{name}", 403, "forbidden", role="writer")
    await client.problem(f"/{LEDGER}/exports/{name}?as_of_position=1000", 409, "position_beyond_head")
    await client.problem(f"/{LEDGER}/exports/{name}?limit=3", 400, "invalid_request")
    assert (await client.get(f"/{LEDGER}/exports/{name}.zip")).status_code == 404


def test_the_extra_events_break_no_rule() -> None:
    from shared_kernel.checking import Checker

    checker = Checker()
    found = [finding for event in histories.recorded(LEDGER, [*SOUND, *EXTRA]) for finding in checker.take(event)]
    assert found == []
