"""How every connection to Postgres is made: with a bound on connecting, on silence, and where it is told on statements and locks.

The one place that knows libpq's names for these, and that hands them to the driver (tests/unit/test_house_rules.py).
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NewType

import psycopg
from psycopg import AsyncConnection, Connection, pq
from psycopg.conninfo import make_conninfo

# What commands of the command line wait; processes have settings for both.
CONNECT_MS_MAX: Final = (
    5_000  # chosen: a server that lives answers within milliseconds, one behind a slow network in seconds
)
SILENCE_MS_MAX: Final = 10_000  # chosen: unacknowledged data for this long means that the other host is gone

SILENT_MS_MAX: Final = 1_000  # chosen: so long a server that lives may take to say that a statement ran too long

Bounded = NewType("Bounded", str)
"""Where to connect, with the bounds of it: only `conninfo` makes it."""


def conninfo(
    url: str,
    *,
    name: str = "daybook",
    connect_ms: int = CONNECT_MS_MAX,
    silence_ms: int = SILENCE_MS_MAX,
    statement_ms: int | None = None,
    lock_ms: int | None = None,
    options: str = "",
    **more: str,
) -> Bounded:
    """The URL with its bounds; `name` is what the server shows. `options` are further settings of the session, as libpq takes them,
    `more` of the connection.

    `statement_ms` also bounds idling in a transaction. Without it and `lock_ms` whoever connects sets these otherwise.
    """
    if statement_ms is not None:
        options += f" -c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout={statement_ms}"
    if lock_ms is not None:
        options += f" -c lock_timeout={lock_ms}"
    bounded = make_conninfo(
        url,
        application_name=name,
        connect_timeout=max(2, connect_ms // 1_000),  # libpq counts seconds and takes less than 2 for 2
        tcp_user_timeout=silence_ms,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        **({"options": options.strip()} if options else {}),
        **more,
    )
    return Bounded(bounded)


def connect(bounded: Bounded) -> Connection[Any]:
    """A connection in autocommit: `shared_kernel.transactions` alone begins transactions."""
    return Connection.connect(bounded, autocommit=True)


async def connect_async(bounded: Bounded) -> AsyncConnection[Any]:
    """The same for an event loop."""
    return await AsyncConnection.connect(bounded, autocommit=True)


def begin_connecting(bounded: Bounded) -> pq.abc.PGconn:
    """A connection past the driver that is on its way: whoever drives it bounds the way."""
    return pq.PGconn.connect_start(bounded.encode())


@contextmanager
def patience(connection: AsyncConnection[Any], seconds: float) -> Iterator[asyncio.TimerHandle]:
    """The block hears that its connection is lost when nothing came in so long: what lies between may go on telling that all is well."""
    timer = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield timer
    finally:
        timer.cancel()


def _cut(connection: AsyncConnection[Any]) -> None:
    """Whoever waits for something to come learns that nothing will. To cancel them instead would first ask the server, and wait again."""
    with suppress(OSError, psycopg.OperationalError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as wire:
        wire.shutdown(socket.SHUT_RDWR)
