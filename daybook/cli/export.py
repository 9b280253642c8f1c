"""`daybook export`: a ledger's log, its entries, or a journal for hledger or beancount, to a file or a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from daybook.cli.connection import HERE, Connection, faults_end_the_command, queries
from daybook.client import ledger_path
from daybook.terminal import CommandFailed, Exit, talk

Form = Literal["ndjson", "csv", "hledger", "beancount"]
PLACES: dict[Form, tuple[str, ...]] = {
    "ndjson": ("events",),
    "csv": ("exports", "entries.csv"),
    "hledger": ("exports", "hledger.journal"),
    "beancount": ("exports", "ledger.beancount"),
}
ACCEPTED: dict[Form, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "hledger": "text/plain",
    "beancount": "text/plain",
}


def export(
    ledger: str,
    /,
    *,
    connection: Connection = HERE,
    form: Annotated[Form, Parameter(name="--as")] = "ndjson",
    as_of_position: PositiveInt | None = None,
    to: Path | None = None,
) -> int:
    """Write out what a ledger's log holds.

    `ndjson` is the log itself, line by line as `daybook import` reads it (the token must be an auditor's); `csv` every posted
    entry; `hledger` and `beancount` journals for those programs.

    Parameters
    ----------
    ledger
        The ledger.
    form
        What to write.
    as_of_position
        Only what stands up to this position.
    to
        The file; it is there when it is whole. Absent: standard output.
    """
    bound = {"to_position" if form == "ndjson" else "as_of_position": as_of_position}
    role = "auditor" if form == "ndjson" else "reader"
    with (
        faults_end_the_command(),
        closing(queries(connection.target(), role)) as client,
        _written_whole(to) as write,
    ):
        position = client.download(ledger_path(ledger, *PLACES[form]), write, accept=ACCEPTED[form], **bound)
    shown = min(position or 0, as_of_position or position or 0)
    talk().print(f"{ledger} as of position {shown}", style="dim", markup=False)
    return Exit.DONE


@contextmanager
def _written_whole(to: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Writes to standard output, or to a file that is there only if the block ends well."""
    if to is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    draft = to.with_name(f".{to.name}.part")
    try:
        with draft.open("wb") as file:
            yield file.write
        draft.replace(to)
    except OSError as fault:
        raise CommandFailed(f"{to} cannot be written: {fault.strerror}", Exit.USAGE) from fault
    finally:
        draft.unlink(missing_ok=True)
