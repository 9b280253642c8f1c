"""The options that every everyday command shares, and how the faults of a service end a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from daybook.client import Client, Target, exit_of, find_target
from daybook.terminal import CommandFailed, Exit, talk
from shared_kernel.errors import DaybookError
from shared_kernel.words import decimal_text

WAIT_TOLD_SECONDS = 1.0  # chosen: shorter waits are nobody's concern


@Parameter(name="*")
@dataclass(frozen=True)  # cyclopts flattens dataclasses, not msgspec structs
class Connection:
    """Which Daybook to talk to."""

    data: Annotated[Path, Parameter(env_var="DAYBOOK_DATA")] = Path(".data")
    "The data folder of a local stack: its addresses and tokens are used."
    command_url: str | None = None
    "The command service, instead of the local stack's."
    query_url: str | None = None
    "The query service, instead of the local stack's."
    token: Annotated[str | None, Parameter(env_var="DAYBOOK_TOKEN", show_env_var=True)] = None
    "A bearer token, instead of the local stack's."

    def target(self) -> Target:
        """The services and tokens that the options and the data folder name."""
        return find_target(data=self.data, command_url=self.command_url, query_url=self.query_url, token=self.token)


HERE = Connection()


def _not_an_option(_: object, path: Path | None) -> None:
    if path is not None and str(path).startswith("-") and str(path) != "-":
        raise ValueError(f"there is no option {path} (a file of that name is ./{path})")


FileOrPipe = Annotated[Path, Parameter(allow_leading_hyphen=True, validator=_not_an_option)]
"""A file, or `-` for standard input, which cyclopts would take for an option."""


def commands(target: Target) -> Client:
    """The command service, as a writer."""
    return Client(target.command_url, target.token("writer"), tell_wait)


def queries(target: Target, role: str = "reader") -> Client:
    """The query service, with the token of a role: `reader` for the books, `auditor` for the log."""
    return Client(target.query_url, target.token(role), tell_wait)


@contextmanager
def faults_end_the_command(hint: str = "") -> Iterator[None]:
    """A fault of the service becomes the command's message and exit code. `hint` says how to ask again where that helps."""
    try:
        yield
    except DaybookError as error:
        exit_code = exit_of(error)
        message = describe(error)
        if hint and exit_code in (Exit.TRY_AGAIN, Exit.UNAVAILABLE):
            message += f" - {hint}"
        raise CommandFailed(message, exit_code) from error


def describe(error: DaybookError) -> str:
    """One line for people: the code, what the service says of it, and the figures that a refusal gives."""
    told = [str(error), *(f"{name} {error.fields[name]}" for name in ("path", "account") if name in error.fields)]
    asset, missing = error.fields.get("asset"), error.fields.get("missing")
    if isinstance(asset, str):
        told.append(f"missing {decimal_text(missing, asset)} {asset}" if isinstance(missing, int) else f"asset {asset}")
    return ", ".join(told)


def tell_wait(why: str, seconds: float) -> None:
    """Says that the service is asked again, if a person would notice."""
    if seconds >= WAIT_TOLD_SECONDS:
        talk().print(f"{why}: asking again in {seconds:.1f} s", style="yellow", markup=False)
