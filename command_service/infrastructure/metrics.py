"""What the command process shows of itself to Prometheus beside its HTTP figures: one object, built once, handed to who counts.

Implements the metrics that the executor's writers and the locks name. Labels have few values: never a ledger,
an account or a key.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared_kernel.event_log.pool import LogPool
from shared_kernel.metrics import Counts

# Chosen: an append of one event takes under a millisecond on a local disk (executor.md §4), a stalled one seconds.
APPEND_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
HELD_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
BATCH_COMMANDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class CommandMetrics:
    """Every figure of the write side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"daybook_{name}", text, labels, registry=registry)

        self._registry = registry
        self._commands = Counts(
            "daybook_commands",
            "Commands answered, by outcome: accepted or the code",
            ("command", "outcome"),
            registry=registry,
        )
        self._replays = counter("replays", "Commands answered again with their first answer")
        self._conflicts = counter("append_conflicts", "Appends in which a fence failed")
        self._redecisions = counter("redecisions", "Commands decided again because a fence failed")
        self._loads = counter("loads", "Looks at the log for states or keys")
        self._slow_path = counter("slow_path", "Commands decided under the lock of a ledger's head")
        self._unknown = counter("unknown_outcomes", "Appends whose connection was lost before the answer")
        self._batch = Histogram(
            "daybook_batch_commands", "Commands in one append", buckets=BATCH_COMMANDS, registry=registry
        )
        self._append = Histogram(
            "daybook_append_seconds", "Time of one append, commit included", buckets=APPEND_SECONDS, registry=registry
        )
        self._leases_held = Gauge("daybook_leases_held", "Ledgers whose lease this worker has", registry=registry)
        self._leases = counter(
            "leases", "Answers about ledger leases: taken, kept, refused, lost, stepped_down, shared", "result"
        )
        self._account_locks = counter(
            "account_locks", "Account locks taken, refused, released, lost, unanswered", "result"
        )
        self._account_locks_held = Histogram(
            "daybook_account_locks_held_seconds",
            "How long the account locks of one batch were held",
            buckets=HELD_SECONDS,
            registry=registry,
        )
        self._set_aside = counter(
            "set_aside", "Times that a command waited for a later batch, for others hold its locks"
        )
        self._without_lock = counter("without_lock", "Commands decided without their locks after waiting for them")
        self._refused = counter("command_postgres_refused", "Times that a batch got no connection in time")
        self._redis_up = Gauge("daybook_redis_up", "Whether Redis answered when it was last asked", registry=registry)

    def watch(self, queue_depth: Callable[[], int], pool: LogPool) -> None:
        """Reads how many commands wait to be decided, and how the connections are used, whenever somebody looks."""
        queue = Gauge("daybook_queue_depth", "Commands waiting to be decided", registry=self._registry)
        queue.set_function(queue_depth)
        connections = Gauge(
            "daybook_command_postgres_connections",
            "Connections of the pool by use",
            ("state",),
            registry=self._registry,
        )
        connections.labels("idle").set_function(lambda: pool.idle)
        connections.labels("used").set_function(lambda: pool.used)
        waiting = Gauge(
            "daybook_command_postgres_waiting", "Batches that wait for a connection", registry=self._registry
        )
        waiting.set_function(lambda: pool.waiting)

    def connection_refused(self) -> None:
        """Somebody waited for a connection in vain."""
        self._refused.inc()

    # What a ledger's writer counts (application/writer.py).

    def appended(self, *, commands: int, seconds: float) -> None:
        """One append came back."""
        self._batch.observe(commands)
        self._append.observe(seconds)

    def conflicted(self, *, commands: int) -> None:
        """Commands fell with a failed fence and are decided again."""
        self._conflicts.inc()
        self._redecisions.inc(commands)

    def loaded(self) -> None:
        """States or keys were read from the log."""
        self._loads.inc()

    def took_slow_path(self) -> None:
        """A command was decided under the head's lock."""
        self._slow_path.inc()

    def set_aside(self, *, commands: int) -> None:
        """Commands wait for a later batch, because others hold locks of theirs."""
        self._set_aside.inc(commands)

    def went_without_lock(self, *, commands: int) -> None:
        """Commands had waited long enough and were decided without their locks."""
        self._without_lock.inc(commands)

    def outcome_unknown(self) -> None:
        """A connection was lost with an append under way."""
        self._unknown.inc()

    def answered(self, *, command: str, outcome: str, is_replay: bool) -> None:
        """A command was answered: "accepted", or the code of its refusal or rejection."""
        self._commands.add(command, outcome)
        if is_replay:
            self._replays.inc()

    # What the locks count (lease.py, account_locks.py, redis_link.py).

    def leases_held(self, count: int) -> None:
        """Ledgers whose lease this worker has now."""
        self._leases_held.set(count)

    def lease_asked(self, result: str) -> None:
        """One answer: taken, kept, refused, lost, stepped_down or shared."""
        self._leases.labels(result).inc()

    def account_locks(self, result: str, count: int) -> None:
        """So many locks were taken, refused, released or lost."""
        self._account_locks.labels(result).inc(count)

    def account_locks_held(self, seconds: float) -> None:
        """The locks of one batch were given back after so long."""
        self._account_locks_held.observe(seconds)

    def redis_answered(self, is_up: bool) -> None:
        """Redis did or did not answer the last round."""
        self._redis_up.set(is_up)
