"""How a person sees a stack: a live table in a terminal, plain lines anywhere else, and the welcome.

Nothing here decides anything; the supervisor calls it when something has happened.
"""

import shlex
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from daybook.stack.layout import Layout
from daybook.stack.stack_file import PartState, PartStatus, StackFile
from daybook.terminal import out, own_command

DETAIL_EVERY_S = 1.0  # chosen: progress in plain lines at most this often for one part
REFRESHES_PER_S = 8

STYLES: dict[PartState, str] = {
    "waiting": "dim",
    "preparing": "cyan",
    "starting": "cyan",
    "ready": "green",
    "done": "green",
    "crashed": "bold red",
    "stopping": "yellow",
    "stopped": "dim",
}


class PlainView:
    """One line for each thing that happens; for logs, pipes and `--detach`."""

    def __init__(self, console: Console, layout: Layout, *, is_detached: bool) -> None:
        self._console = console
        self._layout = layout
        self._is_detached = is_detached
        self._states: dict[str, PartState] = {}
        self._said_at: dict[str, float] = {}

    def changed(self, status: PartStatus) -> None:
        is_new = self._states.get(status.name) != status.state
        self._states[status.name] = status.state
        if status.state in {"ready", "done"} and is_new:
            self.said(f"{status.name}: {status.state} in {status.ready_after_s or 0:.1f} s {status.address}".rstrip())
        elif status.state == "stopped" and is_new:
            self.said(f"{status.name}: stopped")
        elif status.state == "preparing" and status.detail:
            now = time.monotonic()
            if now - self._said_at.get(status.name, 0.0) >= DETAIL_EVERY_S:
                self._said_at[status.name] = now
                self.said(f"{status.name}: {status.detail}")

    def said(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def all_ready(self, stack: StackFile) -> None:
        if not self._is_detached:
            out().print(welcome(stack, self._layout), markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is held open."""


class LiveView:
    """A table of all parts that stays at the foot of the terminal, with what was said above it."""

    def __init__(self, console: Console, layout: Layout) -> None:
        self._layout = layout
        self._statuses: dict[str, PartStatus] = {}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=REFRESHES_PER_S)
        self._live.start()

    def changed(self, status: PartStatus) -> None:
        self._statuses[status.name] = status

    def said(self, text: str) -> None:
        self._live.console.print(text, markup=False, soft_wrap=True)

    def all_ready(self, stack: StackFile) -> None:
        self.said(welcome(stack, self._layout))

    def close(self) -> None:
        self._live.stop()

    def _table(self) -> Table:
        return status_table(list(self._statuses.values()))


def status_table(statuses: Iterable[PartStatus]) -> Table:
    """A row for each part: name, state, pid, restarts, address or what it said last."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("part", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pid", "restarts", "ready after"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("address or last word", overflow="fold")
    for status in statuses:
        shown = status.address if status.state in {"ready", "done"} else status.detail
        table.add_row(
            status.name,
            f"[{STYLES[status.state]}]{status.state}[/]",
            str(status.pid or ""),
            str(status.restarts or ""),
            "" if status.ready_after_s is None else f"{status.ready_after_s:.1f} s",
            shown.replace("[", "\\["),
        )
    return table


def welcome(stack: StackFile, layout: Layout) -> str:
    """Where everything is, and the first commands to try, ready to paste."""
    places = [
        ("commands", stack.command_url),
        ("queries", stack.query_url),
        ("PostgreSQL", stack.postgres_url),
        ("Redis", stack.redis_url),
        ("Kafka", stack.kafka_bootstrap),
        ("data, logs", str(layout.root)),
    ]
    lines = ["", "Daybook is ready.", ""]
    lines += [f"  {name:<11} {where}" for name, where in places if where]
    if stack.command_url and stack.query_url:
        lines += ["", "Try it in another terminal:", "", *(f"  {line}" for line in _first_commands(stack, layout))]
    return "\n".join([*lines, ""])


def _first_commands(stack: StackFile, layout: Layout) -> list[str]:
    program = own_command()
    where = "" if layout.root == Path.cwd() / ".data" else f" --data {shlex.quote(str(layout.root))}"
    entries = (
        '[{"account":"bank:cash","direction":"debit","amount":70000,"asset":"CZK/2"},'
        '{"account":"bank:clients:2378","direction":"credit","amount":70000,"asset":"CZK/2"}]'
    )
    bearer = '-H "Authorization: Bearer $DAYBOOK_TOKEN"'
    reader = f'-H "Authorization: Bearer $({program} token --role reader{where})"'
    post = f"curl -sS {bearer} -H 'Content-Type: application/json'"
    return [
        f"export DAYBOOK_TOKEN=$({program} token --role writer{where})",
        f"{post} -H 'Idempotency-Key: first-ledger' {stack.command_url}/v1/ledgers "
        '-d \'{"ledger":"bank","accounts":"on-first-use"}\'',
        f"{post} -H 'Idempotency-Key: first-transaction' {stack.command_url}/v1/ledgers/bank/transactions "
        f'-d \'{{"entries":{entries},"description":"cash in"}}\'',
        f"curl -sS {reader} {stack.query_url}/v1/ledgers/bank/accounts/bank:clients:2378/balances",
    ]
