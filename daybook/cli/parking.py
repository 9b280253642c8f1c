"""`daybook projections standing`, `park`, `retry`, `skip`: ledgers that stand still in a read model, and what becomes of them."""

from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from daybook.cli.connection import OPERATING, Operating
from daybook.cli.projections import LEDGERS, Why, asked, done, path_of
from daybook.cli.reading import AsJson, print_json
from daybook.cli.rebuilding import Yes, confirm
from daybook.client import Answer
from daybook.terminal import Exit, out, talk


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
    projection: str,
    ledger: str | None = None,
    /,
    *,
    operating: Operating = OPERATING,
    limit: PositiveInt = LEDGERS,
    as_json: AsJson = False,
) -> int:
    """List the ledgers that stand still, parked ones first; or show all about one ledger.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        Only this ledger, with what was skipped of it.
    limit
        Ledgers shown.
    as_json
        Print the service's answer.
    """
    if ledger is None:
        return _show(asked(operating, path_of(projection, "standing"), limit=limit), as_json=as_json)
    answer = asked(operating, path_of(projection, "standing", ledger))
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Inspection)
    _print(read.standing)
    for each in read.skips:
        until = "" if each.lifted_at is None else f", until {each.lifted_at}"
        why = f"{each.position} is left out by version {each.version} since {each.at}{until}: {each.reason}"
        talk().print(f"{why} ({each.actor})", markup=False)
    return Exit.DONE


def park(
    projection: str,
    ledger: str,
    /,
    *,
    operating: Operating = OPERATING,
    reason: Why = "",
    as_json: AsJson = False,
) -> int:
    """Let a ledger stand still where it is, until it is retried.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        The ledger.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    return _show(done(operating, path_of(projection, "standing", ledger, "park"), reason=reason), as_json=as_json)


def retry(
    projection: str,
    ledger: str | None = None,
    /,
    *,
    operating: Operating = OPERATING,
    reason: Why = "",
    as_json: AsJson = False,
) -> int:
    """Try a ledger that stands still again, or all of them.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        The ledger; without one, all that stand still.
    reason
        Why; it is recorded.
    as_json
        Print the service's answer.
    """
    where = ("retry",) if ledger is None else (ledger, "retry")
    return _show(done(operating, path_of(projection, "standing", *where), reason=reason), as_json=as_json)


def skip(
    projection: str,
    ledger: str,
    position: PositiveInt,
    /,
    *,
    operating: Operating = OPERATING,
    reason: Annotated[str, Parameter(name="--reason")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Let a parked ledger go on without the event at which it stands; answers on it stay incomplete until it is repaired.

    Parameters
    ----------
    projection
        The projection, such as books.
    ledger
        The ledger.
    position
        The event at which it is parked.
    reason
        Why; it is recorded, and needed.
    yes
        Do not ask.
    as_json
        Print the service's answer.
    """
    confirm(f"Leave event {position} of {ledger} out of {projection}", yes=yes)
    path = path_of(projection, "standing", ledger, "skip")
    return _show(done(operating, path, position=position, reason=reason), as_json=as_json)


def _show(answer: Answer, *, as_json: bool) -> int:
    if as_json:
        return print_json(answer.body)
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
