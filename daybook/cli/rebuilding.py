"""`daybook projections rebuild`, `verify`, `swap` and what goes with them: jobs are followed until they are over.

Ending the command does not end a job: it goes on in the projectors, and `daybook projections jobs` shows it.
"""

import sys
import time
from contextlib import closing
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from daybook.cli.connection import OPERATING, Operating, faults_end_the_command
from daybook.cli.projections import LEDGERS, Summary, Why, asked, done, path_of, tell
from daybook.cli.reading import AsJson, print_json
from daybook.client import Answer
from daybook.terminal import CommandFailed, Exit, out, talk

LOOK_S = 0.5
Yes = Annotated[bool, Parameter(name="--yes", negative="")]
Follow = Annotated[bool, Parameter(name="--wait", negative="--no-wait")]


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
    projection: str,
    /,
    *,
    operating: Operating = OPERATING,
    ledger: str | None = None,
    throttle: PositiveInt | None = None,
    reason: Why = "",
    yes: Yes = False,
    wait: Follow = True,
    as_json: AsJson = False,
) -> int:
    """Build a projection anew from the log, beside the one that serves; `verify` and `swap` are the next steps.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        Only this ledger, in place: the same as `repair`.
    throttle
        Events a second at most.
    reason
        Why; it is recorded.
    yes
        Do not ask.
    wait
        Follow it until it is whole.
    as_json
        Print the job as the service tells it.
    """
    confirm(f"Build {projection} anew from the log" + (f", the ledger {ledger} in place" if ledger else ""), yes=yes)
    body = {"ledger": ledger, "events_per_second_max": throttle, "reason": reason}
    answer = done(operating, path_of(projection, "rebuild"), **body)
    return _follow(operating, answer, wait=wait, as_json=as_json)


def verify(
    projection: str,
    /,
    *,
    operating: Operating = OPERATING,
    generation: PositiveInt | None = None,
    reason: Why = "",
    wait: Follow = True,
    as_json: AsJson = False,
) -> int:
    """Compare a generation with the live one, row by row. Exit code 6 where they differ.

    Parameters
    ----------
    projection
        The projection, such as books.
    generation
        Its number; without one the newest that waits.
    reason
        Why; it is recorded.
    wait
        Wait for what it finds.
    as_json
        Print the job as the service tells it.
    """
    answer = done(operating, path_of(projection, "verify"), generation=generation, reason=reason)
    return _follow(operating, answer, wait=wait, as_json=as_json)


def swap(
    projection: str,
    /,
    *,
    operating: Operating = OPERATING,
    generation: PositiveInt | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    reason: Why = "",
    as_json: AsJson = False,
) -> int:
    """Let readers see a generation that was verified.

    Parameters
    ----------
    projection
        The projection, such as books.
    generation
        Its number; without one the newest that waits.
    force
        Even if it was not verified, or differs; it is recorded.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    answer = done(operating, path_of(projection, "swap"), generation=generation, force=force, reason=reason)
    return _told(answer, as_json=as_json)


def rollback(projection: str, /, *, operating: Operating = OPERATING, reason: Why = "", as_json: AsJson = False) -> int:
    """Let readers see the generation that was live before, which was fed all the time.

    Parameters
    ----------
    projection
        The projection, such as books.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    return _told(done(operating, path_of(projection, "rollback"), reason=reason), as_json=as_json)


def drop(
    projection: str,
    generation: PositiveInt,
    /,
    *,
    operating: Operating = OPERATING,
    reason: Why = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Drop a generation that readers do not see; what builds it ends.

    Parameters
    ----------
    projection
        The projection, such as books.
    generation
        Its number.
    reason
        Why; it is recorded.
    yes
        Do not ask.
    as_json
        Print the service's answer.
    """
    confirm(f"Drop generation {generation} of {projection}", yes=yes)
    return _told(done(operating, path_of(projection, "drop"), generation=generation, reason=reason), as_json=as_json)


def repair(
    projection: str,
    ledger: str,
    /,
    *,
    operating: Operating = OPERATING,
    reason: Why = "",
    wait: Follow = True,
    as_json: AsJson = False,
) -> int:
    """Fold one ledger of the live generation anew from the log, in place.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        The ledger.
    reason
        Why; it is recorded.
    wait
        Wait for what it finds.
    as_json
        Print the job as the service tells it.
    """
    answer = done(operating, path_of(projection, "repair"), ledger=ledger, reason=reason)
    return _follow(operating, answer, wait=wait, as_json=as_json)


def reconcile(
    projection: str,
    /,
    *,
    operating: Operating = OPERATING,
    ledger: str | None = None,
    reason: Why = "",
    wait: Follow = True,
    as_json: AsJson = False,
) -> int:
    """Compare the live generation with a fold of the log. Exit code 6 where they differ.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        Only this ledger.
    reason
        Why; it is recorded.
    wait
        Wait for what it finds.
    as_json
        Print the job as the service tells it.
    """
    answer = done(operating, path_of(projection, "reconcile"), ledger=ledger, reason=reason)
    return _follow(operating, answer, wait=wait, as_json=as_json)


def jobs(
    projection: str, /, *, operating: Operating = OPERATING, limit: PositiveInt = LEDGERS, as_json: AsJson = False
) -> int:
    """List rebuilds, comparisons and repairs, the newest first.

    Parameters
    ----------
    projection
        The projection, such as books.
    limit
        Jobs shown.
    as_json
        Print the service's answer.
    """
    answer = asked(operating, path_of(projection, "jobs"), limit=limit)
    if as_json:
        return print_json(answer.body)
    table = Table("job", "what", "generation", "ledger", "state", "events", "of", "events/s", "left, s", "asked", "by")
    for each in answer.read(_Jobs).data:
        state = each.state if each.has_passed is not False else f"{each.state}, differs"
        progress = (str(each.events_done), str(each.events_total))
        rates = ("" if number is None else f"{number:,.0f}" for number in (each.events_per_second, each.seconds_left))
        where = (str(each.generation), each.ledger or "", f"{state} {each.error or ''}".strip())
        table.add_row(str(each.id), each.kind, *where, *progress, *rates, each.asked_at, each.actor)
    out().print(table)
    return Exit.DONE


def confirm(what: str, *, yes: bool) -> None:
    """Returns if a person says so, or `--yes` did; a program that cannot answer must give it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{what}? Say so with --yes", Exit.USAGE)
    talk().print(f"{what}? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed("nothing was done", Exit.INTERRUPTED)


def _told(answer: Answer, *, as_json: bool) -> int:
    if as_json:
        return print_json(answer.body)
    summary = answer.read(Summary)
    talk().print(f"generation {summary.live_generation} of {summary.projection} is live", markup=False)
    return tell(summary)


def _follow(operating: Operating, answer: Answer, *, wait: bool, as_json: bool) -> int:
    """The job until it is over; its exit code: 6 where a comparison found something, 1 where it failed."""
    job = answer.read(_Job)
    path = path_of(job.projection, "jobs", str(job.id))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with (
        faults_end_the_command(),
        closing(operating.client()) as client,
        Progress(*columns, TimeRemainingColumn(), console=talk(), transient=True) as bar,
    ):
        shown = bar.add_task(f"{job.kind} {job.projection}", total=None, rate="")
        while wait and job.state in {"waiting", "running"}:
            time.sleep(LOOK_S)
            answer = client.get(path)
            job = answer.read(_Job)
            rate = "" if job.events_per_second is None else f"{job.events_per_second:,.0f}/s"
            bar.update(shown, completed=job.events_done, total=job.events_total or None, rate=rate)
    if as_json:
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
