"""Compares two builds of a projection row by row, without moving a row out of Postgres: a digest a table and ledger, and where they
differ the first rows that only one of them has.

Both are looked at in one snapshot, each ledger as of the smaller of its two positions. Rows are only added, each with its position, so
that what stood there at an earlier one can be told; a replaced row tells it by the position at which it was replaced.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

from psycopg import Connection, sql

from projections.application.jobs import Findings, TableDigest, TableFinding
from projections.domain.projection import Projection, Table
from projections.infrastructure.postgres import STATEMENTS, Database, Row, Work

COMPARISON: Final = Work(name="comparison", isolation="repeatable read")
ACCOUNT: Final = "address"
FIRST_ROWS: Final = 5
FIRST_LEDGERS: Final = 10
MEETINGS_MAX: Final = 50
MEETING_WAIT_S: Final = 0.1
# A whole table is read: no index helps, and it takes as long as it takes; the lease of the job says whether anybody waits for it.
SNAPSHOT: Final[LiteralString] = "set local enable_seqscan = on"


class PostgresDigests:
    """Comparisons of one projection's builds."""

    def __init__(self, database: Database, projection: Projection) -> None:
        self._database = database
        self._projection = projection

    def compare(self, ours: int, theirs: int) -> Findings:
        """Two generations, every ledger that either of them has. A ledger that only one has is told as not compared."""
        needs_meeting = any(table.is_replaced and table.until is None for table in self._projection.tables.values())
        for meeting in range(MEETINGS_MAX):
            with self._database.transaction(COMPARISON) as session:
                session.execute(SNAPSHOT)
                places = {number: _positions(session, self._projection.name, number) for number in (ours, theirs)}
                if needs_meeting and places[ours] != places[theirs] and meeting < MEETINGS_MAX - 1:
                    time.sleep(MEETING_WAIT_S)
                    continue
                common = {
                    ledger: min(places[ours].get(ledger, 0), places[theirs].get(ledger, 0))
                    for ledger in places[ours] | places[theirs]
                }
                schemas = [f"{self._projection.name}_{number}" for number in (ours, theirs)]
                apart = [ledger for ledger in common if places[ours].get(ledger) != places[theirs].get(ledger)]
                missing = apart if needs_meeting else [ledger for ledger, position in common.items() if position == 0]
                return self.compare_schemas(session, *schemas, positions=common, missing=missing)
        raise AssertionError("the last meeting compares")

    def compare_schemas(
        self,
        session: Connection[Row],
        ours: str,
        theirs: str,
        *,
        positions: Mapping[str, int],
        missing: Sequence[str] = (),
        account: str | None = None,
    ) -> Findings:
        """Two schemas, these ledgers as of these positions, in the transaction of the session. `account`: only its rows."""
        of = {"ledgers": list(positions), "positions": list(positions.values()), "account": account}
        compared = self._projection.tables if account is None else by_account(self._projection.tables)
        tables: list[TableDigest] = []
        differ: dict[str, list[tuple[str, int, int]]] = {}
        for name, table in compared.items():
            mine, others = (_digests(session, schema, name, table, of) for schema in (ours, theirs))
            for ledger in sorted(mine.keys() | others.keys()):
                if mine.get(ledger) != others.get(ledger):
                    counts = (mine.get(ledger, (0, 0))[0], others.get(ledger, (0, 0))[0])
                    differ.setdefault(ledger, []).append((name, *counts))
            tables.append(
                TableDigest(
                    table=name,
                    rows=sum(count for count, _ in mine.values()),
                    digest=f"{sum(digest for _, digest in mine.values()) % 2**64:016x}",
                    is_equal=mine == others,
                )
            )
        differences = []
        for ledger in sorted(differ)[:FIRST_LEDGERS]:
            for name, ours_rows, theirs_rows in differ[ledger]:
                of_table = (name, compared[name])
                where = {"ledger": ledger, "position": positions[ledger], "account": account}
                differences.append(
                    TableFinding(
                        table=name,
                        ledger=ledger,
                        ours_rows=ours_rows,
                        theirs_rows=theirs_rows,
                        ours=_only(session, (ours, theirs), of_table, where),
                        theirs=_only(session, (theirs, ours), of_table, where),
                    )
                )
        return Findings(
            ledgers=len(positions),
            events=sum(positions.values()),
            tables=tables,
            ledgers_differ=len(differ),
            differences=differences,
            not_compared=sorted(missing)[:FIRST_LEDGERS],
        )


def by_account(tables: Mapping[str, Table]) -> Mapping[str, Table]:
    """The tables whose rows belong to an account each: the column `address` names it."""
    return {name: table for name, table in tables.items() if ACCOUNT in table.columns}


def _of_account(account: object) -> sql.Composable:
    return sql.SQL("true" if account is None else "t.address = %(account)s")


def _positions(session: Connection[Row], projection: str, generation: int) -> dict[str, int]:
    of = {"projection": projection, "generation": generation, "ledgers": None}
    return {ledger: position for ledger, position, *_ in session.execute(STATEMENTS["positions"], of)}


def _columns(table: Table) -> sql.Composed:
    """A table's columns as of position p.position."""
    until = table.until
    return sql.SQL(", ").join(
        sql.SQL("case when {0} <= p.position then {0} end").format(sql.Identifier("t", column))
        if column == until
        else sql.Identifier("t", column)
        for column in table.columns
    )


def _digests(
    session: Connection[Row], schema: str, name: str, table: Table, of: Mapping[str, object]
) -> dict[str, tuple[int, int]]:
    """Rows and digest by ledger; the digest is a sum, so that the order of rows does not count and none cancels another."""
    statement = sql.SQL(
        "select t.ledger, count(*), sum(hashtextextended(row({})::text, 0))::text"
        " from {} t join unnest(%(ledgers)s::text[], %(positions)s::bigint[]) as p (ledger, position)"
        " on p.ledger = t.ledger where {} <= p.position and {} group by t.ledger"
    ).format(
        _columns(table), sql.Identifier(schema, name), sql.Identifier("t", table.position), _of_account(of["account"])
    )
    return {ledger: (count, int(digest)) for ledger, count, digest in session.execute(statement, of)}


def _only(
    session: Connection[Row], schemas: tuple[str, str], table: tuple[str, Table], where: Mapping[str, object]
) -> list[str]:
    """The first rows, as JSON, that the first schema has and the second has not."""
    name, spec = table
    names = sql.SQL(", ").join(map(sql.Identifier, spec.columns))
    rows = [
        sql.SQL(
            "select {} from {} t, (select %(position)s::bigint as position) p where t.ledger = %(ledger)s and {} <= p.position"
            " and {}"
        ).format(
            _columns(spec),
            sql.Identifier(schema, name),
            sql.Identifier("t", spec.position),
            _of_account(where["account"]),
        )
        for schema in schemas
    ]
    statement = sql.SQL(
        "select row_to_json(r)::text from (select * from (({}) except all ({})) as d ({}) order by {}, d limit {}) as r"
    ).format(rows[0], rows[1], names, sql.Identifier("d", spec.position), sql.Literal(FIRST_ROWS))
    return [text for (text,) in session.execute(statement, where)]
