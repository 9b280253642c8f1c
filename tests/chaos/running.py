"""One run of one experiment: harm is done while clients post; what must hold afterwards is the oracle's.

A run is seeded: who is hit, when and how often comes from its `rng`. Scaled down by default; `is_full` takes the times that an outage
would take. An experiment says what it did (`did`) and how long it took until all was well (`recovered`); what fails it is an
AssertionError, or a finding of the oracle.
"""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg

from daybook.client import Client
from daybook.stack.users import run_as, server_user
from tests.chaos.load import Load
from tests.chaos.oracle import behind, check, published
from tests.chaos.readers import Readers
from tests.chaos.stand import Stand, in_background
from tests.chaos.topic import Topic

WARM_UP_COMMANDS = 30
WARM_UP_BATCHES = 100  # measured: of one of two fresh stands the first 75 took two to seven times as long as the next
SETTLED_COMMANDS = 30  # acknowledged after the harm, before it counts as over


class Run:
    """One run of one experiment: its stand, its clients, its chance, and what it has to tell."""

    def __init__(self, stand: Stand, name: str, experiment: "Experiment", seed: int, *, is_full: bool) -> None:
        self.stand = stand
        self.is_full = is_full
        self.rng = random.Random(f"{name}/{seed}")
        self.did: list[str] = []
        self.recovered: dict[str, float] = {}
        self.load = Load(
            stand.url("command"),
            stand.stack.tokens["writer"],
            name=f"{name}:{seed}:{os.getpid()}".lower(),
            rng=self.rng,
            ledgers=experiment.ledgers,
            writers=experiment.writers,
            may_conflict=experiment.may_conflict,
        )
        self.topic = Topic(stand.stack.kafka_bootstrap, stand.stack.kafka_topic)
        self.readers = Readers(lambda: stand.url("query"), stand.stack.tokens["reader"], self.load, self.rng)

    def operator(self, part: str) -> Client:
        """An operator who asks this process."""
        return Client(self.stand.url(part), self.stand.stack.tokens["operator"])

    def reader(self) -> Client:
        """A client of the query process."""
        return Client(self.stand.url("query"), self.stand.stack.tokens["reader"])

    def some_time(self, seconds: float) -> None:
        """Clients go on for about so long: that much of their life the harm finds them in."""
        time.sleep(seconds * (0.5 + self.rng.random()))

    def more_commands(self, count: int) -> None:
        """So many more commands were acknowledged."""
        until = self.load.count() + count
        self.stand.until(lambda: self.load.count() >= until, f"no {count} commands were acknowledged")

    def relay_at_work(self) -> None:
        """The relay has its first batches behind it: a Kafka that has just begun takes longer to store them."""
        name = "daybook_relay_batches_total"
        until = self.stand.figure("relay", name) + WARM_UP_BATCHES
        self.stand.until(
            lambda: self.stand.figure("relay", name) >= until, f"the relay makes no {WARM_UP_BATCHES} batches"
        )

    @contextmanager
    def recovery(self, what: str, *, within_s: float | None = None) -> Iterator[None]:
        """How long the block took is how long it took to recover; of several the longest counts. Longer than `within_s`: it has failed."""
        begun = time.monotonic()
        yield
        took = time.monotonic() - begun
        self.recovered[what] = max(self.recovered.get(what, 0.0), took)
        assert within_s is None or took <= within_s, f"{what}: {took:.1f} s, where {within_s:.0f} s are allowed"

    def measured(self, seconds: float, ledgers: Sequence[str]) -> tuple[float, float]:
        """Of these ledgers and over so long: the commands' p99 in seconds, and how many events the live read models were behind on average."""
        since = self.load.count()
        behind: list[int] = []
        with self.stand.admin() as admin:

            def sample(stop: threading.Event) -> None:
                while not stop.wait(0.1):
                    rows = admin.execute(
                        "select coalesce(sum(l.position - p.position), 0)::bigint from daybook.ledgers l"
                        " join projections.positions p using (ledger) join projections.live using (projection, generation)"
                        " where l.ledger = any(%s)",
                        [list(ledgers)],
                    ).fetchall()
                    behind.append(int(rows[0][0]))

            end = in_background(sample)
            self.some_time(seconds)
            end()
        took = [known.ended - known.began for known in self.load.acknowledged[since:] if known.ledger in ledgers]
        return p99(took), sum(behind) / max(len(behind), 1)

    @contextmanager
    def without_gaps(self) -> Iterator[None]:
        """No message misses its predecessor meanwhile: projectors would fill what a relay leaves out."""
        name = "daybook_projector_gaps_total"
        before = self.stand.figure("projector", name)
        yield
        gaps = self.stand.figure("projector", name) - before
        assert gaps == 0, f"{gaps:.0f} gaps of messages were filled from the log"

    def commands_again(self, *, within_s: float | None = None) -> None:
        """Measures until a command that began after now is acknowledged."""
        now = time.monotonic()
        with self.recovery("commands", within_s=within_s):
            self.stand.until(
                lambda: any(known.began > now for known in self.load.acknowledged[-50:]), "no command was acknowledged"
            )

    def caught_up(self, *, within_s: float | None = None) -> None:
        """Measures until the read models have what was acknowledged by now."""
        with self.recovery("read models", within_s=within_s), self.stand.admin() as admin:
            heads = heads_of(admin, self.load.ledgers)
            self.stand.until(lambda: reached(admin, heads), "the read models have not caught up")

    def published_again(self, *, within_s: float | None = None) -> None:
        """Measures until a relay has published what was recorded by now."""
        with self.recovery("published again", within_s=within_s), self.stand.admin() as admin:
            heads = heads_of(admin, self.load.ledgers)
            self.stand.until(lambda: published(admin, heads), "nobody publishes")


Harm = Callable[[Run], None]


class Skipped(Exception):
    """The experiment cannot be made here; the text says why."""


class Experiment(NamedTuple):
    """`fault` is what the table of results says of it; `is_short`: among those that every change must pass.

    `is_direct`: it measures how fast something is, and hurts no wire, so that its stand has no proxies in the way.
    `may_conflict`: even a command process alone may answer 409 `conflict`. `keeps_topic`: what Kafka holds is left as the relay gave it.
    `brokers`: so many has its Kafka.
    """

    harm: Harm
    fault: str
    is_short: bool = False
    is_direct: bool = False
    may_conflict: bool = False
    keeps_topic: bool = True
    brokers: int = 1
    ledgers: int = 2
    writers: int = 6


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run. `findings` empty: passed. Times are seconds. `cause`: of a failure, written down by hand when it is known."""

    experiment: str
    seed: int
    is_full: bool
    at: str
    commit: str
    did: list[str]
    commands: int
    repeated: int
    reads: int = 0
    findings: list[str]
    cause: str = ""
    recovered: dict[str, float]
    seconds: float
    load: float


def run(stand: Stand, name: str, experiment: Experiment, seed: int, *, is_full: bool, at: str, commit: str) -> Result:
    """One run, judged; the stand is whole again afterwards, or the run has failed."""
    begun, busy = time.monotonic(), os.getloadavg()[0]
    this = Run(stand, name, experiment, seed, is_full=is_full)
    findings: list[str] = []
    try:
        try:
            this.load.start()
            this.readers.start()
            this.more_commands(WARM_UP_COMMANDS)
            experiment.harm(this)
            this.more_commands(SETTLED_COMMANDS)
        finally:
            this.readers.stop()
            this.load.stop()
            stand.end_more()
        stand.ready_again()
        findings = check(stand, this.load, this.rng, this.readers, this.topic if experiment.keeps_topic else None)
    except Skipped:
        raise
    except Exception as error:  # whatever it is, the run has not passed
        findings = [f"{type(error).__name__}: {error}"]
    known = this.load.acknowledged
    return Result(
        experiment=name,
        seed=seed,
        is_full=is_full,
        at=at,
        commit=commit,
        did=this.did,
        commands=len(known),
        repeated=sum(each.attempts > 1 for each in known),
        reads=len(this.readers.seen),
        findings=findings,
        recovered={what: round(seconds, 2) for what, seconds in this.recovered.items()},
        seconds=round(time.monotonic() - begun, 1),
        load=round(busy, 1),
    )


def p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


def head_of(admin: "psycopg.Connection[Any]", ledger: str) -> int:
    return heads_of(admin, [ledger])[ledger]


def heads_of(admin: "psycopg.Connection[Any]", ledgers: list[str]) -> dict[str, int]:
    return dict(
        admin.execute("select ledger, position from daybook.ledgers where ledger = any(%s)", [ledgers]).fetchall()
    )


def reached(admin: "psycopg.Connection[Any]", heads: Mapping[str, int]) -> bool:
    """Every live generation has these ledgers up to these positions."""
    return all((position or 0) >= heads[ledger] for _, ledger, _, position in behind(admin, list(heads)))


def tool(program: Path, *arguments: str) -> None:
    """A program that is not ours, run to its good end."""
    outcome = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr


def as_server(program: Path, *arguments: str) -> None:
    """The same as the servers' own user."""
    outcome = run_as(server_user(os.environ), [str(program), *arguments])
    assert outcome.returncode == 0, outcome.stderr
