"""What the clock shows of itself to Prometheus, beside the figures of its executor."""

from prometheus_client import CollectorRegistry, Counter, Gauge

OUTCOMES = ("expired", "posted", "refused", "settled_before")


class PrometheusClock:
    """Implements `ClockMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "daybook_clock_ended",
            "Transactions that came off the list of those due: expired, posted, refused, or settled before by others",
            ("outcome",),
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._ended.labels(outcome)
        self._failures = Counter(
            "daybook_clock_failures", "Rounds and commands that failed and are tried again", registry=registry
        )
        self._due = Gauge("daybook_clock_due", "Transactions still due after the last round", registry=registry)
        self._late = Gauge(
            "daybook_clock_late_seconds", "For how long the oldest of these has been due", registry=registry
        )

    def ended(self, outcome: str) -> None:
        """A transaction is off the list."""
        self._ended.labels(outcome).inc()

    def looked(self, *, due: int, late_s: float) -> None:
        """A round is over."""
        self._due.set(due)
        self._late.set(late_s)

    def failed(self) -> None:
        """A round, or one of its commands, failed and will be tried again."""
        self._failures.inc()
