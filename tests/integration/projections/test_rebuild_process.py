"""Rebuilds by real projector processes: over HTTP, in child processes that are killed at any moment, by whichever projector is left."""

import os
import random
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.services import Database, Servers
from tests.support.histories import transfer
from tests.support.lives import books

pytestmark = pytest.mark.long
KILLS = 10
QUICK = {"DAYBOOK_JOB_LEASE_MS": "2000", "DAYBOOK_JOB_REPORT_MS": "50", "DAYBOOK_FEED_MS": "50"}


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


def is_at_head(kit: Kit, generation: int = 1) -> bool:
    return kit.positions(generation) == dict(kit.rows("select ledger, position from daybook.ledgers"))


def asked(process: Process, action: str, **body: Any) -> dict[str, Any]:
    status, answer = process.ask("POST", f"/projections/books/{action}", body)
    assert status in {200, 202}, answer
    found: dict[str, Any] = answer
    return found


def finished(process: Process, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(process.ask("GET", f"/projections/books/jobs/{job['id']}")[1])
        return found["state"] not in {"waiting", "running"}

    until(is_over, within_s=120)
    return found


def children(process: Process) -> list[int]:
    """The processes that it started."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def test_a_rebuild_over_http_while_others_write_and_readers_never_go_back(kit: Kit, processes: Processes) -> None:
    for name in ("a", "b"):
        kit.append(name, list(books(name, 80)))
    process = processes.start("projector", **QUICK).started()
    until(lambda: is_at_head(kit))
    job = asked(process, "rebuild", reason="a test", events_per_second_max=100)
    status, refused = process.ask("POST", "/projections/books/rebuild")
    assert (status, refused["code"], refused["job"]) == (409, "rebuild_running", job["id"])
    until(lambda: sum(kit.positions(2).values()) > 0)
    kit.append("a", [transfer("meanwhile", 5)])
    built = finished(process, job)
    assert (built["state"], built["generation"]) == ("done", 2)
    assert built["events_done"] >= 162
    status, refused = process.ask("POST", "/projections/books/swap")
    assert (status, refused["code"]) == (409, "not_verified")
    until(lambda: is_at_head(kit, 1) and is_at_head(kit, 2))
    assert finished(process, asked(process, "verify"))["has_passed"] is True
    kit.append("b", [transfer("before the swap", 5)])
    assert asked(process, "swap", reason="it is equal")["live_generation"] == 2
    kit.append("b", [transfer("after the swap", 5)])
    until(lambda: is_at_head(kit, 1) and is_at_head(kit, 2))
    until(lambda: process.figure("projector_generation") == 2)
    kit.assert_complete("books_2")
    assert asked(process, "rollback")["live_generation"] == 1
    until(lambda: process.figure("projector_generation") == 1)
    asked(process, "drop", generation=2)
    trail = process.ask("GET", "/trail?projection=books")[1]["data"]
    assert [each["action"] for each in reversed(trail)] == ["rebuild", "verify", "swap", "rollback", "drop"]
    assert {each["actor"] for each in trail} == {"operator"}
    assert trail[2]["reason"] == "it is equal"
    assert process.ask("GET", "/projections/books/jobs/999999")[1]["code"] == "job_not_found"
    assert process.ask("POST", "/projections/books/drop", {"generation": 2})[1]["code"] == "generation_not_found"
    assert process.stop() == 0


def test_a_rebuild_that_is_killed_ten_times_goes_on_where_it_was(kit: Kit, processes: Processes) -> None:
    for number in range(4):
        kit.append(f"l:{number}", list(books(f"l:{number}", 400)))
    quick = QUICK | {"DAYBOOK_REBUILD_BATCH_EVENTS_MAX": "10", "DAYBOOK_REBUILD_ROWS_MAX": "100"}
    process = processes.start("projector", **quick).started()
    until(lambda: is_at_head(kit))
    chance = random.Random(6)
    total = 4 * 401
    job = asked(process, "rebuild", events_per_second_max=800)
    reached = 0
    for kill in range(KILLS):
        target = max(reached + 1, int(total * (kill + chance.random()) / (KILLS + 2)))
        until(lambda target=target: sum(kit.positions(2).values()) >= target and children(process))
        for pid in children(process):
            os.kill(pid, signal.SIGKILL)
        now = sum(kit.positions(2).values())
        assert now >= reached  # what was written stays
        reached = now
    built = finished(process, job)
    assert built["state"] == "done", built
    until(lambda: is_at_head(kit, 2))
    kit.assert_complete("books_2")
    assert finished(process, asked(process, "verify"))["has_passed"] is True


def test_another_projector_goes_on_with_the_rebuild_of_one_that_was_killed(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 300)))
    first = processes.start("projector", **QUICK).started()
    until(lambda: is_at_head(kit))
    job = asked(first, "rebuild", events_per_second_max=150)
    until(lambda: sum(kit.positions(2).values()) > 50)
    [child] = children(first)
    first.kill()
    until(lambda: not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")
    reached = sum(kit.positions(2).values())
    assert reached < 301
    second = processes.start("projector", **QUICK).started()
    built = finished(second, job)
    assert (built["state"], built["events_total"]) == ("done", 301)
    kit.assert_complete("books_2")
