"""One connection to Postgres that comes back after a loss, and the one place where driver errors get our names.

The other adapters say what to execute; nothing here knows tables.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection

from projections.application.ports import Unwritable
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.statements import SESSION_OPTIONS, load_statements

Row = tuple[Any, ...]
STATEMENTS: Final = load_statements("projections.infrastructure", "projections.sql")

# A read model may lose its last commits in a crash of the server, rows and positions together: the log has them. So its
# commits need not wait for the disk, which leaves that to the commands.
_OPTIONS: Final = (
    f"{SESSION_OPTIONS} -c search_path=pg_catalog -c synchronous_commit=off -c timezone=UTC"
    " -c lock_timeout=5s -c statement_timeout=120s -c idle_in_transaction_session_timeout=30s"
)
CONNECT_S_MAX: Final = 5
SILENCE_MS_MAX: Final = 15_000  # chosen: a host that acknowledges nothing for this long is gone

_CONTENTION: Final = frozenset({"40001", "40P01", "55P03", "57014", "25P03"})
# Data, integrity and program limits (an index row that is too long): the rows are at fault, not the server.
_UNWRITABLE: Final = ("22", "23", "54")


class Database:
    """A connection made when needed, in autocommit; `name` is what the server shows of it. Threads take turns."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: Connection[Row] | None = None
        self._turn = threading.RLock()

    @contextmanager
    def session(self) -> Iterator[Connection[Row]]:
        """The connection. Errors leave as Unavailable, Contention or Unwritable; after a loss the next call connects anew."""
        with self._turn:
            try:
                yield self._connected()
            except psycopg.Error as error:
                raise translated(error) from None
            finally:
                if self._connection is not None and self._connection.closed:
                    self._connection = None

    def close(self) -> None:
        """Ends the session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                options=_OPTIONS,
                application_name=self._name,
                connect_timeout=CONNECT_S_MAX,
                tcp_user_timeout=SILENCE_MS_MAX,
            )
        return self._connection


def translated(error: psycopg.Error) -> DaybookError:
    """The driver's error in our words; texts stay behind, since they may quote values."""
    sqlstate = error.sqlstate or ""
    if sqlstate in _CONTENTION:
        return Contention("postgres_contention", reason=sqlstate)
    if sqlstate.startswith(_UNWRITABLE) or (not sqlstate and isinstance(error, psycopg.DataError)):
        return Unwritable("unwritable", reason=sqlstate or type(error).__name__)
    if sqlstate and not isinstance(error, psycopg.OperationalError):  # a missing table or right: wait for the migration
        return Unavailable("postgres_refused", reason=sqlstate)
    return Unavailable("postgres_unavailable", reason=sqlstate or type(error).__name__)
