"""`daybook projections standing`, `park`, `retry`, `skip`: ledgers that stand still in a read model, and what becomes of them."""

from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from daybook.cli.operating import (
    ACTING,
    ASKING,
    LEDGERS,
    Acting,
    Asking,
    LedgerName,
    ProjectionName,
    Shown,
    Yes,
    confirm,
    path_of,
)
from daybook.client import Answer
from daybook.terminal import CommandFailed, Exit, out, talk


class _Standing(msgspec.Struct):
    generation: int
    ledger: str
    position: int
    state: str
    event_type: str
    error_class: str
    error: str
    attempts: int
    since: str


class _List(msgspec.Struct):
    data: list[_Standing]


class _Skip(msgspec.Struct):
    version: int
    position: int
    reason: str
    actor: str
    at: str
    lifted_at: str | None


class _Inspection(msgspec.Struct):
    standing: list[_Standing]
    skips: list[_Skip]


def standing(
    projection: ProjectionName,
    ledger: Annotated[str | None, Parameter(help="Only this ledger, with what was skipped of it.")] = None,
    /,
    *,
    asking: Asking = ASKING,
    limit: Shown = LEDGERS,
) -> int:
    """List the ledgers that stand still, parked ones first; or show all about one ledger."""
    if ledger is None:
        return _show(asking, asking.ask(path_of(projection, "standing"), limit=limit))
    answer = asking.ask(path_of(projection, "standing", ledger))
    if asking.shows(answer):
        return Exit.DONE
    read = answer.read(_Inspection)
    _print(read.standing)
    for each in read.skips:
        until = "" if each.lifted_at is None else f", until {each.lifted_at}"
        why = f"{each.position} is left out by version {each.version} since {each.at}{until}: {each.reason}"
        talk().print(f"{why} ({each.actor})", markup=False)
    return Exit.DONE


def park(projection: ProjectionName, ledger: LedgerName, /, *, acting: Acting = ACTING) -> int:
    """Let a ledger stand still where it is, until it is retried."""
    return _show(acting, acting.act(path_of(projection, "standing", ledger, "park")))


def retry(
    projection: ProjectionName,
    ledger: Annotated[str | None, Parameter(help="The ledger; without one, all that stand still.")] = None,
    /,
    *,
    acting: Acting = ACTING,
) -> int:
    """Try a ledger that stands still again, or all of them."""
    where = ("retry",) if ledger is None else (ledger, "retry")
    answer = acting.act(path_of(projection, "standing", *where))
    if acting.shows(answer):
        return Exit.DONE
    for each in answer.read(_List).data:
        said = f"{each.ledger} is tried again from {each.position} on, in generation {each.generation}"
        talk().print(said, markup=False)
    return Exit.DONE


def skip(
    projection: ProjectionName,
    ledger: LedgerName,
    position: Annotated[PositiveInt, Parameter(help="The event at which it is parked.")],
    /,
    *,
    acting: Acting = ACTING,
    yes: Yes = False,
) -> int:
    """Let a parked ledger go on without the event at which it stands; answers on it stay incomplete until it is repaired.

    A reason is needed.
    """
    if not acting.reason:
        raise CommandFailed("an event is left out for a reason: say it with --reason", Exit.USAGE)
    confirm(f"Leave event {position} of {ledger} out of {projection}", yes=yes)
    answer = acting.act(path_of(projection, "standing", ledger, "skip"), position=position)
    if not acting.shows(answer):
        talk().print(f"{ledger} goes on without {position} in {projection}", markup=False)
    return Exit.DONE


def _show(asking: Asking, answer: Answer) -> int:
    if not asking.shows(answer):
        _print(answer.read(_List).data)
    return Exit.DONE


def _print(ledgers: list[_Standing]) -> None:
    if not ledgers:
        talk().print("nothing stands still")
        return
    table = Table("generation", "ledger", "state", "position", "event", "why", "attempts", "since")
    for each in ledgers:
        why = f"{each.error_class} {each.error}".strip()
        where = (str(each.generation), each.ledger, each.state, str(each.position), each.event_type)
        table.add_row(*where, why, str(each.attempts), each.since)
    out().print(table)
