"""`daybook locks`: who waits for whom, which locks are held, how far everything is behind; as it was, with `--history`.

Asks a monitor and shows what it answers. Nothing is decided here.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daybook.cli.connection import describe, faults_end_the_command
from daybook.cli.reading import AsJson
from daybook.client import Client
from daybook.monitor.domain.alerts import Episode
from daybook.monitor.domain.looks import Look
from daybook.stack.layout import Layout
from daybook.stack.stack_file import read_stack_file
from daybook.terminal import CommandFailed, Exit, out
from shared_kernel.errors import DaybookError

REFRESH_SECONDS = 1.0
ANSWER_SECONDS_MAX = 12.0  # chosen: above the twice five seconds that a monitor as shipped waits for Postgres
HINT = "the monitor or its Postgres does not answer"
LOCKS_SHOWN_MAX = 20
QUERY_SHOWN_LENGTH = 60


class _Locks(msgspec.Struct):
    look: Look | None
    age_ms: int | None


class _Episodes(msgspec.Struct):
    data: list[Episode]


def locks(
    *,
    data: Annotated[Path, Parameter(env_var="DAYBOOK_DATA")] = Path(".data"),
    monitor_url: str | None = None,
    token: Annotated[str | None, Parameter(env_var="DAYBOOK_TOKEN", show_env_var=True)] = None,
    history: Annotated[bool, Parameter(negative="")] = False,
    limit: PositiveInt = 50,
    as_json: AsJson = False,
) -> Exit:
    """Show who waits for whom, which locks are held, how far everything is behind, and what is wrong.

    In a terminal it is shown anew every second until Ctrl-C; in a pipe, once.

    Parameters
    ----------
    data
        The folder of the local stack whose monitor is asked.
    monitor_url
        The monitor, instead of the local stack's.
    token
        An operator's token, instead of the local stack's.
    history
        What was wrong until now, newest first.
    limit
        How much of it.
    as_json
        Print the monitor's JSON.
    """
    with faults_end_the_command(HINT), closing(_monitor(data, monitor_url, token)) as client:
        if history:
            answer = client.get("/v1/operations/findings", limit=limit)
            _show(answer.body if as_json else _findings(answer.read(_Episodes).data))
        elif as_json:
            _show(client.get("/v1/operations/locks").body)
        elif not out().is_terminal:
            _show(_picture(client))
        else:
            with Live(_picture(client), console=out(), screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(REFRESH_SECONDS)
                    live.update(_picture_or_fault(client), refresh=True)
    return Exit.DONE


def _monitor(data: Path, url: str | None, token: str | None) -> Client:
    if url is None or token is None:
        stack = read_stack_file(Layout.at(data))
        url, token = url or stack.monitor_url, token or stack.tokens["operator"]
    if not url:
        raise CommandFailed("the stack runs without a monitor", Exit.UNAVAILABLE)
    return Client(url, token, attempts_max=1, answer_seconds_max=ANSWER_SECONDS_MAX)


def _show(what: bytes | RenderableType) -> None:
    if isinstance(what, bytes):
        out().print(what.decode(), markup=False, soft_wrap=True)
    else:
        out().print(what)


def _picture_or_fault(client: Client) -> RenderableType:
    try:
        return _picture(client)
    except DaybookError as error:  # it may be back in a moment
        return Text(f"the monitor gives no answer: {describe(error)}", style="bold red")


def _picture(client: Client) -> RenderableType:
    answer = client.get("/v1/operations/locks").read(_Locks)
    if answer.look is None:
        return Text("no monitor has looked yet")
    alerts = client.get("/v1/operations/alerts").read(_Episodes).data
    parts: list[RenderableType] = [
        Text(
            f"as of {answer.look.taken_at:%H:%M:%S} UTC ({_seconds(answer.age_ms)} ago), seen by {answer.look.taken_by}"
        )
    ]
    if alerts:
        parts.append(_findings(alerts, title="alerts"))
    look = answer.look
    parts += [*_chains(look), _sessions(look), _locks(look), _lags(look), _standing(look), _processes(look)]
    parts.append(_deadlocks(look))
    parts += [Text(f"not looked at: {name} ({why})") for name, why in answer.look.skipped.items()]
    return Group(*parts)


def _chains(look: Look) -> Iterator[RenderableType]:
    for chain in look.chains:
        root = chain.root
        table = _table(
            f"{root.pid} {root.user} {root.application} holds up {len(chain.waiters)} for {_seconds(chain.blocking_ms)}",
            "pid",
            "application",
            "waits",
            "for",
            "query",
        )
        table.add_row(str(root.pid), root.application, "-", root.state, _cut(root.query), style="bold red")
        for waiter in chain.waiters:
            name = "  " * waiter.depth + str(waiter.pid)
            table.add_row(name, waiter.application, _seconds(waiter.waiting_ms), waiter.waits_for, _cut(waiter.query))
        yield table


def _sessions(look: Look) -> Table:
    table = _table("transactions", "pid", "user", "application", "database", "state", "open for", "query")
    for session in look.sessions[:LOCKS_SHOWN_MAX]:
        table.add_row(
            str(session.pid), session.user, session.application, session.database, session.state,
            _seconds(session.transaction_ms), _cut(session.query),
        )  # fmt: skip
    return table


def _locks(look: Look) -> Table:
    table = _table("locks", "kind", "ledger", "holder", "held for", "ends in", "next")
    for lock in sorted(look.locks, key=lambda lock: lock.held_ms or 0, reverse=True)[:LOCKS_SHOWN_MAX]:
        table.add_row(lock.kind, lock.ledger, lock.holder, _seconds(lock.held_ms), _end(lock.left_ms), lock.waiter)
    return table


def _end(left_ms: int | None) -> str:
    if left_ms is None:
        return "never"
    return _seconds(left_ms) if left_ms >= 0 else f"ended {_seconds(-left_ms)} ago"


def _lags(look: Look) -> Table:
    table = _table("behind the log", "reader", "generation", "events", "ledgers", "oldest waits", "most behind")
    for lag in look.lags:
        generation = str(lag.generation or "") + ("" if lag.is_live else " (being built)")
        waits = _seconds(lag.lag_ms)
        table.add_row(lag.reader, generation, str(lag.events), str(lag.ledgers), waits, lag.ledger)
    return table


def _processes(look: Look) -> Table:
    table = _table("processes", "process", "commands wait", "breakers not closed")
    for process in look.processes:
        if process.fault:
            table.add_row(process.url, f"does not answer ({process.fault})", "", style="bold red")
        else:
            waiting = "-" if process.queue_depth is None else str(process.queue_depth)
            table.add_row(process.url, waiting, ", ".join(process.open_breakers))
    return table


def _standing(look: Look) -> Table:
    table = _table("ledgers that stand still", "projection", "ledger", "state", "before", "error", "for")
    for each in look.standing[:LOCKS_SHOWN_MAX]:
        since, style = _seconds(each.since_ms), "bold red" if each.state == "parked" else ""
        table.add_row(
            each.projection, each.ledger, each.state, str(each.position), each.error_class, since, style=style
        )
    return table


def _deadlocks(look: Look) -> Text:
    counted = ", ".join(f"{count} in {database}" for database, count in sorted(look.deadlocks.items()) if count)
    return Text(f"deadlocks that Postgres has counted: {counted or 'none'}")


def _findings(episodes: list[Episode], title: str = "findings") -> RenderableType:
    """Two lines each: what kind and when; who it is."""
    lines = [Text(title, style="italic")]
    for episode in episodes:
        last = f"{episode.last_seen_at:%H:%M:%S}"
        told = [f"{episode.kind}  {episode.first_seen_at:%m-%d %H:%M:%S} to {last}"]
        if episode.raised_at is not None:
            told.append(f"alert {episode.raised_at:%H:%M:%S}")
        if episode.ended_at is not None:
            told.append(f"over {episode.ended_at:%H:%M:%S}")
        if episode.action:
            told.append(episode.action)
        is_alert = episode.raised_at is not None and episode.ended_at is None
        lines += [Text("  ".join(told), style="bold red" if is_alert else ""), Text(f"    {_what(episode)}")]
    return Group(*lines)


def _what(episode: Episode) -> str:
    """Who it is, how long, and what hangs on it; what has no words of its own here is told as it stands."""
    told = episode.detail
    if "pid" in told:
        who = f"pid {told['pid']} {told['user']} {told['application']} in {told['database']}, {told['state']}"
        open_for = f"open for {_seconds(told['transaction_ms'])}"
        if episode.kind != "blocked_chain":
            return f"{who}, {open_for}"
        return f"{who}, {open_for}, holds up {told['waiters']} for {_seconds(told['blocking_ms'])} ({told['waiting_application']})"
    if episode.kind == "overdue_lease":
        ledgers = told.get("ledger") or told.get("first") or "relay"
        return f"{told['holder']} ({ledgers}): {told['reason']}"
    facts = (
        f"{name.removesuffix('_ms')} {_seconds(value) if name.endswith('_ms') else value}"
        for name, value in told.items()
    )
    return f"{episode.subject}: {', '.join(facts)}"


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _cut(query: str) -> str:
    text = " ".join(query.split())
    return text if len(text) <= QUERY_SHOWN_LENGTH else text[: QUERY_SHOWN_LENGTH - 1] + "…"


def _seconds(milliseconds: str | int | None) -> str:
    return f"{milliseconds / 1_000:.1f} s" if isinstance(milliseconds, int) else "-"
