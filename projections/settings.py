"""The settings of relay and projector, each with its variable `DAYBOOK_<NAME>`; one struct a process."""

from typing import Annotated

from msgspec import Meta

from shared_kernel.settings import ProcessSettings

Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]


class KafkaSettings(ProcessSettings, frozen=True, kw_only=True):
    """What both processes read."""

    kafka_bootstrap: Annotated[str, Meta(min_length=1, description="Kafka's bootstrap servers, host:port with commas")]
    kafka_topic: Annotated[str, Meta(min_length=1, max_length=249, description="Topic of all events")] = (
        "daybook.events"
    )
    health_host: Annotated[str, Meta(min_length=1, description="Address of /health and /metrics")] = "127.0.0.1"
    health_port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of /health and /metrics")]
    batch_bytes_max: Annotated[
        int, Meta(ge=1024, description="Most bytes of events read from the log at once (one event always fits)")
    ] = 16_000_000
    batch_ledgers_max: Annotated[int, Meta(ge=1, description="Most ledgers read from the log at once")] = 500
    retry_ms: Annotated[Milliseconds, Meta(description="First wait after a failure; it doubles each time")] = 200
    retry_max_ms: Annotated[Milliseconds, Meta(description="Longest wait after failures")] = 10_000


class RelaySettings(KafkaSettings, frozen=True, kw_only=True):
    """`python -m projections relay`."""

    kafka_partitions: Annotated[int, Meta(ge=1, description="Partitions of the topic where the relay makes it")] = 6
    kafka_replicas: Annotated[int, Meta(ge=1, description="Replicas of the topic where the relay makes it")] = 1
    batch_events_max: Annotated[int, Meta(ge=1, le=100_000, description="Most events published at once")] = 5_000
    round_ms: Annotated[
        int, Meta(ge=0, description="Shortest time between batches, so that a busy log makes larger ones")
    ] = 20
    rest_ms_max: Annotated[
        int,
        Meta(
            ge=0, description="Longest rest after a batch; beyond 1,500 events a second three times as long as it took"
        ),
    ] = 100
    lease_ms: Annotated[Milliseconds, Meta(description="How long a silent relay keeps others from taking over")] = 6_000
    stop_ms: Annotated[Milliseconds, Meta(description="How long a batch may still take after SIGTERM")] = 5_000
    poll_ms: Annotated[Milliseconds, Meta(description="Longest wait before all ledgers are looked at")] = 1_000


class ProjectorSettings(KafkaSettings, frozen=True, kw_only=True):
    """`python -m projections projector`."""

    projections: Annotated[
        str,
        Meta(
            pattern=r"^([a-z][a-z0-9_]*(,[a-z][a-z0-9_]*)*)?$",
            description="Which projections this process feeds, with commas; empty: all that are installed",
        ),
    ] = ""
    kafka_group_prefix: Annotated[
        str, Meta(min_length=1, description="Consumer groups are named <prefix>.<projection>")
    ] = "daybook"
    batch_events_max: Annotated[int, Meta(ge=1, le=100_000, description="Most events written at once")] = 3_000
    rows_max: Annotated[int, Meta(ge=1, description="Last rows kept in memory, of each table, twice over")] = 250_000
    tries_max: Annotated[int, Meta(ge=1, description="Tries of a batch before what cannot go on is set aside")] = 3
    waiting_retry_ms: Annotated[Milliseconds, Meta(description="First wait of a ledger that stands still")] = 500
    waiting_retry_max_ms: Annotated[Milliseconds, Meta(description="Longest wait of such a ledger")] = 60_000
    standing_ms: Annotated[
        Milliseconds,
        Meta(description="How often it is looked which ledgers stand still, and what operators say of them"),
    ] = 500
    parked_ledgers_max: Annotated[
        int, Meta(ge=0, description="Most ledgers that may be parked before the projection stops")
    ] = 100
    round_ms: Annotated[
        int, Meta(ge=0, description="Shortest time between batches, so that a busy log makes larger ones")
    ] = 30
    rest_ms_max: Annotated[
        int,
        Meta(
            ge=0, description="Longest rest after a batch; beyond 1,500 events a second three times as long as it took"
        ),
    ] = 250
    poll_ms: Annotated[Milliseconds, Meta(description="Longest wait for Kafka at once")] = 200
    heads_ms: Annotated[Milliseconds, Meta(description="How often positions are compared with all heads")] = 2_000
    offsets_ms: Annotated[Milliseconds, Meta(description="How often offsets are committed to Kafka")] = 1_000
    swap_behind_max: Annotated[
        int, Meta(ge=0, description="Events that a new generation may be behind the log when it takes over")
    ] = 1_000
