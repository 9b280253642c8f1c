"""What the monitor shows of itself and of its last look to Prometheus, beside its HTTP figures.

Labels have few values: kinds of findings, projections; never a session, a ledger or a key.
"""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daybook.monitor.domain.alerts import Action
from daybook.monitor.domain.findings import KINDS
from daybook.monitor.domain.looks import Look
from shared_kernel.metrics import LATENCY_BUCKETS


class MonitorFigures:
    """Implements `Figures`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"daybook_monitor_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"daybook_monitor_{name}", text, labels, registry=registry)

        self._looks = Histogram(
            "daybook_monitor_look_seconds",
            "Time of one look that this monitor took",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._failures = counter("look_failures", "Looks that failed")
        self._findings = counter("findings", "Things found wrong, each once as long as it lasts", "kind")
        self._raised = counter("alerts_raised", "Alerts raised", "kind")
        self._alerts = gauge("alerts", "Alerts that are raised now, whichever monitor raised them", "kind")
        self._told = counter("notices", "Messages to the webhook: sent, failed after all attempts, dropped", "result")
        self._actions = counter("signals", "Sessions signalled by policy: cancelled, terminated, failed", "action")
        self._blocked = gauge("sessions_blocked", "Sessions that wait for a lock of another, at its last look")
        self._transaction = gauge("transaction_seconds_max", "Age of the oldest transaction, at its last look")
        self._locks = gauge("locks", "Locks in Redis, at its last look")
        self._deadlocks = gauge("deadlocks", "Deadlocks that Postgres has counted in all databases, at its last look")
        self._lag_events = gauge("lag_events", "Events behind the log, at its last look", "reader")
        self._lag_seconds = gauge("lag_seconds", "For how long the oldest of them waits, at its last look", "reader")
        for kind in KINDS:
            self._alerts.labels(kind).set(0)

    def looked(self, look: Look, seconds: float) -> None:
        """One look was taken by this monitor."""
        self._looks.observe(seconds)
        self._blocked.set(sum(session.waits_for is not None for session in look.sessions))
        self._transaction.set(max((each.transaction_ms for each in look.sessions if each.is_client), default=0) / 1_000)
        self._locks.set(sum(lock.kind not in ("relay", "writers") for lock in look.locks))
        self._deadlocks.set(sum(look.deadlocks.values()))
        for lag in look.lags:
            if lag.is_live:
                self._lag_events.labels(lag.reader).set(lag.events)
                self._lag_seconds.labels(lag.reader).set(lag.lag_ms / 1_000)

    def failed(self) -> None:
        """A look failed."""
        self._failures.inc()

    def found(self, kind: str) -> None:
        """Something is wrong that was not before."""
        self._findings.labels(kind).inc()

    def raised(self, kind: str) -> None:
        """An alert was raised."""
        self._raised.labels(kind).inc()

    def alerts_are(self, kinds: Sequence[str]) -> None:
        """The kinds of all alerts that are raised now."""
        count = Tally(kinds)
        for kind in KINDS:
            self._alerts.labels(kind).set(count[kind])

    def acted(self, action: Action) -> None:
        """A session was signalled, or that failed."""
        self._actions.labels(action).inc()

    def told(self, result: str) -> None:
        """What became of a message to the webhook."""
        self._told.labels(result).inc()
