"""Rebuilds that operators ask for: beside the live generation, compared with it, taken over, rolled back, and killed at any moment."""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import pytest

from projections.application.jobs import Findings, Job, JobKind
from projections.application.operations import Asker
from projections.application.ports import Batch, TooManyParked
from projections.application.rebuild import Progress, Rebuild, Speed
from projections.domain.projection import Projection, Read, Rows, State, Table
from projections.infrastructure.child_processes import ChildProcesses
from projections.infrastructure.postgres_builds import PostgresBuilds
from projections.infrastructure.postgres_generations import make_indexes
from projections.infrastructure.postgres_jobs import PostgresJobs
from projections.infrastructure.postgres_log import PostgresLog
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.workshop import Workshop
from shared_kernel.errors import Rejection
from shared_kernel.event_log.types import RecordedEvent
from tests.integration.projections.conftest import BOOKS, PERIODS, Kit
from tests.support.histories import opened, transfer
from tests.support.lives import books
from tests.support.plain_books import read_log
from tests.support.postgres_bounds import BOUNDS

pytestmark = pytest.mark.thorough

ASKER = Asker(subject="ann", reason="ticket 7")
SPEED = Speed(
    batch_events_max=40, batch_bytes_max=1_000_000, ledgers_max=100, rows_max=50, parked_max=2, part_events_max=7
)


class Operator:
    """What an operator does with one projection, its jobs done at once and here."""

    def __init__(self, kit: Kit, projection: Projection = BOOKS) -> None:
        self.kit = kit
        self.projection = projection
        self.builds = PostgresBuilds(kit.session(), projection)
        self.jobs = PostgresJobs(kit.session())

    def follow(self) -> None:
        """The live generation is at the head, as are all that are fed beside it."""
        self.kit.generations(self.projection).prepare()
        generations = self.kit.generations(self.projection)
        for generation in [generations.prepare(), *generations.beside()]:
            worker, _ = self.kit.worker(self.projection, generation=generation)
            worker.check(is_live=False)
            while worker.catch_up():
                pass

    def work(self, id_: int, speed: Speed = SPEED) -> Job:
        """The job is claimed and done."""
        claimed = self.jobs.claim("me", [self.projection.name], 60_000)
        assert claimed == (id_, 1)
        job = self.jobs.find(id_)
        assert job is not None
        projections = {self.projection.name: self.projection}
        workshop = Workshop(
            self.kit.database.urls["projector"],
            projections,
            bounds=BOUNDS,
            build_bounds=BOUNDS,
            speed=speed,
            children=ChildProcesses(),
        )
        progress = Progress()
        outcome = workshop.work(job, "me", progress, threading.Event())
        assert self.jobs.keep(id_, "me", 60_000, progress)
        assert self.jobs.end(id_, "me", state="done", outcome=outcome)
        done = self.jobs.find(id_)
        assert done is not None
        return done

    def rebuild(self) -> Job:
        """Another generation is whole."""
        return self.work(self.builds.rebuild(ASKER, events_per_second_max=None))

    def verify(self) -> Findings:
        """What a comparison of the newest generation with the live one finds."""
        findings = self.work(self.builds.verify(ASKER, generation=None)).findings
        assert findings is not None
        return findings

    def look_after(self, kind: JobKind, ledger: str | None = None, account: str | None = None) -> Job:
        """The live generation is reconciled or repaired."""
        return self.work(self.builds.look_after(ASKER, kind, ledger=ledger, account=account))

    def is_different(self) -> bool:
        """What metrics say of the last reconciliation."""
        [figures] = self.jobs.figures([self.projection.name])
        return figures.is_different

    def states(self) -> list[tuple[int, str]]:
        """Generations and their states."""
        return self.kit.rows(
            "select generation, state from projections.generations where projection = %s order by 1",
            self.projection.name,
        )


@contextmanager
def refused(code: str) -> Iterator[None]:
    """A Rejection of this code."""
    with pytest.raises(Rejection) as caught:
        yield
    assert caught.value.code == code


@pytest.mark.parametrize("projection", [BOOKS, PERIODS], ids=["books", "periods"])
def test_a_rebuild_is_compared_taken_over_rolled_back_and_dropped(kit: Kit, projection: Projection) -> None:
    operator = Operator(kit, projection)
    for name in ("a", "b", "c"):
        kit.append(name, list(books(name, 120)))
    operator.follow()
    job = operator.rebuild()
    events = len(read_log(kit.admin))
    assert (job.state, job.events_done, job.events_total, job.generation) == ("done", events, events, 2)
    assert operator.states() == [(1, "live"), (2, "built")]
    for table in projection.tables:
        assert kit.dump(f"{projection.name}_1.{table}") == kit.dump(f"{projection.name}_2.{table}"), table

    with refused("not_verified"):
        operator.builds.swap(ASKER, generation=None, is_forced=False)
    findings = operator.verify()
    assert findings.passed()
    assert {table.table for table in findings.tables} == set(projection.tables)
    assert (findings.ledgers, findings.events) == (3, events)
    kit.append("a", [transfer("later", 5)])
    operator.follow()
    operator.builds.swap(ASKER, generation=None, is_forced=False)
    assert (kit.live(projection.name), operator.states()) == (2, [(1, "former"), (2, "live")])

    kit.append("a", [transfer("later still", 5)])
    operator.follow()
    with refused("generation_live"):
        operator.builds.drop(ASKER, generation=2)
    operator.builds.rollback(ASKER)
    assert operator.states() == [(1, "live"), (2, "former")]
    assert kit.positions(1) == kit.positions(2)
    operator.builds.drop(ASKER, generation=2)
    assert operator.states() == [(1, "live"), (2, "dropped")]
    assert kit.rows("select from pg_namespace where nspname = %s", f"{projection.name}_2") == []
    with refused("nothing_to_roll_back"):
        operator.builds.rollback(ASKER)
    trail = kit.rows("select actor, action, reason, details from projections.operator_actions order by id")
    assert [action for _, action, _, _ in trail] == ["rebuild", "verify", "swap", "rollback", "drop"]
    assert {(actor, reason) for actor, _, reason, _ in trail} == {("ann", "ticket 7")}
    assert trail[2][3] == {"generation": 2, "before": 1, "is_forced": False}


def test_a_second_rebuild_and_what_is_not_whole_are_refused(kit: Kit) -> None:
    operator = Operator(kit)
    kit.append("bank", list(books("bank", 9)))
    operator.follow()
    operator.builds.rebuild(ASKER, events_per_second_max=None)
    with refused("rebuild_running"):
        operator.builds.rebuild(ASKER, events_per_second_max=None)
    for act in (
        lambda: operator.builds.verify(ASKER, generation=2),
        lambda: operator.builds.swap(ASKER, generation=2, is_forced=True),
    ):
        with refused("generation_building"):
            act()
    with refused("generation_not_found"):
        operator.builds.verify(ASKER, generation=9)
    operator.builds.drop(ASKER, generation=2)
    assert kit.rows("select state from projections.jobs") == [("cancelled",)]
    operator.builds.rebuild(ASKER, events_per_second_max=None)
    assert operator.states() == [(1, "live"), (2, "dropped"), (3, "building")]


def test_a_comparison_names_the_rows_that_differ_and_a_forced_swap_stands_in_the_trail(kit: Kit) -> None:
    operator = Operator(kit)
    for name in ("a", "b"):
        kit.append(name, list(books(name, 60)))
    operator.follow()
    operator.rebuild()
    [(address, position)] = kit.admin.execute(
        "update books_1.entries set amount = amount + 1 where (ledger, position, entry_index) ="
        " (select ledger, position, entry_index from books_1.entries where ledger = 'b' order by position limit 1)"
        " returning address, position"
    ).fetchall()
    kit.admin.execute("delete from books_2.accounts where ledger = 'b'")
    findings = operator.verify()
    assert not findings.passed()
    assert [table.table for table in findings.tables if not table.is_equal] == ["accounts", "entries"]
    entries = next(each for each in findings.differences if each.table == "entries")
    assert (entries.ledger, len(entries.ours), len(entries.theirs)) == ("b", 1, 1)
    ours, theirs = (msgspec.json.decode(rows[0]) for rows in (entries.ours, entries.theirs))
    assert (ours["address"], ours["position"], theirs["amount"] - ours["amount"]) == (address, position, 1)
    accounts = next(each for each in findings.differences if each.table == "accounts")
    assert accounts.ours_rows == 0 < accounts.theirs_rows
    with refused("not_verified"):
        operator.builds.swap(ASKER, generation=2, is_forced=False)
    operator.builds.swap(ASKER, generation=2, is_forced=True)
    assert kit.live() == 2
    [(details,)] = kit.rows("select details from projections.operator_actions where action = 'swap'")
    assert details["is_forced"] is True


def test_no_swap_even_a_forced_one_takes_readers_back(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.infrastructure.postgres_builds.CATCH_UP_S_MAX", 0.1)
    operator = Operator(kit)
    kit.append("bank", list(books("bank", 30)))
    operator.follow()
    operator.rebuild()
    kit.append("bank", [transfer("later", 5)])
    worker, _ = kit.worker()
    worker.apply(read_log(kit.admin))
    with refused("generation_behind"):
        operator.builds.swap(ASKER, generation=2, is_forced=True)
    assert kit.live() == 1


def test_a_rebuild_beside_writers_holds_what_they_wrote(kit: Kit) -> None:
    operator = Operator(kit)
    kit.append("bank", list(books("bank", 200)))
    operator.follow()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            kit.append("bank", [transfer(f"w{number}", 1)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        operator.rebuild()
    finally:
        stop.set()
        writer.join()
    operator.follow()
    assert operator.verify().passed()
    kit.assert_complete("books_2")


def failing_at(position: int, *ledgers: str) -> Projection:
    """The books, which these ledgers' event at a position is poison for."""

    def project(read: Read, state: State) -> Rows:
        if read.recorded.ledger in ledgers and read.recorded.position == position:
            raise ZeroDivisionError
        return BOOKS.project(read, state)

    return msgspec.structs.replace(BOOKS, project=project)


def test_a_rebuild_leaves_out_what_operators_skipped_until_the_ledger_is_repaired(kit: Kit) -> None:
    kit.append("a", [opened("a"), *(transfer(f"t{number}", 5) for number in range(6))])
    broken = Operator(kit, failing_at(4, "a"))
    broken.follow()
    kit.parking().skip("books", "a", position=4, actor="olga", reason="ticket 7")
    broken.follow()
    broken.rebuild()
    assert broken.verify().passed()
    lacking = "select generation, state, position from projections.standstills order by 1"
    assert kit.rows(lacking) == [(1, "skipped", 4), (2, "skipped", 4)]
    mended = Operator(kit)
    assert mended.look_after("repair", "a").has_passed
    assert kit.rows(lacking) == [(2, "skipped", 4)]
    assert kit.rows("select lifted_at is null from projections.skips") == [(False,)]
    kit.assert_complete()


def test_a_rebuild_in_which_too_many_ledgers_cannot_go_on_ends_and_writes_no_more_of_them_than_it_takes(
    kit: Kit,
) -> None:
    ledgers = [f"l{number}" for number in range(9)]
    for ledger in ledgers:
        kit.append(ledger, [opened(ledger), transfer("t", 5)])
    Operator(kit).follow()
    with pytest.raises(TooManyParked):
        Operator(kit, failing_at(2, *ledgers)).rebuild()
    assert kit.rows("select count(*) from projections.dead_letters") == [(SPEED.parked_max + 1,)]


def test_a_throttled_rebuild_keeps_to_its_rate(kit: Kit) -> None:
    operator = Operator(kit)
    kit.append("bank", list(books("bank", 199)))
    operator.follow()
    began = time.monotonic()
    operator.work(operator.builds.rebuild(ASKER, events_per_second_max=200))
    assert time.monotonic() - began > 0.7
    kit.assert_complete("books_2")


def test_a_reconciliation_finds_what_was_changed_behind_the_books_and_a_repair_mends_it(kit: Kit) -> None:
    operator = Operator(kit)
    for name in ("a", "b", "c"):
        kit.append(name, list(books(name, 60)))
    operator.follow()
    worker, _ = kit.worker()
    assert operator.look_after("reconcile").has_passed
    kit.admin.execute(
        "delete from books_1.entries where ledger = 'b' and position = (select max(position) from books_1.entries where ledger = 'b')"
    )
    kit.admin.execute("update books_1.accounts set metadata = '{}' where ledger = 'b'")
    assert not operator.is_different()
    found = operator.look_after("reconcile")
    assert found.has_passed is False
    assert found.findings is not None
    assert {each.ledger for each in found.findings.differences} == {"b"}
    assert operator.look_after("reconcile", "b").has_passed is False
    assert operator.look_after("reconcile", "a").has_passed
    assert operator.is_different()  # what was found of all ledgers is not gone because one of them is well
    repaired = operator.look_after("repair", "b")
    assert repaired.has_passed
    assert repaired.findings is not None
    assert "entries" in {each.table for each in repaired.findings.differences}
    kit.assert_complete()
    assert operator.is_different()
    assert operator.look_after("reconcile").has_passed
    assert not operator.is_different()
    kit.append("b", [transfer("after", 5)])
    worker.apply(read_log(kit.admin))  # it remembers rows that are no more, and notices
    kit.assert_complete()
    assert kit.rows("select nspname from pg_namespace where nspname like 'books_job%%'") == []
    assert kit.rows("select from projections.positions where generation < 0") == []


DAMAGE = {
    "accounts": 'update {} set metadata = \'{{"no": "such"}}\'',
    "entries": "update {} set amount = amount + 1, posted_debits = posted_debits + 1",
    "account_labels": "delete from {}",
    "scheduled_accounts": "delete from {}",
    "timely": "update {} set debits = debits + 1",
    "untimely": "delete from {}",
}


@pytest.mark.parametrize("projection", [BOOKS, PERIODS], ids=["books", "periods"])
def test_one_account_is_repaired_in_place_and_no_row_of_another_is_touched(kit: Kit, projection: Projection) -> None:
    operator = Operator(kit, projection)
    for name in ("a", "b"):
        kit.append(name, list(books(name, 150)))
    operator.follow()
    worker, _ = kit.worker(projection)
    schema = f"{projection.name}_1"
    whole = {table: kit.dump(f"{schema}.{table}") for table in projection.tables}
    tables = [name for name, table in projection.tables.items() if "address" in table.columns]
    assert set(tables) == DAMAGE.keys() & projection.tables.keys()
    most = f"select address from {schema}.{tables[-1]} where ledger = 'b' group by 1 order by count(*) desc, 1 limit 2"
    [damaged, another] = [address for (address,) in kit.rows(most)]
    for address in (damaged, another):
        for table in tables:
            where = f" where ledger = 'b' and address = '{address}'"
            kit.admin.execute((DAMAGE[table].format(f"{schema}.{table}") + where).encode())
    found = operator.look_after("reconcile", "b").findings
    assert found is not None

    job = operator.look_after("repair", "b", damaged)
    assert (job.has_passed, job.ledger, job.account) == (True, "b", damaged)
    assert job.findings is not None
    assert {each.table for each in job.findings.differences} <= {each.table for each in found.differences}
    assert {each.table for each in job.findings.differences} & {"entries", "timely", "untimely"}
    assert all(f'"{damaged}"' in row for each in job.findings.differences for row in (*each.ours, *each.theirs))
    left = operator.look_after("reconcile", "b").findings
    assert left is not None
    assert left.differences
    rows = [row for each in left.differences for row in (*each.ours, *each.theirs)]
    assert all(f'"{another}"' in row for row in rows)  # nobody asked for that one

    operator.look_after("repair", "b", another)
    assert {table: kit.dump(f"{schema}.{table}") for table in projection.tables} == whole
    [(details,), _] = kit.rows("select details from projections.operator_actions where action = 'repair' order by id")
    assert details["account"] == damaged
    kit.append("b", [transfer("after", 5, credit=damaged)])
    worker.apply(read_log(kit.admin))  # it remembers rows that are no more, and notices
    operator.follow()
    assert operator.look_after("reconcile").has_passed


def test_a_repaired_account_is_without_what_operators_skipped_like_the_rest_of_its_ledger(kit: Kit) -> None:
    kit.append("a", [opened("a"), *(transfer(f"t{number}", 5) for number in range(6))])
    broken = Operator(kit, failing_at(4, "a"))
    broken.follow()
    kit.parking().skip("books", "a", position=4, actor="olga", reason="ticket 7")
    broken.follow()
    kit.admin.execute("update books_1.entries set amount = amount + 1 where address = 'users:1'")
    assert broken.look_after("repair", "a", "users:1").has_passed
    assert broken.look_after("reconcile").has_passed
    assert kit.rows("select state, position from projections.standstills") == [("skipped", 4)]


def test_a_projection_without_rows_by_account_is_repaired_by_ledger_only(kit: Kit) -> None:
    table = Table(columns=("ledger", "position"))
    schema = "create table things (ledger text, position bigint);"
    plain = Projection(name="plain", version=1, schema=schema, tables={"things": table}, project=lambda read, state: {})
    operator = Operator(kit, plain)
    kit.append("a", list(books("a", 9)))
    operator.follow()
    with refused("no_rows_by_account"):
        operator.look_after("repair", "a", "bank:cash")
    assert operator.look_after("repair", "a").has_passed


def test_a_ledger_that_cannot_be_folded_is_not_repaired(kit: Kit) -> None:
    def project(read: Read, state: State) -> Rows:
        if read.recorded.position == 5:
            raise ValueError
        return BOOKS.project(read, state)

    operator = Operator(kit)
    kit.append("a", list(books("a", 20)))
    operator.follow()
    before = {table: kit.dump(f"books_1.{table}") for table in BOOKS.tables}
    operator.projection = msgspec.structs.replace(BOOKS, project=project)
    with refused("ledger_stands_still"):
        operator.look_after("repair", "a")
    assert {table: kit.dump(f"books_1.{table}") for table in BOOKS.tables} == before


class CutOff(Exception):
    """Somebody pulls the plug."""


class Counted(PostgresLog):
    """A log that counts what is read from it."""

    read_in_all = 0

    def read(self, after: Mapping[str, int], *, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """What the log gives."""
        events = super().read(after, events_max=events_max, bytes_max=bytes_max)
        self.read_in_all += len(events)
        return events


class Plugged(PostgresReadModel):
    """A read model that takes so many batches and no more."""

    left = -1

    def write(self, batch: Batch) -> bool:
        """Writes it, until the plug is pulled."""
        if self.left == 0:
            raise CutOff
        self.left -= 1
        return super().write(batch)


def test_ten_crashes_of_a_rebuild_repeat_less_than_a_twentieth(kit: Kit) -> None:
    operator = Operator(kit)
    for name in ("a", "b"):
        kit.append(name, list(books(name, 700)))
    operator.follow()
    operator.builds.rebuild(ASKER, events_per_second_max=None)
    generations = kit.generations()
    with generations.changes() as session:
        generation = generations.one(session, "generation", generation=2)
    assert generation is not None
    log = Counted(kit.session())
    chance = random.Random(6)
    with kit.session().session() as session, session.transaction():
        make_indexes(session, BOOKS, "books_2")

    def build(batches: int) -> None:
        model = Plugged(kit.session(), projection=BOOKS, generation=generation)
        model.left = batches
        Rebuild(
            BOOKS,
            log=log,
            model=model,
            looking=PostgresReadModel(kit.session(), projection=BOOKS, generation=generation),
            make_keys=lambda: None,
            is_mine=lambda ledger: True,
            speed=msgspec.structs.replace(SPEED, batch_events_max=2),
            progress=Progress(),
            stop=threading.Event(),
        ).run()

    for _ in range(10):
        with pytest.raises(CutOff):
            build(chance.randint(20, 50))
    build(-1)
    assert len(read_log(kit.admin)) < log.read_in_all <= len(read_log(kit.admin)) * 1.05
    kit.assert_complete("books_2")
