"""`python -m bench throttled`: how much later readers see a transaction while a throttled rebuild goes on beside them.

Two windows of the same load on one stack, counted from the commit as `python -m bench freshness` does: the first as usual, the second
with a rebuild of `books` that begins just before it and is not yet over when it ends.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.freshness import Observed, observed, open_ledger
from bench.stack import Origin, keep, read, running
from bench.yardstick import server
from daybook.client import Client, find_target
from daybook.terminal import CommandFailed, Exit, talk

GATE = 2.0  # the issue on projections: the live lag during a throttled rebuild, over its usual
SETTLED_S = 3.0  # chosen: the second window begins when the rebuild has begun


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, and what came of it. `ratios`: by projection, of p50 and of p99."""

    origin: Origin
    asked_a_second: float
    throttle: int
    rebuilt_a_second: float
    usual: Observed
    during: Observed
    ratios: dict[str, tuple[float, float]]
    gate: float


def throttled(
    *,
    data: Path | None = None,
    name: str = "throttled",
    a_second: float = 500.0,
    queries: float = 25.0,
    throttle: int = 500,
    warm_up: float = 40.0,
    window: float = 20.0,
) -> int:
    """Measure how much later readers see a transaction during a throttled rebuild.

    Parameters
    ----------
    data
        The data folder of a running stack; without it one is started and thrown away.
    name
        What the result files are called, after the date.
    a_second
        Transactions a second, sent whether or not the service keeps up.
    queries
        Queries a second that wait for the newest acknowledged position.
    throttle
        Events a second of the rebuild, at most.
    warm_up
        Seconds before the first window, as for `freshness`.
    window
        Seconds of each window.
    """
    with running(data) as folder:
        target, stack = find_target(data=folder, command_url=None, query_url=None, token=None), read(folder)
        ledger, rates = open_ledger(target, folder), (a_second, queries)
        usual = uvloop.run(observed(target, folder, ledger, rates=rates, warm_up=warm_up, window=window))
        with closing(Client(stack.projector_url, target.token("operator"))) as operator:
            asked = msgspec.json.encode({"reason": "bench", "events_per_second_max": throttle})
            job = operator.post("/v1/operations/projections/books/rebuild", asked, key=None).read(dict[str, Any])["id"]
            during = uvloop.run(observed(target, folder, ledger, rates=rates, warm_up=SETTLED_S, window=window))
            now = operator.get(f"/v1/operations/projections/books/jobs/{job}").read(dict[str, Any])
        if now["state"] != "running":
            raise CommandFailed(f"the rebuild is {now['state']}: it did not last as long as the window")
        talk().print(f"the rebuild is at {now['events_done']:,} of {now['events_total']:,} events")
        report = Report(
            origin=Origin.here(server(stack.postgres_url)),
            asked_a_second=a_second,
            throttle=throttle,
            rebuilt_a_second=round(now["events_done"] / (SETTLED_S + window), 1),
            usual=usual,
            during=during,
            ratios={
                projection: (
                    round(during.visible[projection].p50_ms / spread.p50_ms, 2),
                    round(during.visible[projection].p99_ms / spread.p99_ms, 2),
                )
                for projection, spread in usual.visible.items()
            },
            gate=GATE,
        )
    keep(report, to_markdown(report), name=name, measured_at=report.origin.measured_at)
    return Exit.DONE if all(ratio < GATE for pair in report.ratios.values() for ratio in pair) else Exit.FAULT


def to_markdown(report: Report) -> str:
    """The table, and beneath it what was measured on what."""
    rows = [
        (what, projection, spread)
        for what, seen in (("as usual", report.usual), ("during the rebuild", report.during))
        for projection, spread in seen.visible.items()
    ]
    told = [f"{projection} {p50:.2f} (p50) and {p99:.2f} (p99)" for projection, (p50, p99) in report.ratios.items()]
    lines = [
        f"# throttled, {report.origin.measured_at}",
        "",
        "| committed until visible | | count | p50 ms | p99 ms | longest ms |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {what} | {projection} | {s.count:,} | {s.p50_ms:.1f} | {s.p99_ms:.1f} | {s.longest_ms:.1f} |"
            for what, projection, s in rows
        ),
        "",
        f"{report.usual.commands.rate:,.0f} and {report.during.commands.rate:,.0f} transactions/s of {report.asked_a_second:,.0f} that fell "
        f"due; the rebuild of `books` did {report.rebuilt_a_second:,.0f} events/s of {report.throttle:,} that it was allowed. "
        f"During it readers saw a commit later by a factor of {', '.join(told)}; the gate is {report.gate:.0f}.",
        "",
        report.origin.told(),
        "",
    ]
    return "\n".join(lines)
