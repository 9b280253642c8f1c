"""`daybook projections …`: how the read models stand and what is to become of them, over the operators' API.

A table for people, the service's own JSON for programs (`--json`).
"""

from contextlib import closing
from typing import Annotated
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from daybook.cli.connection import OPERATING, Operating, faults_end_the_command
from daybook.cli.reading import AsJson, print_json
from daybook.client import Answer
from daybook.terminal import Exit, out, talk

PATH = "/v1/operations/projections"
LEDGERS = 20
Why = Annotated[str, Parameter(name="--reason")]

app = App(name="projections", help="The read models: how they stand, and what is to become of them.")
for _name in ("standing", "park", "retry", "skip"):
    app.command(f"daybook.cli.parking:{_name}", name=_name)
for _name in ("rebuild", "verify", "swap", "rollback", "drop", "repair", "reconcile", "jobs"):
    app.command(f"daybook.cli.rebuilding:{_name}", name=_name)


class Progress(msgspec.Struct):
    """How far something is behind the log."""

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
def list_projections(*, operating: Operating = OPERATING, as_json: AsJson = False) -> int:
    """List the projections: state, live generation, lag, what stands still.

    Parameters
    ----------
    as_json
        Print the service's answer.
    """
    answer = asked(operating, PATH)
    if as_json:
        return print_json(answer.body)
    table = Table("projection", "state", "version", "generation", "lag, events", "lag, s", "waiting", "parked")
    for each in answer.read(_List).data:
        table.add_row(*_summary_row(each))
    out().print(table)
    return Exit.DONE


@app.command
def status(
    projection: str,
    /,
    *,
    operating: Operating = OPERATING,
    ledger: str | None = None,
    limit: PositiveInt = LEDGERS,
    as_json: AsJson = False,
) -> int:
    """Show one projection: its generations, and the ledgers that need a look first. Rates are measured for a second.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        Only this ledger.
    limit
        Ledgers shown.
    as_json
        Print the service's answer.
    """
    answer = asked(operating, path_of(projection), ledger=ledger, limit=limit)
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Status)
    builds = Table("generation", "version", "state", "events applied", "lag, events", "lag, s", "events/s")
    for each in read.generations:
        state = each.state if each.is_of_this_log else f"{each.state}, of another log"
        builds.add_row(str(each.generation), str(each.version), state, *_progress_row(each.progress))
    out().print(builds)
    out().print(ledger_table(read.ledgers))
    return tell(read.projection)


@app.command
def pause(projection: str, /, *, operating: Operating = OPERATING, reason: Why = "", as_json: AsJson = False) -> int:
    """Stop feeding a projection, in every process and within a second; readers go on as of where it stands.

    Parameters
    ----------
    projection
        The projection, such as books.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    return _switch(operating, f"{path_of(projection)}/pause", reason, as_json=as_json)


@app.command
def resume(projection: str, /, *, operating: Operating = OPERATING, reason: Why = "", as_json: AsJson = False) -> int:
    """Feed a paused projection again, from where it stood.

    Parameters
    ----------
    projection
        The projection, such as books.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    return _switch(operating, f"{path_of(projection)}/resume", reason, as_json=as_json)


@app.command
def trail(
    *,
    operating: Operating = OPERATING,
    projection: str | None = None,
    ledger: str | None = None,
    before: PositiveInt | None = None,
    limit: PositiveInt = LEDGERS,
    as_json: AsJson = False,
) -> int:
    """List what operators did: when, who, what, why; the newest first.

    Parameters
    ----------
    projection
        Only this projection.
    ledger
        Only this ledger.
    before
        Only before the action of this number.
    limit
        Actions shown.
    as_json
        Print the service's answer.
    """
    wanted = {"projection": projection, "ledger": ledger, "before": before, "limit": limit}
    answer = asked(operating, "/v1/operations/trail", **wanted)
    if as_json:
        return print_json(answer.body)
    table = Table("", "at", "who", "what", "projection", "ledger", "changed", "why")
    for each in answer.read(_Trail).data:
        changed = ", ".join(f"{name} {value}" for name, value in each.details.items() if value is not None)
        where = (each.projection, each.ledger or "")
        table.add_row(str(each.id), each.at, each.actor, each.action, *where, changed, each.reason)
    out().print(table)
    return Exit.DONE


def path_of(projection: str, *rest: str) -> str:
    """The path of a projection and of what is below it."""
    return "/".join((PATH, *(quote(part, safe=":") for part in (projection, *rest))))


def asked(operating: Operating, path: str, **parameters: str | int | None) -> Answer:
    """The answer to a question; a fault ends the command."""
    with faults_end_the_command(), closing(operating.client()) as client:
        return client.get(path, position=None, **parameters)


def done(operating: Operating, path: str, **said: str | int | bool | None) -> Answer:
    """The answer to an action; a fault ends the command. What is None is left out."""
    body = msgspec.json.encode({name: value for name, value in said.items() if value is not None})
    with faults_end_the_command(), closing(operating.client()) as client:
        return client.post(path, body, key=None)


def tell(summary: Summary) -> int:
    """A line about a projection."""
    talk().print(f"{summary.projection} is {summary.state}", markup=False)
    if summary.pause is not None:
        why = f": {summary.pause.reason}" if summary.pause.reason else ""
        talk().print(f"paused since {summary.pause.since} by {summary.pause.actor}{why}", style="yellow", markup=False)
    return Exit.DONE


def ledger_table(ledgers: list[Ledger]) -> Table:
    """A row a ledger; the last error where there is one."""
    table = Table("ledger", "state", "position", "head", "lag, events", "lag, s", "events/s", "last error")
    for each in ledgers:
        figures = (_number(each.lag_seconds), _number(each.events_per_second))
        where = (str(each.position), str(each.head), str(each.lag_events))
        table.add_row(each.ledger, each.state, *where, *figures, f"{each.error_class} {each.error}".strip())
    return table


def _switch(operating: Operating, path: str, reason: str, *, as_json: bool) -> int:
    answer = done(operating, path, reason=reason)
    return print_json(answer.body) if as_json else tell(answer.read(Summary))


def _summary_row(each: Summary) -> list[str]:
    progress = each.progress
    lag = ("", "") if progress is None else (str(progress.lag_events), _number(progress.lag_seconds))
    numbers = ("" if number is None else str(number) for number in (each.version, each.live_generation))
    return [each.projection, each.state, *numbers, *lag, str(each.waiting), str(each.parked)]


def _progress_row(progress: Progress | None) -> list[str]:
    if progress is None:
        return [""] * 4
    figures = (_number(progress.lag_seconds), _number(progress.events_per_second))
    return [str(progress.applied), str(progress.lag_events), *figures]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
