"""`daybook projections …`: how the read models stand and what is to become of them, over the operators' API.

A table for people, the service's own JSON for programs (`--json`).
"""

from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from daybook.cli.operating import (
    ACTING,
    ASKING,
    LEDGERS,
    PATH,
    Acting,
    Asking,
    OnlyLedger,
    ProjectionName,
    Shown,
    number,
    path_of,
)
from daybook.terminal import Exit, out, talk

app = App(name="projections", help="The read models: how they stand, and what is to become of them.")
for _name in ("standing", "park", "retry", "skip"):
    app.command(f"daybook.cli.parking:{_name}", name=_name)
for _name in ("rebuild", "verify", "swap", "rollback", "drop", "repair", "reconcile", "jobs"):
    app.command(f"daybook.cli.rebuilding:{_name}", name=_name)


class Progress(msgspec.Struct):
    """How far something is behind the log."""

    events: int
    applied: int
    lag_events: int
    lag_seconds: float
    events_per_second: float | None


class Pause(msgspec.Struct):
    """Who paused a projection, and why."""

    since: str
    actor: str
    reason: str


class Summary(msgspec.Struct):
    """One projection."""

    projection: str
    state: str
    version: int | None
    live_generation: int | None
    waiting: int
    parked: int
    last_error: str | None
    trouble: str | None
    progress: Progress | None
    pause: Pause | None


class Generation(msgspec.Struct):
    """One build."""

    generation: int
    version: int
    state: str
    is_of_this_log: bool
    progress: Progress | None


class Ledger(msgspec.Struct):
    """One ledger of the live generation."""

    ledger: str
    state: str
    head: int
    position: int
    lag_events: int
    lag_seconds: float | None
    events_per_second: float | None
    error_class: str = ""
    error: str = ""


class _Action(msgspec.Struct):
    id: int
    at: str
    actor: str
    action: str
    projection: str
    ledger: str | None
    reason: str
    details: dict[str, object]


class _Trail(msgspec.Struct):
    data: list[_Action]


class _List(msgspec.Struct):
    data: list[Summary]


class _Status(msgspec.Struct):
    projection: Summary
    generations: list[Generation]
    ledgers: list[Ledger]


@app.command(name="list")
def list_projections(*, asking: Asking = ASKING) -> int:
    """List the projections: state, live generation, lag, rate, what stands still and why. Rates are measured for a second."""
    answer = asking.ask(PATH)
    if asking.shows(answer):
        return Exit.DONE
    columns = ("projection", "state", "version", "generation", "applied", "of", "lag, events", "lag, s", "events/s")
    table = Table(*columns, "waiting", "parked", "last error")
    for each in answer.read(_List).data:
        table.add_row(*_summary_row(each))
    out().print(table)
    return Exit.DONE


@app.command
def status(
    projection: ProjectionName, /, *, asking: Asking = ASKING, ledger: OnlyLedger = None, limit: Shown = LEDGERS
) -> int:
    """Show one projection: its generations, and the ledgers that need a look first. Rates are measured for a second."""
    answer = asking.ask(path_of(projection), ledger=ledger, limit=limit)
    if asking.shows(answer):
        return Exit.DONE
    read = answer.read(_Status)
    builds = Table("generation", "version", "state", "applied", "of", "lag, events", "lag, s", "events/s")
    for each in read.generations:
        state = each.state if each.is_of_this_log else f"{each.state}, of another log"
        builds.add_row(str(each.generation), str(each.version), state, *_progress_row(each.progress))
    out().print(builds)
    out().print(ledger_table(read.ledgers))
    return tell(read.projection)


@app.command
def pause(projection: ProjectionName, /, *, acting: Acting = ACTING) -> int:
    """Stop feeding a projection, in every process and within a second; readers go on as of where it stands."""
    return _switch(acting, path_of(projection, "pause"))


@app.command
def resume(projection: ProjectionName, /, *, acting: Acting = ACTING) -> int:
    """Feed a paused projection again, from where it stood."""
    return _switch(acting, path_of(projection, "resume"))


@app.command
def trail(
    *,
    asking: Asking = ASKING,
    projection: Annotated[str | None, Parameter(help="Only this projection.")] = None,
    ledger: OnlyLedger = None,
    before: Annotated[PositiveInt | None, Parameter(help="Only before the action of this number.")] = None,
    limit: Shown = LEDGERS,
) -> int:
    """List what operators did: when, who, what, why; the newest first."""
    wanted = {"projection": projection, "ledger": ledger, "before": before, "limit": limit}
    answer = asking.ask("/v1/operations/trail", **wanted)
    if asking.shows(answer):
        return Exit.DONE
    table = Table("", "at", "who", "what", "projection", "ledger", "changed", "why")
    for each in answer.read(_Trail).data:
        where = (each.projection, each.ledger or "")
        table.add_row(str(each.id), each.at, each.actor, each.action, *where, _changed(each.details), each.reason)
    out().print(table)
    return Exit.DONE


def tell(summary: Summary) -> int:
    """A line about a projection, and what it stands still for if it does."""
    why = f": {summary.trouble}" if summary.trouble else ""
    talk().print(f"{summary.projection} is {summary.state}{why}", markup=False)
    if summary.pause is not None:
        why = f": {summary.pause.reason}" if summary.pause.reason else ""
        talk().print(f"paused since {summary.pause.since} by {summary.pause.actor}{why}", style="yellow", markup=False)
    return Exit.DONE


def ledger_table(ledgers: list[Ledger]) -> Table:
    """A row a ledger; the last error where there is one."""
    table = Table("ledger", "state", "position", "head", "lag, events", "lag, s", "events/s", "last error")
    for each in ledgers:
        figures = (number(each.lag_seconds or 0.0), number(each.events_per_second))
        where = (str(each.position), str(each.head), str(each.lag_events))
        table.add_row(each.ledger, each.state, *where, *figures, f"{each.error_class} {each.error}".strip())
    return table


def _switch(acting: Acting, path: str) -> int:
    answer = acting.act(path)
    return Exit.DONE if acting.shows(answer) else tell(answer.read(Summary))


def _changed(details: dict[str, object]) -> str:
    """What an action changed, in words: a claim where it is true, of several their names before."""
    told = []
    for name, value in details.items():
        match value:
            case None | False:
                continue
            case True:
                told.append(name.removeprefix("is_"))
            case dict():
                told += [f"{name} {key}: {each}" for key, each in value.items()]
            case list():
                told.append(f"{name} {', '.join(map(str, value))}")
            case _:
                told.append(f"{name} {value}")
    return ", ".join(told)


def _summary_row(each: Summary) -> list[str]:
    numbers = ("" if value is None else str(value) for value in (each.version, each.live_generation))
    why = "; ".join(part for part in (each.trouble, each.last_error) if part)
    return [
        each.projection,
        each.state,
        *numbers,
        *_progress_row(each.progress),
        str(each.waiting),
        str(each.parked),
        why,
    ]


def _progress_row(progress: Progress | None) -> list[str]:
    if progress is None:
        return [""] * 5
    figures = (number(progress.lag_seconds), number(progress.events_per_second))
    return [str(progress.applied), str(progress.events), str(progress.lag_events), *figures]
