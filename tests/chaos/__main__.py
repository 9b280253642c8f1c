"""`python -m tests.chaos`: runs experiments, keeps every result, and writes docs/reliability.md from all that are kept.

Resumable: a run whose result is kept for this very commit is not done again. The results are kept beside the document and are committed
with it, so that runs of several days and machines count together; those of code that has changed too much since are taken out by hand.
"""

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tests.chaos.experiments import EXPERIMENTS
from tests.chaos.report import DOCUMENT, document
from tests.chaos.running import Experiment, Result, Skipped, run
from tests.chaos.stand import standing

ROOT = Path(__file__).parents[2]
RESULTS = DOCUMENT.with_suffix(".jsonl")
LOGS = ROOT / ".data" / "chaos"


def main() -> int:
    """Exit code 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all, if none is named")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="runs of each, with one seed after another")
    parser.add_argument("--full", action="store_true", help="outages as long as they would be")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--report", action="store_true", help="only write the document")
    arguments = parser.parse_args()
    names = list(dict.fromkeys(arguments.experiments)) or list(EXPERIMENTS)
    if unknown := sorted(set(names) - set(EXPERIMENTS)):
        parser.error(f"no such experiment: {', '.join(unknown)}")
    kept = _kept(arguments.results)
    commit = _commit()
    done = {(each.experiment, each.seed, each.is_full) for each in kept if each.commit == commit}
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    wanted = [(name, seed) for seed in seeds for name in names if (name, seed, arguments.full) not in done]
    failed = 0
    while wanted and not arguments.report:
        first = EXPERIMENTS[wanted[0][0]]
        with standing(is_direct=first.is_direct, brokers=first.brokers) as stand:
            is_whole = True
            while wanted and is_whole and _is_on_the_same(first, EXPERIMENTS[wanted[0][0]]):
                name, seed = wanted.pop(0)
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                try:
                    result = run(stand, name, EXPERIMENTS[name], seed, is_full=arguments.full, at=now, commit=commit)
                except Skipped as reason:
                    print(f"{name:<4} skipped: {reason}", flush=True)
                    continue
                kept.append(result)
                _keep(arguments.results, result)
                _tell(result)
                if result.findings:
                    failed += 1
                    stand.keep_logs(logs := LOGS / f"{name}-{seed}-{now.replace(':', '')}")
                    print(f"  the logs of its processes: {logs}", flush=True)
                is_whole = not (
                    result.findings or stand.is_spent
                )  # what failed may have left it as nobody would find it
    DOCUMENT.write_text(document(kept))
    return 1 if failed else 0


def _is_on_the_same(one: Experiment, other: Experiment) -> bool:
    """One stand will do for both."""
    return (one.is_direct, one.brokers) == (other.is_direct, other.brokers)


def _tell(result: Result) -> None:
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in result.recovered.items())
    outcome = "FAILED" if result.findings else "passed"
    print(
        f"{result.experiment:<4} seed {result.seed}: {outcome}, {result.commands} commands; recovered: {times or '-'}",
        flush=True,
    )
    for each in [*(f"  did: {each}" for each in result.did), *(f"  found: {each}" for each in result.findings)]:
        print(each, flush=True)


def _kept(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Result) for line in path.read_bytes().splitlines()]


def _keep(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(result) + b"\n")


def _commit() -> str:
    """The commit that runs; with `-dirty` where something else than what is written here was changed since."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", *(f":!docs/{path.name}" for path in (DOCUMENT, RESULTS)))
    return f"{head or 'unknown'}{'-dirty' if changed else ''}"


def _git(*arguments: str) -> str:
    asked = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
