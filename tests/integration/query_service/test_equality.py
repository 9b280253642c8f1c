"""Made-up lives of a ledger, made-up moments: every read equals the plainest fold of the log, on both time axes.

Seeded, so that a failure comes back; `DAYBOOK_TEST_SEED` tries others.
"""

import csv
import io
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, get_args
from urllib.parse import quote

import pytest
import pytest_asyncio

from query_service.application import account_statements, reports, search
from query_service.application.questions import TransactionStatus
from shared_kernel import tags
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountOpened, Event, LedgerOpened, Metadata, decode, decode_metadata
from shared_kernel.words import Pattern, format_time
from tests.integration.query_service.bookkeeper import Bookkeeper
from tests.integration.query_service.conftest import Client, services, token
from tests.services import Database
from tests.support.lives import ASSETS, MOMENTS, Life
from tests.support.plain_books import read_log
from tests.support.plain_reads import Moment, PlainReads, Row

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.thorough]

SEED = int(os.environ.get("DAYBOOK_TEST_SEED", "1"))
STEPS = 260
MOMENTS_TRIED = range(12)
LEDGER = "made-up"
TWO_TYPES = ("TransactionPosted.v1", "HoldVoided.v1")


class Books(NamedTuple):
    """The service, and what it must say."""

    client: Client
    ledger: str
    plain: PlainReads
    addresses: list[str]


class Asked(NamedTuple):
    """A moment, and the parameters that ask for it."""

    moment: Moment
    query: str
    recorded: str
    headers: dict[str, str]


def record(keeper: Bookkeeper, life: Life, steps: int) -> list[RecordedEvent]:
    """A ledger with every kind of event, in the log and in the read models; some recorded at once, some days apart."""
    ledger, chance = life.ledger, life.chance
    life.addresses += ["users:1", "users:1-x:wallet", "shops:7:till:2"]
    life.opened = list(life.addresses)
    begin: list[Event] = [LedgerOpened(ledger=ledger, accounts="explicit", metadata={"made": "up"})]
    begin += [
        AccountOpened(address=address, normal_balance=chance.choice(("debit", "credit")), metadata={"colour": "blue"})
        for address in life.addresses
    ]
    at = datetime(2026, 11, 20, tzinfo=UTC)
    for number, event in enumerate([*begin, *life.steps(steps)]):
        at += timedelta(microseconds=chance.choice((0, 1, 3_600_000_000, 20_000_000_000)))
        keeper.append(ledger, event, at=at, actor=f"actor-{number % 3}", key=f"key-{number}")
    keeper.project(ledger)
    return [event for event in read_log(keeper.connection) if event.ledger == ledger]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def books(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Books]:
    """One long life."""
    keeper = Bookkeeper(database.admin_url)
    keeper.start_over()
    life = Life(LEDGER, random.Random(f"equality/{SEED}"))
    events = record(keeper, life, STEPS)
    keeper.close()
    async with services(database, tmp_path_factory.mktemp("keys")) as start:
        yield Books(await start(), LEDGER, PlainReads(events), sorted(life.addresses))


def moments(books: Books, chance: random.Random, *, has_effective: bool) -> Asked:
    """Position, recorded time and effective time, each asked for or not: the smaller prefix counts."""
    plain, parts, position = books.plain, [], books.plain.head
    if chance.random() < 0.6:
        asked = chance.randint(len(books.addresses) + 1, plain.head)
        parts.append(f"as_of_position={asked}")
        position = min(position, asked)
    if chance.random() < 0.6:
        event = plain.events[chance.randint(len(books.addresses) + 1, plain.head)]
        time = event.recorded_at + timedelta(microseconds=chance.choice((0, 0, 1, 10**9)))
        if time <= plain.events[plain.head].recorded_at:
            parts.append(f"as_of={format_time(time)}")
            position = min(position, plain.position_at(time))
    recorded = "&".join(parts)
    effective = None
    if has_effective:
        effective = chance.choice([*MOMENTS, chance.choice(list(plain.events.values())).recorded_at])
        effective += timedelta(microseconds=chance.choice((-1, 0, 1)))
        parts.append(f"effective_at={format_time(effective)}")
    return Asked(Moment(position, effective), "&".join(parts), recorded, {})


async def _all(client: Client, path: str, chance: random.Random) -> list[Any]:
    """Every row of a list, through pages of changing size."""
    found: list[Any] = []
    page = await client.ok(f"{path}&limit={chance.randint(1, 50)}", role="admin")
    while True:
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        page = await client.ok(f"{path}&limit={chance.randint(1, 50)}&cursor={page['next_cursor']}", role="admin")


@pytest.fixture(params=MOMENTS_TRIED)
def asked(request: pytest.FixtureRequest, books: Books, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """One of the moments; for every third, walks are broken off after a few steps, as large ledgers would break them off."""
    if request.param % 3 == 0:
        for module, name, value in (
            (search, "WALK_MAX", 7),
            (account_statements, "WALK_MAX", 7),
            (reports, "PAIRS_MAX", 3),
            (reports, "COMPARED_MAX", 2),
            (reports, "LOOKS_MAX", 2),
            (reports, "ENTRIES_MAX", 2),
            (reports, "SCAN_MAX", 3),
        ):
            monkeypatch.setattr(module, name, value)
    chance = random.Random(f"moment/{SEED}/{request.param}")
    return moments(books, chance, has_effective=request.param % 2 == 1)


async def test_balances_equal_the_fold(books: Books, asked: Asked) -> None:
    for address in books.addresses:
        found = await books.client.ok(f"/{books.ledger}/accounts/{address}/balances?{asked.query}")
        assert found["balances"] == books.plain.balances(asked.moment, address)
        assert found["as_of"] == books.plain.as_of(asked.moment)
    chance = random.Random(asked.query)
    listed = await _all(books.client, f"/{books.ledger}/accounts?balances=true&{asked.query}", chance)
    assert listed == [
        account | {"balances": books.plain.balances(asked.moment, account["address"])}
        for account in books.plain.accounts(Moment(asked.moment.position))
    ]


@pytest.mark.parametrize("segments", [0, 1, 2, 9])
async def test_sums_and_the_trial_balance_equal_the_fold(books: Books, asked: Asked, segments: int) -> None:
    pattern = Pattern(("**", "users:**", "users:*:wallet", "bank:cash")[segments % 4])
    found = await books.client.ok(f"/{books.ledger}/balances?segments={segments}&address={pattern.text}&{asked.query}")
    assert found["data"] == books.plain.sums(asked.moment, segments, pattern.matches)
    trial = await books.client.ok(f"/{books.ledger}/trial-balance?{asked.query}")
    assert trial["assets"] == books.plain.trial_balance(asked.moment)
    assert (trial["address"], trial.get("groups")) == ("**", None)


@pytest.mark.parametrize("segments", [0, 1, 2, 9])
@pytest.mark.parametrize("pattern", ["**", "users:**", "users:*:wallet", "bank:cash", "no:such"])
async def test_a_trial_balance_of_some_accounts_equals_the_fold_and_claims_no_balance(
    books: Books, asked: Asked, pattern: str, segments: int
) -> None:
    matches = Pattern(pattern).matches
    path = f"/{books.ledger}/trial-balance?segments={segments}&address={pattern}&{asked.query}"
    trial = await books.client.ok(path)
    assert trial["address"] == pattern
    names = ("debits", "credits", "accounts")
    expected = {
        row["asset"]: {name: row[name] for name in names} for row in books.plain.trial_groups(asked.moment, 0, matches)
    }
    if pattern == "**":
        expected = books.plain.trial_balance(asked.moment)
    assert trial["assets"] == expected
    groups = books.plain.trial_groups(asked.moment, segments, matches) if segments else None
    assert trial.get("groups") == groups


async def test_ledger_and_accounts_equal_the_fold(books: Books, asked: Asked) -> None:
    plain, moment = books.plain, Moment(asked.moment.position)
    ledger = (await books.client.ok(f"/{books.ledger}?{asked.recorded}"))["ledger"]
    version = plain.versions("ledgers", "ledger", moment)[books.ledger]
    assert {name: ledger[name] for name in ("status", "metadata", "time_zone")} == {
        name: version[name] for name in ("status", "metadata", "time_zone")
    }
    for address in books.addresses[::3]:
        found = await books.client.ok(f"/{books.ledger}/accounts/{address}?{asked.recorded}")
        assert found["account"] == plain.account(plain.versions("accounts", "address", moment)[address])
    chance = random.Random(asked.query)
    filters: list[tuple[str, Callable[[Row], bool]]] = [
        ("status = open", lambda row: row["status"] == "open"),
        ("status = frozen", lambda row: row["status"] == "frozen"),
        (
            "status != closed and normal_balance = debit",
            lambda row: row["status"] != "closed" and row["normal_balance"] == "debit",
        ),
        ("metadata.colour = blue", lambda row: row["metadata"].get("colour") == "blue"),
        ("not metadata.colour in (blue, None)", lambda row: row["metadata"].get("colour") not in ("blue", "None")),
        (
            "frozen = all or address = users:*",
            lambda row: row["frozen"] == "all" or Pattern("users:*").matches(row["address"]),
        ),
        ("opened_at > 2026-11-20T01:00:00Z", lambda row: row["opened_at"] > datetime(2026, 11, 20, 1, tzinfo=UTC)),
    ]
    for text, fits in filters:
        rows = await _all(books.client, f"/{books.ledger}/accounts?filter={quote(text)}&{asked.recorded}", chance)
        assert rows == plain.accounts(moment, fits), text


async def test_transactions_equal_the_fold(books: Books, asked: Asked) -> None:
    plain, client = books.plain, books.client
    chance = random.Random(asked.query)
    for sort in ("position", "effective_at"):
        for order in ("newest", "oldest"):
            path = f"/{books.ledger}/transactions?sort={sort}&order={order}&{asked.query}"
            assert await _all(client, path, chance) == plain.transactions(
                asked.moment, sort=sort, newest=order == "newest"
            )
    for row in list(plain.versions("transactions", "transaction_id", asked.moment).values())[::9]:
        path = f"/{books.ledger}/transactions/{quote(row['transaction_id'])}?{asked.recorded}"
        assert (await client.ok(path))["transaction"] == plain.transaction(row)


@pytest.mark.parametrize("status", get_args(TransactionStatus))
async def test_transactions_of_a_status_equal_the_fold(books: Books, status: str) -> None:
    chance = random.Random(status)
    for position in (books.plain.head, chance.randint(20, books.plain.head)):
        moment = Moment(position)
        query = "" if position == books.plain.head else f"&as_of_position={position}"
        for order in ("newest", "oldest"):
            path = f"/{books.ledger}/transactions?status={status}&order={order}{query}"
            expected = books.plain.transactions(moment, lambda row: row["status"] == status, newest=order == "newest")
            assert await _all(books.client, path, chance) == expected


def conditions(books: Books, chance: random.Random) -> tuple[str, Callable[[Row], bool]]:
    """A condition on transactions as text, and the same as a function."""
    row = chance.choice(books.plain.tables["transactions"])
    address = chance.choice([*books.addresses, "users:**", "*:*:wallet", "nobody"])
    status = chance.choice(("posted", "pending", "voided", "expired", "scheduled", "refused", "cancelled"))
    amount, asset = chance.choice((1, 8, 10**9, row["amount"])), chance.choice(ASSETS)
    colour = chance.choice(("blue", "", "None", 'a "quoted" \\ text', "nothing"))
    time, recorded = chance.choice(MOMENTS), books.plain.events[chance.randint(1, books.plain.head)].recorded_at

    def amounts(row: Row, of: str | None = None) -> list[int]:
        assets = {entry["asset"] for entry in row["entries"]} & ({of} if of else set(ASSETS))
        return [
            sum(e["amount"] for e in row["entries"] if e["asset"] == each and e["direction"] == "debit")
            for each in assets
        ]

    def names(row: Row) -> bool:
        return any(Pattern(address).matches(entry["account"]) for entry in row["entries"])

    options: list[tuple[str, Callable[[Row], bool]]] = [
        (f"id = {json.dumps(row['transaction_id'])}", lambda other: other["transaction_id"] == row["transaction_id"]),
        (
            f"reference = {json.dumps(row['reference'] or 'none')}",
            lambda other: other["reference"] == (row["reference"] or "none"),
        ),
        (f"status = {status}", lambda other: other["status"] == status),
        (f"status in (posted, {status})", lambda other: other["status"] in ("posted", status)),
        (f"account = {address}", names),
        (f"account != {address}", lambda other: not names(other)),
        (f"asset = {asset}", lambda other: any(entry["asset"] == asset for entry in other["entries"])),
        (f"amount >= {amount}", lambda other: any(each >= amount for each in amounts(other))),
        (f"amount.{asset} = {amount}", lambda other: amount in amounts(other, asset)),
        (f"amount.{asset} < {amount}", lambda other: any(each < amount for each in amounts(other, asset))),
        (f"metadata.colour = {json.dumps(colour)}", lambda other: other["metadata"].get("colour") == colour),
        (f"metadata.colour != {json.dumps(colour)}", lambda other: other["metadata"].get("colour") != colour),
        (f"effective_at > {format_time(time)}", lambda other: other["effective_at"] > time),
        (f"effective_at <= {format_time(time)}", lambda other: other["effective_at"] <= time),
        (f"recorded_at >= {format_time(recorded)}", lambda other: other["created_at"] >= recorded),
        (f"recorded_at < {format_time(recorded)}", lambda other: other["created_at"] < recorded),
        ("forced = true", lambda other: other["is_forced"]),
        ("actor in (actor-1, actor-2)", lambda other: other["actor"] in ("actor-1", "actor-2")),
        (
            f"expires_at < {format_time(time)}",
            lambda other: other["expires_at"] is not None and other["expires_at"] < time,
        ),
    ]
    return chance.choice(options)


def trees(books: Books, chance: random.Random, depth: int = 0) -> tuple[str, Callable[[Row], bool]]:
    """A filter as text, and the same as a function."""
    kind = chance.choice(("one", "and", "or", "not", "one") if depth < 3 else ("one",))
    if kind == "one":
        return conditions(books, chance)
    text, fits = trees(books, chance, depth + 1)
    if kind == "not":
        return f"not ({text})", lambda row: not fits(row)
    other, also = trees(books, chance, depth + 1)
    if kind == "and":
        return f"({text}) and ({other})", lambda row: fits(row) and also(row)
    return f"({text}) or ({other})", lambda row: fits(row) or also(row)


async def test_filtered_transactions_equal_the_fold(books: Books, asked: Asked) -> None:
    chance = random.Random(f"filters/{SEED}/{asked.query}")
    for _ in range(25):
        text, fits = trees(books, chance)
        sort, order = chance.choice(("position", "effective_at")), chance.choice(("newest", "oldest"))
        path = f"/{books.ledger}/transactions?filter={quote(text)}&sort={sort}&order={order}&{asked.query}"
        expected = books.plain.transactions(asked.moment, fits, sort=sort, newest=order == "newest")
        assert await _all(books.client, path, chance) == expected, text


async def test_entries_equal_the_fold(books: Books, asked: Asked) -> None:
    chance = random.Random(asked.query)
    for address in books.addresses[::2]:
        for asset in (None, "USD/2"):
            order = chance.choice(("newest", "oldest"))
            path = f"/{books.ledger}/accounts/{address}/entries?order={order}&{asked.query}"
            path += f"&asset={asset}" if asset else ""
            expected = books.plain.entries(asked.moment, address, asset, newest=order == "newest")
            assert await _all(books.client, path, chance) == expected


async def test_statements_equal_the_fold(books: Books, asked: Asked) -> None:
    chance = random.Random(asked.query)
    plain = books.plain
    times = [*MOMENTS, *(event.recorded_at for event in plain.events.values())]
    for address in books.addresses[::2]:
        for axis in ("recorded", "effective"):
            begin, end = sorted(chance.sample(times, 2))
            bounds = chance.choice(((begin, end), (begin, None), (None, end), (None, None)))
            path = f"/{books.ledger}/accounts/{address}/statement?asset=USD/2&axis={axis}&{asked.query}"
            path += "".join(
                f"&{name}={format_time(time)}"
                for name, time in zip(("from", "until"), bounds, strict=True)
                if time is not None
            )
            expected = plain.statement(asked.moment, address, "USD/2", axis=axis, between=bounds)
            whole = await books.client.ok(f"{path}&limit=1000")
            assert {name: whole[name] for name in expected if name != "data"} | {"data": []} == expected | {"data": []}
            paged = await _all(books.client, path, chance)
            names = ("position", "transaction", "direction", "amount", "balance")
            assert [{name: line[name] for name in names} for line in paged] == expected["data"]


async def test_explanations_add_up_to_the_fold(books: Books, asked: Asked) -> None:
    chance = random.Random(asked.query)
    for address in books.addresses[::2]:
        path = f"/{books.ledger}/accounts/{address}/explanation?asset=USD/2&{asked.query}"
        whole = await books.client.ok(f"{path}&limit=1000")
        expected = books.plain.balances(asked.moment, address).get("USD/2")
        assert whole["checked"]
        assert expected is None or whole["balance"] == expected
        moved = {row["position"]: row["effective_at"] for row in books.plain.moves(asked.moment, address, "USD/2")}
        by_effective_time = asked.moment.effective is not None
        assert [step["position"] for step in whole["data"]] == sorted(
            moved, key=lambda position: (moved[position], position) if by_effective_time else position
        )
        assert await _all(books.client, path, chance) == whole["data"]


async def test_differences_equal_the_fold(books: Books, asked: Asked) -> None:
    chance = random.Random(asked.query)
    for _ in range(3):
        early, late = sorted(chance.sample(range(books.plain.head + 1), 2))
        until = chance.choice((None, *MOMENTS))
        path = f"/{books.ledger}/balances/diff?from_position={early}&to_position={late}"
        path += f"&effective_until={format_time(until)}" if until else ""
        expected = books.plain.changes(early, late, until)
        found = [_with_positions(row) for row in await _all(books.client, path, chance)]
        wholes = []
        for row, other in zip(found, expected, strict=True):
            assert row["positions"] == other["positions"][: len(row["positions"])]
            whole = row
            if not row["entries_complete"]:
                pages = await _all(books.client, f"{path}&address={row['account']}", chance)
                pages = [_with_positions(page) for page in pages if page["asset"] == row["asset"]]
                whole = pages[-1] | {"positions": [position for page in pages for position in page["positions"]]}
            assert whole.pop("entries_complete")
            wholes.append(whole)
        assert wholes == expected


def _with_positions(row: Row) -> Row:
    """A changed account with the positions of the entries that are shown, of them alone."""
    positions = [entry["position"] for entry in row["entries"]]
    return {name: row[name] for name in row if name not in ("entries", "normal_balance")} | {"positions": positions}


async def test_refusals_equal_the_fold(books: Books, asked: Asked) -> None:
    plain, chance = books.plain, random.Random(asked.query)
    at = plain.events[chance.randint(1, plain.head)].recorded_at
    tried: list[tuple[str, Callable[[Row], bool]]] = [
        ("", lambda _: True),
        ("&code=account_frozen", lambda row: row["code"] == "account_frozen"),
        ("&caller=actor-1", lambda row: row["actor"] == "actor-1"),
        ("&account=bank:cash", lambda row: "bank:cash" in row["accounts"]),
        ("&account=users:**", lambda row: any(address.startswith("users:") for address in row["accounts"])),
        (f"&from={format_time(at)}", lambda row: row["recorded_at"] >= at),
        (
            f"&until={format_time(at)}&code=insufficient_funds",
            lambda row: row["recorded_at"] < at and row["code"] == "insufficient_funds",
        ),
    ]
    for query, fits in tried:
        expected = [row for row in plain.tables["refusals"] if row["position"] <= asked.moment.position and fits(row)]
        expected.sort(key=lambda row: -row["position"])
        found = await _all(books.client, f"/{books.ledger}/refusals?{asked.recorded}{query}", chance)
        assert [row["position"] for row in found] == [row["position"] for row in expected]
        for shown, row in zip(found, expected, strict=True):
            assert {
                name: shown[name] for name in ("code", "command", "fields", "accounts", "asked", "judged_at", "key")
            } == {name: row[name] for name in ("code", "command", "fields", "accounts", "asked", "judged_at", "key")}
            for state in shown["state"]:
                assert state["balances"] == plain.balances(Moment(row["judged_at"]), state["account"])


async def test_events_equal_the_log(books: Books, asked: Asked) -> None:
    plain, chance = books.plain, random.Random(asked.query)
    first, last = sorted((chance.randint(1, plain.head), chance.randint(1, plain.head)))
    address = chance.choice(books.addresses)
    tried: list[tuple[str, Callable[[RecordedEvent, Any], bool]]] = [
        ("", lambda *_: True),
        (f"&from_position={first}&to_position={last}", lambda event, _: first <= event.position <= last),
        ("&type=TransactionPosted.v1,HoldVoided.v1", lambda event, _: event.type in TWO_TYPES),
        ("&actor=actor-2", lambda _, metadata: metadata["actor"] == "actor-2"),
        (f"&correlation_id=c-{first}", lambda event, _: event.position == first),
        (f"&account={address}", lambda event, _: f"account:{address}" in tags.of(*_read(event))),
        (f"&tag=key:actor-{(first - 1) % 3}:key-{first - 1}", lambda event, _: event.position == first),
    ]
    for query, fits in tried:
        order = chance.choice(("newest", "oldest"))
        found = await _all(books.client, f"/{books.ledger}/events?order={order}{query}", chance)
        fitting = [event for event in plain.events.values() if fits(event, json.loads(event.metadata))]
        expected = sorted(fitting, key=lambda event: event.position, reverse=order == "newest")
        assert [(row["position"], row["type"], row["recorded_at"], row["data"]) for row in found] == [
            (event.position, event.type, format_time(event.recorded_at), json.loads(event.data)) for event in expected
        ], query


def _read(event: RecordedEvent) -> tuple[Event, Metadata]:
    return decode(event.type, event.data), decode_metadata(event.metadata)


async def test_exported_entries_equal_the_fold(books: Books, asked: Asked) -> None:
    response = await books.client.get(f"/{books.ledger}/exports/entries.csv?{asked.recorded}")
    assert response.status_code == 200, response.text
    rows = csv.DictReader(io.StringIO(response.text, newline=""))
    moved = [row for row in books.plain.moves(Moment(asked.moment.position)) if row["kind"] in ("posted", "captured")]
    names = ("position", "entry_index", "transaction", "account", "direction", "asset", "units", "effective_at")
    assert sorted(tuple(row[name] for name in names) for row in rows) == sorted(
        (
            *(str(row["position"]), str(row["entry_index"]), row["transaction_id"], row["address"], row["direction"]),
            *(row["asset"], str(row["amount"]), format_time(row["effective_at"])),
        )
        for row in moved
    )


GRAPH = """
query ($ledger: String!, $position: Position, $time: Time, $accounts: String, $transactions: String) {
  ledger(name: $ledger, asOfPosition: $position, asOf: $time) {
    asOf { position recordedAt }
    accounts(first: 100, after: $accounts) {
      edges { node {
        address status balances { asset posted pending available postedDebits postedCredits pendingDebits pendingCredits }
        entries(first: 3, order: NEWEST) { edges { node { position entryIndex kind direction amount asset } } }
      } }
      pageInfo { hasNextPage endCursor }
    }
    transactions(first: 100, after: $transactions) {
      edges { node { id status reference effectiveAt position } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""


async def test_the_graph_equals_the_fold(books: Books, asked: Asked) -> None:
    plain, moment = books.plain, Moment(asked.moment.position)
    headers = {"authorization": f"Bearer {token('admin')}"}
    given = dict(part.split("=", 1) for part in asked.recorded.split("&") if part)
    position = int(given["as_of_position"]) if "as_of_position" in given else None
    variables = {"ledger": books.ledger, "position": position, "time": given.get("as_of")}
    shown: list[Row] = []
    transactions: list[Row] = []
    while True:
        answer = await books.client.http.post(
            "/v1/graphql", json={"query": GRAPH, "variables": variables}, headers=headers
        )
        assert answer.json().get("errors") is None, answer.text
        found = answer.json()["data"]["ledger"]
        assert found["asOf"] == {"position": moment.position, "recordedAt": plain.as_of(moment)["recorded_at"]}
        goes_on = False
        for name, nodes in (("accounts", shown), ("transactions", transactions)):
            if name not in variables or variables[name] is not None:
                nodes += [edge["node"] for edge in found[name]["edges"]]
                has_more = found[name]["pageInfo"]["hasNextPage"]
                variables[name] = found[name]["pageInfo"]["endCursor"] if has_more else None
                goes_on = goes_on or has_more
        if not goes_on:
            break
    assert [(node["address"], node["status"]) for node in shown] == [
        (row["address"], row["status"]) for row in plain.accounts(moment)
    ]
    for node in shown:
        assert {
            of["asset"]: {_snake(name): int(amount) for name, amount in of.items() if name != "asset"}
            for of in node["balances"]
        } == plain.balances(moment, node["address"])
        entries = plain.entries(moment, node["address"], None, newest=True)[:3]
        names = ("position", "entry_index", "kind", "direction", "amount", "asset")
        assert [[str(value) for value in edge["node"].values()] for edge in node["entries"]["edges"]] == [
            [str(row[name]) for name in names] for row in entries
        ]
    assert [[str(value) for value in node.values()] for node in transactions] == [
        [str(row[name]) for name in ("id", "status", "reference", "effective_at", "position")]
        for row in plain.transactions(moment)
    ]


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


async def compare_across(one: Books, other: Books, asked: Asked) -> None:
    """Two ledgers in one call, each as of its own position, by recorded and effective time."""
    time = min(books.plain.events[books.plain.head].recorded_at for books in (one, other))
    query = f"ledgers={one.ledger},{other.ledger}&as_of={format_time(time)}"
    effective = asked.moment.effective
    query += "" if effective is None else f"&effective_at={format_time(effective)}"
    headers = {"authorization": f"Bearer {token('admin')}"}
    trial = (await one.client.http.get(f"/v1/trial-balance?{query}", headers=headers)).json()
    sums = (await one.client.http.get(f"/v1/balances?{query}&segments=1", headers=headers)).json()
    moments_then = [Moment(books.plain.position_at(time), effective) for books in (one, other)]
    of_each = [books.plain.trial_balance(then) for books, then in zip((one, other), moments_then, strict=True)]
    assert [ledger["assets"] for ledger in trial["ledgers"]] == of_each
    names = ("debits", "credits", "difference", "accounts")
    assert trial["together"] == {
        asset: {name: sum(each.get(asset, {}).get(name, 0) for each in of_each) for name in names}
        for asset in {asset for each in of_each for asset in each}
    }
    assert [ledger["data"] for ledger in sums["ledgers"]] == [
        books.plain.sums(then, 1) for books, then in zip((one, other), moments_then, strict=True)
    ]
    assert [ledger["as_of"]["position"] for ledger in sums["ledgers"]] == [then.position for then in moments_then]


async def test_several_ledgers_are_each_as_of_their_own_position(books: Books) -> None:
    client = books.client
    headers = {"authorization": (await client.get("", role="admin")).request.headers["authorization"]}
    found = (await client.http.get(f"/v1/trial-balance?ledgers={books.ledger}", headers=headers)).json()
    assets = books.plain.trial_balance(Moment(books.plain.head))
    assert [ledger["assets"] for ledger in found["ledgers"]] == [assets]
    assert found["together"] == assets
    query = f"ledgers={books.ledger}&segments=1&address=users:**"
    part = (await client.http.get(f"/v1/trial-balance?{query}", headers=headers)).json()
    groups = books.plain.trial_groups(Moment(books.plain.head), 1, Pattern("users:**").matches)
    assert part["address"] == "users:**"
    assert part["ledgers"][0]["groups"] == part["together_groups"] == groups
    assert (
        part["together"]
        == part["ledgers"][0]["assets"]
        == {row["asset"]: {name: row[name] for name in ("debits", "credits", "accounts")} for row in groups}
    )
    sums = (await client.http.get(f"/v1/balances?ledgers={books.ledger}&segments=1", headers=headers)).json()
    assert sums["ledgers"][0]["data"] == sums["together"] == books.plain.sums(Moment(books.plain.head), 1)
