"""`daybook relay status`: which relay is active, and what it has not published yet."""

import msgspec
from cyclopts import App
from cyclopts.types import PositiveInt

from daybook.cli.connection import OPERATING, Operating
from daybook.cli.projections import LEDGERS, Ledger, Progress, asked, ledger_table
from daybook.cli.reading import AsJson, print_json
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
def status(
    *,
    operating: Operating = OPERATING,
    ledger: str | None = None,
    limit: PositiveInt = LEDGERS,
    as_json: AsJson = False,
) -> int:
    """Show which relay is active, and the ledgers with the most to publish. Rates are measured for a second.

    Parameters
    ----------
    ledger
        Only this ledger.
    limit
        Ledgers shown.
    as_json
        Print the service's answer.
    """
    answer = asked(operating, "/v1/operations/relay", ledger=ledger, limit=limit)
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Relay)
    out().print(
        ledger_table(
            [
                Ledger(state="behind" if each.lag_events else "published", **msgspec.structs.asdict(each))
                for each in read.ledgers
            ]
        )
    )
    who = f"{read.owner} (epoch {read.epoch})" if read.state == "active" else "no relay holds the lease"
    talk().print(f"{who}; {read.progress.lag_events} events not published yet", markup=False)
    return Exit.DONE
