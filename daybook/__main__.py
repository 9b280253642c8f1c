"""The `daybook` command line: names every command and turns its outcome into an exit code.

Each command lives in a module of its own, imported only when it is called: starting the program
must not cost what one command needs. Nothing here does any work itself.
"""

import pkgutil
import sys
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError
from rich.console import Console

from daybook.terminal import CommandFailed, Exit, talk

COMMANDS = {
    # the local stack
    "up": "daybook.stack.commands:up",
    "down": "daybook.stack.commands:down",
    "status": "daybook.stack.commands:status",
    "logs": "daybook.stack.commands:logs",
    "token": "daybook.stack.commands:token",
    # every day
    "load": "daybook.cli.load:load",
    "post": "daybook.cli.post:post",
    "balance": "daybook.cli.reading:balance",
    "accounts": "daybook.cli.reading:accounts",
    "ledgers": "daybook.cli.reading:ledgers",
    "statement": "daybook.cli.statements:statement",
    "trial-balance": "daybook.cli.statements:trial_balance",
    "tail": "daybook.cli.tail:tail",
    "export": "daybook.cli.export:export",
    "import": "daybook.cli.import_log:import_log",
    # watching
    "locks": "daybook.cli.locks:locks",
    # the read models
    "projections": "daybook.cli.projections:app",
    "relay": "daybook.cli.relay:app",
    # the database
    "roles": "daybook.stack.database:roles_command",
    "migrate": "daybook.stack.database:migrate_command",
    "restored": "daybook.stack.database:restored_command",
}


def main() -> int:
    """Run one command; the number returned is the exit code (`daybook.terminal.Exit`)."""
    try:
        app = build_app(with_help=sys.argv[1:] in ([], ["--help"], ["-h"]))
        outcome = app(sys.argv[1:], exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return Exit.USAGE
    except CommandFailed as failure:
        talk().print(f"daybook: {failure.message}", style="red", markup=False, highlight=False)
        return failure.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our pipe left: nothing to say, and nobody to say it to
        return Exit.FAULT
    return outcome if isinstance(outcome, int) else Exit.DONE


def build_app(*, with_help: bool = False) -> App:
    """The command line with all of `COMMANDS`; imported only `with_help`, to list what they say of themselves."""
    app = App(
        name="daybook",
        help="A double-entry ledger service: its local stack and its everyday commands.",
        version=_version(),
        suppress_keyboard_interrupt=False,
        error_console=Console(stderr=True),  # not talk(): in a pipe its frames would be as wide as the longest line
        help_format="markdown",
    )
    for name, import_path in COMMANDS.items():
        app.command(pkgutil.resolve_name(import_path) if with_help else import_path, name=name)
    return app


def _version() -> str:
    try:
        return version("daybook-ledger")
    except PackageNotFoundError:  # run from a clone that was never installed
        return "0+unknown"


if __name__ == "__main__":
    sys.exit(main())
