"""Posts a file's commands batch by batch, one batch in flight, so that the order of the file is the order of the log.

What a batch's elements were answered is sorted here into posted, replayed and troubled; telling people is `load.py`.
"""

import re
import time
from collections.abc import Callable, Sequence

import msgspec

from daybook.cli.commands_file import Command
from daybook.client import (
    ATTEMPTS_MAX,
    AnsweredProblem,
    Client,
    exit_of,
    ledger_path,
    read_problem,
    wait_seconds,
)
from daybook.terminal import CommandFailed, Exit
from shared_kernel.errors import Field

TROUBLES_KEPT_MAX = 10_000  # chosen: a file of refusals only must not fill the memory; beyond it they are counted
UNSETTLED = (Exit.TRY_AGAIN, Exit.UNAVAILABLE)
_FAULTY_ELEMENT = re.compile(r"^\$\.commands\[(\d+)\]")


class Trouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that did not become a transaction. `status` is the HTTP status, 400 for a malformed line."""

    line: int
    status: int
    code: str
    detail: str = ""
    account: str | None = None
    asset: str | None = None
    missing: int | str | None = None
    path: str | None = None


class Tally(msgspec.Struct, kw_only=True):
    """What became of the commands so far. `position`: of the ledger after the last batch."""

    posted: int = 0
    replayed: int = 0
    refused: int = 0
    malformed: int = 0
    unsettled: int = 0
    position: int = 0
    troubles: list[Trouble] = []

    @property
    def done(self) -> int:
        return self.posted + self.replayed + self.refused + self.malformed + self.unsettled

    def exit(self) -> Exit:
        """What matters most to who reads exit codes: what may still be posted, then faults of the file, then refusals."""
        if self.unsettled:
            return Exit.TRY_AGAIN
        if self.malformed:
            return Exit.USAGE
        return Exit.REFUSED if self.refused else Exit.DONE

    def note(self, trouble: Trouble, exit_code: Exit) -> None:
        """Counts and keeps a trouble under the kind that its exit code names."""
        if exit_code in UNSETTLED:
            self.unsettled += 1
        elif exit_code is Exit.REFUSED:
            self.refused += 1
        else:
            self.malformed += 1
        if len(self.troubles) < TROUBLES_KEPT_MAX:
            self.troubles.append(trouble)


class _Result(msgspec.Struct):
    status: int
    body: msgspec.Raw
    replay: bool = False


class _BatchAnswer(msgspec.Struct):
    results: list[_Result]
    position: int | None = None


def post_batch(
    client: Client, ledger: str, batch: Sequence[Command], tally: Tally, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Every command of the batch is posted, replayed or troubled in the tally.

    What the service could not settle is asked again under the same keys, a bounded number of times. A fault that is not
    of a single line (no such ledger, the wrong role, a fault inside) raises AnsweredProblem.
    """
    waiting = list(batch)
    for attempt in range(ATTEMPTS_MAX):
        is_last = attempt == ATTEMPTS_MAX - 1
        again: list[Command] = []
        for command, result in _post(client, ledger, waiting, tally):
            if result.status < 300:
                tally.replayed += result.replay
                tally.posted += not result.replay
                continue
            problem = read_problem(result.status, bytes(result.body))
            exit_code = exit_of(problem)
            if (
                exit_code is Exit.FAULT
            ):  # of no single line: a missing ledger, a token that does not fit, a fault inside
                raise problem
            if exit_code in UNSETTLED and not is_last:
                again.append(command)
            else:
                tally.note(_trouble(command, problem), exit_code)
        if not again:
            return
        waiting = again
        sleep(wait_seconds(attempt))


def _post(client: Client, ledger: str, commands: list[Command], tally: Tally) -> list[tuple[Command, _Result]]:
    """The batch's results. A line that makes the whole batch malformed is noted and left out, and the rest sent again."""
    while commands:
        body = b'{"atomic":false,"commands":[' + b",".join(command.element for command in commands) + b"]}"
        try:
            answer = client.post(ledger_path(ledger, "batches"), body, key=None)
        except AnsweredProblem as problem:
            index = _faulty_index(problem.fields.get("path")) if problem.status == 400 else None
            if index is None or index >= len(commands):
                raise
            tally.note(_trouble(commands[index], problem), Exit.USAGE)
            commands = commands[:index] + commands[index + 1 :]
            continue
        read = answer.read(_BatchAnswer)
        if len(read.results) != len(commands):
            raise CommandFailed(f"{len(commands)} commands were answered with {len(read.results)} results")
        tally.position = max(tally.position, read.position or answer.position or 0)
        return list(zip(commands, read.results, strict=True))
    return []


def _faulty_index(path: Field) -> int | None:
    found = _FAULTY_ELEMENT.search(path) if isinstance(path, str) else None
    return int(found[1]) if found else None


def _trouble(command: Command, problem: AnsweredProblem) -> Trouble:
    def text(name: str) -> str | None:
        value = problem.fields.get(name)
        return value if isinstance(value, str) else None

    missing, path = problem.fields.get("missing"), text("path")
    return Trouble(
        line=command.line,
        status=problem.status,
        code=problem.code,
        detail=text("detail") or text("title") or "",
        account=text("account"),
        asset=text("asset"),
        missing=missing if isinstance(missing, int | str) else None,
        path=_FAULTY_ELEMENT.sub("$", path) if path else None,  # from the line's root, not the batch's
    )
