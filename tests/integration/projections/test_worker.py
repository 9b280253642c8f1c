"""One worker or two on a real read model: whatever is delivered, it becomes the plain fold of the log, each event once."""

import random
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from projections.application.figures import Figures
from projections.application.ports import ForeignGeneration
from projections.application.worker import Worker
from projections.domain.projection import Key, Read, Row, Rows, State
from projections.infrastructure.postgres_read_model import PostgresReadModel
from shared_kernel import events
from shared_kernel.errors import Corruption, Unavailable
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from shared_kernel.event_log.types import NewEvent, RecordedEvent
from tests.integration.projections.conftest import BOOKS, Kit
from tests.support import histories
from tests.support.histories import account, append_new, opened, transfer
from tests.support.lives import books
from tests.support.lock_orders import LockOrders
from tests.support.plain_books import plain_books, read_books, read_log

pytestmark = pytest.mark.thorough

METADATA = events.encode(events.Metadata(actor="tester", correlation_id="c"))


def heal(worker: Worker) -> None:
    """Looks at the heads as the loop takes them, each with all that follows from it; what moves meanwhile takes a third."""
    for _ in range(3):
        worker.check(is_live=True)
        while worker.catch_up():
            pass


def new(type_: str, data: str) -> NewEvent:
    """An event that no part of Daybook would write."""
    return NewEvent(type=type_, data=data, metadata=METADATA, tags=[])


def test_rows_of_positions_are_locked_in_one_order_whatever_order_events_come_in(kit: Kit) -> None:
    orders = LockOrders()
    names = ("c", "a", "b")
    for name in names:
        kit.append(name, [opened(name)])
    workers = [kit.worker()[0] for _ in range(2)]
    with capture_logs() as lines:
        workers[0].apply(sorted(read_log(kit.admin), key=lambda event: names.index(event.ledger)))
        for name in names:
            kit.append(name, [transfer("t1", 1)])
        workers[1].apply(sorted(read_log(kit.admin), key=lambda event: event.ledger, reverse=True))
    for line in lines:
        orders.hear("projector", line)
    assert "position books/1 c" in orders.edges["position books/1 a"]
    assert orders.cycles() == []
    kit.assert_complete()


@pytest.mark.parametrize("seed", range(6))
def test_shuffled_repeated_and_dropped_deliveries_become_the_fold_of_the_log(kit: Kit, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(4):
        kit.append(f"ledger:{number}", list(books(f"ledger:{number}", 40, seed=seed)))
    delivered = [event for event in read_log(kit.admin) if chance.random() < 0.9]
    delivered += chance.sample(delivered, k=len(delivered) // 3)
    chance.shuffle(delivered)
    worker, figures = kit.worker(batch_events_max=chance.choice((3, 17, 1_000)))
    while delivered:
        size = chance.randrange(1, 60)
        worker.apply(delivered[:size])
        del delivered[:size]
    heal(worker)
    kit.assert_complete()
    assert figures.applied == len(read_log(kit.admin))
    assert figures.duplicates > 0


def test_a_replay_from_zero_changes_nothing(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 50)))
    log = read_log(kit.admin)
    worker, figures = kit.worker()
    worker.apply(log)
    before = read_books(kit.admin, "books_1")
    kit.worker()[0].apply(log)
    worker.apply(log)
    assert read_books(kit.admin, "books_1") == before
    assert figures.duplicates == len(log)
    kit.assert_complete()


def test_a_gap_wider_than_one_read_of_the_log_is_filled(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 50)))
    worker, figures = kit.worker(batch_events_max=7)
    worker.apply(read_log(kit.admin)[-1:])
    assert figures.gaps == 1
    while worker.catch_up():
        pass
    kit.assert_complete()


def test_events_longer_than_the_byte_bound_come_one_by_one(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 10)))
    kit.append("other", list(books("other", 10)))
    worker, figures = kit.worker(batch_bytes_max=1)
    worker.check(is_live=False)
    while worker.catch_up():
        pass
    kit.assert_complete()
    assert figures.batches == len(read_log(kit.admin))


def test_a_quiet_ledger_whose_messages_were_lost_is_healed_at_the_second_look(kit: Kit) -> None:
    kit.append("quiet", list(books("quiet", 5)))
    worker, figures = kit.worker()
    assert worker.check(is_live=True) == figures.lag_events == len(read_log(kit.admin))
    assert not worker.catch_up()  # its messages may still be on their way
    with capture_logs() as lines:
        worker.check(is_live=True)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["lost_messages_filled_from_log"]
    assert worker.catch_up()
    kit.assert_complete()
    assert (figures.healed, figures.gaps) == (1, 0)


def test_a_worker_that_lost_the_race_applies_only_what_is_left(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 30)))
    log = read_log(kit.admin)
    first, first_figures = kit.worker()
    second, second_figures = kit.worker()
    second.apply(log[:10])
    first.apply(log[:25])  # believes that the ledger is at 0
    second.apply(log[10:])  # believes that it is at 10
    assert first_figures.lost_races == second_figures.lost_races == 1
    assert first_figures.applied + second_figures.applied == len(log)
    kit.assert_complete()


def test_two_workers_that_apply_everything_at_once_apply_it_once(kit: Kit) -> None:
    for number in range(5):
        kit.append(f"ledger:{number}", list(books(f"ledger:{number}", 60)))
    log = read_log(kit.admin)
    workers = [kit.worker() for _ in range(2)]

    def deliver(worker: Worker, seed: int) -> None:
        chance = random.Random(seed)
        for begin in range(0, len(log), 20):
            batch = log[begin : begin + 20]
            chance.shuffle(batch)
            worker.apply(batch)
        heal(worker)

    threads = [threading.Thread(target=deliver, args=(worker, seed)) for seed, (worker, _) in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(figures.applied for _, figures in workers) == len(log)
    kit.assert_complete()


def test_an_unknown_event_holds_up_its_ledger_only_and_a_newer_worker_goes_on(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.append("bank", list(books("bank", 10)))
    kit.append("poisoned", [opened("poisoned"), transfer("t1", 5)])
    with PostgresLedgerRecorder(kit.database.urls["command"], "poisoned") as recorder:
        append_new(recorder, [new("AccountOpened.v2", events.encode(account("users:9")))])
    kit.append("poisoned", [transfer("t2", 7)])
    worker, figures = kit.worker()
    worker.apply(read_log(kit.admin))
    assert kit.standing() == [("waiting", "poisoned", 3, "UnknownEventType", 1)]
    assert kit.positions()["poisoned"] == 2
    assert (figures.waiting, figures.faults) == (1, 1)
    kit.append("bank", [transfer("after", 1)])
    heal(worker)  # a retry that fails again, and the others go on
    assert kit.positions()["bank"] == max(event.position for event in read_log(kit.admin) if event.ledger == "bank")
    [(state, _, _, _, attempts)] = kit.standing()
    assert (state, attempts > 1) == ("waiting", True)
    assert kit.rows("select from projections.dead_letters") == []

    known = events._DECODERS["AccountOpened.v1"]
    monkeypatch.setitem(events._DECODERS, "AccountOpened.v2", known)
    newer, newer_figures = kit.worker()
    heal(newer)
    assert kit.standing() == []
    assert newer_figures.waiting == 0
    assert set(kit.positions().values()) == {4, kit.positions()["bank"]}
    known_by_name = [msgspec.structs.replace(e, type=e.type.replace("v2", "v1")) for e in read_log(kit.admin)]
    assert read_books(kit.admin, "books_1") == plain_books(known_by_name)
    heal(worker)  # the older one sees that the ledger has gone on
    assert worker.check(is_live=True) == 0


def test_rows_that_postgres_cannot_hold_stop_their_ledger_at_exactly_that_event(kit: Kit) -> None:
    for name in ("a", "b", "c"):
        kit.append(name, list(books(name, 8)))
    nul = '{"transaction":"t","entries":[],"description":"\\u0000"}'
    with PostgresLedgerRecorder(kit.database.urls["command"], "b") as recorder:
        head = append_new(recorder, [new("TransactionPosted.v1", nul)])
    kit.append("b", [transfer("later", 1)])
    log = read_log(kit.admin)
    worker, _ = kit.worker()
    worker.apply(log)
    assert kit.standing() == [("parked", "b", head, "Unwritable", 1)]
    assert kit.positions()["b"] == head - 1
    assert read_books(kit.admin, "books_1") == plain_books(e for e in log if e.ledger != "b" or e.position < head)


@pytest.mark.parametrize("says", ["{", "\\u0000"], ids=["unreadable", "unwritable"])
def test_a_copy_of_an_event_that_was_spoiled_on_its_way_is_read_from_the_log_and_parks_nothing(
    kit: Kit, says: str
) -> None:
    for name in ("a", "b"):
        kit.append(name, [opened(name), *(account(f"a:{n}") for n in range(2))])
        kit.append(name, [transfer(f"t{n}", 5) for n in range(6)])
    log = read_log(kit.admin)
    spoiled = [
        msgspec.structs.replace(event, data="{" if says == "{" else event.data.replace('"t3"', f'"t3{says}"'))
        if event.ledger == "b" and '"t3"' in event.data
        else event
        for event in log
    ]
    assert spoiled != log
    worker, figures = kit.worker()
    with capture_logs() as lines:
        worker.apply(spoiled)
    assert (kit.standing(), figures.faults) == ([], 0)
    assert read_books(kit.admin, "books_1") == plain_books(log)
    warned = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert [(line["event"], line["ledger"]) for line in warned] == [("messages_differ_from_log", "b")]
    assert figures.healed == 1


def test_a_projection_that_was_mended_catches_up_when_an_operator_says_so(kit: Kit) -> None:
    is_broken = True

    def project(read: Read, state: State) -> Rows:
        if is_broken and read.recorded.ledger == "bank" and read.recorded.position == 20:
            raise ZeroDivisionError
        return BOOKS.project(read, state)

    kit.append("bank", list(books("bank", 30)))
    kit.append("other", list(books("other", 30)))
    worker, figures = kit.worker(msgspec.structs.replace(BOOKS, project=project))
    worker.apply(read_log(kit.admin))
    assert kit.positions()["bank"] == 19
    assert kit.standing() == [("parked", "bank", 20, "ZeroDivisionError", 1)]
    kit.append("bank", [transfer("while it stands", 1)])
    worker.apply(read_log(kit.admin)[-1:])
    is_broken = False
    heal(worker)
    assert kit.positions()["bank"] == 19  # it does not try by itself
    kit.parking().retry("books", "bank", patterns=None, actor="op", reason="mended")
    heal(worker)
    assert (figures.waiting, figures.parked) == (0, 0)
    assert kit.standing() == []
    kit.assert_complete()


def test_a_ledger_whose_row_somebody_holds_is_set_aside_and_the_others_go_on(
    kit: Kit,
) -> None:
    for name in ("a", "b", "c"):
        kit.append(name, [opened(name)])
    worker, _ = kit.worker(session=kit.session(lock_ms=50))
    worker.apply(read_log(kit.admin))
    for name in ("a", "b", "c"):
        kit.append(name, [transfer("t", 5)])
    with psycopg.connect(kit.database.admin_url) as holder:
        holder.execute("select from projections.positions where ledger = 'b' for update")
        worker.apply(read_log(kit.admin))
        assert kit.positions() == {"a": 2, "b": 1, "c": 2}
        assert kit.standing() == [("waiting", "b", 2, "Contention", 1)]
    heal(worker)
    assert kit.standing() == []
    kit.assert_complete()


def test_a_worker_that_begins_anew_keeps_what_it_knows_unless_somebody_else_has_written(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.append("bank", list(books("bank", 30)))
    log = read_log(kit.admin)
    fetched: list[int] = []
    last_rows = PostgresReadModel.last_rows

    def counted(model: PostgresReadModel, keys: Sequence[Key]) -> dict[Key, Row]:
        fetched.append(len(keys))
        return last_rows(model, keys)

    monkeypatch.setattr(PostgresReadModel, "last_rows", counted)
    worker, _ = kit.worker()
    worker.apply(log[:10])
    worker.start()
    worker.apply(log[10:20])
    assert fetched == []  # it began with nothing, and nobody else has written
    kit.worker()[0].apply(log[20:25])
    fetched.clear()
    worker.start()
    worker.apply(log[25:])
    assert fetched
    kit.assert_complete()


@pytest.mark.parametrize("is_parked", [False, True])
def test_what_a_repair_mended_is_what_a_worker_goes_on_from(kit: Kit, is_parked: bool) -> None:
    kit.append("bank", [opened("bank"), account("bank:cash", "debit"), account("users:1"), transfer("first", 5)])
    worker, figures = kit.worker()
    worker.apply(read_log(kit.admin))
    if is_parked:
        kit.parking().park("books", "bank", actor="op", reason="to be repaired")
        heal(worker)
    kit.admin.execute("update books_1.entries set posted_debits = 1005 where address = 'bank:cash'")
    kit.admin.execute("update projections.positions set repairs = repairs + 1")
    kit.append("bank", [transfer("second", 7)])
    if is_parked:
        kit.parking().retry("books", "bank", patterns=None, actor="op", reason="repaired")
        heal(worker)
    else:
        worker.start()
        worker.apply(read_log(kit.admin)[-1:])
    assert figures.lost_races == 0
    totals = "select posted_debits from books_1.entries where address = 'bank:cash' order by position"
    assert kit.rows(totals) == [(1005,), (1012,)]


def test_a_lost_connection_is_told_and_the_same_events_can_be_given_again(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 30)))
    log = read_log(kit.admin)
    worker, _ = kit.worker()
    worker.apply(log[:10])
    kit.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'test' and pid <> pg_backend_pid()"
    )
    with pytest.raises(Unavailable):
        worker.apply(log[10:])
    worker.start()
    worker.apply(log[10:])
    kit.assert_complete()


def test_a_read_model_that_went_back_with_its_server_is_filled_from_the_log(kit: Kit) -> None:
    kit.append("bank", list(histories.books("bank", 30)))  # which leaves nothing unsettled
    log = read_log(kit.admin)
    worker, _ = kit.worker()
    worker.apply(log[:20])
    for table in [name for name, table in BOOKS.tables.items() if "position" in table.columns]:
        kit.admin.execute(f"delete from books_1.{table} where position > 12".encode())
    kit.admin.execute("update projections.positions set position = 12")
    worker.apply(log[20:])
    while worker.catch_up():
        pass
    kit.assert_complete()


def test_a_position_beyond_the_head_is_an_alert_that_names_the_remedy(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 5)))
    worker, _ = kit.worker()
    worker.apply(read_log(kit.admin))
    kit.admin.execute("update projections.positions set position = position + 1")
    with pytest.raises(Corruption, match="daybook restored") as caught:
        worker.check(is_live=True)
    assert caught.value.code == "position_beyond_head"


def test_positions_of_a_ledger_that_the_log_does_not_know_are_beyond_its_head(kit: Kit) -> None:
    worker, _ = kit.worker()
    kit.admin.execute(
        "insert into projections.positions select 'books', 1, 'gone', 1, now(), incarnation from daybook.incarnation"
    )
    with pytest.raises(Corruption, match="daybook restored"):
        worker.check(is_live=True)


def test_a_change_of_incarnation_stops_the_projection(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 5)))
    log = read_log(kit.admin)
    worker, _ = kit.worker()
    worker.apply(log[:4])
    kit.admin.execute("select daybook.restored()")
    with pytest.raises(ForeignGeneration):
        worker.apply(log[4:])
    assert kit.positions() == {"bank": 4}
    with pytest.raises(ForeignGeneration, match="projections rebuild"):
        kit.generations().prepare()


def test_queries_may_read_the_tables_and_change_nothing(kit: Kit) -> None:
    kit.worker()
    with psycopg.connect(kit.database.urls["query"], autocommit=True) as query:
        for table in BOOKS.tables:
            query.execute(f"select * from books_1.{table}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query.execute("delete from books_1.entries")


@pytest.mark.parametrize("transactions", [0, 3_000])
def test_the_latest_totals_are_found_by_index_whatever_the_statistics(kit: Kit, transactions: int) -> None:
    kit.append("bank", list(books("bank", transactions)))
    worker, _ = kit.worker()
    worker.apply(read_log(kit.admin))
    model = PostgresReadModel(kit.session(), projection=BOOKS, generation=kit.generations().prepare())
    with kit.session().session() as session:
        statement = model.last_row_statement("entries").as_string(session)
        plan = explain(session, statement, [["bank"], ["users:1:wallet"], ["JPY"]])
    assert "Index Scan Backward using entries_pkey" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


def explain(session: psycopg.Connection[Any], statement: str, parameters: list[list[str]]) -> str:
    """The plan as text."""
    rows = session.execute(f"explain {statement}".encode(), parameters).fetchall()
    return "\n".join(row[0] for row in rows)


def test_what_is_not_written_or_not_read_is_not_announced(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 3)))
    log = read_log(kit.admin)
    late, figures = kit.worker()
    live = kit.generations().prepare()
    beside, _ = kit.worker(generation=msgspec.structs.replace(live, state="former"))
    with psycopg.connect(kit.database.admin_url, autocommit=True) as listener:
        listener.execute("listen daybook_visible")
        beside.apply(log)
        late.apply(log)  # believes that nothing is there, and has nothing to add
        assert figures.lost_races == 1
        kit.admin.execute("notify daybook_visible, 'the last'")
        assert [notice.payload for notice in listener.notifies(timeout=10, stop_after=1)] == ["the last"]
    assert kit.positions() == {"bank": len(log)}


def test_figures_and_announcements_follow_what_was_committed(kit: Kit) -> None:
    kit.append("bank", list(books("bank", 3)))
    with psycopg.connect(kit.database.admin_url, autocommit=True) as listener:
        listener.execute("listen daybook_visible")
        worker, figures = kit.worker()
        log: list[RecordedEvent] = read_log(kit.admin)
        worker.apply(log)
        [notice] = list(listener.notifies(timeout=10, stop_after=1))
    assert notice.payload == f"books/bank/{len(log)}"
    assert figures.applied == len(log)
    assert isinstance(figures, Figures)
