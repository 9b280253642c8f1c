"""The figures of the read side, beside those that every HTTP process has: waits for a position, and the use of connections."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from psycopg_pool import AsyncConnectionPool

from shared_kernel.metrics import LATENCY_BUCKETS


class QueryFigures:
    """Counts on a registry. Implements `application.query_handler.Waits`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._waits = Histogram(
            "daybook_query_position_wait_seconds",
            "Time that queries waited for their position, by whether it came (answered) or not (behind)",
            ("outcome",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._waits.labels("answered")
        self._waits.labels("behind")
        self.swaps = Counter(
            "daybook_query_generation_swaps", "Times that another generation was found live", registry=registry
        )

        self._connections = Gauge(
            "daybook_query_postgres_connections",
            "Connections of the pools by server and use",
            ("server", "state"),
            registry=registry,
        )
        self._waiting = Gauge(
            "daybook_query_postgres_waiting", "Queries that wait for a connection", ("server",), registry=registry
        )
        self._refused = Counter(
            "daybook_query_postgres_refused",
            "Times that a query got no connection in time",
            ("server",),
            registry=registry,
        )
        self._sources = Counter(
            "daybook_query_answers",
            "Questions by who answered them: primary, replica or cache",
            ("source",),
            registry=registry,
        )
        self._by_source = {source: self._sources.labels(source) for source in ("primary", "replica", "cache")}
        self._replicas = Gauge(
            "daybook_query_replica_is_up", "1 while a read replica may be asked", ("replica",), registry=registry
        )

    def answered_by(self, source: str) -> None:
        """One question was answered from there."""
        self._by_source[source].inc()

    def connection_refused(self, server: str) -> None:
        """One query waited for a connection to this server in vain."""
        self._refused.labels(server).inc()

    def replica_seen(self, name: str, *, is_up: bool) -> None:
        """What a replica's check found."""
        self._replicas.labels(name).set(is_up)

    def waited(self, ms: float, *, is_answered: bool) -> None:
        """One request waited this long."""
        self._waits.labels("answered" if is_answered else "behind").observe(ms / 1000)

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        """From now on it is shown how many queries wait for a position."""
        Gauge(
            "daybook_query_position_waiting", "Queries that wait for a position now", registry=self._registry
        ).set_function(waiting)

    def watch_streams(self, running: Callable[[], int]) -> None:
        """From now on it is shown how many exports and followers there are."""
        Gauge("daybook_query_streams", "Exports and followers of a log now", registry=self._registry).set_function(
            running
        )

    def watch_pool(self, pool: AsyncConnectionPool, server: str = "primary") -> None:
        """From now on the pool's state is shown, as it is when somebody looks."""
        self._connections.labels(server, "idle").set_function(lambda: pool.get_stats().get("pool_available", 0))
        self._connections.labels(server, "used").set_function(
            lambda: pool.get_stats().get("pool_size", 0) - pool.get_stats().get("pool_available", 0)
        )
        self._waiting.labels(server).set_function(lambda: pool.get_stats().get("requests_waiting", 0))
        self._refused.labels(server)
