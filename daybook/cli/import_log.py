"""`daybook import`: a ledger is made from the lines of its log, at the same positions, with the same times and bytes, or not at all.

It talks to Postgres itself, as the role `daybook_importer`, which may do nothing else. Nothing is believed: the log is refolded
and every rule of the books checked while it is written, in one transaction that only a sound log commits.
"""

import gzip
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from daybook.cli.commands_file import open_plain
from daybook.cli.connection import FileOrPipe
from daybook.cli.load import spooled
from daybook.terminal import CommandFailed, Exit, out, talk
from shared_kernel import events, tags
from shared_kernel.checking import Checker, Finding
from shared_kernel.errors import Unavailable
from shared_kernel.event_log.types import RecordedEvent

LINE_BYTES_MAX = 64 * 1024 * 1024  # chosen: many times the longest command that is taken
BATCH_EVENTS_MAX = 2_000
BATCH_BYTES_MAX = 4 * 1024 * 1024
FINDINGS_SHOWN_MAX = 20
TOLD_EVERY_SECONDS = 5.0
# Chosen: a batch takes a fraction of a second, the checks between two of them a few.
LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, IDLE_TIMEOUT_MS = 10_000, 120_000, 300_000
STATEMENT = "select head from daybook.import_events(%s, %s, %s, %s, %s, %s, %s, %s)"
WENT_AWAY = "the database went away; run the command again: a ledger that exists then is the imported one"
LEDGER_EXISTS, IN_THE_FUTURE = "DB006", "DB007"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `is_written`: false after a check alone, and where there are findings."""

    ledger: str
    file: str
    events: int
    accounts: int
    is_written: bool
    seconds: float
    findings: list[Finding]


def import_log(
    file: FileOrPipe,
    /,
    *,
    ledger: str,
    data: Annotated[Path, Parameter(env_var="DAYBOOK_DATA")] = Path(".data"),
    check: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Make a ledger from the log of one, as `GET .../events` gives it as NDJSON.

    Every event keeps its position, its time and its bytes. The log is refolded first: where positions, tags, rules or balances do
    not hold, nothing is imported, and each fault is listed. The database is the one of DAYBOOK_POSTGRES_URL (role
    daybook_importer), else that of the stack running in the data folder.

    Parameters
    ----------
    file
        The log, plain or gzip: canonical lines from position 1 on; `-` reads standard input.
    ledger
        The ledger's name, which is the one in the lines.
    data
        The stack's data folder.
    check
        Only check the log; no database is needed.
    as_json
        Print the summary as JSON.
    """
    import psycopg

    from shared_kernel import logs
    from shared_kernel.postgres import connect, conninfo

    with ExitStack() as stack:
        path = stack.enter_context(spooled()) if str(file) == "-" else file
        began = time.monotonic()
        reading = _Reading(ledger, path)
        try:
            if check:
                for _ in reading.batches():
                    pass
            else:
                logs.configure("import", level="warning", format="console", fd=sys.stderr.fileno())
                with connect(conninfo(_url(data), name="daybook import")) as connection:
                    _write(connection, ledger, reading)
        except psycopg.Error as error:
            raise _failed(error, ledger) from error
        except Unavailable as error:  # the answer to the commit was lost
            raise CommandFailed(WENT_AWAY, Exit.UNAVAILABLE) from error
    summary = Summary(
        ledger=ledger,
        file=str(file),
        events=reading.checker.position,
        accounts=len(reading.checker.accounts),
        is_written=not (check or reading.findings),
        seconds=round(time.monotonic() - began, 3),
        findings=reading.findings,
    )
    _tell(summary, as_json, is_check=check)
    return Exit.VERIFICATION_FAILED if summary.findings else Exit.DONE


class _Batch:
    """Events on their way into the log, in the form of the call."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.events: list[RecordedEvent] = []
        self.tag_events: list[int] = []
        self.tags: list[str] = []
        self.bytes = 0

    def add(self, event: RecordedEvent, size: int) -> None:
        """One more, with the tags that the domain gives it."""
        self.events.append(event)
        self.bytes += size
        found = tags.of(events.decode(event.type, event.data), events.decode_metadata(event.metadata))
        self.tags += found
        self.tag_events += [len(self.events)] * len(found)

    @property
    def is_full(self) -> bool:
        return len(self.events) >= BATCH_EVENTS_MAX or self.bytes >= BATCH_BYTES_MAX

    def parameters(self, ledger: str) -> list[Any]:
        """In the order of the function's."""
        columns = zip(*((e.type, e.data, e.metadata, e.recorded_at) for e in self.events), strict=True)
        return [ledger, self.base, *(list(column) for column in columns), self.tag_events, self.tags]


class _Reading:
    """One look through the file: batches of sound events for as long as there is nothing to find fault with."""

    def __init__(self, ledger: str, path: Path) -> None:
        self.findings: list[Finding] = []
        self._ledger = ledger
        self._path = path
        self._told_at = time.monotonic()
        reversed_ones = self._reversed()
        self.checker = Checker(may_be_reversed=reversed_ones.__contains__)

    def batches(self) -> Iterator[_Batch]:
        """What may be written so far; whoever writes must look at `findings` before it commits."""
        batch = _Batch(0)
        for line in _lines(self._path):
            event = self._checked(line)
            if len(self.findings) > FINDINGS_SHOWN_MAX:
                break
            if event is None or self.findings:
                continue
            batch.add(event, len(line))
            if batch.is_full:
                yield batch
                batch = _Batch(self.checker.position)
                self._progress()
        if self.checker.position == 0:
            self._find("no_events", f"{self._path} is empty")
        self._check_sums()
        if batch.events and not self.findings:
            yield batch

    def _checked(self, line: bytes) -> RecordedEvent | None:
        try:
            event = events.parse_line(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            self._find("unreadable", str(fault))
            return None
        if event.ledger != self._ledger:
            self._find("other_ledger", f"the line is of the ledger {event.ledger}")
        if events.canonical_line(event).encode() != line.rstrip(b"\n"):
            self._find("not_canonical", "the line is not written as the log writes it")
        self.findings += self.checker.take(event)
        return event

    def _find(self, rule: str, about: str) -> None:
        self.findings.append(Finding(self.checker.position + 1, rule, about))

    def _check_sums(self) -> None:
        """Rule 1 over all accounts; every transaction was balanced, so this can only fail with the checker itself."""
        for asset, difference in self.checker.debits_less_credits().items():
            if difference and not self.findings:
                self._find("unbalanced", f"the ledger's {asset} by {difference}")

    def _reversed(self) -> set[str]:
        """The transactions that are turned round somewhere: of all others the checker need not keep the amounts."""
        found = set()
        for line in _lines(self._path):
            if b'"reverses":' in line:
                try:
                    event = events.decode((read := events.parse_line(line)).type, read.data)
                except Exception:  # noqa: S112 - whatever is wrong with it, the real look will say so
                    continue
                if isinstance(event, events.TransactionPosted) and event.reverses is not None:
                    found.add(event.reverses)
        return found

    def _progress(self) -> None:
        if time.monotonic() - self._told_at >= TOLD_EVERY_SECONDS:
            self._told_at = time.monotonic()
            talk().print(f"{self.checker.position:,} events are sound so far", style="dim")


def _write(connection: Any, ledger: str, reading: _Reading) -> None:
    """One transaction: others see the whole ledger or none of it."""
    from psycopg import Rollback

    from shared_kernel.transactions import Terms, Transactions

    terms = Terms(
        name="import",
        lock_timeout_ms=LOCK_TIMEOUT_MS,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        idle_timeout_ms=IDLE_TIMEOUT_MS,
        transaction_timeout_ms=0,  # as long as the file is long; it holds up nobody: the ledger is not there yet
    )
    with Transactions().transaction(connection, terms):
        for batch in reading.batches():
            connection.execute(STATEMENT, batch.parameters(ledger))
        if reading.findings:
            raise Rollback
    if not reading.findings:
        # A hint, and so outside the transaction.
        connection.execute("select pg_notify('daybook_appended', %s)", [ledger])


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_plain(path) as file:
            while line := file.readline(LINE_BYTES_MAX):
                yield line
    except FileNotFoundError:
        raise CommandFailed(f"there is no file {path}", Exit.USAGE) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise CommandFailed(f"{path} is a damaged gzip file: {fault}", Exit.USAGE) from fault
    except OSError as fault:
        raise CommandFailed(f"{path} cannot be read: {fault.strerror}", Exit.USAGE) from fault


def _url(data: Path) -> str:
    from daybook.stack.database import optional
    from daybook.stack.layout import Layout
    from daybook.stack.stack_file import read_stack_file

    return optional("DAYBOOK_POSTGRES_URL", os.environ) or read_stack_file(Layout.at(data)).postgres_urls["importer"]


def _failed(error: Any, ledger: str) -> CommandFailed:
    import psycopg

    if error.sqlstate == LEDGER_EXISTS:
        return CommandFailed(f"there is a ledger {ledger} already: a log is imported once, into nothing", Exit.REFUSED)
    if error.sqlstate == IN_THE_FUTURE:
        return CommandFailed(f"{ledger} was recorded in the future of the database's clock", Exit.REFUSED)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return CommandFailed("this role may not import: DAYBOOK_POSTGRES_URL must name daybook_importer", Exit.USAGE)
    if isinstance(error, psycopg.OperationalError):
        return CommandFailed(WENT_AWAY, Exit.UNAVAILABLE)
    return CommandFailed(f"the database refused the events: {error}")


def _tell(summary: Summary, as_json: bool, *, is_check: bool) -> None:
    if as_json:
        out().out(msgspec.json.encode(summary).decode(), highlight=False)
        return
    for finding in summary.findings[:FINDINGS_SHOWN_MAX]:
        talk().print(f"position {finding.position}: {finding.rule}: {finding.about}", style="red", markup=False)
    if summary.findings:
        talk().print(f"{summary.ledger} was not imported: its log breaks rules of the books", markup=False)
        return
    done = "is sound" if is_check else "was imported"
    talk().print(
        f"{summary.ledger} {done}: {summary.events:,} events, {summary.accounts:,} accounts, {summary.seconds:.1f} s",
        markup=False,
    )
