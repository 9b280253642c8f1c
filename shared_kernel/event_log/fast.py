"""The log's fast client: one raw connection, one round trip an append, for the command service's event loop.

Turns `Decision`s into binary arrays and rows back into values; `pipeline.py` moves the bytes, `daybook.append` judges and
writes. A connection never carries two ledgers' appends at once: a head row that is held would hold up the other.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import pq

from shared_kernel.event_log import binary, calls
from shared_kernel.event_log.errors import EndedBefore, IncarnationChanged, LogFault, LogUnavailable, RolledBack
from shared_kernel.event_log.pipeline import Parameters, Pipeline
from shared_kernel.event_log.types import Appended, Decision, Loaded, Page, RecordedEvent, Snapshot, SnapshotKey, Tail
from shared_kernel.postgres import connect_async, conninfo
from shared_kernel.transactions import Terms, Transactions

_SESSION: Final = b"session"
_BEGIN: Final = b"begin"
_BOUND: Final = b"bound"
_COMMIT: Final = b"commit"
_ROLLBACK: Final = b"rollback"
_APPEND: Final = b"append"
_LOAD: Final = b"load"
_LOCK_HEADS: Final = b"lock_heads"
_PAGE: Final = b"page"
_WRITE_SNAPSHOTS: Final = b"write_snapshots"
_NOTIFY: Final = b"notify"

_T, _I8, _T_A, _I4_A, _I8_A = binary.TEXT, binary.INT8, binary.TEXT_ARRAY, binary.INT4_ARRAY, binary.INT8_ARRAY
_I4 = binary.INT4
_STATEMENTS: Final = {
    _COMMIT: ("commit", ()),
    _ROLLBACK: ("rollback", ()),
    _APPEND: (
        calls.APPEND,
        (
            binary.UUID,
            _T,
            _I8,
            _I8,
            _I8,
            _I4_A,
            _T_A,
            _I8_A,
            _I4_A,
            _T_A,
            _T_A,
            _T_A,
            _I4_A,
            _T_A,
            binary.JSONB,
            _T,
            _T,
        ),
    ),
    _LOAD: (calls.LOAD, (binary.UUID, _T, _I8, _I8, _I8, _T_A, _T_A, _I4_A)),
    _LOCK_HEADS: (calls.LOCK_HEADS, (binary.UUID, _T_A)),
    _PAGE: (calls.PAGE, (_T, binary.UUID, _T, _I4, _T, _I8)),
    _WRITE_SNAPSHOTS: (calls.WRITE_SNAPSHOTS, (_T, binary.UUID, _T_A, _I4_A, _I8_A, _T_A)),
    _NOTIFY: (calls.NOTIFY, (_T, _T_A)),
}
_UNCHAINED: Final = Appended(
    is_behind=False, is_unchained=True, base=0, head=0, recorded_at=datetime.min.replace(tzinfo=UTC), failed=(), tail=()
)
_SESSION_STATEMENT: Final = {_SESSION: (calls.START_SESSION, (_T, _T, _T))}

# Chosen: how much longer than the server's own limit a reply may take before the connection is given up.
_REPLY_MARGIN_MS: Final = 2_000


_WHOLE_SLOW_PATH: Final = 3  # chosen: locking, loading and appending may each take what one statement may, nearly


def slow_path(lock_timeout_ms: int, statement_timeout_ms: int) -> Terms:
    """The transaction under the heads' locks: while it lasts nobody else appends to its ledgers, so it may not idle."""
    return Terms(
        name="slow_path",
        lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=statement_timeout_ms,
        idle_timeout_ms=statement_timeout_ms,
        transaction_timeout_ms=statement_timeout_ms * _WHOLE_SLOW_PATH,
    )


class LogConnection:
    """One connection to the log. Calls may overlap only where they are for the same ledger; they run in order."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        incarnation: UUID,
        backend_pid: int,
        backend_start: str,
        terms: Terms,
        transactions: Transactions,
    ) -> None:
        self._pipeline = pipeline
        self._terms = terms
        self._transactions = transactions
        self._in_transaction = False
        self._chain = f"{uuid4()}/"
        self._appends = 0  # sent on this connection so far; with it, a token that no other append has
        self.incarnation = incarnation
        self.backend_pid = backend_pid
        self.backend_start = backend_start

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        incarnation: UUID | None,
        name: str = "daybook",
        connect_timeout_ms: int = 5_000,
        silence_timeout_ms: int = 10_000,
        lock_timeout_ms: int = 2_000,
        statement_timeout_ms: int = 10_000,
        transactions: Transactions | None = None,
    ) -> "LogConnection":
        """A connection that is ready to append. `incarnation` None: whichever the log has now is the expected one.
        `name`: what the server shows of it.

        Raises `LogUnavailable`, `IncarnationChanged`, or `LogFault` where the schema or the rights are missing.
        """
        pipeline = await Pipeline.connect(
            url,
            name=name,
            connect_timeout_ms=connect_timeout_ms,
            silence_timeout_ms=silence_timeout_ms,
            reply_timeout_ms=statement_timeout_ms + _REPLY_MARGIN_MS,
        )
        try:
            await pipeline.prepare(_SESSION_STATEMENT)
            limits = (lock_timeout_ms, statement_timeout_ms, statement_timeout_ms)
            parameters = [f"{limit}ms".encode() for limit in limits]
            (result,) = await pipeline.execute((_SESSION, parameters), is_write=False)
            pid, started_at, found = (result.get_value(0, column) for column in range(3))
            if pid is None or started_at is None or found is None:
                raise LogFault("incomplete_session")
            if incarnation is not None and UUID(found.decode()) != incarnation:
                raise IncarnationChanged
            terms = slow_path(lock_timeout_ms, statement_timeout_ms)
            await pipeline.prepare(_STATEMENTS | _opening(terms, pipeline.server_version))
        except BaseException:
            pipeline.close()
            raise
        return cls(
            pipeline,
            terms=terms,
            transactions=transactions or Transactions(),
            incarnation=UUID(found.decode()),
            backend_pid=int(pid),
            backend_start=started_at.decode(),
        )

    @property
    def is_usable(self) -> bool:
        """Open, with nothing in flight and no transaction begun: fit for another borrower."""
        return self._pipeline.is_open and self._pipeline.is_idle and not self._in_transaction

    async def append(
        self,
        ledger: str,
        *,
        seen: int | None,
        decisions: Sequence[Decision],
        tail: Tail,
        is_following: bool = False,
    ) -> Appended:
        """The decisions of every group whose fences all hold are in the log, committed, in order.

        One round trip. `seen`: the head that the caller's states are complete as of; None asks for no tail.
        Fences see the log before this call, never the call's own events: a key twice in one call is the caller's fault.
        Inside `transaction` it is committed when that block ends. `is_following`: it was decided on what the append sent just
        before it makes of the ledger, and counts only if that one appends all it has, directly after its own `seen`.
        Raises `LedgerNotFound` unless the first event is a LedgerOpened, `RolledBack` if the server said so,
        `OutcomeUnknown` if nobody can say (see `end_backend`).
        """
        flat = calls.flatten(decisions)
        before, self._appends = self._appends, self._appends + 1
        parameters = (
            self.incarnation.bytes,
            ledger.encode(),
            None if seen is None else binary.int8(seen),
            binary.int8(tail.events_max),
            binary.int8(tail.bytes_max),
            binary.int4_array(flat.fence_groups),
            binary.text_array(flat.fence_tags),
            binary.int8_array(flat.fence_afters),
            binary.int4_array(flat.event_groups),
            binary.text_array(flat.event_types),
            binary.text_array(flat.event_data),
            binary.text_array(flat.event_metadata),
            binary.int4_array(flat.tag_events),
            binary.text_array(flat.tags),
            None,  # general conditions are the recorder's
            f"{self._chain}{before}".encode() if is_following else None,
            f"{self._chain}{self._appends}".encode(),
        )
        (result,) = await self._pipeline.execute((_APPEND, parameters), is_write=not self._in_transaction)
        if binary.read_bool(result.get_value(0, 11)):
            return _UNCHAINED
        return Appended(
            is_behind=binary.read_bool(result.get_value(0, 0)),
            base=binary.read_int8(result.get_value(0, 1)),
            head=binary.read_int8(result.get_value(0, 2)),
            recorded_at=binary.read_time(result.get_value(0, 3)),
            failed=flat.failed(binary.read_int4s(result.get_value(0, 4))),
            tail=_events(ledger, result, 5),
        )

    async def load(
        self, ledger: str, *, seen: int | None, tags: Sequence[str], snapshots: Sequence[SnapshotKey] = (), tail: Tail
    ) -> Loaded:
        """One consistent look at the ledger: the events that bear each tag, the tail since `seen`, the head.

        Asking for a snapshot of an address asks for its `account:<address>` tag, whose events then start after it.
        """
        keys = {calls.ACCOUNT_TAG + key.address: key for key in snapshots}
        asked = list(dict.fromkeys((*tags, *keys)))
        parameters = (
            self.incarnation.bytes,
            ledger.encode(),
            None if seen is None else binary.int8(seen),
            binary.int8(tail.events_max),
            binary.int8(tail.bytes_max),
            binary.text_array(asked),
            binary.text_array([keys[tag].address if tag in keys else None for tag in asked]),
            binary.int4_array([keys[tag].fold_version if tag in keys else 0 for tag in asked]),
        )
        (result,) = await self._pipeline.execute((_LOAD, parameters), is_write=False)
        events: dict[str, list[RecordedEvent]] = {tag: [] for tag in asked}
        for index, event in zip(binary.read_int4s(result.get_value(0, 13)), _events(ledger, result, 8), strict=True):
            events[asked[index - 1]].append(event)
        return Loaded(
            is_behind=binary.read_bool(result.get_value(0, 0)),
            head=binary.read_int8(result.get_value(0, 1)),
            recorded_at=binary.read_time(result.get_value(0, 2)),
            tail=_events(ledger, result, 3),
            events=events,
            snapshots={
                key.address: Snapshot(
                    address=key.address, fold_version=key.fold_version, position=position, state=state
                )
                for key, position, state in zip(
                    (keys[asked[index - 1]] for index in binary.read_int4s(result.get_value(0, 14))),
                    binary.read_int8s(result.get_value(0, 15)),
                    binary.read_texts(result.get_value(0, 16)),
                    strict=True,
                )
            },
        )

    @asynccontextmanager
    async def transaction(self, ledgers: Sequence[str]) -> AsyncIterator[None]:
        """The slow path: the heads of all `ledgers` are locked, in sorted order, until the block ends.

        What is loaded inside stays true, what is appended inside commits together when the block ends, or not at all if
        it raises. Only leaving the block can raise `OutcomeUnknown`: before, a lost connection applied nothing.
        """
        if self._in_transaction:
            raise RuntimeError("a connection carries one transaction at a time")
        self._in_transaction = True
        heads = sorted(set(ledgers))
        locks: Parameters = (self.incarnation.bytes, binary.text_array(heads))
        log, clock = structlog.get_logger(), asyncio.get_running_loop().time
        asked_at = held_since = clock()
        try:
            with self._transactions.watched(self._terms, heads):
                try:
                    *_, locked = await self._pipeline.execute(
                        (_BEGIN, ()), (_BOUND, ()), (_LOCK_HEADS, locks), is_write=False
                    )
                    held_since = clock()
                    if log.is_enabled_for(logging.DEBUG):  # in the order in which the server locked them
                        in_order = [(locked.get_value(row, 0) or b"").decode() for row in range(locked.ntuples)]
                        log.debug("heads_locked", ledgers=in_order, wait_ms=round((held_since - asked_at) * 1_000, 3))
                    yield
                except BaseException:
                    await self._roll_back()
                    raise
                (result,) = await self._pipeline.execute((_COMMIT, ()), is_write=True)
                if result.command_status != b"COMMIT":  # a statement failed before, and the block went on regardless
                    raise RolledBack("25P02")
        finally:
            self._in_transaction = False
            log.debug("heads_released", ledgers=heads, held_ms=round((clock() - held_since) * 1_000, 3))

    async def page(self, ledger: str, key: SnapshotKey, *, events_max: int) -> Page:
        """The account's latest snapshot and at most so many events after it: a long history, read in pieces that memory bounds."""
        parameters = (
            ledger.encode(),
            self.incarnation.bytes,
            key.address.encode(),
            binary.int4(key.fold_version),
            (calls.ACCOUNT_TAG + key.address).encode(),
            binary.int8(events_max),
        )
        (result,) = await self._pipeline.execute((_PAGE, parameters), is_write=False)
        rows = range(result.ntuples)
        position, state = (result.get_value(0, 0), result.get_value(0, 1)) if rows else (None, None)
        snapshot = None
        if position is not None and state is not None:
            snapshot = Snapshot(
                address=key.address,
                fold_version=key.fold_version,
                position=binary.read_int8(position),
                state=state.decode(),
            )
        return Page(snapshot=snapshot, events=[_row(ledger, result, row) for row in rows])

    async def write_snapshots(self, ledger: str, snapshots: Sequence[Snapshot]) -> None:
        """These folds are cached, but where a newer one is already. At most one snapshot an address and fold version."""
        parameters = (
            ledger.encode(),
            self.incarnation.bytes,
            binary.text_array([snapshot.address for snapshot in snapshots]),
            binary.int4_array([snapshot.fold_version for snapshot in snapshots]),
            binary.int8_array([snapshot.position for snapshot in snapshots]),
            binary.text_array([snapshot.state for snapshot in snapshots]),
        )
        await self._pipeline.execute((_WRITE_SNAPSHOTS, parameters), is_write=False)

    async def notify(self, channel: str, *payloads: str) -> None:
        """Listeners of `channel` hear each payload. Never beside an append: NOTIFY serialises the server's commits."""
        await self._pipeline.execute((_NOTIFY, (channel.encode(), binary.text_array(payloads))), is_write=False)

    def close(self) -> None:
        """The connection is closed; calls in flight fail."""
        self._pipeline.close()

    async def _roll_back(self) -> None:
        try:
            await self._pipeline.execute((_ROLLBACK, ()), is_write=False)
        except (LogUnavailable, LogFault):
            self.close()  # the server rolls back what its client left


async def end_backend(url: str, pid: int, backend_start: str, *, name: str = "daybook", wait_ms: int = 5_000) -> bool:
    """The backend that a lost connection left behind is gone: whatever is not in the log now, never will be from it.

    False: it was still there after `wait_ms`, and "not applied" must not be believed yet. A backend is known by its
    pid and its start, for pids are used again. Raises `LogUnavailable` if the server cannot be asked.
    """
    try:
        async with asyncio.timeout(wait_ms / 1_000 * 2):
            connection = await connect_async(
                conninfo(url, name=name, connect_ms=wait_ms, silence_ms=2 * wait_ms, statement_ms=2 * wait_ms)
            )
            async with connection:
                cursor = psycopg.AsyncRawCursor(connection)
                await cursor.execute(calls.TERMINATE_BACKEND, [pid, backend_start, wait_ms])
                await cursor.execute(calls.FIND_BACKEND, [pid, backend_start])
                return cursor.rowcount == 0
    except psycopg.errors.AdminShutdown:
        raise EndedBefore("end_backend_failed") from None
    except (psycopg.Error, TimeoutError):
        raise LogUnavailable("end_backend_failed") from None


def _opening(terms: Terms, server_version: int) -> dict[bytes, tuple[str, tuple[int, ...]]]:
    """How a transaction of these terms begins, as prepared statements that go out with its first question."""
    settings = terms.settings(server_version).items()
    bounds = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings)
    return {_BEGIN: (f"begin isolation level {terms.isolation}", ()), _BOUND: (f"select {bounds}", ())}


def _row(ledger: str, result: pq.abc.PGresult, row: int) -> RecordedEvent:
    type_, data, metadata = ((result.get_value(row, column) or b"").decode() for column in (3, 4, 5))
    return RecordedEvent(
        ledger=ledger,
        position=binary.read_int8(result.get_value(row, 2)),
        type=type_,
        data=data,
        metadata=metadata,
        recorded_at=binary.read_time(result.get_value(row, 6)),
    )


def _events(ledger: str, result: pq.abc.PGresult, column: int) -> Sequence[RecordedEvent]:
    positions = result.get_value(0, column)
    if positions is None:
        return ()
    return [
        RecordedEvent(
            ledger=ledger, position=position, type=type_, data=data, metadata=metadata, recorded_at=recorded_at
        )
        for position, type_, data, metadata, recorded_at in zip(
            binary.read_int8s(positions),
            binary.read_texts(result.get_value(0, column + 1)),
            binary.read_texts(result.get_value(0, column + 2)),
            binary.read_texts(result.get_value(0, column + 3)),
            binary.read_times(result.get_value(0, column + 4)),
            strict=True,
        )
    ]
