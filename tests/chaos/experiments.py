"""The experiments: each a function that does one kind of harm while clients post. What must hold afterwards is the oracle's.

A run is seeded: who is hit, when and how often comes from its `rng`. Scaled down by default; `is_full` takes the times that an outage
would take. An experiment says what it did (`did`) and how long it took until all was well (`recovered`); what fails it is an
AssertionError, or a finding of the oracle.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import psycopg
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.chaos.load import Load
from tests.chaos.oracle import behind, check
from tests.chaos.stand import Stand, in_background
from tests.services import daybook

WARM_UP_COMMANDS = 30
SETTLED_COMMANDS = 30  # acknowledged after the harm, before it counts as over


class Run:
    """One run of one experiment: its stand, its clients, its chance, and what it has to tell."""

    def __init__(self, stand: Stand, name: str, seed: int, *, is_full: bool) -> None:
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
        )

    def some_time(self, seconds: float) -> None:
        """Clients go on for about so long: that much of their life the harm finds them in."""
        time.sleep(seconds * (0.5 + self.rng.random()))

    def more_commands(self, count: int) -> None:
        """So many more commands were acknowledged."""
        until = self.load.count() + count
        self.stand.until(lambda: self.load.count() >= until, f"no {count} commands were acknowledged")

    @contextmanager
    def recovery(self, what: str) -> Iterator[None]:
        """How long the block took is how long it took to recover; of several the longest counts."""
        begun = time.monotonic()
        yield
        self.recovered[what] = max(self.recovered.get(what, 0.0), time.monotonic() - begun)

    def commands_again(self) -> None:
        """Measures until a command that began after now is acknowledged."""
        now = time.monotonic()
        with self.recovery("commands"):
            self.stand.until(
                lambda: any(known.began > now for known in self.load.acknowledged[-50:]), "no command was acknowledged"
            )

    def caught_up(self) -> None:
        """Measures until the read models have what was acknowledged by now."""
        with self.recovery("read models"), self.stand.admin() as admin:
            heads = dict(
                admin.execute(
                    "select ledger, position from daybook.ledgers where ledger = any(%s)", [self.load.ledgers]
                ).fetchall()
            )
            self.stand.until(lambda: _reached(admin, heads), "the read models have not caught up")


Harm = Callable[[Run], None]


class Skipped(Exception):
    """The experiment cannot be made here; the text says why."""


class Experiment(NamedTuple):
    """`fault` is what the table of results says of it; `is_short`: among those that every change must pass."""

    harm: Harm
    fault: str
    is_short: bool


EXPERIMENTS: dict[str, Experiment] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run. `findings` empty: passed. Times are seconds."""

    experiment: str
    seed: int
    is_full: bool
    at: str
    commit: str
    did: list[str]
    commands: int
    repeated: int
    findings: list[str]
    recovered: dict[str, float]
    seconds: float
    load: float


def run(stand: Stand, name: str, seed: int, *, is_full: bool, at: str, commit: str) -> Result:
    """One run, judged; the stand is whole again afterwards, or the run has failed."""
    begun, busy = time.monotonic(), os.getloadavg()[0]
    experiment = Run(stand, name, seed, is_full=is_full)
    findings: list[str] = []
    try:
        try:
            experiment.load.start()
            experiment.more_commands(WARM_UP_COMMANDS)
            EXPERIMENTS[name].harm(experiment)
            experiment.more_commands(SETTLED_COMMANDS)
        finally:
            experiment.load.stop()
            stand.end_more()
        stand.ready_again()
        findings = check(stand, experiment.load, experiment.rng)
    except Skipped:
        raise
    except Exception as error:  # whatever it is, the run has not passed
        findings = [f"{type(error).__name__}: {error}"]
    known = experiment.load.acknowledged
    return Result(
        experiment=name,
        seed=seed,
        is_full=is_full,
        at=at,
        commit=commit,
        did=experiment.did,
        commands=len(known),
        repeated=sum(each.attempts > 1 for each in known),
        findings=findings,
        recovered={what: round(seconds, 2) for what, seconds in experiment.recovered.items()},
        seconds=round(time.monotonic() - begun, 1),
        load=round(busy, 1),
    )


def experiment(name: str, fault: str, *, is_short: bool = False) -> Callable[[Harm], Harm]:
    """The function is the experiment of that name."""

    def add(harm: Harm) -> Harm:
        EXPERIMENTS[name] = Experiment(harm, fault, is_short)
        return harm

    return add


@experiment("X1", "an append's lock held before COMMIT on one ledger, while others are written", is_short=True)
def slow_commit(run: Run) -> None:
    held, *others = run.load.ledgers
    seconds = 10 if run.is_full else 2
    run.did.append(f"held the head of one ledger of {1 + len(others)} for {seconds} s")
    with psycopg.connect(run.stand.admin_url) as session:
        session.execute("select from daybook.ledgers where ledger = %s for update", [held])
        before = time.monotonic()
        time.sleep(seconds)
        unaffected = [known for known in run.load.acknowledged if known.ledger in others and known.began > before]
        assert len(unaffected) > seconds, f"only {len(unaffected)} commands to the other ledgers in {seconds} s"
        slowest = max(known.ended - known.began for known in unaffected)
        assert slowest < 2, f"a command to another ledger took {slowest:.1f} s"
        session.rollback()
    run.commands_again()
    run.caught_up()


@experiment("X2", "appends aborted in flight: their statements cancelled and their sessions ended at random")
def rolled_back(run: Run) -> None:
    counts = {"pg_cancel_backend": 0, "pg_terminate_backend": 0}

    def abort(stop: threading.Event) -> None:
        rng = random.Random(run.rng.random())
        with run.stand.admin() as admin:
            while not stop.wait(rng.random() * 0.02):
                how = "pg_cancel_backend" if rng.random() < 0.8 else "pg_terminate_backend"
                done = admin.execute(
                    f"select {how}(pid) from pg_stat_activity where usename = 'daybook_command' and state = 'active'"
                ).fetchall()
                counts[how] += len(done)

    end = in_background(abort)
    time.sleep(60 if run.is_full else 5)
    end()
    run.did.append(", ".join(f"{how} {count} times" for how, count in counts.items()))
    run.commands_again()
    run.caught_up()


@experiment("X3", "a transaction left idle in another database of the same Postgres")
def idle_elsewhere(run: Run) -> None:
    from daybook.client import Client

    monitor = Client(run.stand.url("monitor"), run.stand.stack.tokens["operator"])
    url = run.stand.admin_url.rpartition("/")[0] + "/postgres"
    with psycopg.connect(url, application_name="left idle") as idle:
        idle.execute("select txid_current()")
        pid = idle.info.backend_pid
        time.sleep(120 if run.is_full else 3)
        with run.recovery("named by the monitor"):
            run.stand.until(
                lambda: b"left idle" in monitor.get("/v1/operations/alerts").body, "the monitor does not name it"
            )
        run.caught_up()
    run.did.append(f"pid {pid} stayed idle in transaction in the database postgres")
    monitor.close()


@experiment("X5", "kill -9 of the command process at random moments", is_short=True)
def command_killed(run: Run) -> None:
    for _ in range(3):  # a supervisor gives up after five crashes in a minute
        run.some_time(1.5)
        run.stand.kill("command")
        run.did.append("SIGKILL")
        run.commands_again()
    run.caught_up()


@experiment("X6", "the reply to COMMIT is lost: the proxy cuts the wire when it comes", is_short=True)
def reply_lost(run: Run) -> None:
    share = 0.05
    before = run.stand.postgres.cuts
    rng = random.Random(run.rng.random())
    run.stand.postgres.set(
        rule_for="daybook_command", rule=lambda frame: None if frame == b"Z" and rng.random() < share else b""
    )
    try:
        run.some_time(30 if run.is_full else 4)
    finally:
        run.stand.postgres.set(rule=None, rule_for="")
    run.did.append(f"{run.stand.postgres.cuts - before} replies dropped, {share:.0%} of all")
    assert run.stand.postgres.cuts > before
    run.commands_again()
    run.caught_up()


@experiment(
    "X7", "the relay killed; two relays; the active one frozen for twice its lease, then going on", is_short=True
)
def relay_killed(run: Run) -> None:
    run.stand.kill("relay")
    run.did.append("SIGKILL of the relay")
    run.caught_up()
    run.stand.start_more("relay")
    with run.stand.frozen("relay"):
        run.did.append("a second relay; SIGSTOP of the first for 4 s, its lease is 2 s")
        time.sleep(4)
        with run.recovery("published again"), run.stand.admin() as admin:
            heads = _heads(admin, run.load.ledgers)
            run.stand.until(lambda: _published(admin, heads), "nobody publishes")
    run.caught_up()


@experiment("X8", "the projector killed at random moments, and while another joins its group")
def projector_killed(run: Run) -> None:
    for _ in range(2):
        run.some_time(1.5)
        run.stand.kill("projector")
        run.did.append("SIGKILL of the projector")
        run.caught_up()
    run.stand.start_more("projector")
    run.some_time(2)
    run.stand.end_more()
    run.did.append("a second projector, SIGKILL of it while partitions move")
    run.caught_up()


@experiment("X9", "Kafka down, then back", is_short=True)
def kafka_down(run: Run) -> None:
    seconds = 60 if run.is_full else 4
    before = time.monotonic()
    with run.stand.down("kafka"):
        run.did.append(f"Kafka gone for {seconds} s")
        time.sleep(seconds)
        answered = [known for known in run.load.acknowledged if known.began > before]
        assert len(answered) > seconds, f"{len(answered)} commands in {seconds} s without Kafka"
        assert all(known.attempts == 1 for known in answered), "a command failed for want of Kafka"
    run.caught_up()
    with run.recovery("published again"), run.stand.admin() as admin:
        heads = _heads(admin, run.load.ledgers)
        run.stand.until(lambda: _published(admin, heads), "the relay has not caught up")


@experiment("X10", "the topic given more partitions, then deleted")
def topic_deleted(run: Run) -> None:
    topic = run.stand.stack.kafka_topic
    kafka = AdminClient({"bootstrap.servers": run.stand.stack.kafka_bootstrap})
    count = len(kafka.list_topics(topic, timeout=30).topics[topic].partitions)
    kafka.create_partitions([NewPartitions(topic, count + 2)])[topic].result(30)
    run.did.append(f"{count + 2} partitions instead of {count}")
    run.caught_up()
    kafka.delete_topics([topic], operation_timeout=30)[topic].result(30)
    run.did.append("the topic deleted")
    run.caught_up()
    with run.recovery("published again"), run.stand.admin() as admin:
        heads = _heads(admin, run.load.ledgers)
        run.stand.until(lambda: _published(admin, heads), "the relay has not made the topic anew")


@experiment("X11", "Redis killed, flushed, frozen, silent behind the proxy", is_short=True)
def redis_gone(run: Run) -> None:
    before = len(run.load.acknowledged)
    client = redis.Redis.from_url(run.stand.redis_url)
    acts: Mapping[str, Callable[[], object]] = {
        "killed": lambda: run.stand.kill("redis"),
        "flushed": lambda: run.stand.until(lambda: _flushed(client), "Redis does not answer"),
        "frozen": lambda: _frozen_for(run.stand, "redis", 30 if run.is_full else 3),
        "silent": lambda: _silent_for(run.stand, 3),
    }
    for name in run.rng.sample(list(acts), len(acts)):
        acts[name]()
        run.did.append(name)
        run.some_time(1)
    client.close()
    answered = run.load.acknowledged[before:]
    first = sum(known.attempts == 1 for known in answered) / max(1, len(answered))
    assert first >= 0.99, f"only {first:.1%} of {len(answered)} commands were answered at the first attempt"
    run.commands_again()
    run.caught_up()


@experiment("X12", "Postgres stopped at once (SIGQUIT), killed, and started again", is_short=True)
def postgres_restarted(run: Run) -> None:
    for number in (signal.SIGQUIT, signal.SIGKILL):
        with run.stand.down("postgres", number):
            run.did.append(f"{number.name} to Postgres, 1 s down")
            time.sleep(1)
        run.commands_again()
        run.some_time(1)
    run.caught_up()


@experiment("X13", "messages duplicated, reordered, delayed, and the whole topic once more from zero")
def repeated_messages(run: Run) -> None:
    stack = run.stand.stack
    run.some_time(2)
    messages = _topic(stack.kafka_bootstrap, stack.kafka_topic)
    chosen = run.rng.sample(messages, min(len(messages), 2_000)) + messages[-300:]
    run.rng.shuffle(chosen)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    before = run.stand.figure("projector", "daybook_projector_duplicates_total")
    for key, value, headers in chosen:
        producer.produce(stack.kafka_topic, value, key, headers=headers)
    producer.flush(30)
    run.did.append(f"{len(chosen)} messages sent again in another order")
    run.stand.until(
        lambda: run.stand.figure("projector", "daybook_projector_duplicates_total") > before, "no duplicate was dropped"
    )
    run.caught_up()


@experiment("X14", "an event that the projector cannot apply, in one of the ledgers; mended, and retried")
def poisoned(run: Run) -> None:
    ledger, *others = run.load.ledgers
    is_parked = "select from projections.waiting where ledger = %s and state = 'parked'"
    with run.stand.admin() as admin:
        # Who reads the log stands still meanwhile, so that the event is poisoned before it is read.
        with run.stand.frozen("relay"), run.stand.frozen("projector"):
            head = _head(admin, ledger)
            run.stand.until(lambda: _head(admin, ledger) > head + 2, "no event came")
            position = _head(admin, ledger)
            known = _poison(admin, ledger, position, '{"poisoned": true}')
        run.did.append("an event with other data")
        with run.recovery("parked"):
            run.stand.until(
                lambda: admin.execute(is_parked, [ledger]).fetchone() is not None, "the ledger is not parked"
            )
        healthy = _heads(admin, others)
        run.stand.until(lambda: _reached(admin, healthy), "the other ledgers do not go on")
        _poison(admin, ledger, position, known)
        admin.execute(
            "update projections.waiting set state = 'waiting', asked_at = clock_timestamp() where ledger = %s", [ledger]
        )
        run.did.append("mended and retried")
        run.caught_up()


@experiment("X19", "the network slow (200 ± 100 ms) and then half-open, before Postgres", is_short=True)
def network_slow(run: Run) -> None:
    rng = random.Random(run.rng.random())
    run.stand.postgres.set(delay_s=lambda: 0.1 + 0.2 * rng.random())
    run.did.append("every answer of Postgres 100 to 300 ms late")
    try:
        run.more_commands(5)
        run.some_time(30 if run.is_full else 3)
    finally:
        run.stand.postgres.set(delay_s=None)
    run.commands_again()
    run.stand.postgres.set(is_silent=True)
    run.did.append("Postgres silent on open connections")
    try:
        run.stand.until(
            lambda: not run.stand.is_ready("command"), "the command process calls itself ready", within_s=30
        )
    finally:
        run.stand.postgres.set(is_silent=False)
        run.stand.postgres.cut()
    run.commands_again()
    with run.recovery("ready"):
        run.stand.until(lambda: run.stand.is_ready("command"), "the command process is not ready")
    run.caught_up()


@experiment("X4", "a dump restored into a fresh database, `daybook restored`, everything started again")
def restored(run: Run) -> None:
    stand = run.stand
    projector, migrator_url = stand.environment("projector"), stand.stack.postgres_urls["migrator"]
    binaries = Path(f"/proc/{stand.pid('postgres')}/exe").resolve().parent
    with stand.processes_stopped():
        dump = Path(tempfile.gettempdir()) / f"daybook-chaos-{os.getpid()}.dump"
        database = stand.admin_url.rpartition("/")[2]
        server = stand.admin_url.rpartition("/")[0]
        _tool(binaries / "pg_dump", "--format=custom", f"--file={dump}", stand.admin_url)
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute(f"drop database {database} with (force)".encode())
            admin.execute(f"create database {database}".encode())
        _tool(binaries / "pg_restore", "--exit-on-error", f"--dbname={stand.admin_url}", str(dump))
        dump.unlink()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
        admin_of = clean | {"DAYBOOK_POSTGRES_URL": stand.admin_url}
        password = urlsplit(migrator_url).password or ""
        daybook("roles", env=admin_of | {"DAYBOOK_ROLES_PASSWORD": password})
        daybook("restored", env=clean | {"DAYBOOK_POSTGRES_URL": migrator_url})
        rebuild = [sys.executable, "-P", "-m", "projections", "rebuild"]
        subprocess.run(rebuild, env=projector, check=True, capture_output=True, timeout=60)
    run.did.append("pg_dump, another database, pg_restore, daybook restored, rebuild")
    run.commands_again()
    run.caught_up()


@experiment("X20", "clocks an hour ahead and an hour behind: further command processes under libfaketime")
def clocks_skewed(run: Run) -> None:
    # Command processes alone: librdkafka waits by the system's clock, and under libfaketime for an hour too long.
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        raise Skipped("libfaketime is not installed (Debian: faketime)")
    skewed = {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    run.load.send_also_to(run.stand.start_more("command", FAKETIME="+1h", **skewed))
    run.did.append("half of all commands sent to a process an hour ahead")
    run.more_commands(60)
    behind_url = run.stand.start_more("command", FAKETIME="-1h", **skewed)
    status = run.load.status_at(behind_url)
    assert status == 401, f"a process an hour behind answered {status} to a token made in its future"
    run.did.append("a process an hour behind refused a token made in its future")
    run.stand.end_more()
    run.commands_again()
    run.caught_up()


@experiment("X24", "a mixture of all faults, one after another, chosen at random")
def mixed(run: Run) -> None:
    harms = [command_killed, reply_lost, relay_killed, projector_killed, kafka_down, redis_gone, network_slow]
    for harm in run.rng.sample(harms, len(harms) if run.is_full else 3):
        harm(run)


def _tool(program: Path, *arguments: str) -> None:
    outcome = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr


def _frozen_for(stand: Stand, part: str, seconds: float) -> None:
    with stand.frozen(part):
        time.sleep(seconds)


def _silent_for(stand: Stand, seconds: float) -> None:
    stand.redis.set(is_silent=True)
    time.sleep(seconds)
    stand.redis.set(is_silent=False)
    stand.redis.cut()


def _flushed(client: "redis.Redis") -> bool:
    try:
        return bool(client.flushall())
    except redis.RedisError:
        return False


def _head(admin: "psycopg.Connection[Any]", ledger: str) -> int:
    return _heads(admin, [ledger])[ledger]


def _heads(admin: "psycopg.Connection[Any]", ledgers: list[str]) -> dict[str, int]:
    return dict(
        admin.execute("select ledger, position from daybook.ledgers where ledger = any(%s)", [ledgers]).fetchall()
    )


def _published(admin: "psycopg.Connection[Any]", heads: Mapping[str, int]) -> bool:
    found = admin.execute(
        "select ledger, position from projections.relay_positions where ledger = any(%s)", [list(heads)]
    ).fetchall()
    known = dict(found)
    return all(known.get(ledger, 0) >= head for ledger, head in heads.items())


def _reached(admin: "psycopg.Connection[Any]", heads: Mapping[str, int]) -> bool:
    """Every live generation has these ledgers up to these positions."""
    return all((position or 0) >= heads[ledger] for _, ledger, _, position in behind(admin, list(heads)))


def _poison(admin: "psycopg.Connection[Any]", ledger: str, position: int, data: str) -> str:
    """The event has other data now; answers what it had. The log has triggers against this, which only a superuser can lift."""
    with admin.transaction():
        admin.execute("set local session_replication_role = replica")
        where = "where ledger = %s and position = %s"
        (known,) = admin.execute(f"select data from daybook.events {where}", [ledger, position]).fetchone() or ("",)
        admin.execute(f"update daybook.events set data = %s {where}", [data, ledger, position])
    return str(known)


def _topic(bootstrap: str, topic: str) -> list[tuple[bytes, bytes, Any]]:
    """Every message of the topic by now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "chaos", "enable.auto.commit": False})
    found: list[tuple[bytes, bytes, Any]] = []
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
            consumer.assign([TopicPartition(topic, number, low)])
            at = low
            while at < high:
                message = consumer.poll(30)
                assert message is not None, "Kafka gives no message"
                assert message.error() is None, message.error()
                at = (message.offset() or 0) + 1
                found.append((message.key() or b"", message.value() or b"", message.headers()))
    finally:
        consumer.close()
    return found
