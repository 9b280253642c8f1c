"""The loop that takes jobs and asks for reconciliations: its time is given, nothing waits."""

import threading
from collections.abc import Sequence
from datetime import timedelta

from projections.application.figures import Figures
from projections.application.jobs import SCHEDULE_S, Child, JobFigures, JobLoop, JobState
from projections.application.ports import Wanted
from shared_kernel.errors import Unavailable


class Clock:
    """Seconds that pass when it is told so; after the last the loop is told to stop."""

    def __init__(self, stop: threading.Event, looks: Sequence[float]) -> None:
        self.now = 0.0
        self._stop = stop
        self._looks = list(looks)

    def monotonic(self) -> float:
        return self.now

    def next(self) -> None:
        if self._looks:
            self.now = self._looks.pop(0)
        else:
            self._stop.set()


class Script:
    """Jobs, controls and children in one: it remembers when what was asked of it."""

    def __init__(self, looks: Sequence[float], jobs: Sequence[tuple[int, int]] = ()) -> None:
        self.stop = threading.Event()
        self.clock = Clock(self.stop, looks)
        self.scheduled: list[tuple[float, Sequence[str], timedelta]] = []
        self.ended: list[tuple[int, JobState, str | None]] = []
        self.left: list[int] = []
        self.is_away = False
        self._jobs = list(jobs)

    def claim(self, owner: str, projections: Sequence[str], lease_ms: int) -> tuple[int, int] | None:
        return self._jobs.pop(0) if self._jobs else None

    def schedule(self, projections: Sequence[str], every: timedelta) -> int:
        self.scheduled.append((self.clock.now, projections, every))
        if self.is_away:
            self.clock.next()
            raise Unavailable("postgres_unavailable")
        return len(projections)

    def figures(self, projections: Sequence[str]) -> Sequence[JobFigures]:
        return [JobFigures(name, 10, 40, 5.0, is_different=True) for name in projections]

    def end(self, id: int, owner: str, *, state: JobState, error: str | None) -> bool:  # noqa: A002
        self.ended.append((id, state, error))
        return True

    def leave(self, id: int, owner: str) -> None:  # noqa: A002
        self.left.append(id)

    def wanted(self, projection: str) -> Wanted | None:
        return Wanted()

    def wait(self, wait_s: float) -> None:
        self.clock.next()

    def start(self, id: int, owner: str) -> Child:  # noqa: A002
        return Done()


class Done:
    """A child that has done its job."""

    def wait(self, wait_s: float) -> int | None:
        return 0

    def stop(self) -> int:
        return 0


def loop(script: Script, figures: dict[str, Figures], *, hours: int) -> JobLoop:
    return JobLoop(
        "me",
        jobs=script,
        figures=figures,
        children=script,
        controls=script,
        lease_ms=1_000,
        attempts_max=2,
        reconcile_hours=hours,
        stop=script.stop,
        monotonic=script.clock.monotonic,
    )


def test_a_reconciliation_is_asked_for_at_the_start_and_each_minute_while_the_setting_says_so() -> None:
    script = Script(looks=[SCHEDULE_S - 1, SCHEDULE_S, SCHEDULE_S + 1, 2 * SCHEDULE_S])
    loop(script, {"books": Figures(), "periods": Figures()}, hours=24).run()
    assert script.scheduled == [
        (moment, ["books", "periods"], timedelta(hours=24)) for moment in (0.0, SCHEDULE_S, 2 * SCHEDULE_S)
    ]


def test_without_the_setting_nothing_is_ever_asked_for() -> None:
    script = Script(looks=[SCHEDULE_S, 10 * SCHEDULE_S])
    loop(script, {"books": Figures()}, hours=0).run()
    assert script.scheduled == []


def test_a_schedule_that_could_not_be_kept_is_kept_at_the_next_turn() -> None:
    script = Script(looks=[SCHEDULE_S, 2 * SCHEDULE_S])
    script.is_away = True
    loop(script, {"books": Figures()}, hours=1).run()
    assert [moment for moment, _, _ in script.scheduled] == [0.0, SCHEDULE_S, 2 * SCHEDULE_S]


def test_a_job_is_done_and_left_and_one_that_never_comes_further_is_given_up() -> None:
    script = Script(looks=[1.0], jobs=[(7, 1), (8, 3)])
    loop(script, {"books": Figures()}, hours=0).run()
    assert script.left == [7]
    assert script.ended == [(8, "failed", "attempts_exhausted")]


def test_how_jobs_stand_is_shown() -> None:
    figures = {"books": Figures()}
    script = Script(looks=[1.0])
    loop(script, figures, hours=0).run()
    shown = figures["books"]
    assert (shown.rebuild_events_done, shown.rebuild_events_total, shown.rebuild_events_per_second) == (10, 40, 5.0)
    assert shown.is_different
