"""`daybook tail`: a ledger's events as lines, the newest last, and those that follow.

People get one short line an event; programs get the canonical lines, byte for byte as the log holds them.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt

from daybook.cli.connection import HERE, Connection, faults_end_the_command, queries
from daybook.client import Client, ledger_path
from daybook.terminal import Exit, out
from shared_kernel.errors import DaybookError
from shared_kernel.events import (
    AccountOpened,
    CommandRefused,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    LedgerOpened,
    ScheduledRefused,
    TransactionHeld,
    TransactionPosted,
    TransactionScheduled,
    decode,
    parse_line,
)
from shared_kernel.words import decimal_text

POLL_SECONDS = 0.5  # chosen: soon enough for eyes, two small queries a second
PAGE_EVENTS = 500
ENTRIES_SHOWN_MAX = 4


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]


class _Numbered(msgspec.Struct):
    position: int


def tail(
    ledger: str,
    /,
    *,
    connection: Connection = HERE,
    from_position: Annotated[PositiveInt | None, Parameter(name="--from")] = None,
    lines: PositiveInt = 10,
    follow: Annotated[bool, Parameter(alias="-f", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show the newest events of a ledger's log, and follow it.

    The token must be an auditor's: the log holds what others asked and were refused.

    Parameters
    ----------
    ledger
        The ledger.
    from_position
        Begin at this position, instead of a few events before the end.
    lines
        How many events before the end to begin with.
    follow
        Go on with every event that comes, until interrupted.
    as_json
        Print canonical lines: one JSON object an event.
    """
    console = out()
    with faults_end_the_command(), closing(queries(connection.target(), "auditor")) as client:
        start = from_position if from_position is not None else _before_end(client, ledger, lines)
        for line in _events(client, ledger, start, follow):
            console.out(line if as_json else for_people(line), highlight=False)
    return Exit.DONE


def _before_end(client: Client, ledger: str, count: int) -> int:
    newest = client.get(ledger_path(ledger, "events"), order="newest", limit=1).read(_Page).data
    return max(1, _position(newest[0]) - count + 1) if newest else 1


def _events(client: Client, ledger: str, position: int, is_followed: bool) -> Iterator[str]:
    path = ledger_path(ledger, "events")
    while True:
        page = client.get(path, order="oldest", from_position=position, limit=PAGE_EVENTS).read(_Page).data
        for event in page:
            yield bytes(event).decode()
            position = _position(event) + 1
        if len(page) < PAGE_EVENTS:
            if not is_followed:
                return
            time.sleep(POLL_SECONDS)


def _position(event: msgspec.Raw) -> int:
    return msgspec.json.decode(event, type=_Numbered).position


def for_people(line: str) -> str:
    """Position, time, type and what happened, of a canonical line."""
    event = parse_line(line)
    moment = event.recorded_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"{event.position:>8}  {moment}  {event.type.partition('.')[0]:<18} {_story(event.type, event.data)}"


def _story(type_name: str, data: str) -> str:  # noqa: PLR0911 a flat ladder, one kind a line
    try:
        event = decode(type_name, data)
    except (DaybookError, msgspec.MsgspecError):  # of a newer version than this one: shown, not understood
        return data
    match event:
        case LedgerOpened():
            return f"{event.ledger}, accounts {event.accounts}"
        case AccountOpened():
            return f"{event.address}, {event.normal_balance}-normal{', on first use' if event.on_first_use else ''}"
        case TransactionPosted() | TransactionHeld() | TransactionScheduled():
            return _shown(event.entries) + (f"  [{event.reference}]" if event.reference else "")
        case HoldPosted():
            return f"{event.transaction}: {_shown(event.entries)}{'' if event.is_final else ', the rest stays held'}"
        case HoldVoided() | HoldExpired():
            return f"{event.transaction}: released {_shown(event.released)}"
        case CommandRefused():
            return f"{event.command}: {event.code} {' '.join(event.accounts)}".rstrip()
        case ScheduledRefused():
            return f"{event.transaction}: {event.code} {' '.join(event.accounts)}".rstrip()
    return _terms(event)


def _shown(entries: Sequence[Entry]) -> str:
    shown = [
        f"{entry.direction} {entry.account} {decimal_text(entry.amount, entry.asset)} {entry.asset}"
        for entry in entries[:ENTRIES_SHOWN_MAX]
    ]
    if len(entries) > ENTRIES_SHOWN_MAX:
        shown.append(f"and {len(entries) - ENTRIES_SHOWN_MAX} more")
    return "; ".join(shown)


def _terms(event: Event) -> str:
    """What changed no balance: the name of what it is about, and the rest of its fields as they are."""
    fields = msgspec.to_builtins(event)
    name = next((str(fields.pop(field)) for field in ("address", "transaction", "ledger") if field in fields), "")
    rest = msgspec.json.encode(fields).decode() if fields else ""
    return f"{name} {rest}".rstrip()
