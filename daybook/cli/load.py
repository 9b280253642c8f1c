"""`daybook load`: a file of commands is posted to a ledger, with its progress shown and its troubles listed.

Loading twice changes nothing and an interrupted load goes on, because every line carries a key (`commands_file.py`).
"""

import gzip
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from daybook.cli.commands_file import Command, MalformedLine, Survey, batches, open_plain, read_commands, survey
from daybook.cli.connection import HERE, Connection, FileOrPipe, commands, faults_end_the_command
from daybook.cli.posting import Tally, Trouble, post_batch
from daybook.client import AnsweredProblem, Client
from daybook.terminal import CommandFailed, Exit, out, talk
from shared_kernel.words import decimal_text

BATCH_COMMANDS_MAX = 1_000  # design §8
BATCH_BYTES_MAX = 1024 * 1024  # chosen: a quarter of what the command service takes by default
PLAIN_PROGRESS_SECONDS = 5.0  # chosen: enough for a log that nobody watches live
TROUBLES_SHOWN_MAX = 50


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    ledger: str
    file: str
    sha256: str
    commands: int
    posted: int
    replayed: int
    refused: int
    malformed: int
    unsettled: int
    position: int
    seconds: float
    troubles: list[Trouble]


def load(
    file: FileOrPipe,
    /,
    *,
    ledger: str,
    connection: Connection = HERE,
    batch: PositiveInt = 500,
    open_ledger: Annotated[bool | None, Parameter(name="--open", negative="--no-open")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Post the commands of a file to a ledger.

    The file is NDJSON, plain or gzip: one command a line, such as
    `{"type":"post_transaction","key":"...","data":{"entries":[...]}}`. A line without a key gets one made of the file's
    SHA-256 and the line's number, so loading a file again changes nothing and an interrupted load goes on.

    Parameters
    ----------
    file
        The file; `-` reads standard input.
    ledger
        The ledger to post to.
    batch
        Commands a request, at most 1000.
    open_ledger
        Open the ledger, with accounts on first use, if it does not exist. On a local stack this is the default.
    as_json
        Print the summary as JSON.
    """
    if batch > BATCH_COMMANDS_MAX:
        raise CommandFailed(f"--batch is {batch}, and a request takes {BATCH_COMMANDS_MAX} at most", Exit.USAGE)
    target = connection.target()
    with ExitStack() as stack, faults_end_the_command("run the same command again to go on"):
        path = stack.enter_context(spooled()) if str(file) == "-" else file
        found = _survey(path)
        client = commands(target)
        stack.callback(client.close)
        if target.is_local if open_ledger is None else open_ledger:
            _open_ledger(client, ledger)
        tally, began = Tally(), time.monotonic()
        try:
            _post_all(client, ledger, path, found, batch=batch, tally=tally)
        except AnsweredProblem as problem:
            if problem.code == "ledger_not_found":
                raise CommandFailed(f"there is no ledger {ledger} that the token covers: --open opens it") from problem
            raise
        finally:  # also where the service went away or somebody pressed Ctrl-C: what was posted is posted
            _tell(_summary(ledger, str(file), found, tally, time.monotonic() - began), as_json)
    return tally.exit()


def _post_all(client: Client, ledger: str, path: Path, found: Survey, *, batch: int, tally: Tally) -> None:
    def well_formed() -> Iterator[Command]:
        with open_plain(path) as plain:
            for line in read_commands(plain, found.sha256):
                if isinstance(line, MalformedLine):
                    tally.note(
                        Trouble(line=line.line, status=400, code="malformed_line", detail=line.detail), Exit.USAGE
                    )
                else:
                    yield line

    with _progress(found.lines) as advance:
        for chunk in batches(well_formed(), count_max=batch, bytes_max=BATCH_BYTES_MAX):
            post_batch(client, ledger, chunk, tally)
            advance(tally.done)


def _open_ledger(client: Client, ledger: str) -> None:
    """The ledger is open, by this or by somebody before. The key makes two loads at once open it once."""
    body = msgspec.json.encode({"ledger": ledger, "accounts": "on-first-use"})
    try:
        answer = client.post("/v1/ledgers", body, key=f"load:open:{ledger}")
    except AnsweredProblem as problem:
        if problem.code not in ("ledger_exists", "idempotency_key_reused"):
            raise
        return
    if not answer.is_replay:
        talk().print(f"opened the ledger {ledger}: accounts are opened by their first use", markup=False)


def _survey(path: Path) -> Survey:
    try:
        return survey(path)
    except FileNotFoundError:
        raise CommandFailed(f"there is no file {path}", Exit.USAGE) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise CommandFailed(f"{path} is a damaged gzip file: {fault}", Exit.USAGE) from fault
    except OSError as fault:
        raise CommandFailed(f"{path} cannot be read: {fault.strerror}", Exit.USAGE) from fault


@contextmanager
def spooled() -> Iterator[Path]:
    """Standard input as a file: it is read twice, once for its hash."""
    with tempfile.NamedTemporaryFile(prefix="daybook-load-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Path(spool.name)


class _Advance:
    """Tells the number of commands done: a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, total: int, bar: Progress | None) -> None:
        self._total = total
        self._bar = bar
        self._task = bar.add_task("loading", total=total, rate="") if bar else None
        self._began = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        rate = done / max(now - self._began, 0.001)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f}/s")
        elif now - self._told >= PLAIN_PROGRESS_SECONDS:
            self._told = now
            left = (self._total - done) / max(rate, 0.001)
            talk().print(f"{done} of {self._total}, {rate:,.0f}/s, {left:.0f} s left")


@contextmanager
def _progress(total: int) -> Iterator[_Advance]:
    console = talk()
    if not console.is_terminal:
        yield _Advance(total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Advance(total, bar)


def _summary(ledger: str, file: str, found: Survey, tally: Tally, seconds: float) -> Summary:
    return Summary(
        ledger=ledger,
        file=file,
        sha256=found.sha256,
        commands=tally.done,
        posted=tally.posted,
        replayed=tally.replayed,
        refused=tally.refused,
        malformed=tally.malformed,
        unsettled=tally.unsettled,
        position=tally.position,
        seconds=round(seconds, 3),
        troubles=sorted(tally.troubles, key=lambda trouble: trouble.line),
    )


def _tell(summary: Summary, as_json: bool) -> None:
    console = out()
    if as_json:
        console.out(msgspec.json.encode(summary).decode())
        return
    if summary.troubles:
        console.print(_trouble_table(summary.troubles))
    counts = {
        "posted": summary.posted,
        "there already": summary.replayed,
        "refused": summary.refused,
        "malformed": summary.malformed,
        "not settled": summary.unsettled,
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "posted")
    rate = summary.commands / max(summary.seconds, 0.001)
    console.print(
        f"{summary.commands} commands of {summary.file} to the ledger {summary.ledger}: {told}; "
        f"{summary.seconds:.1f} s, {rate:,.0f}/s; position {summary.position}",
        markup=False,
    )


def _trouble_table(troubles: list[Trouble]) -> Table:
    table = Table("line", "code", "account", "missing", "detail", caption_justify="left")
    for trouble in troubles[:TROUBLES_SHOWN_MAX]:
        missing = trouble.missing
        if isinstance(missing, int) and trouble.asset:
            missing = f"{decimal_text(missing, trouble.asset)} {trouble.asset}"
        where = f"{trouble.path}: " if trouble.path else ""
        table.add_row(
            str(trouble.line), trouble.code, trouble.account or "", str(missing or ""), Text(where + trouble.detail)
        )
    if len(troubles) > TROUBLES_SHOWN_MAX:
        table.caption = f"and {len(troubles) - TROUBLES_SHOWN_MAX} more: --json lists up to 10,000"
    return table
