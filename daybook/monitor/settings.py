"""What the monitor is told by its environment: how often it looks, what is too long, whom it tells, what it may do."""

from typing import Annotated, Literal

from msgspec import Meta

from shared_kernel.settings import HttpSettings, Secret

Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]


class MonitorSettings(HttpSettings, frozen=True, kw_only=True):
    """Settings of `python -m daybook.monitor`."""

    http_port: Annotated[int, Meta(ge=1, le=65535, description="TCP port of the HTTP API")] = 8085
    redis_url: Annotated[Secret, Meta(description="Redis with the locks; empty: they are not looked at")] = Secret("")
    metrics_urls: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S+( https?://\S+)*)?$(?!\n)",
            description="URLs of /metrics of command, query, relay and clock processes, with spaces between; all addresses of a name are asked."
            " Empty: queue depths and breakers are not looked at",
        ),
    ] = ""

    look_ms: Annotated[int, Meta(ge=100, le=600_000, description="How often it looks")] = 5_000
    look_timeout_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="Longest that a look at Postgres may take, and a statement of it")
    ] = 5_000
    redis_timeout_ms: Annotated[int, Meta(ge=1, le=60_000, description="Longest that a look at Redis may take")] = 1_000
    metrics_timeout_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="Longest wait for the metrics of a process")
    ] = 1_000
    locks_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Locks in Redis that are held and shown in one look")
    ] = 2_000

    transaction_ms_max: Annotated[
        Milliseconds, Meta(description="A transaction that is open for longer is a finding")
    ] = 30_000
    blocked_ms_max: Annotated[
        Milliseconds,
        Meta(description="A session that holds others up for longer, whoever waits for it meanwhile, is a finding"),
    ] = 2_000
    lock_ms_max: Annotated[
        Milliseconds, Meta(description="An account lock in Redis that one holder has for longer is a finding")
    ] = 30_000
    lag_ms_max: Annotated[
        Milliseconds, Meta(description="An event that waits longer for relay or projector is a finding")
    ] = 30_000
    raise_looks: Annotated[int, Meta(ge=1, le=1_000, description="Looks in a row until a finding is an alert")] = 2
    clear_looks: Annotated[int, Meta(ge=1, le=1_000, description="Looks in a row without it until it is over")] = 3

    history_rows_max: Annotated[int, Meta(ge=0, le=10_000_000, description="Findings kept, those open aside")] = 10_000
    history_days_max: Annotated[int, Meta(ge=0, le=36_500, description="Days that a finding is kept after its end")] = (
        30
    )

    webhook_url: Annotated[
        Secret | None, Meta(description="Alerts are sent here as JSON by POST; empty: to nobody but log and metrics")
    ] = None
    webhook_timeout_ms: Annotated[int, Meta(ge=1, le=60_000, description="Longest wait for the webhook's answer")] = (
        3_000
    )
    webhook_attempts_max: Annotated[
        int, Meta(ge=1, le=100, description="Times that an alert is sent until it is taken")
    ] = 5

    cancelling: Annotated[
        Literal["off", "cancel", "terminate"],
        Meta(
            description="What is done to a session that others wait for: nothing; its statement cancelled; besides, later, the"
            " session ended. Needs the role pg_signal_backend"
        ),
    ] = "off"
    cancel_after_ms: Annotated[
        Milliseconds, Meta(description="Its statement is cancelled when it has held others up for so long")
    ] = 30_000
    terminate_after_ms: Annotated[
        Milliseconds, Meta(description="The session is ended when it has held others up for so long")
    ] = 60_000

    def __post_init__(self) -> None:
        faults = []
        try:
            super().__post_init__()
        except ValueError as fault:
            faults.append(str(fault))
        if self.webhook_url and not self.webhook_url.startswith(("http://", "https://")):
            faults.append("DAYBOOK_WEBHOOK_URL: is neither an http nor an https URL")
        if self.terminate_after_ms < self.cancel_after_ms:
            faults.append("DAYBOOK_TERMINATE_AFTER_MS: is below DAYBOOK_CANCEL_AFTER_MS")
        if faults:
            raise ValueError("\n".join(faults))
