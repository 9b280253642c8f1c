"""The log's history for auditors: every filter equals a filter in plain Python, and a sparse one is looked through piece by piece."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from query_service.application import log_reader
from shared_kernel import events, tags
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from shared_kernel.event_log.types import Decision, NewEvent, RecordedEvent, Tail
from shared_kernel.events import Metadata, canonical_line, parse_line
from tests.integration.query_service.conftest import Client, Service, services
from tests.services import Database
from tests.support import histories
from tests.support.plain_books import read_log

pytestmark = pytest.mark.thorough

LEDGER = "bank"
LINES = {"accept": "application/x-ndjson"}
ACTORS = ("anna", "bert", 'c"e:cil')


@pytest.fixture(scope="module")
def bank(database: Database) -> list[RecordedEvent]:
    """A ledger of some 250 events by three callers, as the log gives it back."""
    decisions = []
    for number, event in enumerate(histories.books(LEDGER, 220, seed=7), start=1):
        metadata = Metadata(
            actor=ACTORS[number % 3], correlation_id=f"c-{number // 5}", key=f"k-{number}" if number % 2 else None
        )
        new = NewEvent(
            type=events.TYPE_NAMES[type(event)],
            data=events.encode(event),
            metadata=events.encode(metadata),
            tags=tags.of(event, metadata),
        )
        decisions.append(Decision(group=number, events=[new], fences=()))
    with PostgresLedgerRecorder(database.urls["command"], LEDGER) as recorder:
        recorder.append_decisions(decisions, seen=None, tail=Tail(events_max=0, bytes_max=0))
    with psycopg.connect(database.admin_url) as connection:
        return read_log(connection)


@pytest.fixture
async def client(database: Database, bank: list[RecordedEvent], tmp_path: Any) -> Any:
    """The service with ordinary settings, on that ledger."""
    async with services(database, tmp_path) as start:
        yield await start(listens=False)


async def pages(client: Client, limit: int = 7, **filters: str | int) -> list[list[RecordedEvent]]:
    """Every page of the list with these filters."""
    found, cursor = [], None
    while True:
        query = urlencode(filters | {"limit": limit} | ({"cursor": cursor} if cursor else {}))
        response = await client.get(f"/{LEDGER}/events?{query}", role="auditor")
        assert response.status_code == 200, response.text
        # Byte for byte: each element of the answer is the canonical line.
        body = response.content
        read = response.json()
        found.append(list(_lines(body, len(read["data"]))))
        cursor = read["next_cursor"]
        if cursor is None:
            return found


def _lines(body: bytes, count: int) -> Iterator[RecordedEvent]:
    import msgspec

    class _Page(msgspec.Struct):
        data: list[msgspec.Raw]

    data = msgspec.json.decode(body, type=_Page).data
    assert len(data) == count
    for line in data:
        yield parse_line(bytes(line))


def _actor(event: RecordedEvent) -> str:
    return events.decode_metadata(event.metadata).actor


def _tags(event: RecordedEvent) -> list[str]:
    return tags.of(events.decode(event.type, event.data), events.decode_metadata(event.metadata))


Keep = Callable[[RecordedEvent], bool]
FILTERS: list[tuple[dict[str, str | int], Keep]] = [
    ({}, lambda event: True),
    ({"from_position": 20, "to_position": 130}, lambda event: 20 <= event.position <= 130),
    ({"type": "AccountOpened.v1"}, lambda event: event.type == "AccountOpened.v1"),
    (
        {"type": "AccountOpened.v1,CommandRefused.v1"},
        lambda event: event.type in ("AccountOpened.v1", "CommandRefused.v1"),
    ),
    ({"actor": ACTORS[2]}, lambda event: _actor(event) == ACTORS[2]),
    ({"correlation_id": "c-20"}, lambda event: 100 <= event.position < 105),
    ({"account": "users:3:wallet"}, lambda event: "account:users:3:wallet" in _tags(event)),
    (
        {"account": "users:3:wallet", "tag": "account:bank:cash", "actor": "anna", "to_position": 200},
        lambda event: (
            {"account:users:3:wallet", "account:bank:cash"} <= set(_tags(event))
            and _actor(event) == "anna"
            and event.position <= 200
        ),
    ),
    ({"tag": "key:bert:k-31"}, lambda event: event.position == 31),
    ({"tag": "no:such"}, lambda event: False),
    ({"actor": "nobody", "account": "bank:cash"}, lambda event: False),
]


@pytest.mark.parametrize(("filters", "keep"), FILTERS)
@pytest.mark.parametrize("scan_max", [3, 10_000])
async def test_a_filtered_list_is_the_filter_of_the_whole_log_in_both_orders(
    client: Client,
    bank: list[RecordedEvent],
    monkeypatch: pytest.MonkeyPatch,
    *,
    filters: dict[str, str | int],
    keep: Keep,
    scan_max: int,
) -> None:
    monkeypatch.setattr(log_reader, "SCAN_EVENTS_MAX", scan_max)
    expected = [event for event in bank if keep(event)]
    oldest = await pages(client, **filters)
    assert [event for page in oldest for event in page] == expected
    newest = await pages(client, **filters, order="newest")
    assert [event for page in newest for event in page] == expected[::-1]
    assert all(len(page) <= 7 for page in oldest + newest)


@pytest.mark.parametrize(("filters", "keep"), FILTERS)
@pytest.mark.parametrize(
    ("piece_events", "piece_bytes", "scan_max"), [(500, 10**6, 10_000), (4, 10**6, 3), (500, 1, 3)]
)
async def test_lines_in_one_go_are_the_canonical_lines_of_what_fits_whatever_the_pieces(
    client: Client,
    bank: list[RecordedEvent],
    monkeypatch: pytest.MonkeyPatch,
    *,
    filters: dict[str, str | int],
    keep: Keep,
    piece_events: int,
    piece_bytes: int,
    scan_max: int,
) -> None:
    monkeypatch.setattr(log_reader, "PIECE_EVENTS_MAX", piece_events)
    monkeypatch.setattr(log_reader, "PIECE_BYTES_MAX", piece_bytes)
    monkeypatch.setattr(log_reader, "SCAN_EVENTS_MAX", scan_max)
    response = await client.get(f"/{LEDGER}/events?{urlencode(filters)}", role="auditor", headers=LINES)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["daybook-position"] == str(filters.get("to_position", len(bank)))
    assert response.text == "".join(f"{canonical_line(event)}\n" for event in bank if keep(event))


async def test_a_page_ends_early_where_its_events_are_long(
    client: Client, bank: list[RecordedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(log_reader.LogReader.page.__kwdefaults__, "bytes_max", 2_000)
    found = await pages(client, limit=1_000)
    assert [event for page in found for event in page] == bank
    assert len(found) > 20


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("type=,", "type"),
        ("type=" + ",".join(f"T{n}" for n in range(21)), "type"),
        ("account=a%20b", "account"),
        ("limit=0", "limit"),
        ("colour=red", "colour"),
    ],
)
async def test_a_malformed_filter_is_named(client: Client, query: str, path: str) -> None:
    document = await client.problem(f"/{LEDGER}/events?{query}", 400, "invalid_request", role="auditor")
    assert document["path"] == path


async def test_the_form_that_has_the_most_weight_is_sent(client: Client) -> None:
    for accept, media_type in (
        ("application/x-ndjson;q=0.1, application/json", "application/json"),
        ("text/event-stream;q=0.1, application/x-ndjson;q=0.2", "application/x-ndjson"),
    ):
        response = await client.get("/bank/events", headers={"accept": accept}, role="auditor")
        assert response.headers["content-type"].partition(";")[0] == media_type


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_has_no_pages_and_needs_an_auditor_and_a_ledger(client: Client, accept: str) -> None:
    headers = {"accept": accept}
    for query, path in (("limit=5", "limit"), ("order=newest", "order"), ("cursor=x", "cursor")):
        document = await client.problem(
            f"/{LEDGER}/events?{query}", 400, "invalid_request", role="auditor", headers=headers
        )
        assert document["path"] == path
    await client.problem(f"/{LEDGER}/events", 403, "forbidden", headers=headers)
    await client.problem("/nowhere/events", 404, "ledger_not_found", role="auditor", headers=headers)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_a_range_that_begins_beyond_what_comes_next_is_refused(
    client: Client, bank: list[RecordedEvent], accept: str
) -> None:
    path = f"/{LEDGER}/events?from_position={len(bank) + 2}"
    problem = await client.problem(path, 409, "position_beyond_head", role="auditor", headers={"accept": accept})
    assert problem["head"] == len(bank)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_range_that_ends_beyond_the_head_is_refused(
    client: Client, bank: list[RecordedEvent], accept: str
) -> None:
    path = f"/{LEDGER}/events?to_position={len(bank) + 1}"
    problem = await client.problem(path, 409, "position_beyond_head", role="auditor", headers={"accept": accept})
    assert (problem["position"], problem["head"]) == (len(bank) + 1, len(bank))


async def test_what_comes_next_is_nothing_yet(client: Client, bank: list[RecordedEvent]) -> None:
    path = f"/{LEDGER}/events?from_position={len(bank) + 1}"
    answer = await client.ok(path, role="auditor")
    assert (answer["data"], answer["next_cursor"], answer["as_of"]["position"]) == ([], None, len(bank))
    lines = await client.get(path, role="auditor", headers=LINES)
    assert (lines.status_code, lines.text) == (200, "")


async def test_a_range_of_events_is_as_of_its_end(client: Client, bank: list[RecordedEvent]) -> None:
    answer = await client.ok(f"/{LEDGER}/events?from_position=3&to_position=20", role="auditor")
    assert answer["as_of"]["position"] == 20
    assert [event["position"] for event in answer["data"]] == list(range(3, 21))


async def test_a_stream_goes_on_only_after_an_event_that_the_log_holds(
    client: Client, bank: list[RecordedEvent]
) -> None:
    stream = {"accept": "text/event-stream"}
    for last, status, code in (
        (f"{len(bank) + 1}", 409, "position_beyond_head"),
        ("3-00000000-0000-0000-0000-000000000000", 400, "invalid_cursor"),
        ("three", 400, "invalid_request"),
    ):
        await client.problem(
            f"/{LEDGER}/events", status, code, role="auditor", headers=stream | {"last-event-id": last}
        )


async def test_streams_beyond_the_bound_are_refused_before_they_read(
    database: Database, bank: list[RecordedEvent], tmp_path: Any
) -> None:
    async with services(database, tmp_path) as start:
        service: Service = start
        client: Client = await service(listens=False, streams_max=1)
        streams = client.container.streams()
        import asyncio

        busy = asyncio.create_task(asyncio.Event().wait())
        with streams.slot(busy, is_endless=True):  # type: ignore[arg-type]
            await client.problem(f"/{LEDGER}/events", 503, "overloaded", role="auditor", headers=LINES)
        assert (await client.get(f"/{LEDGER}/events", role="auditor", headers=LINES)).status_code == 200
        streams.stop()
        await client.problem(f"/{LEDGER}/events", 503, "shutting_down", role="auditor", headers=LINES)
        busy.cancel()
