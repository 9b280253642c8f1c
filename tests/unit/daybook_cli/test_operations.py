"""`daybook projections` and `daybook relay` against a scripted service: their requests, tables, JSON and exit codes."""

import json
from collections.abc import Callable

import pytest

from daybook.__main__ import build_app
from daybook.terminal import CommandFailed, Exit
from tests.unit.daybook_cli.conftest import Reply, Request, Service

PROGRESS = {
    "ledgers": 2,
    "events": 1000,
    "applied": 900,
    "lag_events": 100,
    "lag_events_max": 100,
    "lag_seconds": 2.5,
    "events_per_second": 40.0,
}
SUMMARY = {
    "projection": "books",
    "state": "paused",
    "version": 2,
    "live_generation": 1,
    "waiting": 0,
    "parked": 1,
    "last_error": "ValueError no",
    "trouble": None,
    "progress": PROGRESS,
    "pause": {"since": "2026-11-24T09:30:00Z", "actor": "ann", "reason": "ticket 7"},
}
LEDGER = {
    "ledger": "bank",
    "state": "parked",
    "head": 1000,
    "position": 900,
    "lag_events": 100,
    "lag_seconds": 2.5,
    "events_per_second": 0.0,
    "error_class": "ValueError",
    "error": "TransactionPosted.v1 cannot be applied",
}
GENERATION = {"generation": 1, "version": 2, "state": "live", "is_of_this_log": True, "progress": PROGRESS}
STATUS = {"projection": SUMMARY, "generations": [GENERATION], "ledgers": [LEDGER]}

Daybook = Callable[..., object]


@pytest.fixture
def daybook(service: Service) -> Daybook:
    def run(*arguments: str) -> object:
        where = ("--operations-url", service.url, "--token", "t")
        return build_app()([*arguments, *where], exit_on_error=False, result_action="return_value", print_error=False)

    return run


def test_projections_are_listed_with_their_lag(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    service.script = lambda request: Reply(200, {"data": [SUMMARY]})
    assert daybook("projections", "list") == Exit.DONE
    said = capsys.readouterr().out
    for shown in ("books", "paused", "900", "100", "2.5", "40.0", "ValueError no"):
        assert shown in said
    assert [request.path for request in service.requests] == ["/v1/operations/projections"]


def test_the_status_shows_generations_ledgers_and_the_last_error(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    service.script = lambda request: Reply(200, STATUS)
    assert daybook("projections", "status", "books", "--ledger", "bank") == Exit.DONE
    said = capsys.readouterr()
    for shown in ("live", "900", "40.0", "parked", "ValueError TransactionPosted.v1"):
        assert shown in said.out
    assert "by ann: ticket 7" in said.err
    assert service.requests[0].path == "/v1/operations/projections/books?ledger=bank&limit=20"
    assert daybook("projections", "status", "books", "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out) == STATUS


def test_pause_and_resume_say_why(service: Service, daybook: Daybook) -> None:
    service.script = lambda request: Reply(200, SUMMARY)
    assert daybook("projections", "pause", "books", "--reason", "ticket 7") == Exit.DONE
    assert daybook("projections", "resume", "books") == Exit.DONE
    assert [(request.path.rpartition("/")[2], json.loads(request.body)) for request in service.requests] == [
        ("pause", {"reason": "ticket 7"}),
        ("resume", {"reason": ""}),
    ]


def test_an_unknown_projection_fails(service: Service, daybook: Daybook) -> None:
    service.script = lambda request: Reply(
        404, {"code": "projection_not_found", "title": "There is no such projection"}
    )
    with pytest.raises(CommandFailed, match="projection_not_found") as failed:
        daybook("projections", "status", "none")
    assert failed.value.exit_code == Exit.FAULT


def test_the_relay_is_shown(service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = {name: LEDGER[name] for name in LEDGER if not name.startswith("error") and name != "state"}
    answer = {"state": "active", "owner": "host/1", "epoch": 3, "progress": PROGRESS, "ledgers": [ledger]}

    def script(request: Request) -> Reply:
        return Reply(200, answer)

    service.script = script
    assert daybook("relay", "status") == Exit.DONE
    said = capsys.readouterr()
    assert "behind" in said.out
    assert "host/1 (epoch 3); 100 events not published yet, the oldest 2.5 s old, 40.0 a second" in said.err


JOB = {
    "id": 7,
    "kind": "verify",
    "projection": "books",
    "generation": 2,
    "ledger": None,
    "account": None,
    "state": "running",
    "asked_at": "2026-11-24T09:30:00Z",
    "actor": "ann",
    "events_done": 10,
    "events_total": 100,
    "events_per_second": 50.0,
    "seconds_left": 1.8,
    "has_passed": None,
    "findings": None,
    "error": None,
}
FINDINGS = {
    "ledgers": 1,
    "events": 100,
    "tables": [{"table": "entries", "rows": 9, "digest": "0f", "is_equal": False}],
    "ledgers_differ": 1,
    "differences": [
        {
            "table": "entries",
            "ledger": "bank",
            "ours_rows": 9,
            "theirs_rows": 8,
            "ours": ['{"position": 4}'],
            "theirs": [],
        }
    ],
    "not_compared": [],
}


def test_a_comparison_is_followed_to_its_end_and_names_the_rows_that_differ(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybook.cli.rebuilding.LOOK_S", 0.001)
    answers = iter([JOB, JOB, JOB | {"state": "done", "has_passed": False, "findings": FINDINGS}])
    service.script = lambda request: Reply(202 if request.method == "POST" else 200, next(answers))
    assert daybook("projections", "verify", "books", "--generation", "2") == Exit.VERIFICATION_FAILED
    said = capsys.readouterr()
    assert "entries of bank: 9 rows against 8" in said.out
    assert '+ {"position": 4}' in said.out
    assert [request.path for request in service.requests] == [
        "/v1/operations/projections/books/verify",
        *["/v1/operations/projections/books/jobs/7"] * 2,
    ]
    assert json.loads(service.requests[0].body) == {"generation": 2, "reason": ""}


@pytest.mark.parametrize(
    "command", [("rebuild", "books"), ("drop", "books", "1"), ("skip", "books", "bank", "4", "--reason", "poison")]
)
def test_what_cannot_be_undone_is_asked_about_first(
    service: Service, daybook: Daybook, command: tuple[str, ...]
) -> None:
    with pytest.raises(CommandFailed, match="--yes") as failed:
        daybook("projections", *command)
    assert failed.value.exit_code == Exit.USAGE
    assert service.requests == []


def test_a_rebuild_is_asked_for_with_its_throttle(service: Service, daybook: Daybook) -> None:
    service.script = lambda request: Reply(202, JOB | {"kind": "rebuild", "state": "done"})
    assert daybook("projections", "rebuild", "books", "--throttle", "500", "--reason", "t", "--yes") == Exit.DONE
    assert json.loads(service.requests[0].body) == {"events_per_second_max": 500, "reason": "t"}


def test_a_swap_that_is_refused_has_the_exit_code_of_a_refusal(service: Service, daybook: Daybook) -> None:
    service.script = lambda request: Reply(409, {"code": "not_verified", "title": "…"})
    with pytest.raises(CommandFailed, match="not_verified") as failed:
        daybook("projections", "swap", "books", "--force")
    assert failed.value.exit_code == Exit.REFUSED
    assert json.loads(service.requests[0].body) == {"force": True, "reason": ""}


def test_parked_ledgers_are_listed_and_one_is_retried(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    stands = {
        "generation": 1,
        "ledger": "bank",
        "position": 4,
        "state": "parked",
        "event_type": "TransactionPosted.v1",
        "error_class": "ValueError",
        "error": "no",
        "attempts": 2,
        "since": "2026-11-24T09:30:00Z",
    }
    service.script = lambda request: Reply(200, {"data": [stands]})
    assert daybook("projections", "standing", "books") == Exit.DONE
    assert "ValueError no" in capsys.readouterr().out
    assert daybook("projections", "retry", "books", "bank") == Exit.DONE
    assert "bank is tried again from 4 on, in generation 1" in capsys.readouterr().err
    assert daybook("projections", "skip", "books", "bank", "4", "--reason", "poison", "--yes") == Exit.DONE
    assert "bank goes on without 4" in capsys.readouterr().err
    assert [request.path.partition("/books/")[2] for request in service.requests] == [
        "standing?limit=20",
        "standing/bank/retry",
        "standing/bank/skip",
    ]
    assert json.loads(service.requests[2].body) == {"position": 4, "reason": "poison"}


def test_the_trail_is_listed(service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]) -> None:
    action = {
        "id": 3,
        "at": "2026-11-24T09:30:00Z",
        "actor": "ann",
        "action": "swap",
        "projection": "books",
        "ledger": None,
        "reason": "ticket 7",
        "details": {"generation": 2, "is_forced": True, "positions": {"1": 9}, "ledger": None},
    }
    service.script = lambda request: Reply(200, {"data": [action]})
    assert daybook("projections", "trail", "--projection", "books") == Exit.DONE
    said = capsys.readouterr().out
    for shown in ("ann", "swap", "generation 2, forced, positions 1: 9", "ticket 7"):
        assert shown in said
    assert service.requests[0].path == "/v1/operations/trail?projection=books&limit=20"


def test_an_event_is_not_left_out_without_a_reason(service: Service, daybook: Daybook) -> None:
    with pytest.raises(CommandFailed, match="--reason") as failed:
        daybook("projections", "skip", "books", "bank", "4", "--yes")
    assert failed.value.exit_code == Exit.USAGE
    assert service.requests == []


def test_an_account_is_repaired_and_nothing_else_is_said_in_a_pipe(
    service: Service, daybook: Daybook, capsys: pytest.CaptureFixture[str]
) -> None:
    service.script = lambda request: Reply(202, JOB | {"kind": "repair", "state": "done", "has_passed": True})
    assert daybook("projections", "repair", "books", "bank", "--account", "users:1") == Exit.DONE
    assert json.loads(service.requests[0].body) == {"reason": "", "ledger": "bank", "account": "users:1"}
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", ["job 7, repair of generation 2: done"])
