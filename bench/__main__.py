"""`python -m bench`: durable transactions a second over HTTP, beside plain inserts on the same Postgres just before and after.

Starts a local stack of its own, or uses the one of `--data`. Prints a table and writes it with all figures to
bench/results/. Ends with 1 where the gate is missed, 6 where the log does not hold what was acknowledged.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import psycopg
import uvloop
from cyclopts import App, Parameter

from bench import processor, workloads
from bench.freshness import freshness
from bench.generator import Gauges, Measured, measure
from bench.locks import locks
from bench.overload import overload
from bench.projection import projection
from bench.reads import reads
from bench.stack import Origin, Stack, check_log, keep, read, running
from bench.throttled import throttled
from bench.yardstick import OPTIONS, all_cores, server, yardstick
from daybook.client import Client, Target, find_target
from daybook.terminal import CommandFailed, Exit, talk

CONNECTIONS = (1, 16, 64)
BATCH_CONNECTIONS = 8
GATE = 0.2  # the first-light issue: W1 at 64 connections over plain inserts
BEHIND = """
    select coalesce(max(extract(epoch from l.recorded_at - coalesce(p.recorded_at, 'epoch')) * 1000), 0)::float8
    from daybook.ledgers l
    cross join projections.live v
    left join projections.positions p
      on p.projection = v.projection and p.generation = v.generation and p.ledger = l.ledger
    where l.ledger = %s
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a figure needs to be believed later."""

    name: str
    origin: Origin
    pgbench: str
    inserts_before: float
    inserts_after: float
    singles: list[Measured]
    batches: Measured | None
    ratio: float
    gate: float


def bench(
    *,
    data: Path | None = None,
    name: str = "first-light",
    warm_up: Annotated[float, Parameter(name="--warm-up")] = 2.0,
    window: float = 5.0,
    with_batches: Annotated[bool, Parameter(name="--batches")] = True,
) -> int:
    """Measure durable transactions a second over HTTP.

    Parameters
    ----------
    data
        The data folder of a running stack; without it one is started and thrown away.
    name
        What the result files are called, after the date.
    warm_up
        Seconds before each window.
    window
        Seconds of each window, and of each run of plain inserts.
    with_batches
        Measure batches of 100 too.
    """
    with running(data) as folder:
        target = find_target(data=folder, command_url=None, query_url=None, token=None)
        report = uvloop.run(
            _measure_all(target, read(folder), name=name, warm_up=warm_up, window=window, with_batches=with_batches)
        )
    keep(report, to_markdown(report), name=name, measured_at=report.origin.measured_at)
    return Exit.DONE if report.ratio >= GATE else Exit.FAULT


async def _measure_all(
    target: Target, stack: Stack, *, name: str, warm_up: float, window: float, with_batches: bool
) -> Report:
    postgres_url, postgres_pid = stack.postgres_url, stack.pids.get("postgres")
    measured_by = server(postgres_url)
    if not measured_by.is_durable():
        raise CommandFailed(f"Postgres is not set to be durable: {measured_by}")
    ledger = f"bench-{secrets.token_hex(4)}"
    token, host = target.token("writer"), urlsplit(target.command_url).netloc
    talk().print(f"opening {workloads.ACCOUNTS} accounts in the ledger {ledger}")
    with closing(Client(target.command_url, target.token("writer"))) as client:
        expected = workloads.open_ledger(client, ledger)
    singles: list[Measured] = []
    batches: Measured | None = None
    with yardstick(postgres_url) as stick, _gauges(stack, ledger) as gauges:
        seconds = max(1, round(window))
        with all_cores(postgres_pid):
            before = _tell_inserts(stick.inserts_a_second(seconds))
        for connections in CONNECTIONS:
            workload = workloads.singles(host, token, ledger, secrets.token_hex(4))
            singles.append(
                await measure(
                    target.command_url,
                    workload,
                    connections=connections,
                    warm_up_seconds=warm_up,
                    window_seconds=window,
                    gauges=gauges,
                )
            )
            _tell(singles[-1])
        with all_cores(postgres_pid):
            after = _tell_inserts(stick.inserts_a_second(seconds))
        if with_batches:
            workload = workloads.batches(host, token, ledger, secrets.token_hex(4))
            batches = await measure(
                target.command_url,
                workload,
                connections=BATCH_CONNECTIONS,
                warm_up_seconds=warm_up,
                window_seconds=window,
                gauges=gauges,
            )
            _tell(batches)
    expected += sum(measured.acknowledged for measured in (*singles, *([batches] if batches else [])))
    check_log(postgres_url, ledger, expected)
    return Report(
        name=name,
        origin=Origin.here(measured_by),
        pgbench=" ".join(("pgbench", *OPTIONS)),
        inserts_before=before,
        inserts_after=after,
        singles=singles,
        batches=batches,
        ratio=round(singles[-1].rate / ((before + after) / 2), 3),
        gate=GATE,
    )


def to_markdown(report: Report) -> str:
    """The table, and beneath it what was measured on what."""
    rows = [("1 transaction a request", measured) for measured in report.singles]
    if report.batches is not None:
        rows.append((f"{workloads.BATCH_COMMANDS} a request", report.batches))
    lines = [
        f"# {report.name}, {report.origin.measured_at}",
        "",
        "| | connections | transactions/s | p50 ms | p99 ms | generator, cores |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {what} | {m.connections} | {m.rate:,.0f} | {m.p50_ms:.1f} | {m.p99_ms:.1f} | {m.generator_cpu:.2f} |"
        for what, m in rows
    ]
    lines += [
        f"| plain inserts, before · after | 64 | {report.inserts_before:,.0f} · {report.inserts_after:,.0f} | | | |",
        "",
        f"Ratio at 64 connections: **{report.ratio:.2f}** of plain inserts; the gate is {report.gate}.",
        "",
        *_processor_lines(report.singles[-1]),
        f"{report.origin.told()} `{report.pgbench}`, one insert of 300 bytes into a table without an index, Postgres on all cores "
        f"meanwhile. Transfers among {workloads.ACCOUNTS:,} accounts, each with a minimum of 0; a token, an idempotency "
        "key, a description and metadata on every request; every answer was a 201, and the log held each acknowledged "
        "transaction once.",
        "",
    ]
    return "\n".join(lines)


def _processor_lines(measured: Measured) -> list[str]:
    if not measured.processor_us:
        return []
    spent = measured.processor_us
    shares = " · ".join(f"{name} {us:,.0f}" for name, us in spent.items())
    return [
        f"Processor time for a transaction at {measured.connections} connections: {sum(spent.values()):,.0f} µs, of which "
        f"{shares}. The read models were {measured.behind_ms_max:,.0f} ms behind the log at the most.",
        "",
    ]


@contextmanager
def _gauges(stack: Stack, ledger: str) -> Iterator[Gauges]:
    """What the stack tells of itself while it is measured."""
    with psycopg.connect(stack.postgres_url, autocommit=True) as connection:

        def behind_ms() -> float:
            row = connection.execute(BEHIND, (ledger,)).fetchone()
            return float(row[0]) if row else 0.0

        yield Gauges(processor=processor.reader(stack.pids), behind_ms=behind_ms)


def _tell(measured: Measured) -> None:
    spent = sum(measured.processor_us.values())
    talk().print(
        f"{measured.connections:>3} connections: {measured.rate:,.0f}/s, p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms,"
        f" processor {spent:,.0f} µs, reads behind {measured.behind_ms_max:,.0f} ms"
    )


def _tell_inserts(rate: float) -> float:
    talk().print(f"plain inserts: {rate:,.0f}/s")
    return rate


def main() -> int:
    """The exit code."""
    app = App(name="bench", result_action="return_value")
    app.default(bench)
    app.command(overload)
    app.command(reads)
    app.command(locks)
    app.command(freshness)
    app.command(projection)
    app.command(throttled)
    try:
        return int(app() or 0)
    except CommandFailed as failure:
        talk().print(f"bench: {failure.message}", style="red", markup=False)
        return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
