"""`daybook load` against a scripted service: what is posted, in which order, and what is said at the end."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

from daybook.__main__ import build_app
from daybook.cli.connection import Connection
from daybook.cli.load import load
from daybook.client import ATTEMPTS_MAX
from daybook.terminal import CommandFailed, Exit
from tests.unit.daybook_cli.conftest import Reply, Request, Service

REFUSAL = {
    "code": "insufficient_funds",
    "status": 422,
    "detail": "too little",
    "account": "users:1",
    "asset": "CZK/2",
    "missing": 12345,
}


class Ledger:
    """Answers batches as the command service does; `refused` and `busy` map keys to how often."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.refused: set[str] = set()
        self.busy: dict[str, int] = {}
        self.malformed: set[str] = set()
        self.exists = True

    def __call__(self, request: Request) -> Reply:
        if request.path == "/v1/ledgers":
            return Reply(409, {"code": "ledger_exists"}) if self.exists else Reply(201, {"position": 1})
        commands = json.loads(request.body)["commands"]
        for index, command in enumerate(commands):
            if command["key"] in self.malformed:
                path = f"$.commands[{index}].data.entries"
                return Reply(400, {"code": "invalid_request", "detail": "no list", "path": path})
        results = [self._one(command["key"]) for command in commands]
        return Reply(200, {"results": results, "position": 1 + len(self.posted)})

    def _one(self, key: str) -> dict[str, object]:
        if self.busy.get(key, 0) > 0:
            self.busy[key] -= 1
            return {"status": 503, "body": {"code": "overloaded"}}
        if key in self.refused:
            return {"status": 422, "body": REFUSAL}
        if key in self.posted:
            return {"status": 201, "body": {}, "replay": True}
        self.posted.append(key)
        return {"status": 201, "body": {}}


@pytest.fixture
def ledger(service: Service) -> Ledger:
    ledger = Ledger()
    service.script = ledger
    return ledger


def commands_file(tmp_path: Path, *keys: str) -> Path:
    path = tmp_path / "commands.ndjson"
    path.write_text("".join(json.dumps({"type": "post_transaction", "key": key, "data": {}}) + "\n" for key in keys))
    return path


def run(service: Service, path: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, dict[str, Any]]:
    connection = Connection(command_url=service.url, query_url=service.url, token="t")
    code = load(path, ledger="bank", connection=connection, as_json=True, **options)
    return code, json.loads(capsys.readouterr().out)


def test_the_order_of_the_file_is_the_order_of_the_posts(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"k{number}" for number in range(25)]
    code, summary = run(service, commands_file(tmp_path, *keys), capsys, batch=10)
    assert code == Exit.DONE
    assert ledger.posted == keys
    assert [len(json.loads(request.body)["commands"]) for request in service.requests] == [10, 10, 5]
    assert (summary["commands"], summary["posted"], summary["position"]) == (25, 25, 26)


def test_loading_twice_replays_and_posts_nothing(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = commands_file(tmp_path, "a", "b")
    run(service, path, capsys)
    code, summary = run(service, path, capsys)
    assert (code, summary["posted"], summary["replayed"]) == (Exit.DONE, 0, 2)
    assert ledger.posted == ["a", "b"]


def test_refusals_are_listed_with_line_account_and_what_is_missing(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.refused = {"b"}
    code, summary = run(service, commands_file(tmp_path, "a", "b", "c"), capsys)
    assert (code, summary["posted"], summary["refused"]) == (Exit.REFUSED, 2, 1)
    (trouble,) = summary["troubles"]
    assert (trouble["line"], trouble["code"], trouble["account"], trouble["missing"]) == (
        2,
        "insufficient_funds",
        "users:1",
        12345,
    )


def test_malformed_lines_are_left_out_whoever_notices_them(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = commands_file(tmp_path, "a", "b", "c")
    path.write_text("{oops\n" + path.read_text())
    ledger.malformed = {"b"}
    code, summary = run(service, path, capsys)
    assert (code, summary["malformed"]) == (Exit.USAGE, 2)
    assert ledger.posted == ["a", "c"]
    assert [(trouble["line"], trouble["code"], trouble.get("path")) for trouble in summary["troubles"]] == [
        (1, "malformed_line", None),
        (3, "invalid_request", "$.data.entries"),
    ]


def test_what_was_not_settled_is_asked_again_with_its_own_key(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.busy = {"b": 2}
    code, summary = run(service, commands_file(tmp_path, "a", "b", "c"), capsys)
    assert (code, summary["posted"]) == (Exit.DONE, 3)
    assert sorted(ledger.posted) == ["a", "b", "c"]


def test_what_stays_unsettled_is_told_to_try_again(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.busy = {"a": ATTEMPTS_MAX}
    code, summary = run(service, commands_file(tmp_path, "a", "b"), capsys)
    assert (code, summary["unsettled"], summary["posted"]) == (Exit.TRY_AGAIN, 1, 1)


def test_a_lost_service_ends_the_load_with_its_summary_and_how_to_go_on(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_the_second_batch(request: Request) -> Reply:
        return Reply(0, None) if b'"b"' in request.body else ledger(request)

    service.script = lose_the_second_batch
    with pytest.raises(CommandFailed, match="run the same command again") as failed:
        run(service, commands_file(tmp_path, "a", "b"), capsys, batch=1)
    assert failed.value.exit_code is Exit.UNAVAILABLE
    assert json.loads(capsys.readouterr().out)["posted"] == 1


@pytest.mark.parametrize(("wanted", "opened"), [(True, ["/v1/ledgers"]), (False, []), (None, [])])
def test_a_ledger_elsewhere_is_opened_only_where_that_is_asked_for(
    *,
    service: Service,
    ledger: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wanted: bool | None,
    opened: list[str],
) -> None:
    ledger.exists = False
    run(service, commands_file(tmp_path, "a"), capsys, open_ledger=wanted)
    assert [request.path for request in service.requests][:-1] == opened


def test_people_read_decimals_and_counts_in_a_pipe_without_cuts(
    service: Service, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.refused = {"b"}
    path = commands_file(tmp_path, "a", "b")
    urls = ["--command-url", service.url, "--query-url", service.url, "--token", "t"]
    code = build_app()(
        ["load", str(path), "--ledger", "bank", *urls], exit_on_error=False, result_action="return_value"
    )
    assert code == Exit.REFUSED
    said = capsys.readouterr().out
    assert "123.45 CZK/2" in said
    assert "2 commands of" in said
    assert "1 posted, 1 refused" in said
    assert "\x1b[" not in said


def test_a_pipe_on_standard_input_is_loaded_like_its_file(
    service: Service,
    ledger: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = b'{"type":"post_transaction","data":{}}\n'
    path = tmp_path / "commands.ndjson"
    path.write_bytes(content)
    run(service, path, capsys)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    urls = ["--command-url", service.url, "--query-url", service.url, "--token", "t"]
    build_app()(["load", "-", "--ledger", "bank", "--json", *urls], exit_on_error=False, result_action="return_value")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["posted"], summary["replayed"]) == (0, 1)


def test_a_mistyped_option_is_not_taken_for_a_file(service: Service) -> None:
    tokens = ["load", "--opne", "--ledger", "bank", "--command-url", service.url]
    with pytest.raises(CycloptsError, match="no option --opne"):
        build_app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    assert service.requests == []


def test_a_missing_ledger_ends_the_load_at_once(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"results": [{"status": 404, "body": {"code": "ledger_not_found"}}], "position": None}
    service.script = lambda request: Reply(200, missing)
    with pytest.raises(CommandFailed, match="--open opens it") as failed:
        run(service, commands_file(tmp_path, "a", "b"), capsys, batch=1)
    assert failed.value.exit_code is Exit.FAULT
    assert len(service.requests) == 1
