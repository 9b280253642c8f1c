"""What command process and clock are told by their environment. Every bound has a name, a unit and a default (chosen unless said)."""

from typing import Annotated, Literal

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
    Secret,
)

LogSilenceTimeoutMs = Annotated[
    int, Meta(ge=1, le=3_600_000, description="A Postgres host that acknowledges nothing for so long is gone")
]
LogSettleTimeoutMs = Annotated[
    int,
    Meta(
        ge=3,
        le=600_000,
        description="Longest that the session behind a lost connection is hunted; until it has ended nobody knows whether its append came about",
    ),
]
Locks = Literal["adaptive", "off", "always"]


class CommandSettings(HttpSettings, frozen=True, kw_only=True):
    """The settings of `python -m command_service`."""

    http_port: Annotated[int, Meta(ge=1, le=65535, description="TCP port of the HTTP API")] = 8080
    http_body_bytes_max: Annotated[int, Meta(ge=1024, description="Longest request body taken")] = 4 * 1024 * 1024
    query_public_url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$(?!\n)",
            description="Where clients reach the query service; `Location` headers begin with it",
        ),
    ]

    redis_url: Annotated[Secret, Meta(description="Redis for leases and account locks; empty: no locks")] = Secret("")
    locks: Annotated[
        Locks,
        Meta(
            description="adaptive: the ledger's lease, and account locks while several write to it; always: account locks; off: none"
        ),
    ] = "adaptive"
    lease_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="How long a lease or an account lock lasts; renewed at a third")
    ] = 6_000
    lease_ledgers_max: Annotated[
        int, Meta(ge=1, description="Ledgers that leases are asked for; others go without")
    ] = 1_000
    redis_timeout_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="Longest wait for Redis where no command waits for it")
    ] = 500
    lock_timeout_ms: Annotated[
        int,
        Meta(ge=1, le=60_000, description="Longest a command waits for Redis to answer; then it goes without locks"),
    ] = 100
    lock_wait_ms: Annotated[
        int, Meta(ge=0, le=60_000, description="Longest a command is set aside for a lock; then it goes without")
    ] = 200
    lock_slow_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=600_000,
            description="Account locks that are held, and appends that take, longer are logged at warning",
        ),
    ] = 500

    effective_ahead_days_max: Annotated[
        int, Meta(ge=0, le=36_500, description="How far in the future an effective or scheduled time may lie")
    ] = 366
    command_seconds_max: Annotated[
        int, Meta(ge=1, le=600, description="Longest a command may wait to be decided; then it is turned away")
    ] = 10
    queue_commands_max: Annotated[
        int, Meta(ge=1, description="Commands to one ledger that may wait; then it is overloaded")
    ] = 10_000
    queue_wait_ms_max: Annotated[
        int,
        Meta(
            ge=1,
            le=600_000,
            description="Longest that the first of them may have waited; then the ledger is overloaded, however few wait",
        ),
    ] = 5_000
    batch_commands_max: Annotated[int, Meta(ge=1, le=10_000, description="Commands in one append")] = 256
    batch_entries_max: Annotated[int, Meta(ge=1, description="Entries in one append, about")] = 5_000
    conflicts_before_slow_path: Annotated[
        int, Meta(ge=1, description="Lost races after which a command is decided under the ledger's lock")
    ] = 2  # design §4
    follow_commands_min: Annotated[
        int,
        Meta(
            ge=0,
            description="Commands that are decided and sent while an append is still on its way, at least; 0: never",
        ),
    ] = 16  # measured: ADR 0009
    ledger_idle_seconds: Annotated[
        int, Meta(ge=1, description="How long the states of a ledger without commands stay in memory")
    ] = 300
    tail_events_max: Annotated[
        int, Meta(ge=1, description="Events of others taken in with one append; beyond it states are loaded anew")
    ] = 2_000
    tail_bytes_max: Annotated[int, Meta(ge=1, description="The same in bytes")] = 4_000_000

    log_connections_max: Annotated[int, Meta(ge=1, le=1_000, description="Connections to Postgres for appends")] = 8
    log_borrow_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a free connection to Postgres")] = (
        5_000
    )
    log_connect_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a new connection")] = 5_000
    log_silence_timeout_ms: LogSilenceTimeoutMs = 10_000
    log_settle_timeout_ms: LogSettleTimeoutMs = 15_000
    log_lock_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a ledger's lock in Postgres")] = 2_000
    log_statement_timeout_ms: Annotated[int, Meta(ge=1, description="Longest statement in Postgres")] = 10_000

    breaker_window_ms: BreakerWindowMs = 10_000
    breaker_calls_min: BreakerCallsMin = 20
    breaker_failures_percent: BreakerFailuresPercent = 50
    postgres_breaker_failures_in_row: BreakerFailuresInRow = 5
    postgres_breaker_open_ms: BreakerOpenMs = 1_000
    postgres_breaker_probes_max: BreakerProbesMax = 2
    redis_breaker_failures_in_row: BreakerFailuresInRow = (
        1  # one command in a second pays for a Redis that does not answer
    )
    redis_breaker_open_ms: BreakerOpenMs = 1_000
    redis_breaker_probes_max: BreakerProbesMax = 1

    def __post_init__(self) -> None:
        faults = []
        try:
            super().__post_init__()
        except ValueError as fault:
            faults.append(str(fault))
        if self.locks == "always" and not self.redis_url:
            faults.append("DAYBOOK_LOCKS: always needs DAYBOOK_REDIS_URL")
        if self.redis_timeout_ms * 3 > self.lease_ms:
            faults.append(
                "DAYBOOK_REDIS_TIMEOUT_MS: a third of DAYBOOK_LEASE_MS is the most, or renewals come too late"
            )
        if faults:
            raise ValueError("\n".join(faults))


class ClockSettings(ProcessSettings, frozen=True, kw_only=True):
    """The settings of `python -m command_service clock`."""

    health_host: Annotated[str, Meta(min_length=1, description="Address of /health and /metrics")] = "127.0.0.1"
    health_port: Annotated[int, Meta(ge=0, le=65535, description="TCP port of /health and /metrics")]
    poll_ms: Annotated[
        int, Meta(ge=1, le=3_600_000, description="How often the clock looks for what is due, about")
    ] = 500
    retry_max_ms: Annotated[int, Meta(ge=1, le=3_600_000, description="Longest wait after failures")] = 2_000
    page_commands_max: Annotated[
        int, Meta(ge=1, le=5_000, description="Transactions that are asked for, and ended, at once")
    ] = 500
    command_seconds_max: Annotated[
        int,
        Meta(
            ge=1,
            le=600,
            description="Longest a command of the clock may wait to be decided; the next round sends it again",
        ),
    ] = 5

    log_connections_max: Annotated[int, Meta(ge=1, le=1_000, description="Connections to Postgres for appends")] = 4
    log_borrow_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a free connection to Postgres")] = (
        5_000
    )
    log_connect_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a new connection")] = 5_000
    log_silence_timeout_ms: LogSilenceTimeoutMs = 10_000
    log_settle_timeout_ms: LogSettleTimeoutMs = 15_000
    log_lock_timeout_ms: Annotated[int, Meta(ge=1, description="Longest wait for a ledger's lock in Postgres")] = 2_000
    log_statement_timeout_ms: Annotated[int, Meta(ge=1, description="Longest statement in Postgres")] = 10_000

    breaker_window_ms: BreakerWindowMs = 10_000
    breaker_calls_min: BreakerCallsMin = 20
    breaker_failures_percent: BreakerFailuresPercent = 50
    postgres_breaker_failures_in_row: BreakerFailuresInRow = 5
    postgres_breaker_open_ms: BreakerOpenMs = 1_000
    postgres_breaker_probes_max: BreakerProbesMax = 2
