"""docs/reliability.md, made from the results that are kept: experiment, runs, seeds, faults, passed, recovery times."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.chaos.experiments import EXPERIMENTS
from tests.chaos.running import Experiment, Result

NUMBER = re.compile(r"\d[\d,.]*")
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = """# Reliability

Made by `make chaos`; do not edit. Each experiment does one kind of harm to a whole Daybook, started as an operator would start it, while
clients post. Each run is seeded and is judged by the same oracle afterwards: positions without a gap, every rule of the books at
every position, debits equal to credits; every acknowledged command in the log exactly once, where its answer said, and in an order
that agrees with who was answered before whom; a repetition answered as the first time, above all of what was under way; every event in
Kafka, none before its predecessor; every read model equal to the fold of the log. Clients repeat under the same key what is not answered. Others read balances meanwhile, each with the newest position that it knows: no
answer may be older, and each must be what the log says as of the position that it names.

Recovery is counted from the end of the harm (of a kill: from the kill, restart included), in seconds: median, and the longest.
Everything ran on one machine: the times say that it recovers, not how fast it could. `load` is how many tasks of that machine wanted a
processor at once when the runs began, at most (`-`: not written down).

Experiments were made sharper on 29 November 2026; what the older form of those had shown stands in [reliability-earlier.md](reliability-earlier.md).
"""


def document(results: Sequence[Result]) -> str:
    """The whole text."""
    rows = []
    for name, known in _by_number():
        for is_full in (False, True):
            runs = [each for each in results if (each.experiment, each.is_full) == (name, is_full)]
            if runs:
                rows.append(_row(name, known.fault, runs, is_full=is_full))
    parts = [
        HEAD,
        "| | harm | runs | seeds | passed | commands, of which repeated | reads | load | recovery, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    parts += rows
    untried = [name for name, _ in _by_number() if not any(each.experiment == name for each in results)]
    if untried:
        parts.append(f"\nNot run yet: {', '.join(untried)}.")
    parts += _failures(results)
    parts += ["\n## What was done in the newest run of each\n"]
    for name, _ in _by_number():
        if runs := [each for each in results if each.experiment == name]:
            last = runs[-1]
            parts.append(f"- **{name}**, seed {last.seed}, {last.at}, {last.commit}: {'; '.join(_deeds(last.did))}.")
    return "\n".join(parts) + "\n"


def _by_number() -> list[tuple[str, Experiment]]:
    return list(EXPERIMENTS.items())


def _row(name: str, fault: str, runs: Sequence[Result], *, is_full: bool) -> str:
    seeds = sorted({each.seed for each in runs})
    times: dict[str, list[float]] = {}
    for each in runs:
        for what, seconds in each.recovered.items():
            times.setdefault(what, []).append(seconds)
    recovered = "; ".join(f"{what} {median(found):.1f}, {max(found):.1f}" for what, found in times.items())
    passed = sum(not each.findings for each in runs)
    commands, repeated = sum(each.commands for each in runs), sum(each.repeated for each in runs)
    reads = sum(each.reads for each in runs)
    size = " (full)" if is_full else ""
    load = f"{busiest:.0f}" if (busiest := max(each.load for each in runs)) else "-"
    return f"| {name}{size} | {fault} | {len(runs)} | {_spans(seeds)} | {passed} | {commands:,}, {repeated:,} | {reads:,} | {load} | {recovered} |"


def _spans(seeds: Sequence[int]) -> str:
    """Sorted numbers, those in a row as one span."""
    rows: list[list[int]] = []
    for seed in seeds:
        if rows and seed == rows[-1][-1] + 1:
            rows[-1].append(seed)
        else:
            rows.append([seed])
    return ", ".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def _deeds(did: Sequence[str]) -> list[str]:
    """What was done, and how often what differs in its numbers alone."""
    kinds: dict[str, list[str]] = {}
    for each in did:
        kinds.setdefault(NUMBER.sub("", each), []).append(each)
    return [f"{each[0]} ({len(each)} times)" if len(each) > 1 else each[0] for each in kinds.values()]


def _failures(results: Sequence[Result]) -> list[str]:
    failed = [each for each in results if each.findings]
    if not failed:
        return []
    told = [
        f"- {each.experiment}, seed {each.seed}, {each.at}, {each.commit}: {' - '.join(filter(None, (each.findings[0], each.cause)))}"
        for each in failed
    ]
    return [
        "\n## Runs that failed\n",
        "What was found by them and mended stands in CHANGELOG.md, unless it was the experiment's own fault.\n",
        *told,
    ]
