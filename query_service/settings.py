"""What a query process reads from its environment: every bound and time-out of the read side by name."""

from typing import Annotated

from msgspec import Meta

from shared_kernel.settings import (
    BreakerCallsMin,
    BreakerFailuresInRow,
    BreakerFailuresPercent,
    BreakerOpenMs,
    BreakerProbesMax,
    BreakerWindowMs,
    HttpSettings,
    Secret,
)


class QuerySettings(HttpSettings, frozen=True, kw_only=True):
    """Settings of `python -m query_service`."""

    http_port: Annotated[int, Meta(ge=1, le=65535, description="TCP port of the HTTP API")] = 8081
    postgres_connections_max: Annotated[
        int, Meta(ge=1, le=200, description="Connections for queries, beside the one that listens")
    ] = 8
    postgres_requests_waiting_max: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Queries that may wait for a connection; more are refused as overloaded"),
    ] = 1_000
    postgres_pool_wait_ms: Annotated[
        int, Meta(ge=10, le=60_000, description="Longest that a query waits for connections, all its attempts together")
    ] = 2_000
    postgres_connect_ms: Annotated[
        int,
        Meta(ge=1_000, le=60_000, description="Longest a connection may take to be made, in whole seconds, at least 2"),
    ] = 3_000
    postgres_silence_ms: Annotated[
        int, Meta(ge=1, le=3_600_000, description="A host that acknowledges nothing for so long is gone")
    ] = 10_000
    postgres_reconnect_ms: Annotated[
        int,
        Meta(ge=1, le=600_000, description="Attempts to connect are given up after so long, until somebody asks again"),
    ] = 5_000
    postgres_statement_ms: Annotated[int, Meta(ge=10, le=600_000, description="Longest a statement may run")] = 10_000
    postgres_overdue_ms: Annotated[
        int,
        Meta(ge=1, le=60_000, description="So long after a statement's time a server that says nothing is given up"),
    ] = 1_000
    postgres_replica_urls: Annotated[
        Secret | None,
        Meta(
            description="libpq URLs of read replicas, separated by spaces or line ends; the role is that of postgres_url"
        ),
    ] = None
    postgres_replica_check_ms: Annotated[
        int,
        Meta(ge=50, le=60_000, description="How often a replica is looked at, and how long it may take to answer that"),
    ] = 1_000
    postgres_replica_lag_ms_max: Annotated[
        int, Meta(ge=0, le=3_600_000, description="A replica that is further behind is not asked")
    ] = 10_000
    query_seconds_max: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="Longest that a request may take, its wait for a position among it; each piece of a stream or an export has as long",
        ),
    ] = 15
    wait_ms: Annotated[
        int, Meta(ge=0, le=60_000, description="How long a query waits for its Daybook-Position where it does not say")
    ] = 2_000
    wait_ms_max: Annotated[
        int, Meta(ge=0, le=60_000, description="The longest wait that Prefer: wait= may ask for")
    ] = 10_000
    visible_poll_ms: Annotated[
        int,
        Meta(ge=5, le=10_000, description="How often a waiting query looks by itself, were no notification to come"),
    ] = 100

    cache_url: Annotated[
        Secret | None,
        Meta(description="Redis URL for the cache of answers; never the one that holds the locks. Empty: no cache"),
    ] = None
    cache_seconds_max: Annotated[
        int, Meta(ge=1, le=86_400, description="Longest that an answer is kept in the cache")
    ] = 3_600
    cache_live_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Longest that a balance is kept that no position names, were no announcement to come that it is old",
        ),
    ] = 1_000
    cache_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="Most that one process has in the cache at a time; forgotten at its restart (docs/operations.md, Cache)",
        ),
    ] = 64 * 1024 * 1024
    cache_entry_bytes_max: Annotated[
        int, Meta(ge=0, le=2**30, description="A longer answer is not kept in the cache")
    ] = 64 * 1024
    cache_timeout_ms: Annotated[
        int, Meta(ge=1, le=10_000, description="Longest wait for the cache; then it is left alone for a second")
    ] = 50
    streams_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Exports and followers of a log at once; more are refused as overloaded")
    ] = 100
    stream_reads_max: Annotated[
        int,
        Meta(ge=1, le=200, description="Statements at once for all of these together, so that queries are not held up"),
    ] = 3
    follow_poll_ms: Annotated[
        int, Meta(ge=5, le=60_000, description="How often a follower looks by itself, were no notification to come")
    ] = 1_000
    stream_stall_seconds_max: Annotated[
        int, Meta(ge=1, le=3_600, description="A client that takes nothing of a stream for so long is cut off")
    ] = 60

    breaker_window_ms: BreakerWindowMs = 10_000
    breaker_calls_min: BreakerCallsMin = 20
    breaker_failures_percent: BreakerFailuresPercent = 50
    postgres_breaker_failures_in_row: BreakerFailuresInRow = 5
    postgres_breaker_open_ms: BreakerOpenMs = 1_000
    postgres_breaker_probes_max: BreakerProbesMax = 2
    cache_breaker_failures_in_row: BreakerFailuresInRow = 2  # each costs a query its time-out, and the books are there
    cache_breaker_open_ms: BreakerOpenMs = 1_000
    cache_breaker_probes_max: BreakerProbesMax = 1
    replica_breaker_failures_in_row: BreakerFailuresInRow = 1  # the primary is there
    replica_breaker_open_ms: BreakerOpenMs = 1_000
    replica_breaker_probes_max: BreakerProbesMax = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wait_ms > self.wait_ms_max:
            raise ValueError("DAYBOOK_WAIT_MS: is above DAYBOOK_WAIT_MS_MAX")
