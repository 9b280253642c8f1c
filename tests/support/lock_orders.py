"""The lock-order recorder: in which order locks were taken while others were held, and whether that can ever close a circle.

Fed with the log lines of processes at debug (`account_lock`, `heads_locked`, `batch_appended`, `positions_locked` …), so it sees what
real processes did, in the order in which they asked (not sorted for the reader): locks in Redis by ledger and tag, rows in Postgres: heads by ledger, positions by generation and ledger. Two orders that form a cycle are a deadlock
waiting for its moment, whether or not it came in this run.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class LockOrders:
    """A graph: an edge from each lock that somebody held to each lock that they took meanwhile, with who did so first."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[str, str]] = defaultdict(dict)
        self._held: dict[str, dict[str, None]] = defaultdict(dict)

    def take(self, holder: str, lock: str) -> None:
        """The holder, who may hold others, takes one more."""
        held = self._held[holder]
        for other in held:
            if other != lock:
                self.edges[other].setdefault(lock, holder)
        held[lock] = None

    def release(self, holder: str, lock: str) -> None:
        """It is free again; nothing happens where it was not held."""
        self._held[holder].pop(lock, None)

    def hear(self, process: str, line: Mapping[str, Any]) -> None:
        """One log line of a process; what is not about locks is passed over.

        A writer does one batch at a time; what goes beside it (atomic batches) runs under the correlation id of its request.
        """
        event, ledger = line.get("event"), line.get("ledger")
        # A writer's own transaction has no request; it locks one head, its ledger's.
        ledgers = line.get("ledgers")  # their names; of a batch, how many there were
        named = " ".join(ledgers) if isinstance(ledgers, list) else ""
        holder = f"{process}/{line.get('correlation_id') or ledger or named}"
        if event == "account_lock":
            lock = f"redis {ledger} {line['lock']}"
            if line["status"] == "taken":
                self.take(holder, lock)
            elif line["status"] in ("given_back", "lost"):
                self.release(holder, lock)
        elif event in ("heads_locked", "heads_released"):
            for name in line["ledgers"]:
                (self.take if event == "heads_locked" else self.release)(holder, f"head {name}")
        elif event in ("positions_locked", "positions_released"):
            of = f"{line['projection']}/{line['generation']}"
            for name in line["ledgers"]:  # one writer of a generation in a process does one batch at a time
                (self.take if event == "positions_locked" else self.release)(f"{process}/{of}", f"position {of} {name}")
        elif event == "batch_appended":
            lock = f"head {ledger}"
            if lock not in self._held[holder]:  # a fast append: the row is locked for its one statement
                self.take(holder, lock)
                self.release(holder, lock)

    def read(self, process: str, output: Path) -> "LockOrders":
        """All lines of a process's log file."""
        for text in output.read_text().splitlines():
            if text.startswith("{"):
                self.hear(process, json.loads(text))
        return self

    def cycles(self) -> list[list[str]]:
        """Circles in the graph, each as the locks along it; none if all orders agree."""
        found: list[list[str]] = []
        done: set[str] = set()
        for start in sorted(self.edges):
            if start not in done:
                found += self._walk(start, done)
        return found

    def _walk(self, start: str, done: set[str]) -> Iterator[list[str]]:
        """Depth first, without recursion; an edge back into the path closes a circle."""
        path: list[str] = [start]
        rest: list[Iterable[str]] = [iter(sorted(self.edges.get(start, ())))]
        while path:
            following = next(iter(rest[-1]), None)
            if following is None:
                done.add(path.pop())
                rest.pop()
            elif following in path:
                yield [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                rest.append(iter(sorted(self.edges.get(following, ()))))
