"""Operators' control of projections: over HTTP to a real projector process on real servers."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.services import Database, Servers
from tests.support.histories import transfer
from tests.support.lives import books

pytestmark = [pytest.mark.long, pytest.mark.thorough]


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


def is_at_head(kit: Kit) -> bool:
    return kit.positions() == dict(kit.rows("select ledger, position from daybook.ledgers"))


def lag_of(process: Process) -> int:
    status, answer = process.ask("GET", "/projections/books")
    assert status == 200, answer
    return int(answer["projection"]["progress"]["lag_events"])


def test_a_pause_reaches_every_process_and_survives_restarts_and_a_resume_lets_go_on(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 20)))
    one, other = (processes.start("projector", DAYBOOK_CONTROL_POLL_MS="1000") for _ in range(2))
    for process in (one, other):
        process.started()
    until(lambda: is_at_head(kit))

    status, paused = one.ask("POST", "/projections/books/pause", {"reason": "look at it"})
    assert status == 200, paused
    assert (paused["state"], paused["pause"]["actor"], paused["pause"]["reason"]) == (
        "paused",
        "operator",
        "look at it",
    )
    for process in (one, other):
        until(lambda process=process: process.figure("projector_is_paused") == 1, within_s=3)
    head = kit.append("bank", [transfer("while-paused", 5)])
    assert other.stop() == 0
    again = processes.start("projector").started()
    until(lambda: again.figure("projector_is_paused") == 1)
    assert again.ready()
    assert lag_of(again) == 1
    assert kit.positions() == {"bank": head - 1}
    [ledger] = again.ask("GET", "/projections/books?ledger=bank")[1]["ledgers"]
    assert (ledger["state"], ledger["head"], ledger["position"], ledger["lag_events"]) == ("behind", head, head - 1, 1)
    assert ledger["lag_seconds"] > 0

    assert again.ask("POST", "/projections/books/resume")[1]["state"] == "running"
    until(lambda: is_at_head(kit))
    assert lag_of(one) == 0


def wait_s(process: Process, figure: str, value: float, since: float) -> float:
    """How long after a moment a worker's own figure has the value."""
    until(lambda: process.figure(figure) == value)
    return time.monotonic() - since


def test_what_operators_want_reaches_every_worker_within_a_second_and_a_restarted_one_at_once(
    kit: Kit, processes: Processes
) -> None:
    for name in ("bank", "shop"):
        kit.append(name, list(books(name, 20)))
    both = [
        processes.start("projector", DAYBOOK_HEADS_MS="2000") for _ in range(2)
    ]  # as it is unless a test hurries it
    for process in both:
        process.started()
    until(lambda: is_at_head(kit))
    until(lambda: all(process.ready() for process in both))
    waits: dict[str, list[float]] = {}

    def reach(action: str, path: str, figure: str, value: float) -> None:
        status, answer = both[0].ask("POST", path, {"reason": "a test"})
        accepted = time.monotonic()
        assert status == 200, answer
        waits.setdefault(action, []).extend(wait_s(process, figure, value, accepted) for process in both)

    for _ in range(3):
        reach("pause", "/projections/books/pause", "projector_is_paused", 1)
        reach("resume", "/projections/books/resume", "projector_is_paused", 0)
        until(lambda: all(process.ready() for process in both))
        reach("park", "/projections/books/standing/shop/park", "projector_parked", 1)
        reach("retry", "/projections/books/standing/shop/retry", "projector_parked", 0)
    print({action: [round(each, 3) for each in seconds] for action, seconds in waits.items()})
    assert max(max(seconds) for seconds in waits.values()) < 1

    both[0].ask("POST", "/projections/books/pause")
    both[1].kill()
    head = kit.append("bank", [transfer("while-paused", 5)])
    again = processes.start("projector").started()
    until(lambda: again.figure("projector_is_paused") == 1)
    assert again.figure("projector_applied_total") == 0
    assert kit.positions()["bank"] == head - 1


def test_a_lag_is_told_also_while_a_projection_is_paused_and_how_fast_it_went_when_it_is_not(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 20)))
    process = processes.start("projector", DAYBOOK_WATCH_MS="50").started()
    until(lambda: is_at_head(kit))
    process.ask("POST", "/projections/books/pause")
    until(lambda: process.figure("projector_is_paused") == 1)
    head = kit.append("bank", [transfer(f"t{number}", 5) for number in range(7)])
    until(lambda: process.figure("projector_lag_events") == 7)
    until(lambda: process.figure("projector_lag_seconds") > 0)
    assert (process.figure("projector_head"), process.figure("projector_position")) == (head, head - 7)
    [books_, _] = process.ask("GET", "/projections")[1]["data"]
    assert (books_["state"], books_["progress"]["lag_events"], books_["progress"]["events_per_second"]) == (
        "paused",
        7,
        0,
    )
    assert books_["progress"]["lag_seconds"] > 0
    process.ask("POST", "/projections/books/resume")
    until(lambda: process.figure("projector_lag_events") == 0)
    assert process.figure("projector_lag_seconds") == 0


def test_a_projection_in_which_too_many_ledgers_are_parked_is_told_to_be_stopped_and_why(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 20)))
    process = processes.start("projector", DAYBOOK_PARKED_LEDGERS_MAX="0").started()
    until(lambda: is_at_head(kit))
    process.ask("POST", "/projections/books/standing/bank/park")
    until(lambda: process.figure("projector_is_stopped") == 1)
    shown = process.ask("GET", "/projections/books")[1]
    summary = shown["projection"]
    assert (summary["state"], summary["trouble"], summary["parked"]) == ("stopped", "too_many_parked", 1)
    assert summary["last_error"] == "Operator parked by an operator"
    assert [each["state"] for each in shown["ledgers"]] == ["parked"]
    assert process.figure("projector_trouble") == 1
    process.ask("POST", "/projections/books/standing/bank/retry")
    until(lambda: process.figure("projector_is_stopped") == 0)
    assert process.ask("GET", "/projections/books")[1]["projection"]["state"] == "running"


def test_who_may_not_operate_and_what_nobody_knows(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 3)))
    process = processes.start("projector").started()
    until(lambda: is_at_head(kit))
    assert process.ask("GET", "/projections", role="reader")[1]["code"] == "forbidden"
    assert process.ask("GET", "/projections", role="admin")[0] == 200
    for method, path in (("GET", "/projections/none"), ("POST", "/projections/none/pause")):
        status, problem = process.ask(method, path)
        assert (status, problem["code"], problem["projection"]) == (404, "projection_not_found", "none")
    for path in ("/projections/books?ledger=none", "/relay?ledger=none"):
        assert process.ask("GET", path)[1]["code"] == "ledger_not_found"
    assert process.ask("POST", "/projections/books/pause", {"why": "x"})[1]["path"] == "$.why"
    listed = process.ask("GET", "/projections")[1]["data"]
    assert [(each["projection"], each["state"]) for each in listed] == [("books", "running"), ("periods", "absent")]


def test_the_relay_and_what_it_has_not_published(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 9)))
    process = processes.start("projector").started()
    status, relay = process.ask("GET", "/relay")
    assert (status, relay["state"], relay["progress"]["lag_events"]) == (200, "no_relay", 10)
    relaying = processes.start("relay", DAYBOOK_WATCH_MS="50").started()
    until(lambda: kit.rows("select position from projections.relay_positions") == [(10,)])
    until(lambda: relaying.figure("relay_position") == 10)
    assert (relaying.figure("relay_head"), relaying.figure("relay_lag_seconds")) == (10, 0)
    relay = process.ask("GET", "/relay?ledger=bank")[1]
    assert (relay["state"], relay["progress"]["lag_events"]) == ("active", 0)
    assert relay["ledgers"][0]["position"] == relay["ledgers"][0]["head"] == 10


def test_a_ledger_is_parked_retried_and_its_trouble_shown_over_http(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 9)))
    process = processes.start("projector").started()
    until(lambda: is_at_head(kit))
    standing = "/projections/books/standing"
    status, parked = process.ask("POST", f"{standing}/bank/park", {"reason": "look at it"})
    assert status == 200, parked
    assert [(each["ledger"], each["state"]) for each in parked["data"]] == [("bank", "parked")]
    until(lambda: process.figure("projector_parked") == 1)
    assert process.ask("GET", standing)[1] == parked
    status, problem = process.ask("POST", f"{standing}/bank/skip", {"position": 3, "reason": "no"})
    assert (status, problem["code"]) == (409, "ledger_not_parked")
    assert process.ask("POST", f"{standing}/bank/skip", {"position": 3})[1]["path"] == "$.reason"
    for path in (f"{standing}/none", f"{standing}/none/park"):
        method = "POST" if path.endswith("park") else "GET"
        assert process.ask(method, path)[1]["code"] == "ledger_not_found"
    assert process.ask("POST", f"{standing}/bank/retry")[0] == 200
    until(lambda: process.figure("projector_parked") == 0)
    assert process.ask("GET", standing)[1]["data"] == []
    assert process.ask("POST", f"{standing}/bank/retry")[1]["code"] == "ledger_not_parked"
    trail = process.ask("GET", "/trail?ledger=bank")[1]["data"]
    assert [(each["action"], each["reason"]) for each in trail] == [("retry", ""), ("park", "look at it")]
