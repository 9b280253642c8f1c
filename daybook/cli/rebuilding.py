"""`daybook projections rebuild`, `verify`, `swap` and what goes with them: jobs are followed until they are over.

Ending the command does not end a job: it goes on in the projectors, and `daybook projections jobs` shows it.
"""

import time
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from daybook.cli.operating import (
    ACTING,
    ASKING,
    FOLLOWING,
    LEDGERS,
    Acting,
    Asking,
    Following,
    LedgerName,
    OnlyLedger,
    ProjectionName,
    Shown,
    Yes,
    confirm,
    path_of,
)
from daybook.cli.projections import Summary, tell
from daybook.cli.reading import print_json
from daybook.client import Answer
from daybook.terminal import Exit, out, talk

LOOK_S = 0.5
Waiting = Annotated[PositiveInt | None, Parameter(help="Its number; without one the newest that waits.")]


class _Table(msgspec.Struct):
    table: str
    rows: int
    digest: str
    is_equal: bool


class _Difference(msgspec.Struct):
    table: str
    ledger: str
    ours_rows: int
    theirs_rows: int
    ours: list[str]
    theirs: list[str]


class _Findings(msgspec.Struct):
    ledgers: int
    events: int
    tables: list[_Table]
    ledgers_differ: int
    differences: list[_Difference]
    not_compared: list[str]


class _Job(msgspec.Struct):
    id: int
    kind: str
    projection: str
    generation: int
    ledger: str | None
    account: str | None
    state: str
    asked_at: str
    actor: str
    events_done: int
    events_total: int
    events_per_second: float | None
    seconds_left: float | None
    has_passed: bool | None
    findings: _Findings | None
    error: str | None


class _Jobs(msgspec.Struct):
    data: list[_Job]


def rebuild(
    projection: ProjectionName,
    /,
    *,
    following: Following = FOLLOWING,
    ledger: Annotated[str | None, Parameter(help="Only this ledger, in place: the same as `repair`.")] = None,
    throttle: Annotated[PositiveInt | None, Parameter(help="Events a second at most.")] = None,
    yes: Yes = False,
) -> int:
    """Build a projection anew from the log, beside the one that serves; `verify` and `swap` are the next steps."""
    confirm(f"Build {projection} anew from the log" + (f", the ledger {ledger} in place" if ledger else ""), yes=yes)
    path = path_of(projection, "rebuild")
    return _follow(following, following.act(path, ledger=ledger, events_per_second_max=throttle))


def verify(projection: ProjectionName, /, *, following: Following = FOLLOWING, generation: Waiting = None) -> int:
    """Compare a generation with the live one, row by row. Exit code 6 where they differ."""
    return _follow(following, following.act(path_of(projection, "verify"), generation=generation))


def swap(
    projection: ProjectionName,
    /,
    *,
    acting: Acting = ACTING,
    generation: Waiting = None,
    force: Annotated[
        bool, Parameter(negative="", help="Even if it was not verified, or differs; it is recorded.")
    ] = False,
) -> int:
    """Let readers see a generation that was verified."""
    return _told(acting, acting.act(path_of(projection, "swap"), generation=generation, force=force))


def rollback(projection: ProjectionName, /, *, acting: Acting = ACTING) -> int:
    """Let readers see the generation that was live before, which was fed all the time."""
    return _told(acting, acting.act(path_of(projection, "rollback")))


def drop(
    projection: ProjectionName,
    generation: Annotated[PositiveInt, Parameter(help="Its number.")],
    /,
    *,
    acting: Acting = ACTING,
    yes: Yes = False,
) -> int:
    """Drop a generation that readers do not see; what builds it ends."""
    confirm(f"Drop generation {generation} of {projection}", yes=yes)
    return _told(acting, acting.act(path_of(projection, "drop"), generation=generation))


def repair(
    projection: ProjectionName,
    ledger: LedgerName,
    /,
    *,
    following: Following = FOLLOWING,
    account: Annotated[str | None, Parameter(help="Only the rows of this account.")] = None,
) -> int:
    """Fold one ledger of the live generation, or one account of it, anew from the log, in place."""
    return _follow(following, following.act(path_of(projection, "repair"), ledger=ledger, account=account))


def reconcile(projection: ProjectionName, /, *, following: Following = FOLLOWING, ledger: OnlyLedger = None) -> int:
    """Compare the live generation with a fold of the log. Exit code 6 where they differ."""
    return _follow(following, following.act(path_of(projection, "reconcile"), ledger=ledger))


def jobs(projection: ProjectionName, /, *, asking: Asking = ASKING, limit: Shown = LEDGERS) -> int:
    """List rebuilds, comparisons and repairs, the newest first."""
    answer = asking.ask(path_of(projection, "jobs"), limit=limit)
    if asking.shows(answer):
        return Exit.DONE
    columns = ("job", "what", "generation", "ledger", "account", "state", "events", "of", "events/s", "left, s")
    table = Table(*columns, "asked", "by")
    for each in answer.read(_Jobs).data:
        state = each.state if each.has_passed is not False else f"{each.state}, differs"
        progress = (str(each.events_done), str(each.events_total))
        rates = ("" if value is None else f"{value:,.0f}" for value in (each.events_per_second, each.seconds_left))
        where = (str(each.generation), each.ledger or "", each.account or "", f"{state} {each.error or ''}".strip())
        table.add_row(str(each.id), each.kind, *where, *progress, *rates, each.asked_at, each.actor)
    out().print(table)
    return Exit.DONE


def _told(acting: Acting, answer: Answer) -> int:
    if acting.shows(answer):
        return Exit.DONE
    summary = answer.read(Summary)
    talk().print(f"generation {summary.live_generation} of {summary.projection} is live", markup=False)
    return tell(summary)


def _follow(following: Following, answer: Answer) -> int:
    """The job until it is over; its exit code: 6 where a comparison found something, 1 where it failed."""
    job = answer.read(_Job)
    path = path_of(job.projection, "jobs", str(job.id))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = talk()
    with (
        following.client() as client,
        Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        ) as bar,
    ):
        shown = bar.add_task(f"{job.kind} {job.projection}", total=None, rate="")
        while following.wait and job.state in {"waiting", "running"}:
            time.sleep(LOOK_S)
            answer = client.get(path)
            job = answer.read(_Job)
            rate = "" if job.events_per_second is None else f"{job.events_per_second:,.0f}/s"
            bar.update(shown, completed=job.events_done, total=job.events_total or None, rate=rate)
    if following.as_json:
        print_json(answer.body)
    else:
        _tell_job(job)
    if job.has_passed is False:
        return Exit.VERIFICATION_FAILED
    return Exit.FAULT if job.state in {"failed", "cancelled"} else Exit.DONE


def _tell_job(job: _Job) -> None:
    if job.findings is not None:
        table = Table("table", "rows", "digest", "")
        for each in job.findings.tables:
            table.add_row(each.table, str(each.rows), each.digest, "equal" if each.is_equal else "differs")
        out().print(table)
        for found in job.findings.differences:
            out().print(
                f"{found.table} of {found.ledger}: {found.ours_rows} rows against {found.theirs_rows}", markup=False
            )
            for sign, rows in (("+", found.ours), ("-", found.theirs)):
                for row in rows:
                    out().print(f"  {sign} {row}", markup=False)
        for ledger in job.findings.not_compared:
            talk().print(f"{ledger} was not compared: only one side has it", style="yellow", markup=False)
    error = "" if job.error is None else f": {job.error}"
    talk().print(f"job {job.id}, {job.kind} of generation {job.generation}: {job.state}{error}", markup=False)
