"""What an answer is as of: prefixes and times, what never changes and says so, what a client need not be told again."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared_kernel.events import Entry, HoldPosted, TransactionHeld
from shared_kernel.words import format_time
from tests.integration.query_service.bookkeeper import FIRST_DAY, Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service

pytestmark = pytest.mark.thorough

BALANCES = "/bank/accounts/till/balances"
IMMUTABLE = "private, max-age=3600, immutable"


def recorded(position: int) -> str:
    """When the bookkeeper records a position."""
    return format_time(FIRST_DAY + timedelta(seconds=position, microseconds=7))


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Positions 4 to 6 put 7 each into the till; the second is dated back."""
    keeper.append("bank", opened("bank"), account("cash", normal_balance="debit"), account("till"))
    keeper.append("bank", posting("t4", "cash", "till", 7))
    keeper.append("bank", posting("t5", "cash", "till", 7, effective_at="2025-12-31T12:00:00Z"))
    keeper.append("bank", posting("t6", "cash", "till", 7))
    keeper.project("bank")
    return keeper


async def _posted(client: Client, query: str) -> tuple[int, int]:
    found = await client.ok(f"{BALANCES}?{query}")
    return found["as_of"]["position"], found["balances"].get("EUR/2", {"posted": 0})["posted"]


@pytest.mark.usefixtures("bank")
async def test_of_several_prefixes_the_smallest_counts(client: Client) -> None:
    assert await _posted(client, "") == (6, 21)
    assert await _posted(client, "as_of_position=4") == (4, 7)
    assert await _posted(client, f"as_of={recorded(5)}") == (5, 14)
    assert await _posted(client, f"as_of={recorded(5)}&as_of_position=4") == (4, 7)
    assert await _posted(client, f"as_of={recorded(4)}&as_of_position=6") == (4, 7)
    just_before = format_time(FIRST_DAY + timedelta(seconds=5, microseconds=6))
    assert await _posted(client, f"as_of={just_before}") == (4, 7)
    assert await _posted(client, f"as_of={just_before.replace('Z', '+00:00')}") == (4, 7)


@pytest.mark.usefixtures("bank")
async def test_effective_time_counts_within_what_was_known(client: Client) -> None:
    year_end = "effective_at=2025-12-31T23:59:59.999999Z"
    assert await _posted(client, year_end) == (6, 7)
    assert await _posted(client, f"{year_end}&as_of_position=4") == (4, 0)
    assert await _posted(client, "effective_at=2030-01-01T00:00:00Z") == (6, 21)
    found = await client.ok(f"{BALANCES}?{year_end}")
    assert found["balances"] == {"EUR/2": {"posted": 7, "posted_debits": 0, "posted_credits": 7}}


@pytest.mark.usefixtures("bank")
async def test_ledger_was_not_there_before_it_was_opened(client: Client) -> None:
    await client.problem(f"/bank?as_of={format_time(FIRST_DAY)}", 404, "ledger_not_found")
    await client.problem(f"{BALANCES}?as_of_position=2", 404, "account_not_found")


@pytest.mark.usefixtures("bank")
async def test_future_time_and_position_beyond_the_head_are_refused(client: Client) -> None:
    soon = format_time(datetime.now(UTC) + timedelta(hours=1))
    assert (await client.problem(f"{BALANCES}?as_of={soon}", 400, "invalid_request"))["path"] == "as_of"
    problem = await client.problem(f"{BALANCES}?as_of_position=7", 409, "position_beyond_head")
    assert (problem["position"], problem["head"]) == (7, 6)
    await client.problem("/bank/balances/diff?from_position=7", 409, "position_beyond_head")
    await client.problem("/bank/balances/diff?from_position=1&to_position=7", 409, "position_beyond_head")
    now = format_time(datetime.now(UTC) - timedelta(seconds=1))
    assert await _posted(client, f"as_of={now}") == (6, 21)


@pytest.mark.usefixtures("bank")
async def test_log_may_be_ahead_of_the_clock(client: Client, bank: Bookkeeper) -> None:
    """Recorded times never decrease: after a clock was set back, the last ones lie ahead of it."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    bank.append("bank", posting("t7", "cash", "till", 7), at=ahead)
    bank.project("bank")
    assert await _posted(client, f"as_of={format_time(ahead)}") == (7, 28)
    await client.problem(f"{BALANCES}?as_of={format_time(ahead + timedelta(seconds=1))}", 400, "invalid_request")


async def test_position_asked_for_is_waited_for(open_service: Service, bank: Bookkeeper) -> None:
    client = await open_service(visible_poll_ms=10_000, wait_ms_max=60_000)
    bank.append("bank", posting("t7", "cash", "till", 7))
    await client.problem(f"{BALANCES}?as_of_position=7", 503, "read_model_behind", headers={"Prefer": "wait=0"})
    assert await _posted(client, f"as_of_position=7&as_of={recorded(5)}") == (5, 14)
    async with asyncio.timeout(9), asyncio.TaskGroup() as group:
        asked = group.create_task(client.ok(f"{BALANCES}?as_of_position=7", headers={"Prefer": "wait=60"}))
        while client.container.visible().waiting() < 1:
            await asyncio.sleep(0)
        await asyncio.to_thread(bank.project, "bank")
    assert asked.result()["as_of"]["position"] == 7


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize(
    ("query", "keeping"),
    [
        ("", "private, no-cache"),
        ("?as_of_position=6", IMMUTABLE),
        ("?as_of_position=6&effective_at=2026-01-01T00:00:00Z", IMMUTABLE),
        (f"?as_of={recorded(5)}", IMMUTABLE),
        (f"?as_of={recorded(6)}", "private, no-cache"),
    ],
)
async def test_what_a_position_names_may_be_kept(client: Client, query: str, keeping: str) -> None:
    response = await client.get(f"{BALANCES}{query}")
    assert response.headers["cache-control"] == keeping
    assert response.headers["vary"] == "Accept, Authorization, Prefer"


async def test_answer_that_stands_still_is_not_kept_unless_it_is_of_before(client: Client, bank: Bookkeeper) -> None:
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.stand_still("bank", "parked", 7)
    live = await client.get(BALANCES)
    assert (live.headers["cache-control"], live.json()["complete"]) == ("private, no-cache", False)
    before = await client.get(f"{BALANCES}?as_of_position=6")
    assert (before.headers["cache-control"], before.json()["complete"]) == (IMMUTABLE, True)


async def test_answer_that_lacks_a_skipped_event_says_so_for_ever_but_one_of_before_it_is_complete(
    client: Client, bank: Bookkeeper
) -> None:
    bank.leave_out("bank", 5)
    lacking = {"state": "skipped", "since": "2026-01-01T09:30:00.000000Z", "position": 5}
    for query in ("", "?as_of_position=5", "?as_of_position=6"):
        response = await client.get(f"{BALANCES}{query}")
        assert (response.headers["cache-control"], response.json()["incomplete"]) == ("private, no-cache", lacking)
    before = await client.get(f"{BALANCES}?as_of_position=4")
    assert (before.headers["cache-control"], before.json()["complete"]) == (IMMUTABLE, True)
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.stand_still("bank", "parked", 7)
    assert (await client.ok(BALANCES))["incomplete"] == lacking | {"state": "parked"}
    await client.problem(BALANCES, 503, "read_model_parked", headers={"Daybook-Position": "7"})


LISTED = "/bank/accounts?balances=true&effective_at=2030-01-01T00:00:00Z"


async def test_listed_balances_by_effective_time_lack_what_periods_left_out_and_say_so(
    client: Client, bank: Bookkeeper
) -> None:
    """The accounts come from one read model, the balances from both: the answer is of both, its version too."""
    bank.leave_out("bank", 5, projection="periods")
    lacking = {"state": "skipped", "since": "2026-01-01T09:30:00.000000Z", "position": 5}
    response = await client.get(f"{LISTED}&as_of_position=6")
    assert (response.headers["cache-control"], response.json()["incomplete"]) == ("private, no-cache", lacking)
    single = await client.get(f"{BALANCES}?effective_at=2030-01-01T00:00:00Z&as_of_position=6")
    assert response.headers["etag"] == single.headers["etag"]


async def test_listed_balances_by_effective_time_are_as_of_what_both_read_models_have(
    client: Client, bank: Bookkeeper
) -> None:
    bank.append("bank", posting("t7", "cash", "late", 7))
    bank.project("bank", only="books")
    found = await client.ok(LISTED)
    assert found["as_of"]["position"] == 6
    assert {row["address"]: row["balances"]["EUR/2"]["posted"] for row in found["data"]} == {"cash": 21, "till": 21}
    page = await client.ok(f"{LISTED}&limit=1")
    assert (await client.ok(f"{LISTED}&limit=1&cursor={page['next_cursor']}"))["as_of"]["position"] == 6


@pytest.mark.parametrize(
    "path",
    [
        "/bank",
        "/bank/accounts",
        LISTED,
        "/bank/accounts/till",
        BALANCES,
        "/bank/accounts/till/entries",
        "/bank/transactions",
        "/bank/transactions/t4",
        "/bank/balances",
        "/bank/trial-balance?effective_at=2026-01-01T00:00:00Z",
        "/bank/balances/diff?from_position=1",
        "/bank/accounts/till/statement?asset=EUR/2",
        "/bank/accounts/till/statement?asset=EUR/2&format=csv",
        "/bank/accounts/till/explanation?asset=EUR/2",
        "/bank/refusals",
        "/bank/events",
    ],
)
async def test_answer_that_the_client_has_is_not_sent_again(client: Client, bank: Bookkeeper, path: str) -> None:
    first = await client.get(path, role="admin")
    assert first.status_code == 200
    known = {"If-None-Match": f'"other", {first.headers["etag"]}'}
    again = await client.get(path, role="admin", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["daybook-position"] == "6"
    weak = {"If-None-Match": f"W/{first.headers['etag']}"}
    assert (await client.get(path, role="admin", headers=weak)).status_code == 304
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.project("bank")
    changed = await client.get(path, role="admin", headers=known)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


LINES = {"Accept": "application/x-ndjson"}
NAMED = [
    ("/bank/events/3", {}, 3),
    ("/bank/events?to_position=5", {}, 5),
    ("/bank/events?from_position=2&to_position=5&limit=2&order=newest", {}, 5),
    ("/bank/events?to_position=5", LINES, 5),
    ("/bank/exports/entries.csv?as_of_position=5", {}, 5),
    ("/bank/exports/hledger.journal?as_of_position=5", {}, 5),
    ("/bank/exports/ledger.beancount?as_of_position=5", {}, 5),
]


@pytest.mark.parametrize(("path", "headers", "position"), NAMED)
async def test_what_the_log_holds_at_named_positions_never_changes(
    client: Client, bank: Bookkeeper, path: str, headers: dict[str, str], position: int
) -> None:
    first = await client.get(path, role="admin", headers=headers)
    assert (first.status_code, first.headers["cache-control"]) == (200, IMMUTABLE)
    assert first.headers["daybook-position"] == str(position)
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.project("bank")
    later = await client.get(path, role="admin", headers=headers)
    assert (later.content, later.headers["etag"]) == (first.content, first.headers["etag"])
    known = headers | {"If-None-Match": first.headers["etag"]}
    again = await client.get(path, role="admin", headers=known)
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", IMMUTABLE)


@pytest.mark.parametrize("path", ["/bank/events", "/bank/exports/entries.csv"])
async def test_a_live_stream_has_the_version_of_its_position(client: Client, bank: Bookkeeper, path: str) -> None:
    first = await client.get(path, role="admin", headers=LINES)
    known = LINES | {"If-None-Match": first.headers["etag"]}
    assert first.headers["cache-control"] == "private, no-cache"
    assert (await client.get(path, role="admin", headers=known)).status_code == 304
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.project("bank")
    assert (await client.get(path, role="admin", headers=known)).status_code == 200


@pytest.mark.usefixtures("bank")
async def test_lines_and_pages_of_events_are_two_versions(client: Client) -> None:
    page = await client.get("/bank/events", role="admin")
    lines = await client.get("/bank/events", role="admin", headers=LINES)
    assert page.headers["etag"] != lines.headers["etag"]


ACROSS = [
    "/v1/ledgers",
    "/v1/ledgers?limit=1",
    "/v1/balances?ledgers=bank,shop",
    "/v1/balances?ledgers=bank&segments=1",
    "/v1/trial-balance?ledgers=shop,bank",
    "/v1/trial-balance?ledgers=bank,shop&effective_at=2026-01-01T00:00:00Z",
    "/v1/trial-balance?ledgers=bank,shop&as_of=2026-06-01T00:00:00Z",
]


@pytest.mark.parametrize("path", ACROSS)
async def test_an_answer_about_several_ledgers_has_a_version_of_all_of_them(
    client: Client, bank: Bookkeeper, path: str
) -> None:
    bank.append("shop", opened("shop"))
    bank.project("shop")
    headers = dict((await client.get("", role="admin")).request.headers)
    first = await client.http.get(path, headers=headers)
    assert (first.status_code, first.headers["cache-control"]) == (200, "private, no-cache")
    assert first.headers["vary"] == "Accept, Authorization, Prefer"
    known = headers | {"If-None-Match": f'"other", {first.headers["etag"]}'}
    again = await client.http.get(path, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    text = await client.http.get(path, headers=known | {"Prefer": "amounts=string"})
    assert text.status_code == 200
    bank.append("bank", posting("t7", "cash", "till", 7))
    bank.project("bank")
    changed = await client.http.get(path, headers=known)
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


async def test_a_list_of_ledgers_that_goes_on_now_is_another_answer(client: Client, bank: Bookkeeper) -> None:
    first = await client.get("?limit=1")
    bank.append("shop", opened("shop"))
    bank.project("shop")
    longer = await client.get("?limit=1", headers={"If-None-Match": first.headers["etag"]})
    assert (longer.status_code, len(longer.json()["data"])) == (200, 1)


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize(
    "path", ["/bank", BALANCES, "/bank/events/3", "/bank/events", "/bank/exports/entries.csv", "/bank/balances", ""]
)
async def test_any_version_is_one_that_the_client_has_wherever_there_is_an_answer(client: Client, path: str) -> None:
    any_version = {"If-None-Match": "*"}
    assert (await client.get(path, role="admin", headers=any_version)).status_code == 304
    assert (await client.get(path, role="admin", headers={"If-None-Match": '"*"'})).status_code == 200


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/bank/accounts/nobody/balances", "account_not_found"),
        ("/bank/events/9", "event_not_found"),
        ("/none", "ledger_not_found"),
    ],
)
async def test_of_what_is_not_there_the_client_has_no_version(client: Client, path: str, code: str) -> None:
    await client.problem(path, 404, code, role="admin", headers={"If-None-Match": "*"})


async def test_version_belongs_to_generation_incarnation_and_form(client: Client, bank: Bookkeeper) -> None:
    etag = (await client.get(BALANCES)).headers["etag"]
    known = {"If-None-Match": etag}
    text = await client.get(BALANCES, headers=known | {"Prefer": "amounts=string"})
    assert text.json()["balances"]["EUR/2"]["posted"] == "21"
    assert text.headers["etag"] != etag
    bank.make_generation(2)
    bank.project("bank", generation=2)
    bank.go_live(2)
    assert (await client.get(BALANCES, headers=known)).status_code == 200
    bank.go_live(1)
    assert (await client.get(BALANCES, headers=known)).status_code == 304
    bank.stand_still("bank", "waiting", 7)
    assert (await client.get(BALANCES, headers=known)).status_code == 200


async def test_held_and_captured_amounts_are_seen_at_each_position(client: Client, bank: Bookkeeper) -> None:
    entries = [
        Entry(account="till", direction="debit", amount=10, asset="EUR/2"),
        Entry(account="cash", direction="credit", amount=10, asset="EUR/2"),
    ]
    part = [Entry(account=entry.account, direction=entry.direction, amount=4, asset="EUR/2") for entry in entries]
    rest = [Entry(account=entry.account, direction=entry.direction, amount=6, asset="EUR/2") for entry in entries]
    bank.append(
        "bank",
        TransactionHeld(transaction="h", entries=entries, expires_at="2026-02-01T00:00:00Z"),
        HoldPosted(transaction="h", entries=part, released=rest),
    )
    bank.project("bank")

    async def balance(position: int) -> tuple[int, int, int]:
        found = (await client.ok(f"{BALANCES}?as_of_position={position}"))["balances"]["EUR/2"]
        return found["posted"], found["pending"], found["available"]

    assert await balance(6) == (21, 21, 21)
    assert await balance(7) == (21, 11, 11)
    assert await balance(8) == (17, 17, 17)
    held = (await client.ok("/bank/transactions/h?as_of_position=7"))["transaction"]
    assert (held["status"], held["posted"], len(held["held"])) == ("pending", [], 2)
    assert held["expires_at"] == "2026-02-01T00:00:00.000000Z"
    ended = (await client.ok("/bank/transactions/h"))["transaction"]
    assert (ended["status"], len(ended["posted"]), ended["held"]) == ("posted", 2, [])
    assert (ended["position"], ended["changed_position"]) == (7, 8)
    kinds = [entry["kind"] for entry in (await client.ok("/bank/accounts/till/entries"))["data"]]
    assert kinds == ["released", "captured", "held", "posted", "posted", "posted"]
    assert [t["id"] for t in (await client.ok("/bank/transactions?status=pending&as_of_position=7"))["data"]] == ["h"]
    assert (await client.ok("/bank/transactions?status=pending"))["data"] == []
