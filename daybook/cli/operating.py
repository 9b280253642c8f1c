"""What the operators' commands share: whom they ask, what they say with an action, and how its answer is shown.

A question and an action are one call each; a fault of the service ends the command with its message and exit code.
"""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt

from daybook.cli.connection import faults_end_the_command, tell_wait
from daybook.cli.reading import AsJson, print_json
from daybook.client import Answer, Client, find_operations
from daybook.terminal import CommandFailed, Exit, talk

PATH = "/v1/operations/projections"
LEDGERS = 20

ProjectionName = Annotated[str, Parameter(help="The projection, such as books.")]
LedgerName = Annotated[str, Parameter(help="The ledger.")]
OnlyLedger = Annotated[str | None, Parameter(help="Only this ledger.")]
Shown = Annotated[PositiveInt, Parameter(help="How many are shown.")]
Yes = Annotated[bool, Parameter(name="--yes", negative="", help="Do not ask.")]


@Parameter(name="*")
@dataclass(frozen=True)  # cyclopts flattens dataclasses, not msgspec structs
class Asking:
    """Which projector to ask (any answers for all), and how its answer is shown."""

    data: Annotated[
        Path,
        Parameter(env_var="DAYBOOK_DATA", help="The data folder of a local stack: its addresses and tokens are used."),
    ] = Path(".data")
    operations_url: Annotated[str | None, Parameter(help="A projector's address, instead of the local stack's.")] = None
    token: Annotated[
        str | None,
        Parameter(
            env_var="DAYBOOK_TOKEN",
            show_env_var=True,
            help="A bearer token with the role operator, instead of the local stack's.",
        ),
    ] = None
    as_json: Annotated[AsJson, Parameter(help="Print the service's answer.")] = False

    def ask(self, path: str, **parameters: str | int | None) -> Answer:
        """The answer to a question."""
        with self.client() as client:
            return client.get(path, position=None, **parameters)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The operators' API; its faults end the command."""
        with faults_end_the_command():
            url, token = find_operations(data=self.data, operations_url=self.operations_url, token=self.token)
            with closing(Client(url, token, tell_wait)) as client:
                yield client

    def shows(self, answer: Answer) -> bool:
        """True if the answer itself was what was asked for, and has been printed."""
        if self.as_json:
            print_json(answer.body)
        return self.as_json


@Parameter(name="*")
@dataclass(frozen=True)
class Acting(Asking):
    """The same, of what changes something."""

    reason: Annotated[str, Parameter(help="Why; it is recorded.")] = ""

    def act(self, path: str, **said: str | int | bool | None) -> Answer:
        """The answer to an action. What is None is left out."""
        body = {"reason": self.reason} | {name: value for name, value in said.items() if value is not None}
        with self.client() as client:
            return client.post(path, msgspec.json.encode(body), key=None)


@Parameter(name="*")
@dataclass(frozen=True)
class Following(Acting):
    """The same, of what takes long."""

    wait: Annotated[bool, Parameter(name="--wait", negative="--no-wait", help="Follow it until it is over.")] = True


ASKING = Asking()
ACTING = Acting()
FOLLOWING = Following()


def path_of(projection: str, *rest: str) -> str:
    """The path of a projection and of what is below it."""
    return "/".join((PATH, *(quote(part, safe=":") for part in (projection, *rest))))


def confirm(what: str, *, yes: bool) -> None:
    """Returns if a person says so, or `--yes` did; a program that cannot answer must give it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{what}? Say so with --yes", Exit.USAGE)
    talk().print(f"{what}? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandFailed("nothing was done", Exit.INTERRUPTED)


def number(value: float | None) -> str:
    """For a table; nothing for what is not known."""
    return "" if value is None else f"{value:,.1f}"
