"""The everyday commands against a scripted service: their requests, tables, JSON and exit codes."""

import json
from collections.abc import Callable

import pytest

from daybook.__main__ import build_app
from daybook.cli.tail import for_people
from daybook.terminal import CommandFailed, Exit
from shared_kernel import events
from tests.support.histories import recorded
from tests.unit.daybook_cli.conftest import Reply, Request, Service

BALANCE = {
    "posted": -320,
    "pending": -320,
    "available": -320,
    "posted_debits": 70320,
    "posted_credits": 70000,
    "pending_debits": 0,
    "pending_credits": 0,
}
AS_OF = {"position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z"}

Daybook = Callable[..., object]


@pytest.fixture
def daybook(service: Service) -> Daybook:
    def run(*arguments: str) -> object:
        where = ("--command-url", service.url, "--query-url", service.url, "--token", "t")
        return build_app()([*arguments, *where], exit_on_error=False, result_action="return_value", print_error=False)

    return run


def test_balances_are_shown_as_decimals(service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"account": "users:1", "balances": {"CZK/2": BALANCE}, "as_of": AS_OF, "complete": True}
    service.script = lambda request: Reply(200, answer)
    assert daybook("balance", "bank", "users:1") == Exit.DONE
    said = capsys.readouterr()
    assert "-3.20" in said.out
    assert "703.20" in said.out
    assert "position 17" in said.err
    assert service.requests[0].path == "/v1/ledgers/bank/accounts/users:1/balances"


def test_balances_are_asked_for_as_of_a_moment(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    effective = {"posted": -320, "posted_debits": 70320, "posted_credits": 70000}
    answer = {"account": "users:1", "balances": {"CZK/2": effective}, "as_of": AS_OF, "complete": True}
    service.script = lambda request: Reply(200, answer)
    moment = ("--as-of-position", "17", "--as-of", "2026-04-05T00:00:00Z", "--effective-at", "2026-03-31T00:00:00Z")
    assert daybook("balance", "bank", "users:1", *moment) == Exit.DONE
    assert "703.20" in capsys.readouterr().out
    assert service.requests[0].path == (
        "/v1/ledgers/bank/accounts/users:1/balances"
        "?as_of_position=17&as_of=2026-04-05T00%3A00%3A00Z&effective_at=2026-03-31T00%3A00%3A00Z"
    )


def test_statement_is_shown_to_its_last_page(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {
        "effective_at": "2026-03-31T12:00:00.000000Z",
        "recorded_at": "2026-11-24T09:30:00.000000Z",
        "transaction": "t-1",
        "description": None,
        "direction": "credit",
        "amount": 70050,
        "balance": 70050,
    }
    ends = {"opening": 0, "closing": 60050, "debits": 10000, "credits": 70050, "as_of": AS_OF, "complete": True}
    other = line | {"transaction": "t-2", "direction": "debit", "amount": 10000, "balance": 60050}

    def answer(request: Request) -> Reply:
        if "cursor=c-1" in request.path:
            return Reply(200, ends | {"data": [other], "next_cursor": None})
        return Reply(200, ends | {"data": [line], "next_cursor": "c-1"})

    service.script = answer
    asked = ("bank", "users:1", "CZK/2", "--axis", "effective", "--from", "2026-03-01T00:00:00Z")
    assert daybook("statement", *asked) == Exit.DONE
    said = capsys.readouterr()
    assert said.out.index("t-1") < said.out.index("t-2") < said.out.index("closing")
    assert said.out.count("600.50") == 2
    assert [("axis=effective" in request.path, "asset=CZK%2F2" in request.path) for request in service.requests] == [
        (True, True)
    ] * 2


def test_statement_as_csv_is_the_answer_of_the_service(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    service.script = lambda request: Reply(200, {"any": "thing"})
    assert daybook("statement", "bank", "users:1", "JPY", "--csv") == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"any": "thing"}
    assert "format=csv" in service.requests[0].path


def test_trial_balance_is_shown_by_asset(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    total = {"debits": 70050, "credits": 70050, "difference": 0, "accounts": 2}
    service.script = lambda request: Reply(200, {"assets": {"CZK/2": total}, "as_of": AS_OF, "complete": False})
    assert daybook("trial-balance", "bank", "--effective-at", "2026-03-31T00:00:00Z") == Exit.DONE
    said = capsys.readouterr()
    assert said.out.count("700.50") == 2
    assert "not complete" in said.err


def test_json_is_the_answer_of_the_service_and_nothing_else(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {
        "account": "users:1",
        "balances": {"CZK/2": BALANCE | {"posted": 2**100}},
        "as_of": AS_OF,
        "complete": True,
    }
    service.script = lambda request: Reply(200, answer)
    daybook("balance", "bank", "users:1", "--json")
    said = capsys.readouterr()
    assert json.loads(said.out) == answer
    assert said.err == ""


def test_a_post_turns_decimals_into_smallest_units(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Request) -> Reply:
        sent = json.loads(request.body)
        return Reply(201, {"transaction": {"id": "t-1", "entries": sent["entries"]}, "position": 3})

    service.script = answer
    sides = ("--debit", "bank:cash", "--credit", "users:1", "--amount", "700.5", "--asset", "CZK/2")
    assert daybook("post", "bank", *sides, "--reference", "r-1", "--key", "k-1") == Exit.DONE
    (request,) = service.requests
    assert (request.path, request.key) == ("/v1/ledgers/bank/transactions", "k-1")
    assert json.loads(request.body) == {
        "entries": [
            {"account": "bank:cash", "direction": "debit", "amount": 70050, "asset": "CZK/2"},
            {"account": "users:1", "direction": "credit", "amount": 70050, "asset": "CZK/2"},
        ],
        "reference": "r-1",
    }
    said = capsys.readouterr()
    assert said.out.count("700.50") == 2
    assert "position 3" in said.err


def test_a_refused_post_says_why(service: Service, daybook: Daybook) -> None:
    problem = {"code": "insufficient_funds", "detail": "too little", "account": "users:1", "asset": "JPY", "missing": 5}
    service.script = lambda request: Reply(422, problem)
    sides = ("--debit", "users:1", "--credit", "bank:cash", "--amount", "1", "--asset", "JPY")
    with pytest.raises(CommandFailed, match=r"insufficient_funds.*users:1.*missing 5 JPY$") as failed:
        daybook("post", "bank", *sides, "--key", "k-7")
    assert failed.value.exit_code is Exit.REFUSED


def test_a_post_whose_outcome_is_unknown_says_how_to_ask_again(service: Service, daybook: Daybook) -> None:
    service.script = lambda request: Reply(503, {"code": "outcome_unknown"})
    sides = ("--debit", "users:1", "--credit", "bank:cash", "--amount", "1", "--asset", "JPY")
    with pytest.raises(CommandFailed, match=r"outcome_unknown.*add --key") as failed:
        daybook("post", "bank", *sides)
    assert failed.value.exit_code is Exit.TRY_AGAIN
    (key,) = {request.key for request in service.requests}
    assert f"--key {key}" in failed.value.message


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--debit", "a"), "--credit, --amount, --asset missing"),
        (("--debit", "a", "--credit", "b", "--amount", "1.5", "--asset", "JPY"), "more decimals than JPY"),
        (("--debit", "a", "--credit", "b", "--amount=-1", "--asset", "JPY"), "above zero"),
        (("file.json", "--debit", "a"), "not both"),
    ],
)
def test_a_post_called_wrongly_sends_nothing(
    service: Service, daybook: Daybook, options: tuple[str, ...], told: str
) -> None:
    with pytest.raises(CommandFailed, match=told) as failed:
        daybook("post", "bank", *options)
    assert failed.value.exit_code is Exit.USAGE
    assert service.requests == []


def event_line(position: int) -> str:
    entries = (
        '[{"account":"bank:cash","direction":"debit","amount":70000,"asset":"CZK/2"},'
        '{"account":"users:1","direction":"credit","amount":70000,"asset":"CZK/2"}]'
    )
    return (
        f'{{"ledger":"bank","position":{position},"type":"TransactionPosted.v1",'
        '"recorded_at":"2026-11-24T09:30:00.123456Z","metadata":{"actor":"w","correlation_id":"c"},'
        f'"data":{{"transaction":"t-{position}","entries":{entries},"reference":"r-1"}}}}'
    )


def test_an_event_is_told_in_one_line() -> None:
    assert for_people(event_line(17)) == (
        "      17  2026-11-24 09:30:00.123  TransactionPosted  "
        "debit bank:cash 700.00 CZK/2; credit users:1 700.00 CZK/2  [r-1]"
    )


ENTRY = events.Entry(account="users:1", direction="debit", amount=70000, asset="CZK/2")
TOLD = {
    "TransactionHeld    debit users:1 700.00 CZK/2  [r-1]": events.TransactionHeld(
        transaction="t", entries=[ENTRY], reference="r-1"
    ),
    "HoldPosted         t: debit users:1 700.00 CZK/2, the rest stays held": events.HoldPosted(
        transaction="t", entries=[ENTRY], is_final=False
    ),
    "HoldVoided         t: released debit users:1 700.00 CZK/2": events.HoldVoided(transaction="t", released=[ENTRY]),
    "ScheduledRefused   t: insufficient_funds users:1": events.ScheduledRefused(
        transaction="t", code="insufficient_funds", fields={}, accounts=["users:1"]
    ),
    'AccountFrozen      users:1 {"scope":"debits"}': events.AccountFrozen(address="users:1", scope="debits"),
    "AccountClosed      users:1": events.AccountClosed(address="users:1"),
    'LimitsSet          users:1 {"limits":{"CZK/2":{"minimum":0}}}': events.LimitsSet(
        address="users:1", limits={"CZK/2": events.Limit(minimum=0)}
    ),
    "LedgerArchived     bank": events.LedgerArchived(ledger="bank"),
}


@pytest.mark.parametrize("told", TOLD)
def test_each_kind_of_event_is_told_by_what_it_is_about(told: str) -> None:
    (event,) = recorded("bank", [TOLD[told]])
    assert for_people(events.canonical_line(event)) == f"       1  2026-11-24 09:30:01.000  {told}"


def test_an_event_of_a_newer_version_is_shown_as_it_is() -> None:
    assert '{"transaction"' in for_people(event_line(17).replace(".v1", ".v9"))


def test_tail_begins_a_few_events_before_the_end(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Request) -> Reply:
        if "order=newest" in request.path:
            return Reply(200, {"data": [json.loads(event_line(20))], "next_cursor": None})
        assert "from_position=19" in request.path
        return Reply(200, {"data": [json.loads(event_line(position)) for position in (19, 20)], "next_cursor": None})

    service.script = answer
    daybook("tail", "bank", "--lines", "2", "--json")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [19, 20]


def test_an_empty_list_says_why(service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]) -> None:
    service.script = lambda request: Reply(200, {"data": [], "next_cursor": None, "as_of": None, "complete": True})
    assert daybook("ledgers") == Exit.DONE
    said = capsys.readouterr()
    assert said.out == ""
    assert "no ledgers yet" in said.err
