"""Ledgers that a projection cannot go on with: parked alone, looked into, retried or relieved of an event, and the trail of who did it."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
import pytest
from structlog.testing import capture_logs

from projections.domain.projection import Projection, Read, Rows, State
from projections.infrastructure.postgres_dead_letters import PostgresDeadLetters
from shared_kernel import events
from shared_kernel.errors import Rejection
from shared_kernel.events import LedgerOpened, Metadata
from tests.integration.projections.conftest import BOOKS, Kit, until
from tests.integration.projections.test_generations import projecting
from tests.integration.projections.test_worker import heal
from tests.support.histories import opened, transfer
from tests.support.lives import books
from tests.support.plain_books import plain_books, read_books, read_log

pytestmark = pytest.mark.thorough

Cannot = Callable[[Read], bool]


def poisoned(cannot: Cannot) -> Projection:
    """The books, for which some events are poison."""

    def project(read: Read, state: State) -> Rows:
        if cannot(read):
            raise ZeroDivisionError("amount 4711")
        return BOOKS.project(read, state)

    return msgspec.structs.replace(BOOKS, project=project)


def at(ledger: str, position: int) -> Cannot:
    """One event is poison."""
    return lambda read: (read.recorded.ledger, read.recorded.position) == (ledger, position)


def trail(kit: Kit) -> list[tuple[Any, ...]]:
    return kit.rows(
        "select actor, action, projection, ledger, reason, details from projections.operator_actions order by id"
    )


def test_one_poison_event_among_a_thousand_ledgers_parks_one_and_all_others_reach_their_heads(kit: Kit) -> None:
    with psycopg.connect(kit.database.admin_url) as loader:  # a thousand ledgers of three events, past the append
        loader.execute("set session_replication_role = replica")
        body = events.encode(LedgerOpened(ledger="l", accounts="explicit"))
        posted = events.encode(transfer("t", 5))
        loader.execute(
            "insert into daybook.ledgers (ledger, position, recorded_at)"
            " select 'ledger:' || n, 3, now() from generate_series(1, 1000) n"
        )
        loader.execute(
            "insert into daybook.events (ledger, position, type, data, metadata, recorded_at)"
            " select 'ledger:' || n, p, case p when 1 then 'LedgerOpened.v1' else 'TransactionPosted.v1' end,"
            " case p when 1 then %s else replace(%s, '\"t\"', '\"t' || p || '\"') end, %s, now()"
            " from generate_series(1, 1000) n, generate_series(1, 3) p",
            [
                body,
                posted,
                events.encode(Metadata(actor="a", correlation_id="c", trace=f"00-{'ab' * 16}-{'1' * 16}-01")),
            ],
        )
    worker, figures = kit.worker(poisoned(at("ledger:500", 2)))
    with capture_logs() as lines:
        worker.apply(read_log(kit.admin))
        heal(worker)
    assert kit.standing() == [("parked", "ledger:500", 2, "ZeroDivisionError", 1)]
    assert (figures.parked, figures.waiting, figures.faults) == (1, 0, 1)
    positions = kit.positions()
    assert (len(positions), positions.pop("ledger:500"), set(positions.values())) == (1_000, 1, {3})
    [alert] = [line for line in lines if line["log_level"] == "error"]
    assert (alert["event"], alert["ledger"], alert["position"], alert["trace_id"]) == (
        "ledger_parked",
        "ledger:500",
        2,
        "ab" * 16,
    )
    [letter] = kit.parking().inspect("books", "ledger:500").letters
    assert (letter.position, letter.event_type, letter.error_class) == (2, "TransactionPosted.v1", "ZeroDivisionError")
    assert (letter.trace_id, letter.attempts, letter.resolution) == ("ab" * 16, 1, None)
    assert letter.first_attempt_at <= letter.last_attempt_at  # two looks at the clock by one statement
    assert letter.error.startswith("TransactionPosted.v1 cannot be applied (test_parking.py:")
    assert "4711" not in letter.error


def test_a_parked_ledger_that_is_retried_goes_on_or_is_parked_again_and_the_letter_tells_it(kit: Kit) -> None:
    is_mended = False
    kit.append("bank", list(books("bank", 30)))
    worker, figures = kit.worker(poisoned(lambda read: not is_mended and read.recorded.position == 7))
    worker.apply(read_log(kit.admin))
    kit.append("bank", [transfer("while it stands", 1)])
    heal(worker)
    parking = kit.parking()
    [tried] = parking.retry("books", "bank", patterns=None, actor="olga", reason="the server was restarted")
    assert (tried.state, tried.position) == ("waiting", 7)
    heal(worker)
    assert kit.standing() == [("parked", "bank", 7, "ZeroDivisionError", 2)]
    is_mended = True
    parking.retry("books", None, patterns=["^ba"], actor="olga", reason="version 2 is out")
    heal(worker)
    kit.assert_complete()
    assert (kit.standing(), figures.parked) == ([], 0)
    [letter] = parking.inspect("books", "bank").letters
    assert (letter.attempts, letter.resolution) == (2, "applied")
    assert letter.first_attempt_at < letter.last_attempt_at
    assert trail(kit) == [
        ("olga", "retry", "books", "bank", "the server was restarted", {"ledgers": 1}),
        ("olga", "retry", "books", None, "version 2 is out", {"ledgers": 1}),
    ]


def test_a_skipped_event_is_left_out_for_ever_by_every_generation_of_the_version_and_the_ledger_says_so(
    kit: Kit,
) -> None:
    kit.append("bank", [opened("bank"), *(transfer(f"t{number}", number) for number in range(1, 9))])
    kit.append("other", [opened("other"), transfer("t", 5)])
    worker, figures = kit.worker(poisoned(at("bank", 4)))
    worker.apply(read_log(kit.admin))
    parking = kit.parking()
    for ledger, position in (("bank", 5), ("other", 2)):
        with pytest.raises(Rejection, match="ledger_not_parked"):
            parking.skip("books", ledger, position=position, actor="olga", reason="a guess")
    parking.skip("books", "bank", position=4, actor="olga", reason="ticket 7")
    heal(worker)
    without = [event for event in read_log(kit.admin) if (event.ledger, event.position) != ("bank", 4)]
    assert read_books(kit.admin, "books_1") == plain_books(without)
    assert kit.positions() == {"bank": 9, "other": 2}
    assert (kit.standing(), figures.skipped) == ([], 1)
    of_ledgers = "select ledger, state, position from projections.standstills where generation = %s"
    assert kit.rows(of_ledgers, 1) == [("bank", "skipped", 4)]
    [letter] = parking.inspect("books", "bank").letters
    [skip] = parking.inspect("books", "bank").skips
    assert (letter.resolution, skip.position, skip.reason, skip.actor) == ("skipped", 4, "ticket 7", "olga")
    assert trail(kit) == [
        ("olga", "skip", "books", "bank", "ticket 7", {"position": 4, "versions": [BOOKS.version]}),
    ]

    kit.admin.execute("select daybook.restored()")  # after which the same version is built once more
    generation = kit.generations().begin()
    with projecting(kit, poisoned(at("bank", 4))):
        until(lambda: kit.live() == generation.number)
    assert read_books(kit.admin, generation.schema_name) == plain_books(without)
    assert kit.rows(of_ledgers, generation.number) == [("bank", "skipped", 4)]


def test_a_ledger_that_an_operator_parks_is_not_moved_even_by_a_worker_that_has_not_heard_of_it(kit: Kit) -> None:
    for name in ("a", "b"):
        kit.append(name, [opened(name)])
    deaf, figures = kit.worker(standing_ms=3_600_000)
    deaf.apply(read_log(kit.admin))
    [standing] = kit.parking().park("books", "a", actor="olga", reason="it is being imported")
    assert (standing.state, standing.position, standing.error_class) == ("parked", 2, "Operator")
    for name in ("a", "b"):
        kit.append(name, [transfer("t", 5)])
    deaf.apply(read_log(kit.admin))
    assert kit.positions() == {"a": 1, "b": 2}
    assert (figures.lost_races, figures.parked) == (1, 1)
    heal(deaf)
    assert kit.positions()["a"] == 1
    kit.parking().retry("books", "a", patterns=None, actor="olga", reason="done")
    heal(deaf)
    kit.assert_complete()
    assert [(row[1], row[3]) for row in trail(kit)] == [("park", "a"), ("retry", "a")]


def test_a_ledger_that_is_parked_while_a_worker_waits_for_its_row_is_not_moved(kit: Kit) -> None:
    for name in ("a", "b"):
        kit.append(name, [opened(name)])
    worker, figures = kit.worker()
    worker.apply(read_log(kit.admin))
    for name in ("a", "b"):
        kit.append(name, [transfer("t", 5)])
    log = read_log(kit.admin)
    with psycopg.connect(kit.database.admin_url) as operator:
        operator.execute("select from projections.positions where ledger = 'a' for update")
        writing = threading.Thread(target=worker.apply, args=(log,))
        writing.start()
        until(lambda: kit.rows("select from pg_locks where not granted"))
        operator.execute(
            "insert into projections.waiting (projection, generation, ledger, position, state, error_class, error)"
            " values ('books', 1, 'a', 2, 'parked', 'Operator', '')"
        )
        operator.commit()
    writing.join()
    assert kit.positions() == {"a": 1, "b": 2}
    assert figures.lost_races == 1


def test_a_ledger_that_was_parked_at_its_head_and_retried_stands_still_no_longer(kit: Kit) -> None:
    kit.append("a", [opened("a")])
    worker, _ = kit.worker()
    worker.apply(read_log(kit.admin))
    kit.parking().park("books", "a", actor="olga", reason="")
    heal(worker)
    kit.parking().retry("books", "a", patterns=None, actor="olga", reason="")
    heal(worker)
    assert kit.standing() == []


def test_a_ledger_unknown_to_the_projection_can_be_parked_before_its_first_event(kit: Kit) -> None:
    kit.append("a", [opened("a")])
    worker, _ = kit.worker()
    kit.parking().park("books", "a", actor="olga", reason="")
    worker.apply(read_log(kit.admin))
    assert kit.positions() == {"a": 0}
    kit.parking().retry("books", "a", patterns=None, actor="olga", reason="")
    heal(worker)
    kit.assert_complete()


def test_above_the_cap_the_projection_stops_with_one_alert_and_goes_on_when_operators_have_seen_to_it(kit: Kit) -> None:
    is_mended = False
    for number in range(9):
        kit.append(f"ledger:{number}", [opened("x"), transfer("t", 5)])
    broken = poisoned(lambda read: not is_mended and read.recorded.position == 2)
    with capture_logs() as lines, projecting(kit, broken, parked_max=3) as figures:
        until(lambda: figures.is_stopped)
        assert (figures.trouble, figures.is_ready) == ("too_many_parked", False)
        until(lambda: len([line for line in lines if line["event"] == "projection_waits"]) > 3)
        alerts = [line for line in lines if line["event"] == "projection_waits" and line["log_level"] == "error"]
        assert [(alert["count"], alert["limit"]) for alert in alerts] == [(4, 3)]
        assert len(kit.standing()) == 4  # the other five are as good as unread
        assert kit.rows("select count(*) from projections.dead_letters") == [(4,)]
        is_mended = True
        kit.parking().retry("books", None, patterns=None, actor="olga", reason="mended")
        until(lambda: figures.is_ready and kit.standing() == [])
        until(lambda: sum(kit.positions().values()) == 18)
    kit.assert_complete()


def test_what_a_worker_remembers_wrongly_parks_nothing(kit: Kit) -> None:
    def project(read: Read, state: State) -> Rows:
        last = state["accounts", "bank", "users:1"]
        if read.recorded.position > 3 and last is None:
            raise LookupError
        return BOOKS.project(read, state)

    fussy = msgspec.structs.replace(BOOKS, project=project)
    kit.append("bank", [opened("bank"), transfer("t1", 1)])
    behind, figures = kit.worker(fussy)
    behind.apply(read_log(kit.admin))  # and remembers that there is no such account
    kit.append("bank", [events.AccountOpened(address="users:1", normal_balance="credit")])
    kit.worker()[0].apply(read_log(kit.admin))
    kit.append("bank", [transfer("t2", 2)])
    behind._positions["bank"] = 3  # as if it had heard of the position alone
    behind.apply(read_log(kit.admin)[-1:])
    assert (kit.standing(), figures.faults) == ([], 0)
    kit.assert_complete()


def test_operators_see_what_they_may_and_nobody_changes_the_unknown(kit: Kit) -> None:
    for name in ("a", "b"):
        kit.append(name, [opened(name), transfer("t", 5)])
    worker, _ = kit.worker(poisoned(lambda read: read.recorded.position == 2))
    worker.apply(read_log(kit.admin))
    parking = kit.parking()
    assert [each.ledger for each in parking.standing(None, patterns=None, ledgers_max=10)] == ["a", "b"]
    assert [each.ledger for each in parking.standing("books", patterns=["^b$"], ledgers_max=10)] == ["b"]
    assert len(parking.standing("books", patterns=None, ledgers_max=1)) == 1
    for projection, ledger, code in (("nothing", "a", "projection_not_found"), ("books", "c", "ledger_not_found")):
        for change in (
            lambda projection=projection, ledger=ledger: parking.inspect(projection, ledger),
            lambda projection=projection, ledger=ledger: parking.park(projection, ledger, actor="o", reason="r"),
            lambda projection=projection, ledger=ledger: parking.retry(
                projection, ledger, patterns=None, actor="o", reason="r"
            ),
            lambda projection=projection, ledger=ledger: parking.skip(
                projection, ledger, position=2, actor="o", reason="r"
            ),
        ):
            with pytest.raises(Rejection) as caught:
                change()
            assert caught.value.code == code
    assert trail(kit) == []


def test_one_process_at_a_time_carries_dead_letters_and_a_retry_that_fails_is_carried_again(kit: Kit) -> None:
    kit.append("bank", [opened("bank"), transfer("t", 5)])
    worker, _ = kit.worker(poisoned(at("bank", 2)))
    worker.apply(read_log(kit.admin))
    session = kit.session()
    first, second = PostgresDeadLetters(session, "books"), PostgresDeadLetters(kit.session(), "books")
    [letter] = first.unpublished(10)
    assert second.unpublished(10) == []
    kit.parking().retry("books", "bank", patterns=None, actor="olga", reason="")
    heal(worker)
    first.published([letter])  # of the attempt before
    [again] = first.unpublished(10)
    assert (letter.attempts, again.attempts) == (1, 2)
    first.published([again])
    assert first.unpublished(10) == []
    session.close()
    assert kit.parking().inspect("books", "bank").letters[0].published_at is not None
