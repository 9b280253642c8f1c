"""How rows come into a read model: small batches on the trip of the positions, others by COPY, whatever is in their values."""

from datetime import UTC, datetime
from itertools import product

import psycopg
import pytest
from psycopg import sql

from projections.application.ports import Batch, Move, Unwritable
from projections.domain.projection import Projection, Row, Table
from projections.infrastructure.copy_text import OPTIONS, copy_text
from projections.infrastructure.postgres_read_model import INSERTED_ROWS_MAX, PostgresReadModel
from projections.infrastructure.wire import Wire
from tests.integration.projections.conftest import Kit

AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
KINDS = Projection(
    name="kinds",
    version=1,
    schema='create table things (ledger text collate "C", position bigint, amount numeric, is_so boolean, at timestamptz,'
    " metadata jsonb, names text[]);",
    keys="alter table things add primary key (ledger, position);",
    tables={
        "things": Table(columns=("ledger", "position", "amount", "is_so", "at", "metadata", "names"), key=1),
    },
    project=lambda read, state: {},
)
PLAIN: tuple[Row, ...] = (
    ("bank", 1, 10**40, True, "2026-11-28T09:30:00.000001Z", '{"a": "b, c"}', "{x,y}"),
    ("bank", 2, None, None, None, None, None),
    ("bank", 3, -1, False, "2026-11-28T09:30:00.000000Z", '["\N{SNOWMAN}"]', "{}"),
)
AWKWARD: tuple[Row, ...] = (
    ("bank", 4, 0, True, None, '"a\\tb\\\\ \\n"', '{"tab\there"}'),
    ("bank", 5, 0, True, None, '"None"', "{None}"),
)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tables each COPY filled."""
    counts: list[int] = []
    copy = Wire.copy

    def counted(wire: Wire, statements: list[bytes], texts: list[bytes]) -> None:
        counts.append(len(statements))
        copy(wire, statements, texts)

    monkeypatch.setattr(Wire, "copy", counted)
    return counts


def model(kit: Kit) -> PostgresReadModel:
    """One more process's read model."""
    generation = kit.generations(KINDS).prepare()
    return PostgresReadModel(kit.session(), projection=KINDS, generation=generation)


def batch(previous: int, rows: tuple[Row, ...]) -> Batch:
    """The rows, and the ledger moved past them."""
    move = Move(ledger="bank", previous=previous, position=previous + len(rows), recorded_at=AT)
    return Batch(moves=[move], rows={"things": rows}, faults=[])


def test_values_arrive_as_they_are_on_either_way(kit: Kit, copied: list[int]) -> None:
    of = model(kit)
    assert of.write(batch(0, PLAIN))
    assert copied == []
    assert of.write(batch(3, AWKWARD))
    assert copied == [1]
    many: tuple[Row, ...] = tuple(("bank", 6 + n, n, None, None, None, None) for n in range(INSERTED_ROWS_MAX + 1))
    assert of.write(batch(5, many))
    assert copied == [1, 1]
    found = kit.rows("select * from kinds_1.things order by position limit 5")
    assert found == [
        ("bank", 1, 10**40, True, datetime(2026, 11, 28, 9, 30, 0, 1, UTC), {"a": "b, c"}, ["x", "y"]),
        ("bank", 2, None, None, None, None, None),
        ("bank", 3, -1, False, AT, ["\N{SNOWMAN}"], []),
        ("bank", 4, 0, True, None, "a\tb\\ \n", ["tab\there"]),
        ("bank", 5, 0, True, None, "None", ["None"]),
    ]
    assert kit.rows("select count(*), sum(amount) from kinds_1.things where position > 5") == [
        (len(many), sum(range(len(many))))
    ]
    assert of.positions() == {"bank": 5 + len(many)}


def test_whoever_comes_second_has_lost_a_race_not_met_a_fault(kit: Kit) -> None:
    first, second = model(kit), model(kit)
    assert first.write(batch(0, PLAIN))
    assert not second.write(batch(0, PLAIN))  # its rows are there already, which nobody needs to hear of
    assert second.write(batch(3, AWKWARD))
    assert kit.rows("select count(*) from kinds_1.things") == [(5,)]


def test_a_value_that_its_column_cannot_hold_is_a_fault_and_nothing_counts(kit: Kit) -> None:
    of = model(kit)
    with pytest.raises(Unwritable) as caught:
        of.write(batch(0, (*PLAIN[:1], ("bank", 2, "much", None, None, None, None))))
    assert caught.value.fields == {"reason": "22P02"}
    assert of.positions() == {}
    assert of.write(batch(0, PLAIN))


def test_copy_reads_every_value_back_as_it_is_row_by_row_and_many_together(kit: Kit) -> None:
    """Texts of three pieces each that JSON, CSV or COPY may take for something else, and numbers of any length."""
    pieces = ('"', "\\", "\n", "\r", "\t", ",", "null", "\\.", "n", "\N{SNOWMAN}", "\x01", "")
    texts = ["".join(three) for three in product(pieces, repeat=3)]
    numbers = (None, 0, -1, 2**63, 2**64, 10**40)
    rows: list[Row] = [
        (at, text, numbers[at % len(numbers)], (True, False, None)[at % 3], text[::-1] or None)
        for at, text in enumerate(texts)
    ]
    with psycopg.connect(kit.database.admin_url) as connection:
        connection.execute("create temporary table v (at bigint, a text, n numeric, b boolean, z text)")
        for lines in (b"".join(copy_text([row]) for row in rows), copy_text(rows)):
            connection.execute("truncate v")
            with connection.cursor().copy(sql.SQL("copy v from stdin {}").format(sql.SQL(OPTIONS))) as copy:
                copy.write(lines)
            assert connection.execute("select * from v order by at").fetchall() == rows
