"""How every connection to Postgres is made: with a bound on connecting, on silence, and where it is told on statements and locks.

The one place that knows libpq's names for these. Nothing else may be handed to a driver (tests/unit/test_house_rules.py).
"""

from typing import Final

from psycopg.conninfo import make_conninfo

CONNECT_MS_MAX: Final = (
    5_000  # chosen: a server that lives answers within milliseconds, one behind a slow network in seconds
)
SILENCE_MS_MAX: Final = 10_000  # chosen: unacknowledged data for this long means that the other host is gone


def conninfo(
    url: str,
    *,
    name: str = "daybook",
    connect_ms: int = CONNECT_MS_MAX,
    silence_ms: int = SILENCE_MS_MAX,
    statement_ms: int | None = None,
    lock_ms: int | None = None,
    options: str = "",
) -> str:
    """The URL with its bounds; `name` is what the server shows. `options` are further settings of the session, as libpq takes them.

    `statement_ms` also bounds idling in a transaction. Without it and `lock_ms` whoever connects sets these otherwise.
    """
    if statement_ms is not None:
        options += f" -c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout={statement_ms}"
    if lock_ms is not None:
        options += f" -c lock_timeout={lock_ms}"
    return make_conninfo(
        url,
        application_name=name,
        connect_timeout=max(2, connect_ms // 1_000),  # libpq counts seconds and takes less than 2 for 2
        tcp_user_timeout=silence_ms,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        **({"options": options.strip()} if options else {}),
    )
