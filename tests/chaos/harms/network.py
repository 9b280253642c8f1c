"""Harm to what lies between the processes: to Redis, which holds the locks, and to the wires."""

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import redis

from bench.overload import GOODPUT_MIN, TOLD_MS_MAX, Overload
from command_service.settings import CommandSettings
from query_service.settings import QuerySettings
from tests.chaos.running import Run
from tests.chaos.stand import Stand, shipped

ROOT = Path(__file__).parents[3]
STORM = 2_000
RECOVERED_WITHIN_S = 30.0  # of overload, of a storm of connections, of a bad line
LATE_S_MAX = 3.0  # chosen: how much later than its time somebody hears that it is over, on a busy machine
IN_FLIGHT = "daybook_http_requests_in_flight"
ASKING = ("command", "query")
LOST = 0.1  # chosen: ten times what a bad line loses


def redis_gone(run: Run) -> None:
    before = len(run.load.acknowledged)
    redis_lost(run)
    answered = run.load.acknowledged[before:]
    first = sum(known.attempts == 1 for known in answered) / max(1, len(answered))
    assert first >= 0.99, f"only {first:.1%} of {len(answered)} commands were answered at the first attempt"


def redis_lost(run: Run) -> None:
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
    run.commands_again()
    run.caught_up()


def overload(run: Run) -> None:
    """Three times what it can do, and then two thousand connections that say nothing."""
    report = _overloaded(run.stand.data, 30.0 if run.is_full else 10.0)  # one pause of the machine is no hundredth
    run.did.append(
        f"{report.offered:,.0f} commands a second offered, {report.peak:,.0f} are the peak: {report.share:.0%} of it done,"
        f" the others turned away, p99 after {report.told_p99_ms:.0f} ms"
    )
    assert not report.others, f"some were answered otherwise: {report.others}"
    assert report.shed > 0, "nobody was turned away"
    assert report.share >= GOODPUT_MIN, f"{report.share:.0%} of the peak was done"
    assert report.told_p99_ms <= TOLD_MS_MAX, f"turned away after {report.told_p99_ms:.0f} ms (p99)"
    with run.recovery("after overload", within_s=RECOVERED_WITHIN_S):
        run.commands_again()
    _storm(run)
    with run.recovery("after the storm", within_s=RECOVERED_WITHIN_S):
        run.commands_again()
        run.stand.until(lambda: run.stand.is_ready("command"), "the command process is not ready")
    run.caught_up()


def _overloaded(data: Path, window_s: float) -> Overload:
    """What `python -m bench overload` reports. A process of its own: beside clients it would be late with everything."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--data", str(data), "--window", str(window_s), "--results", folder]
        done = subprocess.run(
            [sys.executable, "-m", "bench", "overload", *asked], capture_output=True, text=True, check=False, cwd=ROOT
        )
        reports = list(Path(folder).glob("*.json"))
        assert reports, done.stderr
        return msgspec.json.decode(reports[0].read_bytes(), type=Overload)


def _storm(run: Run) -> None:
    parts = urlsplit(run.stand.url("command"))
    place = (parts.hostname or "", parts.port or 80)
    with ExitStack() as opened:
        for _ in range(STORM):
            opened.enter_context(socket.create_connection(place, timeout=10))
        run.did.append(f"{STORM:,} connections that say nothing")
        run.more_commands(20)
        assert run.stand.is_ready("command"), "the command process is not ready in the storm"


def network_slow(run: Run) -> None:
    rng = random.Random(run.rng.random())
    seconds = 30 if run.is_full else 3
    with (
        _nobody_without_connection(run),
        _bad(run, "every answer of Postgres 100 to 300 ms late", delay_s=lambda: 0.1 + 0.2 * rng.random()),
    ):
        before, refused = time.monotonic(), len(run.readers.refused)
        run.more_commands(5)
        run.some_time(seconds)
        run.more_commands(5)
        answered = [known for known in run.load.acknowledged if known.began > before]
        assert all(known.attempts == 1 for known in answered), (
            "a command was turned away: no connection was free in time"
        )
        codes = set(run.readers.refused[refused:]) - {"read_model_behind"}  # as slow as the line
        assert not codes, f"queries were turned away: {', '.join(codes)}"
        for part in ASKING:
            assert run.stand.is_ready(part), f"the {part} process calls itself not ready while it answers"
    run.commands_again(within_s=RECOVERED_WITHIN_S)
    with (
        _nobody_without_connection(run),
        _bad(run, f"{LOST:.0%} of what is sent to and from Postgres lost", is_lost=lambda: rng.random() < LOST),
    ):
        run.more_commands(5)
        run.some_time(seconds)
    run.commands_again(within_s=RECOVERED_WITHIN_S)
    run.stand.postgres.set(is_silent=True)
    run.did.append("Postgres silent on open connections")
    try:
        _told_in_time(run)
        for part in ASKING:
            run.stand.until(
                lambda part=part: not run.stand.is_ready(part),  # type: ignore[misc]
                f"the {part} process calls itself ready",
                within_s=30,
            )
    finally:
        run.stand.postgres.set(is_silent=False)
        run.stand.postgres.cut()
    run.commands_again(within_s=RECOVERED_WITHIN_S)
    with run.recovery("ready"):
        run.stand.ready_again()
    _all_connections_back(run)
    run.caught_up()


def _told_in_time(run: Run) -> None:
    """A command that waits behind one which was sent, and a query, hear no later than their time is over that there is no answer."""
    run.stand.until(
        lambda: run.stand.figure("command", IN_FLIGHT) > run.load.writers,  # and who looks
        "not every client waits for an answer",
    )
    asked: Mapping[str, tuple[int, Callable[[], tuple[int, bytes] | None]]] = {
        "command": (
            shipped(CommandSettings, "command_seconds_max"),
            lambda: run.load.one_more_at(run.stand.url("command")),
        ),
        "query": (shipped(QuerySettings, "query_seconds_max"), run.readers.one_more),
    }
    with ThreadPoolExecutor() as threads:
        told = {what: threads.submit(_timed, ask) for what, (_, ask) in asked.items()}
    for what, (seconds_max, _) in asked.items():
        answer, took = told[what].result()
        assert answer is not None, f"a {what} was not answered in {took:.0f} s"
        assert answer[0] == 503, f"a {what} was answered {answer[0]} {answer[1]!r}"
        assert took <= seconds_max + LATE_S_MAX, f"a {what} was answered after {took:.1f} s, and has {seconds_max} s"
        run.did.append(f"a {what} answered 503 {json.loads(answer[1])['code']} after {took:.1f} s")


def _timed(ask: Callable[[], tuple[int, bytes] | None]) -> tuple[tuple[int, bytes] | None, float]:
    begun = time.monotonic()
    return ask(), time.monotonic() - begun


@contextmanager
def _nobody_without_connection(run: Run) -> Iterator[None]:
    """Every batch of commands and every query gets a connection in time meanwhile."""

    def refused(part: str) -> float:
        return run.stand.figure(part, f"daybook_{part}_postgres_refused_total")

    before = {part: refused(part) for part in ASKING}
    yield
    for part in ASKING:
        more = refused(part) - before[part]
        assert more == 0, f"the {part} process had no connection in time {more:.0f} times"


def _all_connections_back(run: Run) -> None:
    """A connection that nobody gives back would be in use for ever; clients use theirs for moments."""
    states = {"command": '{{state="{}"}}', "query": '{{server="primary",state="{}"}}'}

    def all_idle(part: str) -> bool:
        idle, used = (
            run.stand.figure(part, f"daybook_{part}_postgres_connections{states[part].format(state)}")
            for state in ("idle", "used")
        )
        return idle > 0 and used == 0

    with run.recovery("connections back", within_s=RECOVERED_WITHIN_S):
        for part in ASKING:
            run.stand.until(lambda part=part: all_idle(part), f"a connection of the {part} process is not given back")  # type: ignore[misc]


@contextmanager
def _bad(run: Run, told: str, **how: object) -> Iterator[None]:
    """The wires to Postgres are so meanwhile."""
    run.stand.postgres.set(**how)
    run.did.append(told)
    try:
        yield
    finally:
        run.stand.postgres.set(**dict.fromkeys(how))


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
