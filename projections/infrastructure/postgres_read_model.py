"""One generation of a read model in Postgres: rows, positions and waiting ledgers, written together or not at all.

The compare-and-set of positions comes first in the transaction, in ledger order: a writer that lost the race has written
nothing, and two writers never wait for each other in a circle.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from itertools import chain
from time import monotonic
from typing import Any, Final
from uuid import UUID

import structlog
from psycopg import Connection, Rollback, sql

from projections.application.ports import Batch, ForeignGeneration, Generation, Lag, Move, Standing
from projections.domain.projection import Key, Projection, Value
from projections.domain.projection import Row as ModelRow
from projections.infrastructure.copy_text import NULL, OPTIONS, copy_text, plain_text
from projections.infrastructure.postgres import STATEMENTS, Database, Row, Work
from projections.infrastructure.wire import Call, rows_of
from shared_kernel.event_log import binary
from shared_kernel.words import format_time

INSERTED_ROWS_MAX: Final = 1_000  # measured: up to here inserts cost no more than COPY, and fewer trips
_WRITE: Final = Work(name="read_model_write")


class PostgresReadModel:
    """Reads and writes one generation."""

    def __init__(self, database: Database, *, projection: Projection, generation: Generation) -> None:
        self._database = database
        self._generation = generation
        self._tables = projection.tables
        self._of = {
            "projection": generation.projection,
            "generation": generation.number,
            "version": generation.version,
        }
        self._incarnation = generation.incarnation
        self._of_wire = (
            generation.projection.encode(),
            binary.int4(generation.number),
            UUID(generation.incarnation).bytes,
        )
        self._repairs: dict[str, int] = {}  # by ledger, as of the last look at its position
        self._was_repaired = False
        self._copies = {
            table: sql.SQL("copy {} ({}) from stdin {}")
            .format(self._name(table), sql.SQL(", ").join(map(sql.Identifier, spec.columns)), sql.SQL(OPTIONS))
            .as_bytes()
            for table, spec in projection.tables.items()
        }

    def positions(self, ledgers: Sequence[str] | None = None) -> dict[str, int]:
        """Positions of these ledgers (all, if none are named). ForeignGeneration where one is of another incarnation."""
        asked = self._of | {"ledgers": None if ledgers is None else list(ledgers)}
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["positions"], asked).fetchall()
        for ledger, position, incarnation, repairs in rows:
            if incarnation != self._incarnation:
                raise ForeignGeneration(self._generation, ledger=ledger, position=position)
            self._was_repaired = self._was_repaired or repairs != self._repairs.get(ledger, 0)
            self._repairs[ledger] = repairs
        return {ledger: position for ledger, position, *_ in rows}

    def was_repaired(self) -> bool:
        """True once after `positions` found that rows were repaired since it looked before: no row in memory can be trusted."""
        was_repaired, self._was_repaired = self._was_repaired, False
        return was_repaired

    def last_rows(self, keys: Sequence[Key]) -> dict[Key, ModelRow]:
        """The last row, as far as its table keeps it, of those keys that have one."""
        by_table: dict[str, list[Key]] = {}
        for key in keys:
            by_table.setdefault(str(key[0]), []).append(key)
        found: dict[Key, ModelRow] = {}
        with self._database.session() as session:
            for table, asked in by_table.items():
                parts = [list(part) for part in zip(*asked, strict=True)][1:]
                rows = session.execute(self._last_rows[table], parts, prepare=False).fetchall()
                for number, *values in rows:
                    found[asked[number - 1]] = tuple(map(as_projected, values))
        return found

    def lines(self, rows: Sequence[ModelRow]) -> bytes:
        """The rows of a table as the text of COPY."""
        return copy_text(rows)

    def write(self, batch: Batch) -> bool:
        """Writes all of it or nothing; a ledger that passes its fault is rid of it. False: somebody else was there first.

        Waiting readers are told what they can see now. They look at the live generation only, so others keep silent.
        """
        began = monotonic()
        try:
            with self._database.transaction(_WRITE) as session:
                additions = self._additions(batch)
                if not self._move(session, batch, additions):
                    raise Rollback
                if additions is None:
                    self._add(session, batch)
                if batch.skipped:
                    ledgers, positions = zip(*batch.skipped, strict=True)
                    passed = {"ledgers": list(ledgers), "positions": list(positions)}
                    session.execute(STATEMENTS["leave_out"], self._of | passed)
                if batch.faults:
                    session.execute(STATEMENTS["stand_still"], self._of | _columns_of_faults(batch))
                return True
            self._check_incarnation()
            return False
        finally:
            self._tell("positions_released", sorted(_held(batch)), held_ms=_since(began))

    def _check_incarnation(self) -> None:
        with self._database.session() as session:
            if session.execute(STATEMENTS["incarnation"]).fetchone() != (self._incarnation,):
                raise ForeignGeneration(self._generation)

    def standing(self) -> list[Standing]:
        """The ledgers that stand still."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["standing"], self._of).fetchall()
        return [
            Standing(ledger=ledger, position=position, attempts=attempts, is_parked=is_parked, asked_at=asked_at)
            for ledger, position, attempts, is_parked, asked_at in rows
        ]

    def release(self, ledgers: Sequence[str]) -> None:
        """Those of them that wait before an event that is not there yet wait no longer."""
        with self._database.session() as session:
            session.execute(STATEMENTS["release"], self._of | {"ledgers": list(ledgers)})

    def skips(self) -> dict[str, set[int]]:
        """The positions, by ledger, that this version leaves out."""
        found: dict[str, set[int]] = {}
        with self._database.session() as session:
            for ledger, position in session.execute(STATEMENTS["skips"], self._of):
                found.setdefault(ledger, set()).add(position)
        return found

    def lags(self) -> list[Lag]:
        """Every ledger whose position is not its head."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["lags"], self._of).fetchall()
        return [Lag(ledger=ledger, head=head, position=position) for ledger, head, position in rows]

    def lag_s(self, lags: Sequence[Lag]) -> float:
        """The age of the oldest event that one of these ledgers does not have yet, in seconds."""
        of = {"ledgers": [lag.ledger for lag in lags], "positions": [lag.position for lag in lags]}
        with self._database.session() as session:
            [(age,)] = session.execute(STATEMENTS["lag_age"], of).fetchall()
        return float(age)

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._generation.schema_name, table)

    @cached_property
    def _types(self) -> Mapping[tuple[str, str], str]:
        """The types of key columns, so that arrays of keys are compared as what the index holds."""
        with self._database.session() as session:
            rows = session.execute(STATEMENTS["column_types"], {"schema": self._generation.schema_name}).fetchall()
        return {(table, column): its_type for table, column, its_type in rows}

    @cached_property
    def _last_rows(self) -> Mapping[str, sql.Composed]:
        return {name: self.last_row_statement(name) for name, table in self._tables.items() if table.key}

    def last_row_statement(self, name: str) -> sql.Composed:
        """One index probe a key: (number of the key from 1, what the table keeps of its last row)."""
        table = self._tables[name]
        keys = table.columns[: table.key]
        kept = table.columns if table.kept is None else table.columns[-table.kept :]
        arrays = [sql.SQL("%s::{}[]").format(sql.SQL(self._types[name, key])) for key in keys]
        equal = [sql.SQL("r.{} = k.{}").format(sql.Identifier(key), sql.Identifier(key)) for key in keys]
        latest = [sql.SQL("r.{} desc").format(sql.Identifier(column)) for column in table.order]
        return sql.SQL(
            "select k.number, r.* from unnest({}) with ordinality as k ({}, number) cross join lateral ("
            "select {} from {} r where {} order by {} limit 1) as r"
        ).format(
            sql.SQL(", ").join(arrays),
            sql.SQL(", ").join(map(sql.Identifier, keys)),
            sql.SQL(", ").join([sql.SQL("r.{}").format(sql.Identifier(column)) for column in kept]),
            self._name(name),
            sql.SQL(" and ").join(equal),
            sql.SQL(", ").join(latest),
        )

    def _additions(self, batch: Batch) -> list[Call] | None:
        """What adds the rows, to go on the trip of the move; None where COPY has to, or is better at it.

        For COPY the server asks before each table. Of small rounds such trips are most, where processes wait for a processor.
        """
        rows = {table: rows for table, rows in batch.rows.items() if rows}
        if not batch.moves or batch.lines or not rows or sum(map(len, rows.values())) > INSERTED_ROWS_MAX:
            return None
        calls: list[Call] = []
        for name, of_table in rows.items():
            table = self._tables[name]
            if table.is_replaced or len(table.columns) == 1:
                return None
            text, is_plain = plain_text(of_table, len(table.columns))
            if not is_plain:
                return None
            calls.append((self._added_by(name), (text[:-1].encode(),)))
        return calls

    def _added_by(self, table: str) -> str:
        return f"add to {self._generation.schema_name}.{table}"

    @cached_property
    def _inserts(self) -> Mapping[str, str]:
        return {self._added_by(name): self._insert(name) for name in self._tables}

    def _insert(self, name: str) -> str:
        columns = self._tables[name].columns
        values = [
            sql.SQL("v[{}]::{}").format(sql.Literal(number), sql.SQL(self._types[name, column]))
            for number, column in enumerate(columns, 1)
        ]
        # The fence: each line is taken apart once, not for each of its values.
        rows = sql.SQL(
            "select string_to_array(line, E'\\t', {}) as v from string_to_table($1::text, E'\\n') as line offset 0"
        )
        return (
            sql.SQL("insert into {} ({}) select {} from ({}) as added")
            .format(
                self._name(name),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(values),
                rows.format(sql.Literal(NULL)),
            )
            .as_string()
        )

    def _add(self, session: Connection[Row], batch: Batch) -> None:
        rows = {table: rows for table, rows in batch.rows.items() if rows}
        for name, of_table in rows.items():
            if self._tables[name].is_replaced:
                self._remove(session, name, of_table)
        if rows or batch.lines:
            texts = map(copy_text, rows.values())
            copies = [self._copies[name] for name in (*rows, *batch.lines)]
            self._database.wire.copy(copies, chain(texts, batch.lines.values()))

    def _remove(self, session: Connection[Row], name: str, rows: Sequence[ModelRow]) -> None:
        table = self._tables[name]
        keys = table.columns[: table.key]
        arrays = [sql.SQL("%s::{}[]").format(sql.SQL(self._types[name, key])) for key in keys]
        equal = [sql.SQL("r.{} = k.{}").format(sql.Identifier(key), sql.Identifier(key)) for key in keys]
        delete = sql.SQL("delete from {} r using unnest({}) as k ({}) where {}").format(
            self._name(name),
            sql.SQL(", ").join(arrays),
            sql.SQL(", ").join(map(sql.Identifier, keys)),
            sql.SQL(" and ").join(equal),
        )
        session.execute(delete, [list(part) for part in zip(*(row[: table.key] for row in rows), strict=True)])

    def _move(self, session: Connection[Row], batch: Batch, additions: Sequence[Call] | None) -> bool:
        """Where each ledger that moves, or is to be parked, stands as the batch believes, it is locked, and moved, and rows added.

        Otherwise what the additions have done or met counts for nothing, and is rolled back.
        """
        moves = batch.moves
        held = _held(batch)
        if not held:
            return True
        additions = additions or []
        ledgers = sorted(held)
        new = [ledger for ledger in ledgers if held[ledger] == 0]
        expected = [
            (ledger.encode(), b"%d" % held[ledger], b"t", b"%d" % self._repairs.get(ledger, 0)) for ledger in ledgers
        ]
        wire = self._database.wire
        if additions:
            wire.learn(self._inserts)
        if new:
            wire.execute(("begin_positions", (*self._of_wire, binary.text_array(new))))
        asked = monotonic()
        # One trip, but each statement sees what was committed until it begins: the second, what was while the first waited.
        locked, moved, *others = wire.execute(
            ("lock_positions", (*self._of_wire, binary.text_array(ledgers))),
            ("move_positions", (*self._of_wire, *_columns_of_moves(moves))),
            *self._announcement(moves),
            *additions,
            unchecked=len(additions),
        )
        found = [ledger.decode() for ledger, *_ in rows_of(locked) if ledger is not None]
        self._tell("positions_locked", found, wait_ms=_since(asked))
        if rows_of(locked) != expected or moved.ntuples != len(moves):
            return False
        wire.check(others)
        if (b"t",) in rows_of(moved):
            of = {"ledgers": [move.ledger for move in moves], "reached": [move.position for move in moves]}
            session.execute(STATEMENTS["go_on"], self._of | of)
        return True

    def _tell(self, what: str, ledgers: Sequence[str], **duration_ms: float) -> None:
        """Rows of positions that are locked, in the order in which they were, or free again: for who looks after lock orders.

        `held_ms` counts from the beginning of the transaction; `wait_ms` is of the whole trip that locks and writes.
        """
        of = self._generation
        structlog.get_logger().debug(
            what, projection=of.projection, generation=of.number, ledgers=ledgers, **duration_ms
        )

    def _announcement(self, moves: Sequence[Move]) -> list[Call]:
        if self._generation.state != "live" or not moves:
            return []
        name = self._generation.projection
        return [("announce", [binary.text_array([f"{name}/{move.ledger}/{move.position}" for move in moves])])]


def _since(began: float) -> float:
    return round((monotonic() - began) * 1_000, 3)


def _held(batch: Batch) -> dict[str, int]:
    """Every ledger whose row of positions the batch locks, and where it must stand."""
    held = {fault.ledger: fault.position - 1 for fault in batch.faults if fault.is_final}
    held.update((move.ledger, move.previous) for move in batch.moves)
    return held


def as_projected(value: Any) -> Value:
    """A value as the projection made it: whole numbers and times as text."""
    if isinstance(value, Decimal):
        return int(value)
    if isinstance(value, datetime):
        return format_time(value.replace(tzinfo=UTC))  # the session's zone is UTC
    return value  # type: ignore[no-any-return]


def _columns_of_moves(moves: Sequence[Move]) -> tuple[bytes, ...]:
    return (
        binary.text_array([move.ledger for move in moves]),
        binary.int8_array([move.previous for move in moves]),
        binary.int8_array([move.position for move in moves]),
        binary.time_array([move.recorded_at for move in moves]),
    )


def _columns_of_faults(batch: Batch) -> dict[str, object]:
    faults = sorted(batch.faults, key=lambda fault: fault.ledger)
    return {
        "ledgers": [fault.ledger for fault in faults],
        "positions": [fault.position for fault in faults],
        "event_types": [fault.event_type for fault in faults],
        "error_classes": [fault.error_class for fault in faults],
        "errors": [fault.error for fault in faults],
        "trace_ids": [fault.trace_id for fault in faults],
        "are_final": [fault.is_final for fault in faults],
    }
