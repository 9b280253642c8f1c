"""One connection to Postgres that comes back after a loss, and the one place where driver errors get our names.

The other adapters say what to execute; nothing here knows tables.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import psycopg
from psycopg import Connection

from projections.application.ports import Unwritable
from projections.infrastructure.wire import Wire
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.statements import SESSION_OPTIONS, load_statements
from shared_kernel.postgres import connect, conninfo
from shared_kernel.sqlstates import is_rolled_back
from shared_kernel.transactions import Terms, Transactions

Row = tuple[Any, ...]
STATEMENTS: Final = load_statements("projections.infrastructure", "projections.sql")

# Chosen: a batch is written in a fraction of a second; an index over a year of events takes a minute.
LOCK_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 120_000
WHOLE_BUILD_MS: Final = (
    4 * 3_600_000
)  # chosen: comparing or indexing all of a large read model, twice its longest statement
IDLE_TIMEOUT_MS: Final = 30_000

# A read model may lose its last commits in a crash of the server, rows and positions together: the log has them. So its
# commits need not wait for the disk, which leaves that to the commands.
# The wire's few statements have one good plan each: the server would plan some of them anew every time, for as long as they take.
_OPTIONS: Final = f"{SESSION_OPTIONS} -c plan_cache_mode=force_generic_plan -c search_path=pg_catalog -c synchronous_commit=off -c timezone=UTC"
SILENCE_MS_MAX: Final = 15_000  # chosen: a host that acknowledges nothing for this long is gone

# Data, integrity and program limits (an index row that is too long): the rows are at fault, not the server.
_UNWRITABLE: Final = ("22", "23", "54")


class Database:
    """A connection made when needed, in autocommit; `name` is what the server shows of it. Threads take turns.

    Its wire prepares statements, not the driver: at times that forgets all that there are, not only its own.
    """

    def __init__(self, url: str, *, name: str, transactions: Transactions | None = None) -> None:
        self._url = url
        self._name = name
        self._transactions = transactions or Transactions()
        self._connection: Connection[Row] | None = None
        self._wire: Wire | None = None
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

    @contextmanager
    def transaction(self, terms: Terms) -> Iterator[Connection[Row]]:
        """The connection in a transaction that is committed when the block ends; `psycopg.Rollback` undoes it silently.

        Errors as in `session`; `outcome_unknown` where the answer to the commit was lost.
        """
        with self.session() as session, self._transactions.transaction(session, terms):
            yield session

    @property
    def wire(self) -> Wire:
        """The connection past the driver's cursors, inside `session` or `transaction`."""
        if self._wire is None:
            raise RuntimeError("a wire is of an open session")
        return self._wire

    def close(self) -> None:
        """Ends the session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = connect(
                conninfo(
                    self._url,
                    name=self._name,
                    silence_ms=SILENCE_MS_MAX,
                    lock_ms=LOCK_TIMEOUT_MS,
                    statement_ms=STATEMENT_TIMEOUT_MS,
                    options=_OPTIONS,
                )
            )
            self._connection.prepare_threshold = None
            self._wire = Wire(self._connection.pgconn, STATEMENTS, wait_ms=STATEMENT_TIMEOUT_MS + SILENCE_MS_MAX)
        return self._connection


def terms(
    name: str,
    *,
    isolation: Literal["read committed", "repeatable read"] = "read committed",
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    transaction_timeout_ms: int = 2 * STATEMENT_TIMEOUT_MS,
    holds_others: bool = False,
) -> Terms:
    """Transactions of relay and projector differ in what they do and in how long all of it may take."""
    return Terms(
        name=name,
        isolation=isolation,
        holds_others=holds_others,
        lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        idle_timeout_ms=IDLE_TIMEOUT_MS,
        transaction_timeout_ms=transaction_timeout_ms,
    )


def translated(error: psycopg.Error) -> DaybookError:
    """The driver's error in our words; texts stay behind, since they may quote values."""
    sqlstate = error.sqlstate or ""
    if is_rolled_back(sqlstate):
        return Contention("postgres_contention", reason=sqlstate)
    if sqlstate.startswith(_UNWRITABLE) or (not sqlstate and isinstance(error, psycopg.DataError)):
        return Unwritable("unwritable", reason=sqlstate or type(error).__name__)
    if sqlstate and not isinstance(error, psycopg.OperationalError):  # a missing table or right: wait for the migration
        return Unavailable("postgres_refused", reason=sqlstate)
    return Unavailable("postgres_unavailable", reason=sqlstate or type(error).__name__)
