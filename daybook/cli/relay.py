"""`daybook relay status`: which relay is active, and what it has not published yet."""

import msgspec
from cyclopts import App
from rich.table import Table

from daybook.cli.operating import ASKING, LEDGERS, Asking, OnlyLedger, Shown, number
from daybook.cli.projections import Progress
from daybook.terminal import Exit, out, talk

app = App(name="relay", help="The relay, which publishes the log to Kafka.")


class _Ledger(msgspec.Struct):
    ledger: str
    head: int
    position: int
    lag_events: int
    lag_seconds: float | None
    events_per_second: float | None


class _Relay(msgspec.Struct):
    state: str
    owner: str
    epoch: int
    progress: Progress
    ledgers: list[_Ledger]


@app.command
def status(*, asking: Asking = ASKING, ledger: OnlyLedger = None, limit: Shown = LEDGERS) -> int:
    """Show which relay is active, and the ledgers with the most to publish. Rates are measured for a second."""
    answer = asking.ask("/v1/operations/relay", ledger=ledger, limit=limit)
    if asking.shows(answer):
        return Exit.DONE
    read = answer.read(_Relay)
    table = Table("ledger", "state", "position", "head", "lag, events", "lag, s", "events/s")
    for each in read.ledgers:
        state = "behind" if each.lag_events else "published"
        where = (str(each.position), str(each.head), str(each.lag_events))
        table.add_row(each.ledger, state, *where, number(each.lag_seconds or 0.0), number(each.events_per_second))
    out().print(table)
    who = f"{read.owner} (epoch {read.epoch})" if read.state == "active" else "no relay holds the lease"
    figures = read.progress
    behind = "all is published"
    if figures.lag_events:
        behind = f"{figures.lag_events} events not published yet, the oldest {number(figures.lag_seconds)} s old"
    talk().print(f"{who}; {behind}, {number(figures.events_per_second)} a second", markup=False)
    return Exit.DONE
