"""Rebuilds by real projector processes: over HTTP, in child processes that are killed at any moment, by whichever projector is left."""

import os
import random
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.services import Database, Servers
from tests.support.histories import opened, transfer
from tests.support.lives import books

pytestmark = [pytest.mark.long, pytest.mark.thorough]
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


def children(of: Process | int) -> list[int]:
    """The processes that it started and that still run."""
    pid = of if isinstance(of, int) else of.pid
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return [each for each in found if not has_ended(each)]


def has_ended(pid: int) -> bool:
    """True of one that nobody has buried yet, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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


def read_from_log(kit: Kit) -> int:
    """How many events Postgres has handed out since it was made, whoever asked, the killed ones included."""
    until(lambda: not kit.rows("select from pg_stat_activity where application_name like 'daybook rebuild%%'"))
    kit.admin.execute("select pg_stat_clear_snapshot()")
    table = "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relid = 'daybook.events'::regclass"
    return int(kit.rows(table)[0][0])


def test_a_rebuild_by_two_processes_that_are_killed_ten_times_repeats_less_than_a_twentieth(
    kit: Kit, processes: Processes
) -> None:
    life = list(books("any", 1_600))
    for number in range(6):
        kit.append(f"l:{number}", [opened(f"l:{number}"), *life[1:]])
    total = sum(dict(kit.rows("select ledger, position from daybook.ledgers")).values())
    begun_with = read_from_log(kit)
    small = {"DAYBOOK_REBUILD_BATCH_EVENTS_MAX": "8", "DAYBOOK_REBUILD_SHARED_EVENTS_MIN": "7000"}
    process = processes.start("projector", **QUICK, **small).started()
    until(lambda: is_at_head(kit))
    until(lambda: read_from_log(kit) >= begun_with + total)  # what the live side read is counted by now
    seen_before = read_from_log(kit)
    chance = random.Random(6)
    job = asked(process, "rebuild")
    reached, was_shared = 0, False
    for kill in range(KILLS):
        target = max(reached + 1, int(total * (kill + chance.random()) / (KILLS + 1)))
        until(lambda target=target: sum(kit.positions(2).values()) >= target and children(process))
        family = [pid for child in children(process) for pid in (child, *children(child))]
        was_shared = was_shared or len(family) == 2
        os.kill(chance.choice(family), signal.SIGKILL)
        now = sum(kit.positions(2).values())
        assert now >= reached  # what was written stays
        reached = now
    built = finished(process, job)
    assert built["state"] == "done", built
    assert was_shared
    repeated = read_from_log(kit) - seen_before - total
    print(f"{total} events, of which {repeated} were read again")
    assert 0 < repeated <= total * 0.05
    until(lambda: is_at_head(kit, 2))
    kit.assert_complete("books_2")
    assert finished(process, asked(process, "verify"))["has_passed"] is True


def test_of_two_projectors_one_has_the_rebuild_and_the_other_goes_on_with_it_when_that_is_killed(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 300)))
    both = [processes.start("projector", **QUICK).started() for _ in range(2)]
    until(lambda: is_at_head(kit))
    job = asked(both[0], "rebuild", events_per_second_max=150)
    until(lambda: sum(kit.positions(2).values()) > 50)
    [first] = [process for process in both if children(process)]
    [second] = [process for process in both if process is not first]
    [child] = children(first)
    first.kill()
    until(lambda: has_ended(child))
    reached = sum(kit.positions(2).values())
    assert reached < 301
    built = finished(second, job)
    assert (built["state"], built["events_total"]) == ("done", 301)
    kit.assert_complete("books_2")
    assert finished(second, asked(second, "verify"))["has_passed"] is True


@pytest.mark.parametrize("throttle", [None, 100_000])
def test_two_processes_share_a_rebuild_unless_it_is_throttled_and_look_up_rows_that_memory_does_not_hold(
    kit: Kit, processes: Processes, throttle: int | None
) -> None:
    life = list(books("any", 900))
    for number in range(8):
        kit.append(f"l:{number}", [opened(f"l:{number}"), *life[1:]])
    small = {"DAYBOOK_REBUILD_ROWS_MAX": "100", "DAYBOOK_REBUILD_SHARED_EVENTS_MIN": "1000"}
    process = processes.start("projector", **QUICK, **small).started()
    until(lambda: is_at_head(kit))
    job = asked(process, "rebuild", events_per_second_max=throttle)
    families: set[int] = set()

    def is_over() -> bool:
        families.update(len(children(child)) for child in children(process))
        return bool(process.ask("GET", f"/projections/books/jobs/{job['id']}")[1]["state"] == "done")

    until(is_over)
    assert (1 in families) == (throttle is None)  # a throttled one is the work of one process, which has the whole rate
    until(lambda: is_at_head(kit, 2))
    kit.assert_complete("books_2")
    assert finished(process, asked(process, "verify"))["has_passed"] is True
    assert not process.says("share_interrupted")
