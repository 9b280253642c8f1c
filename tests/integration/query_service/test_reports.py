"""Statements as CSV and HTML, refusals and who may see them, several ledgers, differences: what a reader of them relies on."""

import csv
import io
import random
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from query_service.application import account_statements, reports
from shared_kernel.events import CommandRefused
from shared_kernel.words import format_time
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client

TILL = "/bank/accounts/till/statement?asset=EUR/2"


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """A till with seven entries, two of them dated back."""
    keeper.append("bank", opened("bank"), account("cash", normal_balance="debit"), account("till"))
    for number in range(5):
        keeper.append("bank", posting(f"t{number}", "cash", "till", 100 + number))
    keeper.append("bank", posting("late", "till", "cash", 50, effective_at="2025-12-31T12:00:00Z", reference="=cmd()"))
    keeper.append("bank", posting("<b>&", "cash", "till", 1, effective_at="2025-12-31T11:00:00Z"))
    keeper.project("bank")
    return keeper


def _refused(code: str, *accounts: str, judged_at: int | None = None) -> CommandRefused:
    return CommandRefused(
        command="post_transaction",
        code=code,
        fields={"account": accounts[0], "missing": 1},
        asked=msgspec.Raw(b'{"entries":[]}'),
        accounts=list(accounts),
        judged_at=judged_at,
    )


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize("how", ["format", "accept"])
async def test_csv_holds_the_whole_statement_between_its_ends(
    client: Client, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_statements, "PAGE_ROWS", 2)
    if how == "format":
        response = await client.get(f"{TILL}&format=csv")
    else:
        response = await client.get(TILL, headers={"Accept": "text/csv, application/json;q=0.5"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["daybook-position"] == "10"
    lines = list(csv.DictReader(io.StringIO(response.text)))
    assert [line["line"] for line in lines] == ["opening", *["entry"] * 7, "closing"]
    assert [line["balance"] for line in lines] == [
        "0.00",
        "1.00",
        "2.01",
        "3.03",
        "4.06",
        "5.10",
        "4.60",
        "4.61",
        "4.61",
    ]
    assert (lines[6]["debit"], lines[6]["credit"], lines[6]["reference"]) == ("0.50", "", "'=cmd()")
    assert (lines[-1]["debit"], lines[-1]["credit"], lines[-1]["position"]) == ("0.50", "5.11", "10")


@pytest.mark.usefixtures("bank")
@pytest.mark.parametrize("axis", ["recorded", "effective"])
async def test_every_line_of_a_csv_says_what_the_statement_is_of(client: Client, axis: str) -> None:
    begin, end, by = "2025-12-31T11:30:00.000000Z", "2026-01-01T09:30:06.000000Z", "2026-01-01T09:30:05.000000Z"
    period = f"axis={axis}&from={begin}&until={end}"
    opening, *entries, closing = csv.DictReader(
        io.StringIO((await client.get(f"{TILL}&{period}&effective_at={by}&format=csv")).text)
    )
    of = {"asset": "EUR/2", "ledger": "bank", "account": "till", "axis": axis, "from": begin, "until": end}
    assert entries
    for line in (opening, *entries, closing):
        assert {name: line[name] for name in of} == of
    nothing = dict.fromkeys(("effective_at", "recorded_at", "position"), "")
    texts = dict.fromkeys(("transaction", "reference", "description"), "")
    answer = await client.ok(f"{TILL}&{period}&effective_at={by}")
    known = {"effective_at": by, "recorded_at": answer["as_of"]["recorded_at"], "position": "10"}
    for line, rest in ((opening, nothing | texts), (closing, known | texts)):
        assert {name: line[name] for name in rest} == rest
    assert (opening["debit"], opening["credit"]) == ("", "")
    assert [opening["balance"], closing["balance"]] == [f"{answer[end] / 100:.2f}" for end in ("opening", "closing")]
    open_ends = csv.DictReader(io.StringIO((await client.get(f"{TILL}&format=csv")).text))
    assert {(line["from"], line["until"]) for line in open_ends} == {("", "")}


@pytest.mark.usefixtures("bank")
async def test_statement_comes_in_the_form_that_has_the_most_weight(client: Client) -> None:
    for header, media_type in (
        ("text/html;q=0.1, application/json", "application/json"),
        ("text/csv;q=0.1, text/html;q=0.2", "text/html"),
    ):
        response = await client.get(TILL, headers={"Accept": header})
        assert response.headers["content-type"].partition(";")[0] == media_type


@pytest.mark.usefixtures("bank")
async def test_statement_to_print_escapes_what_clients_wrote_and_loads_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_statements, "PAGE_ROWS", 3)
    period = "from=2025-12-31T11:30:00Z&until=2026-01-01T09:30:06Z"
    response = await client.get(f"{TILL}&axis=effective&{period}", headers={"Accept": "text/html"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = response.text
    amounts = re.findall(r'<td class="n">([^<]*)</td>', page)
    minus = "\N{MINUS SIGN}0.49"
    assert amounts == ["0.01", "0.50", "", minus, "", "1.00", "0.51", "", "1.01", "1.52", "0.50", "2.01", "1.52"]
    assert "2025-12-31 11:30:00 to before 2026-01-01 09:30:06" in page
    assert "Opening balance" in page
    assert not re.search(r"<script|src=|href=|url\(", page)
    whole = (await client.get(f"{TILL}&format=html")).text
    assert "&lt;b&gt;&amp;" in whole
    assert "<b>&" not in whole
    assert "From the beginning" in whole
    month = (await client.get(f"{TILL}&from=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00Z&format=html")).text
    assert "2026-01-01 to 2026-01-31" in month


@pytest.mark.usefixtures("bank")
async def test_statement_of_an_account_without_entries_has_equal_ends(client: Client) -> None:
    found = await client.ok("/bank/accounts/till/statement?asset=USD/2")
    assert (found["opening"], found["closing"], found["data"]) == (0, 0, [])
    await client.problem("/bank/accounts/nobody/statement?asset=EUR/2", 404, "account_not_found")
    await client.problem("/bank/accounts/nobody/statement?asset=EUR/2&format=csv", 404, "account_not_found")
    await client.problem("/bank/accounts/nobody/explanation?asset=EUR/2", 404, "account_not_found")
    explained = await client.ok("/bank/accounts/till/explanation?asset=USD/2")
    assert (explained["checked"], explained["data"]) == (True, [])


async def test_explanation_tells_when_the_read_model_says_something_else(client: Client, bank: Bookkeeper) -> None:
    path = "/bank/accounts/till/explanation?asset=EUR/2"
    assert (await client.ok(path))["checked"]
    bank.connection.execute(
        "update books_1.entries set posted_credits = posted_credits + 1 where address = 'till' and position = 6"
    )
    assert not (await client.ok(path))["checked"]


async def test_explanation_by_effective_time_has_its_order_and_is_checked(client: Client, bank: Bookkeeper) -> None:
    path = "/bank/accounts/till/explanation?asset=EUR/2&effective_at=2025-12-31T12:00:00Z"
    page = await client.ok(f"{path}&limit=1")
    assert [(step["transaction"], step["balance"]["posted"]) for step in page["data"]] == [("<b>&", 1)]
    assert page["data"][0]["changes"] == {"posted_debits": 0, "posted_credits": 1}
    assert page["balance"] == {"posted": -49, "posted_debits": 50, "posted_credits": 1}
    last = await client.ok(f"{path}&limit=1&cursor={page['next_cursor']}")
    assert last["opening"]["posted"] == 1
    assert [(step["transaction"], step["balance"]["posted"]) for step in last["data"]] == [("late", -49)]
    assert (page["checked"], last["checked"], last["next_cursor"]) == (True, True, None)
    bank.connection.execute("update periods_1.untimely set credits = credits + 1 where address = 'till'")
    assert not (await client.ok(path))["checked"]


async def test_readers_see_their_own_refusals_and_auditors_all(client: Client, bank: Bookkeeper) -> None:
    bank.append("bank", _refused("insufficient_funds", "till", judged_at=4), actor="reader", key="k/1")
    bank.append("bank", _refused("account_frozen", "cash", "nobody"), actor="somebody")
    bank.project("bank")
    everything = (await client.ok("/bank/refusals", role="auditor"))["data"]
    assert [row["position"] for row in everything] == [12, 11]
    own = (await client.ok("/bank/refusals"))["data"]
    assert [row["position"] for row in own] == [11]
    assert (own[0]["caller"], own[0]["key"], own[0]["asked"]) == ("reader", "k/1", {"entries": []})
    assert (own[0]["judged_at"], own[0]["state"][0]["balances"]["EUR/2"]["posted"]) == (4, 100)
    assert own[0]["state"][0]["limits"] == {"EUR/2": {"minimum": 0, "maximum": 500_000}}
    assert (everything[0]["judged_at"], [state["status"] for state in everything[0]["state"]]) == (11, ["open", None])
    assert (await client.ok("/bank/refusals?caller=reader"))["data"] == own
    await client.problem("/bank/refusals?caller=somebody", 403, "forbidden")
    await client.problem("/bank/refusals", 403, "forbidden", role="writer")
    assert (await client.ok("/bank/refusals?caller=somebody&code=x", role="auditor"))["data"] == []


async def test_several_ledgers_need_a_token_for_each(client: Client, bank: Bookkeeper) -> None:
    bank.append("shop", opened("shop"), account("till"), account("cash"), posting("s", "cash", "till", 7))
    bank.project("shop")

    async def asked(path: str, *ledgers: str) -> tuple[int, dict[str, object]]:
        authorization = (await client.get("", ledgers=ledgers)).request.headers["authorization"]
        response = await client.http.get(f"/v1{path}", headers={"authorization": authorization})
        return response.status_code, response.json()

    status, found = await asked("/balances?ledgers=bank,shop&address=till", "bank", "shop")
    assert status == 200
    assert found["complete"] is True
    ledgers: list[dict[str, object]] = found["ledgers"]  # type: ignore[assignment]
    together: list[dict[str, object]] = found["together"]  # type: ignore[assignment]
    assert [(each["ledger"], each["as_of"]["position"]) for each in ledgers] == [("bank", 10), ("shop", 4)]  # type: ignore[index]
    assert [(each["accounts"], each["posted"]) for each in together] == [(2, 468)]
    for path in ("/balances?ledgers=bank,shop", "/trial-balance?ledgers=bank,shop", "/trial-balance?ledgers=bank,none"):
        status, found = await asked(path, "bank")
        assert (status, found["code"]) == (404, "ledger_not_found")


@pytest.mark.usefixtures("bank")
async def test_difference_names_what_was_dated_back_after_the_close(client: Client) -> None:
    path = "/bank/balances/diff?from_position=8&effective_until=2026-01-01T00:00:00Z"
    cash, till = (await client.ok(path))["data"]
    assert (cash["account"], cash["opening"], cash["closing"], cash["debits"], cash["credits"]) == (
        "cash",
        0,
        -49,
        1,
        50,
    )
    assert (till["account"], till["change"]) == ("till", -49)
    assert [(entry["transaction"], entry["position"]) for entry in till["entries"]] == [("<b>&", 10), ("late", 9)]
    assert till["entries_complete"]
    assert (await client.ok(f"{path}&address=till"))["data"] == [till]
    nothing = "/bank/balances/diff?from_position=8&effective_until=2025-12-31T00:00:00Z"
    assert (await client.ok(nothing))["data"] == []


async def test_difference_names_a_late_correction_however_much_was_recorded_since(
    client: Client, keeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "SCAN_MAX", 5)
    monkeypatch.setattr(reports, "ENTRIES_MAX", 2)
    keeper.append("bank", opened("bank"), account("cash", normal_balance="debit"), account("till"))
    for number in range(20):
        keeper.append("bank", posting(f"t{number}", "cash", "till", 100))
    for number, time in enumerate(("1999-05-01T00:00:00Z", "1999-04-01T00:00:00Z", "1999-05-01T00:00:00Z")):
        keeper.append("bank", posting(f"late{number}", "cash", "till", 1, effective_at=time))
    keeper.project("bank")
    path = "/bank/balances/diff?from_position=3&effective_until=2000-01-01T00:00:00Z"
    cash, till = (await client.ok(path))["data"]
    assert (cash["change"], till["change"]) == (3, 3)
    for row in (cash, till):
        assert [entry["transaction"] for entry in row["entries"]] == ["late1", "late0"]
        assert not row["entries_complete"]
    (whole,) = (await client.ok(f"{path}&address=cash"))["data"]
    assert [entry["transaction"] for entry in whole["entries"]] == ["late1", "late0", "late2"]
    assert whole["entries_complete"]


async def test_difference_of_one_account_goes_on_from_page_to_page(
    client: Client, bank: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "SCAN_MAX", 3)
    path = "/bank/balances/diff?from_position=3&to_position=10&address=till&limit=2"
    page = await client.ok(path)
    pages = [page]
    bank.append("bank", posting("later", "cash", "till", 9))
    bank.project("bank")
    while page["next_cursor"]:
        page = await client.ok(f"{path}&cursor={page['next_cursor']}")
        pages.append(page)
    rows = [row for page in pages for row in page["data"]]
    assert [entry["position"] for row in rows for entry in row["entries"]] == [4, 5, 6, 7, 8, 9, 10]
    assert [row["entries_complete"] for row in rows] == [False, False, False, True]
    assert {(row["opening"], row["closing"]) for row in rows} == {(0, 461)}


@pytest.mark.parametrize("seed", range(3))
async def test_late_entries_come_in_the_order_of_effective_time_through_every_span(
    client: Client, keeper: Bookkeeper, seed: int
) -> None:
    chance = random.Random(seed)
    spans = [timedelta(**{unit: 1}) for unit in ("microseconds", "seconds", "minutes", "hours", "days")]
    times = [datetime(2024, 12, 31, 23, 59, 59, 999_998, UTC)]
    for _ in range(60):
        step = chance.choice([*spans, timedelta(0), timedelta(days=31), timedelta(days=366)])
        times.append(chance.choice(times) + step * chance.choice((-1, 1)))
    times = [time for time in times if time < datetime(2026, 1, 1, tzinfo=UTC)]
    keeper.append("bank", opened("bank"), account("cash", normal_balance="debit"), account("till"))
    for number, time in enumerate(times):
        keeper.append("bank", posting(f"t{number}", "cash", "till", 1, effective_at=format_time(time)))
    keeper.project("bank")
    positions = dict(enumerate(times, start=4))
    for _ in range(6):
        close, until = (
            chance.randint(3, len(times)),
            chance.choice(times) + timedelta(microseconds=chance.choice((0, 1))),
        )
        path = f"/bank/balances/diff?from_position={close}&effective_until={format_time(until)}&address=till"
        found: list[int] = []
        page = await client.ok(f"{path}&limit={chance.randint(1, 5)}")
        while True:
            found += [entry["position"] for row in page["data"] for entry in row["entries"]]
            if page["next_cursor"] is None:
                break
            page = await client.ok(f"{path}&limit={chance.randint(1, 5)}&cursor={page['next_cursor']}")
        late = [position for position, time in positions.items() if position > close and time < until]
        assert found == sorted(late, key=lambda position: (positions[position], position))
