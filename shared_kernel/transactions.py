"""Transactions in Postgres: the one place that says how they begin, what bounds them, and how each of them ended.

`Transactions.watched` measures, judges and refuses nesting; it does no I/O, so blocking code and code on an event loop share it.
Round it are `transaction` and `transaction_of`, for psycopg's two kinds of connections, and `LogConnection.transaction`, for the
raw pipeline: each sends the statements and no more. Nothing else opens a transaction (tests/unit/test_house_rules.py). Single statements need none: their bounds are set when a session begins.
"""

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
import psycopg
import structlog
from prometheus_client import CollectorRegistry, Histogram
from psycopg import AsyncConnection, Connection, Rollback, pq

from shared_kernel.errors import Contention, DaybookError, Unavailable
from shared_kernel.metrics import LATENCY_BUCKETS
from shared_kernel.sqlstates import is_rolled_back

SLOW_S: Final = 1.0  # chosen: a hundred times an ordinary one; whoever waits for its locks has noticed
LEDGERS_TOLD_MAX: Final = 5  # chosen: of those that a slow one held
TRANSACTION_TIMEOUT_SINCE: Final = 170_000  # PostgreSQL 17 has the setting, older servers refuse its name
ATTEMPTS_MAX: Final = 4  # chosen: a deadlock is over at the second attempt, a lock that is held longer is no accident
RETRY_S: Final = 0.02  # chosen: the first pause at most; it doubles

_UNDER_WAY: Final = frozenset((pq.TransactionStatus.ACTIVE, pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR))

Outcome = Literal["committed", "abandoned", "rolled_back", "unknown", "lost"]
"""`abandoned`: the block changed its mind; `rolled_back`: the server did, try again; `lost`: the connection, before the commit."""
T = TypeVar("T")

_open: ContextVar["Terms | None"] = ContextVar("daybook_transaction", default=None)
_log = structlog.get_logger(__name__)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of transaction may take; `name` is its name in metrics and logs. 0 is no bound, for what has a reason."""

    name: str
    isolation: Literal["read committed", "repeatable read", "serializable"] = "read committed"
    lock_timeout_ms: int
    statement_timeout_ms: int
    idle_timeout_ms: int
    transaction_timeout_ms: int
    holds_others: bool = False
    """It means to hold something while other connections work in transactions of their own, in this same task or thread."""

    def settings(self, server_version: int) -> dict[str, str]:
        """The server's settings for this transaction alone, as far as a server of this version (180006) knows them."""
        found = {
            "lock_timeout": f"{self.lock_timeout_ms}ms",
            "statement_timeout": f"{self.statement_timeout_ms}ms",
            "idle_in_transaction_session_timeout": f"{self.idle_timeout_ms}ms",
        }
        if server_version >= TRANSACTION_TIMEOUT_SINCE:
            found["transaction_timeout"] = f"{self.transaction_timeout_ms}ms"
        return found

    def begin(self, server_version: int) -> str:
        """Statements that open the transaction with its bounds: one round trip, as one query without parameters."""
        bounds = [f"set local {name} = '{value}'" for name, value in self.settings(server_version).items()]
        return "; ".join((f"begin isolation level {self.isolation}", *bounds))


class Ended(Protocol):
    """Hears how each transaction ended."""

    def __call__(self, name: str, outcome: Outcome, seconds: float) -> None: ...


class Transactions:
    """Opens transactions and tells of them. One a process; without `ended` nobody is told."""

    def __init__(self, ended: Ended | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ended = ended
        self._monotonic = monotonic

    @contextmanager
    def watched(self, terms: Terms, ledgers: Sequence[str] = ()) -> Iterator[None]:
        """What happens inside is one transaction: measured, its end judged. RuntimeError: there is one round it already.

        `ledgers`: those whose rows it locks, for the line of a slow one.

        The driver inside raises `outcome_unknown` where the answer to COMMIT was lost, and only there.
        """
        outer = _open.get()
        if outer is not None and not outer.holds_others:
            raise RuntimeError(f"the transaction {terms.name} would begin inside {outer.name}")
        _open.set(terms)
        began = self._monotonic()
        outcome: Outcome = "committed"
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            _open.set(outer)
            seconds = self._monotonic() - began
            if self._ended is not None:
                self._ended(terms.name, outcome, seconds)
            if seconds >= SLOW_S:
                elapsed_ms = round(seconds * 1_000, 3)
                of = {"ledgers": list(ledgers[:LEDGERS_TOLD_MAX])} if ledgers else {}
                _log.warning("slow_transaction", transaction=terms.name, outcome=outcome, elapsed_ms=elapsed_ms, **of)

    @contextmanager
    def transaction(self, connection: Connection[Any], terms: Terms) -> Iterator[None]:
        """The block is one transaction on this connection, which is in autocommit; committed when the block has ended.

        `psycopg.Rollback`, raised inside, leaves the block silently and undoes it. Driver errors go through as they are, but
        for a lost answer to COMMIT: Unavailable `outcome_unknown`, and whoever asked must look, not guess.
        """
        _refuse_nesting(connection.info, terms)
        try:
            with self.watched(terms):
                try:
                    _execute(connection, _opening(terms, connection.info.server_version))
                    yield
                except BaseException:
                    _roll_back(connection)
                    raise
                _commit(connection)
        except Rollback:
            pass

    @asynccontextmanager
    async def transaction_of(self, connection: AsyncConnection[Any], terms: Terms) -> AsyncIterator[None]:
        """As `transaction`, for the connections that psycopg has for an event loop."""
        _refuse_nesting(connection.info, terms)
        with self.watched(terms):
            try:
                await connection.execute(_opening(terms, connection.info.server_version), prepare=False)
                yield
            except BaseException:
                if (
                    connection.info.transaction_status == pq.TransactionStatus.ACTIVE
                ):  # given up in the middle of a statement
                    await connection.close()
                with suppress(psycopg.Error):
                    await connection.execute(b"rollback", prepare=False)
                raise
            try:
                done = (await connection.execute(b"commit", prepare=False)).statusmessage
            except psycopg.Error as error:
                _judge_commit(error, is_lost=connection.closed)
            else:
                _judge_commit(done)


class TransactionFigures:
    """The time of transactions for Prometheus, by name and outcome."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "daybook_transaction_seconds",
            "Time of a transaction of several statements, by how it ended",
            ("transaction", "outcome"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def __call__(self, name: str, outcome: Outcome, seconds: float) -> None:
        """One has ended."""
        self._seconds.labels(name, outcome).observe(seconds)


def again(work: Callable[[], T], *, attempts_max: int = ATTEMPTS_MAX, pause: Callable[[float], None] = time.sleep) -> T:
    """The work's result; begun anew, after a pause with jitter, where the server rolled it back. The last error is raised.

    For work that is one whole transaction. What is unknown is never repeated here.
    """
    for attempt in range(1, attempts_max):
        try:
            return work()
        except (psycopg.Error, Contention) as error:
            if not _is_repeatable(error):
                raise
            _log.info("transaction_again", attempt=attempt, error_class=type(error).__name__)
            pause(RETRY_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
    return work()


def error_of(result: pq.abc.PGresult) -> psycopg.Error:
    """The driver's error for a result that says failed; where not even the server said anything the connection is lost."""
    if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
        return psycopg.OperationalError(result.get_error_message())
    return psycopg.errors.error_from_result(result)


def _refuse_nesting(connection: psycopg.ConnectionInfo, terms: Terms) -> None:
    if connection.transaction_status in _UNDER_WAY:
        raise RuntimeError(f"the transaction {terms.name} would begin on a connection that is in one")


@cache  # as many as there are kinds of transactions
def _opening(terms: Terms, server_version: int) -> bytes:
    return terms.begin(server_version).encode()


def _execute(connection: Connection[Any], statement: bytes) -> str:
    """The server's word for what it did. Past the driver's cursor, which takes four times as long (measured)."""
    with connection.lock:
        result = connection.pgconn.exec_(statement)
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_of(result)
    return (result.command_status or b"").decode()


def _outcome(error: BaseException) -> Outcome:
    if _is_repeatable(error):
        return "rolled_back"
    if isinstance(error, DaybookError) and error.code == "outcome_unknown":
        return "unknown"
    is_lost = isinstance(error, Unavailable | psycopg.OperationalError | psycopg.errors.TransactionTimeout)
    return "lost" if is_lost else "abandoned"


def _is_repeatable(error: BaseException) -> bool:
    if isinstance(error, psycopg.Error):
        return is_rolled_back(error.sqlstate or "")
    return isinstance(error, Contention)


def _commit(connection: Connection[Any]) -> None:
    try:
        done = _execute(connection, b"commit")
    except psycopg.Error as error:
        _judge_commit(error, is_lost=connection.closed)
    else:
        _judge_commit(done)


def _judge_commit(answer: str | psycopg.Error | None, *, is_lost: bool = False) -> None:
    """Raises unless the server has said that it is committed."""
    if isinstance(answer, psycopg.Error):
        if is_lost:
            raise Unavailable("outcome_unknown", reason=answer.sqlstate or type(answer).__name__) from None
        raise answer
    if answer != "COMMIT":  # a statement failed inside, and the block went on regardless
        raise Contention("rolled_back", sqlstate="25P02")


def _roll_back(connection: Connection[Any]) -> None:
    if not connection.closed:
        try:
            connection.execute(b"rollback", prepare=False)
        except psycopg.Error:
            connection.close()  # the server undoes what its client left
