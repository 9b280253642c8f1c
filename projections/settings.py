"""The settings of relay and projector, each with its variable `DAYBOOK_<NAME>`; one struct a process."""

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
    ProcessSettings,
)

Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]

# What both processes read. The structs cannot share a base: the projector serves HTTP, and a struct has one line of ancestors.
KafkaBootstrap = Annotated[str, Meta(min_length=1, description="Kafka's bootstrap servers, host:port with commas")]
KafkaTopic = Annotated[str, Meta(min_length=1, max_length=249, description="Topic of all events")]
PostgresConnectMs = Annotated[
    int,
    Meta(ge=1_000, le=60_000, description="Longest a connection may take to be made, in whole seconds, at least 2"),
]
PostgresSilenceMs = Annotated[
    Milliseconds,
    Meta(
        description="A host that acknowledges nothing of what it was sent, or is silent so long after a statement's time, is gone"
    ),
]
PostgresLockMs = Annotated[Milliseconds, Meta(description="Longest wait for a lock in Postgres")]
PostgresStatementMs = Annotated[Milliseconds, Meta(description="Longest a statement may run")]
PostgresIdleMs = Annotated[Milliseconds, Meta(description="Longest a transaction may idle between its statements")]
PostgresTransactionMs = Annotated[
    Milliseconds, Meta(description="Longest a whole transaction may take, on servers that know such a bound")
]
KafkaConnectMs = Annotated[
    int, Meta(ge=1_000, le=600_000, description="Longest a connection to a broker may take to be made")
]
KafkaRequestMs = Annotated[
    int, Meta(ge=2_000, le=300_000, description="Longest a broker may take to answer; the connection is made anew then")
]
KafkaAdminMs = Annotated[
    int, Meta(ge=100, le=60_000, description="Longest it may take to look for a topic, and to make one")
]
BatchBytesMax = Annotated[
    int, Meta(ge=1024, description="Most bytes of events read from the log at once (one event always fits)")
]
BatchLedgersMax = Annotated[int, Meta(ge=1, description="Most ledgers read from the log at once")]
WatchMs = Annotated[Milliseconds, Meta(description="How often metrics look how far the log and its readers are")]
RetryMs = Annotated[Milliseconds, Meta(description="First wait after a failure; it doubles each time")]
RetryMaxMs = Annotated[Milliseconds, Meta(description="Longest wait after failures")]


class RelaySettings(ProcessSettings, frozen=True, kw_only=True):
    """`python -m projections relay`."""

    # Chosen: a batch is written in a fraction of a second; an index over a year of events takes a minute.
    postgres_connect_ms: PostgresConnectMs = 5_000
    postgres_silence_ms: PostgresSilenceMs = 15_000
    postgres_lock_ms: PostgresLockMs = 5_000
    postgres_statement_ms: PostgresStatementMs = 120_000
    postgres_idle_ms: PostgresIdleMs = 10_000  # chosen: who stands still in a transaction holds others up for no longer
    postgres_transaction_ms: PostgresTransactionMs = 240_000
    kafka_bootstrap: KafkaBootstrap
    kafka_topic: KafkaTopic = "daybook.events"
    kafka_connect_ms: KafkaConnectMs = 30_000
    kafka_request_ms: KafkaRequestMs = 60_000
    kafka_admin_ms: KafkaAdminMs = 5_000  # within the time that a process has to end
    health_host: Annotated[str, Meta(min_length=1, description="Address of /health and /metrics")] = "127.0.0.1"
    health_port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of /health and /metrics")]
    batch_bytes_max: BatchBytesMax = 16_000_000
    batch_ledgers_max: BatchLedgersMax = 500
    retry_ms: RetryMs = 200
    retry_max_ms: RetryMaxMs = 2_000
    watch_ms: WatchMs = 2_000
    kafka_partitions: Annotated[int, Meta(ge=1, description="Partitions of the topic where the relay makes it")] = 6
    kafka_replicas: Annotated[
        int, Meta(ge=0, description="Replicas of the topic where the relay makes it; 0: as many as the brokers give")
    ] = 0
    kafka_stall_ms: Annotated[
        Milliseconds,
        Meta(description="Longest that Kafka may take for its next delivery report; then the batch begins again"),
    ] = 30_000
    batch_events_max: Annotated[int, Meta(ge=1, le=100_000, description="Most events published at once")] = 5_000
    round_ms: Annotated[
        int, Meta(ge=0, description="Shortest time between batches, so that a busy log makes larger ones")
    ] = 20
    rest_ms_max: Annotated[
        int,
        Meta(
            ge=0, description="Longest rest after a batch; beyond 1,200 events a second three times as long as it took"
        ),
    ] = 100
    lease_ms: Annotated[Milliseconds, Meta(description="How long a silent relay keeps others from taking over")] = 6_000
    stop_ms: Annotated[Milliseconds, Meta(description="How long a batch may still take after SIGTERM")] = 5_000
    poll_ms: Annotated[Milliseconds, Meta(description="Longest wait before all ledgers are looked at")] = 1_000
    breaker_window_ms: BreakerWindowMs = 10_000
    breaker_calls_min: BreakerCallsMin = 20
    breaker_failures_percent: BreakerFailuresPercent = 50
    kafka_breaker_failures_in_row: BreakerFailuresInRow = (
        2  # each try waits some seconds for an answer already, and one relay asks at a time
    )
    kafka_breaker_open_ms: BreakerOpenMs = 2_000
    kafka_breaker_probes_max: BreakerProbesMax = 1


class ProjectorSettings(HttpSettings, frozen=True, kw_only=True):
    """`python -m projections projector`."""

    http_port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of the operators' API, /health and /metrics")]
    # Chosen: a batch is written in a fraction of a second; an index over a year of events takes a minute.
    postgres_connect_ms: PostgresConnectMs = 5_000
    postgres_silence_ms: PostgresSilenceMs = 15_000
    postgres_lock_ms: PostgresLockMs = 5_000
    postgres_statement_ms: PostgresStatementMs = 120_000
    postgres_idle_ms: PostgresIdleMs = 10_000  # chosen: who stands still in a transaction holds others up for no longer
    postgres_transaction_ms: PostgresTransactionMs = 240_000
    kafka_bootstrap: KafkaBootstrap
    kafka_topic: KafkaTopic = "daybook.events"
    kafka_connect_ms: KafkaConnectMs = 30_000
    kafka_request_ms: KafkaRequestMs = 60_000
    kafka_admin_ms: KafkaAdminMs = 5_000  # within the time that a process has to end
    batch_bytes_max: BatchBytesMax = 16_000_000
    batch_ledgers_max: BatchLedgersMax = 500
    retry_ms: RetryMs = 200
    retry_max_ms: RetryMaxMs = 2_000
    watch_ms: WatchMs = 2_000
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
    kafka_session_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=1_800_000,
            description="A consumer that the brokers hear nothing of loses its partitions to others after so long",
        ),
    ] = 6_000  # the least that brokers allow by default: a killed worker's partitions wait so long
    kafka_delivery_ms: Annotated[
        Milliseconds, Meta(description="A dead letter that Kafka has not taken by then is handed over again")
    ] = 30_000
    kafka_close_ms: Annotated[
        Milliseconds, Meta(description="Longest a consumer may take to commit its offsets and leave its group")
    ] = 5_000  # within the time that a process has to end
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
            ge=0, description="Longest rest after a batch; beyond 1,200 events a second three times as long as it took"
        ),
    ] = 250
    poll_ms: Annotated[Milliseconds, Meta(description="Longest wait for Kafka at once")] = 200
    heads_ms: Annotated[Milliseconds, Meta(description="How often positions are compared with all heads")] = 2_000
    silent_ms: Annotated[
        Milliseconds,
        Meta(
            description="A consumer that brings nothing for so long, while the log has to fill in what it should bring, is begun anew"
        ),
    ] = 15_000
    offsets_ms: Annotated[Milliseconds, Meta(description="How often offsets are committed to Kafka")] = 1_000
    swap_behind_max: Annotated[
        int, Meta(ge=0, description="Events that a new generation may be behind the log when it takes over")
    ] = 1_000
    feed_ms: Annotated[
        Milliseconds, Meta(description="How often generations that readers do not see are brought to the head")
    ] = 500
    rebuild_processes_max: Annotated[
        int, Meta(ge=1, le=64, description="Processes that share the ledgers of a rebuild")
    ] = 2
    rebuild_shared_events_min: Annotated[
        int,
        Meta(
            ge=1,
            description="Fewer events are rebuilt by one process: starting another costs more than it saves (measured)",
        ),
    ] = 20_000
    rebuild_batch_events_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most events that a rebuild writes at once")
    ] = 3_000
    rebuild_rows_max: Annotated[
        int, Meta(ge=1, description="Last rows that a rebuild keeps in memory, of each table, twice over")
    ] = 250_000
    build_statement_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400_000,
            description="Longest a statement of a job may run that compares or indexes all of a read model, and wait for such an index",
        ),
    ] = 7_200_000
    build_transaction_ms: Annotated[
        int,
        Meta(
            ge=1, le=172_800_000, description="Longest such a transaction may take, on servers that know such a bound"
        ),
    ] = 14_400_000  # twice its longest statement
    job_lease_ms: Annotated[
        Milliseconds, Meta(description="How long a silent process keeps others from going on with its job")
    ] = 10_000
    job_report_ms: Annotated[Milliseconds, Meta(description="How often a job tells how far it is")] = 500
    job_attempts_max: Annotated[
        int, Meta(ge=1, description="How often a job is begun again without coming further before it has failed")
    ] = 5
    reconcile_hours: Annotated[
        int,
        Meta(ge=0, le=8_760, description="How often the live read model is compared with a fold of the log; 0: never"),
    ] = 0
    control_poll_ms: Annotated[
        int,
        Meta(ge=10, le=1_000, description="How often operators' wishes are looked for, were no notification to come"),
    ] = 500
