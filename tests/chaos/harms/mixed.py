"""Harms together: one after another, chosen at random, while mild ones go on beside them.

Only those are mixed that claim nothing about how long commands take and how often they are tried: mild harms would be to blame.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psycopg
import redis

from tests.chaos.harms import events, network, postgres, processes
from tests.chaos.running import Run
from tests.chaos.stand import in_background

MIXED_S = float(os.environ.get("DAYBOOK_CHAOS_SECONDS", "3600"))  # of the mixture in full
MOMENT_S_MAX = 1.0  # of a mild harm, and of the pause before the next; a lease of the stand is twice as long
FREEZING = ("command", "query", "kafka")  # the harms themselves freeze the others, and count on it
OF_PROCESSES = "select pid from pg_stat_activity where usename = any(%s) order by pid"
ROLES = ["daybook_command", "daybook_query", "daybook_relay", "daybook_projector"]
GONE = (ProcessLookupError, psycopg.OperationalError, redis.RedisError)  # a harm was there first


def mixed(run: Run) -> None:
    """Harms of all kinds, one after another; in full for an hour, of many short ones."""
    harms = [
        postgres.postgres_restarted,
        processes.command_killed,
        postgres.reply_lost,
        processes.relay_killed,
        processes.projector_killed,
        events.kafka_restarted,
        network.redis_lost,
    ]
    until = time.monotonic() + (MIXED_S if run.is_full else 0.0)
    run.is_full = False
    first = run.rng.sample(harms, 3)
    with _mild_harms(run):
        while first or time.monotonic() < until:
            harm = first.pop() if first else run.rng.choice(harms)
            harm(run)
            run.stand.end_more()  # a relay of this one would do what the next wants another to do


@contextmanager
def _mild_harms(run: Run) -> Iterator[None]:
    """One mild harm after another is done meanwhile, at random moments."""
    rng = random.Random(run.rng.random())
    done: Counter[str] = Counter()

    def work(stop: threading.Event) -> None:
        while not stop.wait(rng.random() * MOMENT_S_MAX):
            name = rng.choice(list(MILD))
            try:
                MILD[name](run, rng)
            except GONE:
                continue
            done[name] += 1

    end = in_background(work)
    try:
        yield
    finally:
        end()
        run.did.append(f"meanwhile {', '.join(f'{name} {times} times' for name, times in sorted(done.items()))}")
    assert done.total() > 0, "no mild harm was done"


def _frozen(run: Run, rng: random.Random) -> None:
    with run.stand.frozen(rng.choice(FREEZING)):
        time.sleep(rng.random() * MOMENT_S_MAX)


def _flushed(run: Run, _: random.Random) -> None:
    with redis.Redis.from_url(run.stand.redis_url) as client:
        client.flushall()


def _ended(run: Run, rng: random.Random) -> None:
    with run.stand.admin() as admin:
        pids = [pid for (pid,) in admin.execute(OF_PROCESSES, [ROLES])]
        if pids:
            admin.execute("select pg_terminate_backend(%s)", [rng.choice(pids)])


def _slow(run: Run, rng: random.Random) -> None:
    wire, late_s = rng.choice((run.stand.postgres, run.stand.redis)), 0.15 * rng.random()
    wire.set(delay_s=lambda: late_s)
    try:
        time.sleep(rng.random() * MOMENT_S_MAX)
    finally:
        wire.set(delay_s=None)


MILD: Mapping[str, Callable[[Run, random.Random], None]] = {
    "a process frozen": _frozen,
    "Redis flushed": _flushed,
    "a session of Postgres ended": _ended,
    "a wire slow": _slow,
}
