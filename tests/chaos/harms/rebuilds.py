"""Harm to rebuilds, and by them: killed again and again, asked for twice, and under load."""

import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from daybook.client import AnsweredProblem
from shared_kernel.errors import DaybookError
from tests.chaos.running import Run
from tests.chaos.stand import in_background

KILLS = 10
# Events a second of the million: a rebuild that may take all it gets takes it from the commands (ADR 0019).
THROTTLE = 4_000
FILLED = 3_000  # events; a million in full
REPEATED_MAX = 0.05
P99_TIMES_MAX, BEHIND_TIMES_MAX = 1.3, 2.0


def killed(run: Run) -> None:
    """The work on a new generation is killed at random points; it goes on where it was, and the old one serves throughout."""
    run.load.fill(1_000_000 if run.is_full else FILLED)
    run.caught_up()
    reading = _Reader(run)
    projection = run.rng.choice(("books", "periods"))
    total = _events(run)
    job = asked(run, projection, "rebuild", **({} if run.is_full else {"events_per_second_max": total // 5}))
    number, reached = job["generation"], 0
    with run.stand.admin() as admin:

        def applied() -> int:
            rows = admin.execute(
                "select coalesce(sum(position), 0)::bigint from projections.positions where projection = %s and generation = %s",
                [projection, number],
            ).fetchall()
            return int(rows[0][0])

        for kill in range(KILLS):
            target = max(reached + 1, int(total * (kill + run.rng.random()) / (KILLS + 2)))
            run.stand.until(lambda target=target: applied() >= target and _workers(run), "the rebuild does not go on")  # type: ignore[misc]
            for pid in _workers(run):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            now = applied()
            assert now >= reached, f"{reached} events were applied, and then {now}"
            reached = now
        with run.recovery("built"):
            built = finished(run, projection, job)
        assert built["state"] == "done", built
        schema = f"{projection}_{number}"
        inserted = admin.execute(
            "select sum(n_tup_ins)::bigint from pg_stat_user_tables where schemaname = %s", [schema]
        ).fetchall()
        tables = admin.execute("select relname from pg_stat_user_tables where schemaname = %s", [schema]).fetchall()
        held = sum(
            admin.execute(f"select count(*) from {schema}.{name}".encode()).fetchall()[0][0] for (name,) in tables
        )
    again = inserted[0][0] / held - 1
    run.did.append(
        f"a rebuild of {projection} killed {KILLS} times, {total} events, {max(again, 0):.1%} of the rows written again"
    )
    # What a row replaced by a newer one wrote is written once too, so a table of such rows has more than it holds.
    assert projection != "periods" or again <= REPEATED_MAX, f"{again:.1%} of the rows were written again"
    _take_over(run, projection, number)
    run.did.append(f"{reading.end()} queries meanwhile, all answered")
    run.caught_up()


def under_load(run: Run) -> None:
    """A rebuild beside commands; of two at once the second is refused."""
    run.load.fill(1_000_000 if run.is_full else FILLED)
    run.caught_up()
    reading = _Reader(run)
    projection = run.rng.choice(("books", "periods"))
    seconds = 30 if run.is_full else 4
    p99_before, behind_before = run.measured(seconds, run.load.ledgers)
    total = _events(run)
    job = asked(run, projection, "rebuild", events_per_second_max=THROTTLE if run.is_full else total // 6)
    assert _refusal(run, projection) == (409, "rebuild_running"), "a second rebuild was not refused"
    slowest, behind = run.measured(seconds, run.load.ledgers)
    with run.recovery("built"):
        built = finished(run, projection, job)
    assert built["state"] == "done", built
    run.did.append(
        f"a rebuild of {projection}, {total} events; a second refused; commands' p99 {slowest / p99_before:.1f} times what it was,"
        f" events behind {behind / max(behind_before, 1.0):.1f} times"
    )
    if run.is_full:  # scaled down, on a machine that others use, a ratio of so few commands says nothing
        assert slowest <= P99_TIMES_MAX * p99_before, f"p99 {p99_before:.3f} s, and {slowest:.3f} s beside a rebuild"
        assert behind <= BEHIND_TIMES_MAX * max(behind_before, 1.0), (
            f"{behind_before:.0f} events behind, then {behind:.0f}"
        )
    _take_over(run, projection, job["generation"])
    run.did.append(f"{reading.end()} queries meanwhile, all answered")
    run.caught_up()


class _Reader:
    """A client who reads a balance again and again; every query must be answered, whichever generation is live."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answered = 0
        self._failed: list[str] = []
        self._end = in_background(self._read)

    def end(self) -> int:
        """How many queries were answered; AssertionError if one was not."""
        self._end()
        assert not self._failed, f"{len(self._failed)} queries failed: {self._failed[0]}"
        return self._answered

    def _read(self, stop: threading.Event) -> None:
        client = self._run.reader()
        path = f"/v1/ledgers/{self._run.load.ledgers[0]}/accounts/users:0/balances"
        while not stop.wait(0.05):
            try:
                answer = client.get(path).read(dict)
            except DaybookError as error:
                self._failed.append(str(error))
            else:
                self._answered += 1
                if not answer["complete"]:
                    self._failed.append("an answer was not complete")
        client.close()


def asked(run: Run, projection: str, action: str, **body: Any) -> dict[str, Any]:
    operator = run.operator("projector")
    wish = json.dumps(body | {"reason": "chaos"}).encode()
    answer: dict[str, Any] = operator.post(f"/v1/operations/projections/{projection}/{action}", wish, key=None).read(
        dict
    )
    operator.close()
    return answer


def _refusal(run: Run, projection: str) -> tuple[int, str] | None:
    """What one more wish for a rebuild is turned down with."""
    try:
        asked(run, projection, "rebuild")
    except AnsweredProblem as refused:
        return refused.status, refused.code
    return None


def finished(run: Run, projection: str, job: dict[str, Any]) -> dict[str, Any]:
    operator = run.operator("projector")

    def over() -> dict[str, Any] | None:
        now: dict[str, Any] = operator.get(f"/v1/operations/projections/{projection}/jobs/{job['id']}").read(dict)
        return None if now["state"] in ("waiting", "running") else now

    found: dict[str, Any] = run.stand.until(
        over, f"the {job['kind']} does not end", within_s=1_800 if run.is_full else 90
    )
    operator.close()
    return found


def _take_over(run: Run, projection: str, generation: int) -> None:
    """Compared with the live one, the new generation takes its place; the old one is dropped."""
    verified = finished(run, projection, asked(run, projection, "verify"))
    assert verified["has_passed"] is True, verified
    with run.stand.admin() as admin:
        [(before,)] = admin.execute(
            "select generation from projections.live where projection = %s", [projection]
        ).fetchall()
    swapped = asked(run, projection, "swap")
    assert swapped["live_generation"] == generation, swapped
    asked(run, projection, "drop", generation=before)


def _events(run: Run) -> int:
    with run.stand.admin() as admin:
        return int(admin.execute("select sum(position)::bigint from daybook.ledgers").fetchall()[0][0])


def _workers(run: Run) -> list[int]:
    """The processes that the projector has started for its jobs, and theirs."""
    found: list[int] = []
    parents = [run.stand.pid("projector")]
    while parents:
        children: list[int] = []
        for task in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):
                children += map(int, task.read_text().split())
        found += children
        parents += children
    return found
