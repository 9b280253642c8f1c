"""Reconciliation and repair by real projector processes: on a schedule, over HTTP, and what they tell of a difference."""

import json
import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from projections.infrastructure.postgres_jobs import PostgresJobs
from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.integration.projections.test_rebuild_process import finished
from tests.services import Database, Servers
from tests.support.lives import books
from tests.support.plain_books import read_log

HOUR = timedelta(hours=1)


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


def passes(kit: Kit, hours: float, *, table: str = "generations", column: str = "created_at") -> None:
    """What is in the table is as much older as if so many hours had passed."""
    statement = f"update projections.{table} set {column} = {column} - make_interval(secs => %s)"
    kit.admin.execute(statement.encode(), [hours * 3_600])


def test_a_live_generation_is_reconciled_when_it_was_not_for_so_long_and_once_whoever_asks(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 9)))
    kit.worker()
    schedules = [PostgresJobs(kit.session()) for _ in range(4)]

    def asked_for(every: timedelta = HOUR) -> int:
        made: list[int] = []
        threads = [
            threading.Thread(target=lambda each=each: made.append(each.schedule(["books", "periods"], every)))
            for each in schedules
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == len(schedules)
        return sum(made)

    assert asked_for() == 0  # the generation was made just now
    passes(kit, 1.5)
    assert asked_for(2 * HOUR) == 0
    assert asked_for() == 1
    assert asked_for() == 0
    passes(kit, 0.5, table="jobs", column="asked_at")
    assert asked_for() == 0
    passes(kit, 0.6, table="jobs", column="asked_at")
    assert asked_for() == 1
    assert (
        kit.rows("select kind, ledger, actor, reason from projections.jobs")
        == [("reconcile", None, "daybook", "scheduled")] * 2
    )
    passes(kit, 2, table="jobs", column="asked_at")
    kit.admin.execute("select daybook.restored()")
    assert asked_for() == 0  # what is of another log is not compared with this one


def told(process: Process, event: str) -> dict[str, Any]:
    """The line of the log."""
    return next(line for line in map(json.loads, process.log.read_text().splitlines()) if line["event"] == event)


@pytest.mark.long
@pytest.mark.thorough
def test_a_scheduled_reconciliation_alerts_names_the_rows_and_a_repair_of_the_account_over_http_ends_it(
    kit: Kit, processes: Processes
) -> None:
    for name in ("a", "b"):
        kit.append(name, list(books(name, 60)))
    worker, _ = kit.worker()
    worker.apply(read_log(kit.admin))
    passes(kit, 2)
    [(address, position)] = kit.admin.execute(
        "update books_1.entries set amount = amount + 1 where ctid = (select ctid from books_1.entries where ledger = 'b' limit 1)"
        " returning address, position"
    ).fetchall()
    process = processes.start("projector", DAYBOOK_RECONCILE_HOURS="1").started()
    until(lambda: process.figure("projector_is_different") == 1)
    [job] = process.ask("GET", "/projections/books/jobs")[1]["data"]
    assert (job["kind"], job["actor"], job["reason"], job["has_passed"]) == ("reconcile", "daybook", "scheduled", False)
    [difference] = job["findings"]["differences"]
    assert (difference["table"], difference["ledger"]) == ("entries", "b")
    [ours], [theirs] = (map(json.loads, difference[side]) for side in ("ours", "theirs"))
    assert (ours["address"], ours["position"], ours["amount"] - theirs["amount"]) == (address, position, 1)
    alert = told(process, "reconcile_differs")
    assert (alert["level"], alert["differences"], alert["job"]) == ("error", ["b/entries"], job["id"])

    status, repair = process.ask(
        "POST", "/projections/books/repair", {"ledger": "b", "account": address, "reason": "7"}
    )
    assert (status, repair["kind"], repair["ledger"], repair["account"]) == (202, "repair", "b", address)
    repaired = finished(process, repair)
    assert (repaired["state"], repaired["has_passed"]) == ("done", True)
    [mended] = repaired["findings"]["differences"]
    assert (mended["ours"], mended["theirs"]) == (difference["ours"], difference["theirs"])
    assert mended["ours_rows"] < difference["ours_rows"]  # the account's rows alone were compared
    kit.assert_complete()
    status, again = process.ask("POST", "/projections/books/reconcile", {"reason": "after the repair"})
    assert status == 202
    assert finished(process, again)["has_passed"] is True
    until(lambda: process.figure("projector_is_different") == 0)
    assert finished(process, process.ask("POST", "/projections/books/repair", {"ledger": "a"})[1])["has_passed"] is True
    one = process.ask("POST", "/projections/books/reconcile", {"ledger": "a"})[1]
    assert finished(process, one)["findings"]["ledgers"] == 1
    trail = process.ask("GET", "/trail?projection=books")[1]["data"]
    assert [(each["action"], each["ledger"], each["reason"]) for each in trail] == [
        ("reconcile", "a", ""),
        ("repair", "a", ""),
        ("reconcile", None, "after the repair"),
        ("repair", "b", "7"),
    ]
    assert trail[3]["details"] == {"account": address, "generation": 1, "job": repair["id"]}
    assert len(kit.rows("select from projections.jobs where actor = 'daybook'")) == 1

    for action in ("repair", "reconcile"):
        path = f"/projections/books/{action}"
        assert process.ask("POST", path, {"ledger": "none"})[1]["code"] == "ledger_not_found"
        assert process.ask("POST", path, {"ledger": "b"}, role="reader")[1]["code"] == "forbidden"
        assert process.ask("POST", f"/projections/none/{action}", {"ledger": "b"})[0] == 404
    status, problem = process.ask("POST", "/projections/books/repair", {"ledger": "b", "account": "no:body"})
    assert (status, problem["code"], problem["account"]) == (404, "account_not_found", "no:body")
    assert process.ask("POST", "/projections/books/repair", {})[1]["path"] == "$.ledger"
    assert process.ask("POST", "/projections/books/reconcile")[0] == 202  # a body is not needed
