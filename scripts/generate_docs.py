"""Writes what can be derived: docs/settings.md from the settings structs, docs/metrics.md from the figures of each process,
the table of problem codes in docs/api.md, and the list of decisions in docs/adr/README.md.

`--check` writes nothing and ends with 1 if a document is stale; a unit test calls it.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import cast

from prometheus_client import CollectorRegistry, Metric
from psycopg_pool import AsyncConnectionPool

from command_service.infrastructure.clock_metrics import PrometheusClock
from command_service.infrastructure.metrics import CommandMetrics
from daybook.monitor.infrastructure.figures import MonitorFigures
from projections.application.figures import Figures, RelayFigures
from projections.presentation.figures import PROJECTOR, RELAY, FiguresCollector
from query_service.infrastructure.figures import QueryFigures
from shared_kernel.breaker import BreakerFigures
from shared_kernel.event_log.pool import LogPool
from shared_kernel.http_edge import HttpMetrics
from shared_kernel.problems import PROBLEMS
from shared_kernel.settings import STACK_NAMES, ProcessSettings, SettingDoc, describe
from shared_kernel.transactions import TransactionFigures

ROOT = Path(__file__).parents[1]
SETTINGS_FILE = ROOT / "docs" / "settings.md"
METRICS_FILE = ROOT / "docs" / "metrics.md"
API_FILE = ROOT / "docs" / "api.md"
ADR_FILE = ROOT / "docs" / "adr" / "README.md"

STRUCTS = {
    "command": "command_service.settings:CommandSettings",
    "query": "query_service.settings:QuerySettings",
    "relay": "projections.settings:RelaySettings",
    "projector": "projections.settings:ProjectorSettings",
    "clock": "command_service.settings:ClockSettings",
    "monitor": "daybook.monitor.settings:MonitorSettings",
}
_NUMBER = re.compile(r"^#\s*(ADR)?\W*\d*\W*")
SECTIONS = {
    ("command", "query", "relay", "projector", "clock", "monitor"): "Every process",
    ("command", "query", "projector", "monitor"): "Every HTTP process",
    ("command", "query", "relay", "clock"): "Command and query process, relay and clock",
    ("command", "query", "clock"): "Command and query process, and clock",
    ("command", "query"): "Command and query process",
    ("query", "projector", "monitor"): "Query process, projector and monitor",
    ("command", "monitor"): "Command process and monitor",
    ("relay", "projector", "clock"): "Relay, projector and clock",
    ("relay", "projector"): "Relay and projector",
    ("relay", "clock"): "Relay and clock",
    ("command", "clock"): "Command process and clock",
    ("command",): "command",
    ("query",): "query",
    ("relay",): "relay",
    ("projector",): "projector",
    ("clock",): "clock",
    ("monitor",): "monitor",
}
STACK = {
    "DAYBOOK_DATA": "The data folder, instead of `.data`",
    "DAYBOOK_TOKEN": "The token that the everyday commands send, instead of the stack's own",
    "DAYBOOK_SERVICES": "For the tests: `docker` starts the servers as containers instead of from packages",
    "DAYBOOK_KAFKA_JARS": "A folder with the jars of Kafka, for machines without network",
    "DAYBOOK_RUN_AS": "The user that the servers run as where `daybook up` is started by root",
}
HEAD = """# Settings

Made by `scripts/generate_docs.py` from the settings structs; do not edit.

A process reads its environment once, at its start. Wrong and missing settings stop it with exit code 2 and a line for each
on standard error; so does a `DAYBOOK_` variable that it does not know. An empty value counts as absent. A **secret** may be
given as a file instead, by the same name with `_FILE` behind it; it is never logged.
"""
METRICS_HEAD = """# Metrics

Made by `scripts/generate_docs.py` from the figures of each process; do not edit.

In the Prometheus format at `/metrics`, on the HTTP port of `command`, `query`, `projector` and `monitor` and on the health port of
`relay` and `clock`, beside the usual figures of a Python process (memory, CPU, file descriptors, garbage collection). No label holds a
ledger, an account or a subject. A counter's name ends in `_total`.
"""
STACK_HEAD = """## The command line and the local stack

Any process lets these pass. `daybook up` besides uses the servers that `DAYBOOK_POSTGRES_URL`, `DAYBOOK_REDIS_URL` and
`DAYBOOK_KAFKA_BOOTSTRAP` name instead of starting its own. `daybook migrate` and `daybook restored` read
`DAYBOOK_POSTGRES_URL` (the role `daybook_migrator`); `daybook roles` reads `DAYBOOK_POSTGRES_URL` (an administrator) and
`DAYBOOK_ROLES_PASSWORD`, each also with `_FILE`.

| variable | what it is |
|---|---|
"""


def main() -> int:
    """Both documents are as the code says, or named on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a document is stale")
    is_check = parser.parse_args().check
    stale = []
    documents = {
        SETTINGS_FILE: settings_document(),
        METRICS_FILE: metrics_document(),
        API_FILE: with_part(API_FILE.read_text(), "problem codes", problem_table()),
        ADR_FILE: with_part(ADR_FILE.read_text(), "decisions", decision_table(ADR_FILE.parent)),
    }
    for path, text in documents.items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path.relative_to(ROOT))
        if not is_check:
            path.write_text(text)
    for path in stale:
        print(f"{path}: {'stale, run scripts/generate_docs.py' if is_check else 'written'}", file=sys.stderr)
    return 1 if stale and is_check else 0


def settings_document() -> str:
    """Every setting once: in the section of exactly those processes that read it with that default and meaning."""
    readers: dict[SettingDoc, list[str]] = {}
    for process in STRUCTS:
        for setting in describe(struct_of(process)):
            readers.setdefault(setting, []).append(process)
    parts = [HEAD]
    for processes, title in SECTIONS.items():
        rows = [setting for setting, found in readers.items() if tuple(found) == processes]
        if rows:
            parts.append(
                f"## {title}\n\n| variable | value | default | what it is |\n|---|---|---|---|\n" + _rows(rows)
            )
    missing = set(map(tuple, readers.values())) - set(SECTIONS)
    if missing or set(STACK) != STACK_NAMES:
        raise SystemExit(f"generate_docs.py does not know {missing or set(STACK) ^ STACK_NAMES}")
    parts.append(STACK_HEAD + "".join(f"| `{name}` | {what} |\n" for name, what in STACK.items()))
    return "\n".join(parts)


def metrics_document() -> str:
    """Every figure of every process."""
    parts = [METRICS_HEAD]
    for process, families in figures_of_processes().items():
        rows = "".join(
            f"| `{family.name}{'_total' * (family.type == 'counter')}` | {family.type} | {_text(family.documentation)} |\n"
            for family in families
        )
        parts.append(f"## {process}\n\n| name | type | what it is |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def figures_of_processes() -> dict[str, list[Metric]]:
    """The metric families that each process shows of its own, none of them with a value."""
    command, query, clock, monitor, relay, projector = (CollectorRegistry() for _ in range(6))
    for registry in (command, query, monitor, projector):
        HttpMetrics(registry)
    CommandMetrics(registry=command).watch(lambda: 0, LogPool("postgresql://nobody"))
    CommandMetrics(registry=clock)
    PrometheusClock(clock)
    MonitorFigures(monitor)
    relay.register(FiguresCollector(RelayFigures(), part="relay", docs=RELAY))
    projector.register(FiguresCollector({"books": Figures()}, part="projector", docs=PROJECTOR))
    for registry in (command, relay, projector, clock, monitor):
        TransactionFigures(registry)
    for registry in (command, query, relay, clock):
        BreakerFigures(registry)
    figures = QueryFigures(query)
    figures.watch_waiting(lambda: 0)
    figures.watch_streams(lambda: 0)
    figures.watch_pool(cast("AsyncConnectionPool", SimpleNamespace(get_stats=dict)))
    return {
        "command": list(command.collect()),
        "query": list(query.collect()),
        "relay": list(relay.collect()),
        "projector": list(projector.collect()),
        "clock": list(clock.collect()),
        "monitor": list(monitor.collect()),
    }


def struct_of(process: str) -> type[ProcessSettings]:
    """The settings struct of a process."""
    struct: type[ProcessSettings] = resolve_name(STRUCTS[process])
    return struct


def with_part(document: str, name: str, made: str) -> str:
    """The document with what stands between the marks of this name made anew."""
    begin, end = f"<!-- begin: {name}, by scripts/generate_docs.py -->", f"<!-- end: {name} -->"
    head, _, rest = document.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"the marks round the part «{name}» are missing")
    return f"{head}{begin}\n{made}{end}{tail}"


def decision_table(folder: Path) -> str:
    """Every decision record, by number, named by its own title line: `# 0003: …`, with or without a colon or dot."""
    lines = ["| | decision |", "|---|---|"]
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]-*.md")):
        title = path.read_text().split("\n", 1)[0]
        lines.append(f"| [{path.name[:4]}]({path.name}) | {_NUMBER.sub('', title)} |")
    return "\n".join(lines) + "\n"


def problem_table() -> str:
    """Every code, by its HTTP status."""
    by_status = groupby(sorted(PROBLEMS.items(), key=lambda item: item[1].status), key=lambda item: item[1].status)
    lines = ["| status | code | title |", "|---|---|---|"]
    lines += [f"| {status} | `{code}` | {known.title} |" for status, codes in by_status for code, known in codes]
    return "\n".join(lines) + "\n"


def _rows(settings: list[SettingDoc]) -> str:
    return "".join(
        f"| `{each.name}` | {_kind(each.type)} | {_default(each.default)} | {_text(each.doc)} |\n" for each in settings
    )


def _text(doc: str) -> str:
    """Angle brackets would be read as HTML, a bar as the end of the cell."""
    return doc.replace("<", "&lt;").replace("|", "\\|") or "?"


def _kind(text: str) -> str:
    """`a | b` would end a cell."""
    names: Mapping[str, str] = {"int": "whole number", "bool": "true or false", "str": "text"}
    return " or ".join(names.get(each, f"`{each}`" if " | " in text else each) for each in text.split(" | "))


def _default(text: str | None) -> str:
    if text is None:
        return "**required**"
    return f"`{text}`" if text else "none"


if __name__ == "__main__":
    sys.exit(main())
