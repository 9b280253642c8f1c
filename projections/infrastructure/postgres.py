"""One connection to Postgres that comes back after a loss, and the one place where driver errors get our names.

The other adapters say what to execute; nothing here knows tables.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import msgspec
import psycopg
from psycopg import Connection

from projections.application.ports import Unwritable
from projections.infrastructure.wire import Wire
from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.event_log.statements import SESSION_OPTIONS, load_statements
from shared_kernel.postgres import connect, conninfo
from shared_kernel.sqlstates import is_rolled_back
from shared_kernel.transactions import Terms, Transactions

Row = tuple[Any, ...]
STATEMENTS: Final = load_statements("projections.infrastructure", "projections.sql")

# A read model may lose its last commits in a crash of the server, rows and positions together: the log has them. So its
# commits need not wait for the disk, which leaves that to the commands.
# The wire's few statements have one good plan each: the server would plan some of them anew every time, for as long as they take.
_OPTIONS: Final = f"{SESSION_OPTIONS} -c plan_cache_mode=force_generic_plan -c search_path=pg_catalog -c synchronous_commit=off -c timezone=UTC"

# Data, integrity and program limits (an index row that is too long): the rows are at fault, not the server.
_UNWRITABLE: Final = ("22", "23", "54")


class PostgresBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How long connecting, silence on the way, waiting for a lock, a statement, idling in a transaction and all of one may take."""

    connect_ms: int
    silence_ms: int
    lock_ms: int
    statement_ms: int
    idle_ms: int
    transaction_ms: int


def bounds_of(settings: RelaySettings | ProjectorSettings) -> PostgresBounds:
    """What the usual statements may take."""
    return PostgresBounds(
        connect_ms=settings.postgres_connect_ms,
        silence_ms=settings.postgres_silence_ms,
        lock_ms=settings.postgres_lock_ms,
        statement_ms=settings.postgres_statement_ms,
        idle_ms=settings.postgres_idle_ms,
        transaction_ms=settings.postgres_transaction_ms,
    )


def build_bounds_of(settings: ProjectorSettings) -> PostgresBounds:
    """What statements over all of a read model may take."""
    return msgspec.structs.replace(
        bounds_of(settings), statement_ms=settings.build_statement_ms, transaction_ms=settings.build_transaction_ms
    )


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of transaction. How long it may take is a matter of the connection that it is done on."""

    name: str
    isolation: Literal["read committed", "repeatable read"] = "read committed"
    holds_others: bool = False

    def terms(self, bounds: PostgresBounds) -> Terms:
        """The same with its bounds."""
        return Terms(
            name=self.name,
            isolation=self.isolation,
            holds_others=self.holds_others,
            lock_timeout_ms=bounds.lock_ms,
            statement_timeout_ms=bounds.statement_ms,
            idle_timeout_ms=bounds.idle_ms,
            transaction_timeout_ms=bounds.transaction_ms,
        )


class Database:
    """A connection made when needed, in autocommit; `name` is what the server shows of it. Threads take turns.

    Its wire prepares statements, not the driver: at times that forgets all that there are, not only its own.
    """

    def __init__(
        self, url: str, *, name: str, bounds: PostgresBounds, transactions: Transactions | None = None
    ) -> None:
        self._url = url
        self._bounds = bounds
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
    def transaction(self, work: Work) -> Iterator[Connection[Row]]:
        """The connection in a transaction that is committed when the block ends; `psycopg.Rollback` undoes it silently.

        Errors as in `session`; `outcome_unknown` where the answer to the commit was lost.
        """
        with self.session() as session, self._transactions.transaction(session, work.terms(self._bounds)):
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
                    connect_ms=self._bounds.connect_ms,
                    silence_ms=self._bounds.silence_ms,
                    lock_ms=self._bounds.lock_ms,
                    statement_ms=self._bounds.statement_ms,
                    options=_OPTIONS,
                )
            )
            self._connection.prepare_threshold = None
            self._wire = Wire(
                self._connection.pgconn, STATEMENTS, wait_ms=self._bounds.statement_ms + self._bounds.silence_ms
            )
        return self._connection


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
