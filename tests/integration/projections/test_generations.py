"""Builds of a read model beside the live one: made once, resumed, and swapped in only where nothing goes back."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from projections.application.dead_letters import Postbox
from projections.application.figures import Figures
from projections.application.ports import Controls, DeadLetter, ForeignGeneration, Generation, Wanted
from projections.application.projector import Pace, Projector
from projections.application.worker import Worker
from projections.domain.projection import Projection, Read, Rows, State
from projections.infrastructure.postgres_dead_letters import PostgresDeadLetters
from projections.infrastructure.postgres_log import PostgresLog
from shared_kernel.errors import Corruption, Rejection
from shared_kernel.event_log.types import RecordedEvent
from tests.integration.projections.conftest import BOOKS, PERIODS, Kit, until
from tests.support.histories import opened, transfer
from tests.support.lives import books
from tests.support.plain_books import plain_books, read_books, read_log

pytestmark = pytest.mark.thorough

NEXT = msgspec.structs.replace(BOOKS, version=BOOKS.version + 1)
PACE = Pace(
    round_ms=0,
    batch_events_max=1_000,
    poll_ms=10,
    heads_ms=20,
    commit_ms=1_000,
    silent_ms=15_000,
    retry_ms=5,
    retry_max_ms=20,
    swap_behind_max=0,
)


class Silence:
    """A source through which nothing comes: all there is comes from the log."""

    def __init__(self) -> None:
        self.incarnation = ""

    def expect(self, incarnation: str) -> None:
        """Remembers it."""
        self.incarnation = incarnation

    def poll(self, wait_s: float) -> list[RecordedEvent]:
        """Waits as a quiet topic would."""
        time.sleep(wait_s)
        return []

    def was_assigned(self) -> bool:
        """Never."""
        return False

    def commit(self) -> None:
        """Nothing to commit."""

    def close(self, *, is_done: bool) -> None:
        """Nothing to close."""


class NoTopic:
    """Kafka is not there: nothing is ever taken."""

    def hand_over(self, letter: DeadLetter, event: RecordedEvent) -> bool:
        """No."""
        return False

    def delivered(self) -> list[DeadLetter]:
        """None."""
        return []

    def undelivered(self) -> list[DeadLetter]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing to close."""


class NoControls:
    """No operator wants anything."""

    def wanted(self, projection: str) -> Wanted:
        """Never anything."""
        return Wanted()

    def wait(self, wait_s: float) -> None:
        """Nothing changes."""


NO_CONTROLS = NoControls()


@contextmanager
def projecting(kit: Kit, projection: Projection, controls: Controls = NO_CONTROLS, **bounds: int) -> Iterator[Figures]:
    """A projector of this version in a thread; stopped at the end, when an error of its own is raised again."""
    figures, stop, errors = Figures(), threading.Event(), list[BaseException]()

    session = kit.session()

    def worker_of(generation: Generation) -> Worker:
        return kit.worker(projection, generation=generation, session=session, figures=figures, **bounds)[0]

    projector = Projector(
        projection.name,
        generations=kit.generations(projection),
        worker_of=worker_of,
        source=Silence(),
        postbox=Postbox(
            letters=PostgresDeadLetters(session, projection.name),
            topic=NoTopic(),
            log=PostgresLog(session),
            figures=figures,
        ),
        controls=controls,
        figures=figures,
        pace=PACE,
        stop=stop,
    )

    def run() -> None:
        try:
            projector.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield figures
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def test_the_first_generation_is_live_at_once_and_made_once_by_projectors_that_start_together(kit: Kit) -> None:
    prepared: list[Generation] = []
    threads = [threading.Thread(target=lambda: prepared.append(kit.generations().prepare())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared) == 4
    assert {generation.schema_name for generation in prepared} == {"books_1"}
    assert kit.rows("select generation, version, state from projections.generations") == [(1, BOOKS.version, "live")]
    assert kit.live() == 1


def test_a_higher_version_is_built_from_the_log_and_takes_over_at_the_head(kit: Kit) -> None:
    for name in ("a", "b"):
        kit.append(name, list(books(name, 40)))
    with projecting(kit, BOOKS):
        until(lambda: sum(kit.positions().values()) == len(read_log(kit.admin)))
    before = read_books(kit.admin, "books_1")
    kit.append("a", [transfer("later", 5)])
    with projecting(kit, NEXT, batch_events_max=10) as figures:
        until(lambda: kit.live() == 2)
        until(lambda: figures.generation == 2 and not figures.is_building)
    kit.assert_complete("books_2")
    assert read_books(kit.admin, "books_1") == before
    states = kit.rows("select generation, version, state from projections.generations order by 1")
    assert states == [(1, BOOKS.version, "former"), (2, NEXT.version, "live")]


@pytest.mark.parametrize("projection", [BOOKS, PERIODS], ids=["books", "periods"])
def test_a_rebuild_equals_the_live_generation_byte_for_byte(kit: Kit, projection: Projection) -> None:
    for name in ("a", "b"):
        kit.append(name, list(books(name, 150)))
    log = read_log(kit.admin)
    worker, _ = kit.worker(projection)
    for begin in range(0, len(log), 23):
        worker.apply(log[begin : begin + 23])
    rebuilt = msgspec.structs.replace(projection, version=projection.version + 1)
    with projecting(kit, rebuilt, batch_events_max=100):
        until(lambda: kit.live(projection.name) == 2)
    for table in projection.tables:
        live, built = kit.dump(f"{projection.name}_1.{table}"), kit.dump(f"{projection.name}_2.{table}")
        assert live == built
        assert live, table


def test_a_build_goes_on_where_it_was_interrupted(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 60)))
    kit.worker()
    generation = kit.generations(NEXT).prepare()
    assert generation.state == "building"
    first, _ = kit.worker(NEXT, generation=generation, batch_events_max=25)
    first.check(is_live=False)
    first.catch_up()
    assert kit.positions(2) == {"bank": 25}
    with projecting(kit, NEXT) as figures:
        until(lambda: kit.live() == 2)
    assert figures.applied == len(read_log(kit.admin)) - 25
    kit.assert_complete("books_2")


def test_a_generation_behind_the_live_one_does_not_take_over(kit: Kit) -> None:
    can_project = threading.Event()

    def project(read: Read, state: State) -> Rows:
        if read.recorded.ledger == "a" and read.recorded.position == 3 and not can_project.is_set():
            raise ValueError
        return BOOKS.project(read, state)

    kit.append("a", [opened("a"), transfer("t1", 1), transfer("t2", 2)])
    kit.append("b", [opened("b")])
    kit.worker()[0].apply(read_log(kit.admin))
    with projecting(kit, msgspec.structs.replace(NEXT, project=project)) as figures:
        until(lambda: kit.positions(2) == {"a": 2, "b": 1} and figures.parked == 1)
        assert kit.live() == 1
        can_project.set()
        kit.parking().retry("books", "a", patterns=None, actor="op", reason="mended")
        until(lambda: kit.live() == 2)
    kit.assert_complete("books_2")


def test_two_projectors_of_the_new_version_build_together_without_harm(kit: Kit) -> None:
    for number in range(3):
        kit.append(f"ledger:{number}", list(books(f"ledger:{number}", 60)))
    kit.worker()
    with projecting(kit, NEXT, batch_events_max=10) as one, projecting(kit, NEXT, batch_events_max=10) as other:
        until(lambda: kit.live() == 2)
        until(lambda: not one.is_building and not other.is_building)
    assert one.applied + other.applied == len(read_log(kit.admin))
    kit.assert_complete("books_2")


def test_old_software_goes_on_feeding_its_own_generation_after_the_swap(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 5)))
    kit.worker()
    with projecting(kit, NEXT):
        until(lambda: kit.live() == 2)
    old, _ = kit.worker(BOOKS)
    old.apply(read_log(kit.admin))
    assert read_books(kit.admin, "books_1") == plain_books(read_log(kit.admin))


def test_software_older_than_every_generation_does_not_start(kit: Kit) -> None:
    kit.generations(NEXT).prepare()
    with pytest.raises(Corruption) as caught:
        kit.generations(BOOKS).prepare()
    assert caught.value.code == "projection_version_gone"


def test_after_a_restore_the_projection_stands_until_a_rebuild_is_asked_for(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 20)))
    kit.worker()[0].apply(read_log(kit.admin))
    with pytest.raises(Rejection, match="rebuild_not_needed"):
        kit.generations().begin()
    kit.admin.execute("select daybook.restored()")
    with projecting(kit, BOOKS) as figures:
        until(lambda: figures.is_stopped)
        assert figures.trouble == "projection_of_another_incarnation"
        assert not figures.is_ready
        kit.generations().begin()
        until(lambda: kit.live() == 2)
        until(lambda: figures.is_ready and not figures.is_stopped)
    kit.assert_complete("books_2")
    with pytest.raises(ForeignGeneration):
        kit.worker(generation=first_generation(kit))


def first_generation(kit: Kit) -> Generation:
    """Generation 1 as it would be taken for one of the present incarnation."""
    now = kit.generations().prepare()
    return msgspec.structs.replace(now, number=1, schema_name="books_1")
