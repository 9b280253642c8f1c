"""The command line's HTTP client: where services are, what is repeated, and how faults end a command."""

import json
from pathlib import Path

import pytest

from daybook.client import ATTEMPTS_MAX, AnsweredProblem, Client, exit_of, find_target, ledger_path, wait_seconds
from daybook.terminal import CommandFailed, Exit
from shared_kernel.errors import Unavailable
from tests.unit.daybook_cli.conftest import Reply, Request, Service

BUSY = Reply(503, {"code": "overloaded", "status": 503}, {"Retry-After": "0"})
DONE = Reply(201, {"position": 17}, {"Daybook-Position": "17"})


def test_a_stack_file_names_services_and_tokens(tmp_path: Path) -> None:
    stack = {"command_url": "http://a:1", "query_url": "http://b:2", "tokens": {"writer": "w"}, "pids": {}}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    target = find_target(data=tmp_path, command_url=None, query_url=None, token=None)
    assert (target.command_url, target.query_url, target.token("writer"), target.is_local) == (
        "http://a:1",
        "http://b:2",
        "w",
        True,
    )
    with pytest.raises(CommandFailed, match="no token for the role admin"):
        target.token("admin")


def test_what_is_given_by_hand_goes_before_the_stack_file(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"command_url":"http://a:1","query_url":"http://b:2"}')
    target = find_target(data=tmp_path, command_url="http://c:3", query_url=None, token="mine")
    assert (target.command_url, target.query_url, target.token("writer"), target.is_local) == (
        "http://c:3",
        "http://b:2",
        "mine",
        False,
    )


@pytest.mark.parametrize(("content", "exit_code"), [(None, Exit.UNAVAILABLE), ("{", Exit.FAULT)])
def test_a_missing_or_damaged_stack_file_ends_the_command(tmp_path: Path, content: str | None, exit_code: Exit) -> None:
    if content is not None:
        (tmp_path / "stack.json").write_text(content)
    with pytest.raises(CommandFailed) as failed:
        find_target(data=tmp_path, command_url=None, query_url=None, token=None)
    assert failed.value.exit_code is exit_code


def test_who_watches_is_told_after_one_attempt(service: Service) -> None:
    service.script = lambda request: BUSY
    client = Client(service.url, "t", attempts_max=1)
    with pytest.raises(AnsweredProblem):
        client.get("/v1/operations/locks")
    client.close()
    assert len(service.requests) == 1


@pytest.mark.parametrize("trouble", [BUSY, Reply(0, None), Reply(429, {"code": "rate_limited"})])
def test_a_command_is_repeated_with_the_same_key_until_it_is_answered(service: Service, trouble: Reply) -> None:
    replies = [trouble, trouble, DONE]
    service.script = lambda request: replies.pop(0)
    client = Client(service.url, "t")
    answer = client.post("/v1/ledgers/bank/transactions", b"{}", key="k-1")
    client.close()
    assert (answer.status, answer.position, answer.is_replay) == (201, 17, False)
    assert service.requests == [Request("POST", "/v1/ledgers/bank/transactions", "k-1", b"{}")] * 3


def test_attempts_are_bounded(service: Service) -> None:
    service.script = lambda request: BUSY
    client = Client(service.url, "t")
    with pytest.raises(AnsweredProblem) as raised:
        client.get("/v1/ledgers")
    client.close()
    assert exit_of(raised.value) is Exit.TRY_AGAIN
    assert len(service.requests) == ATTEMPTS_MAX


def test_a_service_that_is_not_there_is_unavailable(service: Service) -> None:
    service.stop()
    client = Client(service.url, "t")
    with pytest.raises(Unavailable) as raised:
        client.get("/v1/ledgers")
    assert exit_of(raised.value) is Exit.UNAVAILABLE


def test_refusals_are_not_repeated_and_keep_their_figures(service: Service) -> None:
    problem = {"code": "insufficient_funds", "status": 422, "account": "a", "asset": "CZK/2", "missing": 2**100}
    service.script = lambda request: Reply(422, problem)
    client = Client(service.url, "t")
    with pytest.raises(AnsweredProblem) as raised:
        client.post("/v1/ledgers/bank/transactions", b"{}", key="k")
    client.close()
    assert len(service.requests) == 1
    assert (raised.value.code, raised.value.fields["missing"]) == ("insufficient_funds", 2**100)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "unbalanced", Exit.USAGE),
        (401, "unauthenticated", Exit.FAULT),
        (404, "ledger_not_found", Exit.FAULT),
        (409, "reference_taken", Exit.REFUSED),
        (409, "conflict", Exit.TRY_AGAIN),
        (422, "insufficient_funds", Exit.REFUSED),
        (429, "rate_limited", Exit.TRY_AGAIN),
        (500, "internal_error", Exit.FAULT),
        (503, "overloaded", Exit.TRY_AGAIN),
        (503, "read_model_parked", Exit.UNAVAILABLE),
        (503, "dependency_unavailable", Exit.UNAVAILABLE),
    ],
)
def test_every_kind_of_problem_has_its_exit_code(status: int, code: str, exit_code: Exit) -> None:
    assert exit_of(AnsweredProblem(code, status=status, members={})) is exit_code


def test_waits_grow_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybook.client.FIRST_WAIT_SECONDS", 0.1)
    monkeypatch.setattr("daybook.client.WAIT_SECONDS_MAX", 4.0)
    assert 0.05 <= wait_seconds(0) <= 0.1
    assert 0.4 <= wait_seconds(3) <= 0.8
    assert wait_seconds(30) <= 4.0
    assert wait_seconds(0, 2) == 2.0
    assert wait_seconds(0, 3600) == 4.0


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert ledger_path("a/../b?x", "accounts", "users:42") == "/v1/ledgers/a%2F..%2Fb%3Fx/accounts/users:42"
