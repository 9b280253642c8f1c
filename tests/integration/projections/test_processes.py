"""Relay and projector as processes on real Kafka: killed, frozen, misled, and in the end the read model is the log."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest

from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.services import Database, Servers
from tests.support.histories import transfer
from tests.support.lives import books
from tests.support.plain_books import read_books, read_log

pytestmark = [pytest.mark.long, pytest.mark.thorough]
PROJECTORS = "from pg_stat_activity where datname = current_database() and application_name like 'daybook projector%%'"


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


def is_at_head(kit: Kit) -> bool:
    return kit.positions() == dict(kit.rows("select ledger, position from daybook.ledgers"))


def is_published(kit: Kit) -> bool:
    positions = dict(kit.rows("select ledger, position from projections.relay_positions"))
    return positions == dict(kit.rows("select ledger, position from daybook.ledgers"))


def incarnation(kit: Kit) -> str:
    return str(kit.rows("select incarnation::text from daybook.incarnation")[0][0])


def test_the_relay_makes_the_topic_and_publishes_each_ledger_in_order_with_cloudevents_headers(
    kit: Kit, processes: Processes
) -> None:
    for number in range(5):
        kit.append(f"acme:{number}", list(books(f"acme:{number}", 30)))
    relay = processes.start("relay", DAYBOOK_BATCH_EVENTS_MAX="40", DAYBOOK_KAFKA_PARTITIONS="3")
    until(lambda: is_published(kit))
    assert processes.partitions() == 3
    log = read_log(kit.admin)
    messages = processes.messages()
    assert len(messages) == len(log)
    found: dict[str, list[bytes]] = {}
    for message in messages:
        found.setdefault((message.key() or b"").decode(), []).append(message.value() or b"")
    for ledger, lines in found.items():
        assert lines == [canonical_line(event).encode() for event in log if event.ledger == ledger]
    first = next(message for message in messages if b'"position":1,' in (message.value() or b""))
    headers = {name: value.decode() for name, value in dict(first.headers() or []).items()}
    ledger = (first.key() or b"").decode()
    assert headers.pop("ce_id") == f"{ledger}/1"
    assert headers.pop("ce_source") == f"/daybook/{ledger}"
    assert datetime.fromisoformat(headers.pop("ce_time")) in {event.recorded_at for event in log}
    assert headers.pop("traceparent").startswith("00-")
    assert headers == {
        "ce_specversion": "1.0",
        "ce_type": "LedgerOpened.v1",
        "content-type": "application/json",
        "daybook_incarnation": incarnation(kit),
    }
    assert relay.ready()
    assert relay.figure("relay_published_total") == len(log)
    assert relay.stop() == 0
    assert kit.rows("select count(*) from projections.relay_lease where expires_at <= clock_timestamp()") == [(1,)]


def test_books_follow_the_log_through_kafka_and_both_processes_end_cleanly(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 200)))
    relay, projector = processes.start("relay"), processes.start("projector")
    until(lambda: is_at_head(kit))
    until(lambda: is_published(kit))
    kit.append("bank", [transfer(f"later-{number}", 5) for number in range(20)])
    kit.append("late", list(books("late", 20)))
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert projector.ready()
    assert projector.figure("projector_waiting") == 0
    assert (projector.stop(), relay.stop()) == (0, 0)


def test_a_wake_up_brings_an_event_long_before_the_next_look(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 1)))
    processes.start("relay", DAYBOOK_POLL_MS="3600000", DAYBOOK_LEASE_MS="3600000")
    until(lambda: is_published(kit))

    def wake() -> bool:  # again and again: the relay may not listen yet
        kit.admin.execute("select pg_notify('daybook_appended', 'bank')")
        return is_published(kit)

    kit.append("bank", [transfer("later", 5)])
    until(wake)


def test_a_projector_killed_inside_its_transaction_leaves_nothing_and_the_next_one_goes_on(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 100)))
    processes.start("relay")
    projector = processes.start("projector")
    until(lambda: is_at_head(kit))
    before = kit.positions()
    with psycopg.connect(kit.database.admin_url) as blocker:
        blocker.execute("lock table books_1.transactions in access exclusive mode")
        kit.append("bank", [transfer(f"later-{number}", 5) for number in range(50)])
        until(lambda: is_blocked(kit))
        projector.kill()
    until(lambda: not kit.rows(f"select {PROJECTORS}"))
    assert kit.positions() == before
    processes.start("projector")
    until(lambda: is_at_head(kit))
    kit.assert_complete()


def is_blocked(kit: Kit) -> bool:
    return bool(kit.rows(f"select {PROJECTORS} and wait_event_type = 'Lock'"))


def test_a_projector_killed_after_its_commit_applies_nothing_twice(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 100)))
    processes.start("relay")
    projector = processes.start("projector", DAYBOOK_OFFSETS_MS="3600000", DAYBOOK_HEADS_MS="3600000")
    until(lambda: is_at_head(kit))
    projector.kill()
    again = processes.start("projector", DAYBOOK_HEADS_MS="3600000").started()
    kit.append("bank", [transfer("later", 5)])
    until(lambda: is_at_head(kit))  # by Kafka alone: the heads are not looked at again
    kit.assert_complete()
    assert again.figure("projector_applied_total") == 1


def test_deleting_the_topic_costs_the_read_model_nothing(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 100)))
    relay, projector = processes.start("relay"), processes.start("projector")
    until(lambda: is_at_head(kit))
    until(lambda: is_published(kit))
    processes.delete_topic()
    until(lambda: processes.partitions() == 0)
    kit.append("bank", [transfer("later", 5)])
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    relay.kill()
    processes.start("relay", DAYBOOK_LEASE_MS="500")
    until(lambda: processes.partitions() > 0)
    until(lambda: is_published(kit))
    assert projector.stop() == 0


def test_a_consumer_that_brings_nothing_is_begun_anew_until_it_hears_again(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 100)))
    projector = processes.start("projector", DAYBOOK_SILENT_MS="500").started()
    later = count()

    def fills_in() -> None:
        """Without a relay all comes from the log."""
        kit.append("bank", [transfer(f"later-{next(later)}", 5)])
        until(lambda: is_at_head(kit))

    def is_begun_anew() -> bool:
        fills_in()
        return projector.figure("projector_renewed_total") > 0

    def hears() -> bool:
        fills_in()
        processes.publish(read_log(kit.admin)[:10], incarnation=incarnation(kit))
        return projector.figure("projector_duplicates_total") > heard

    heard = 0.0
    until(is_begun_anew)
    assert projector.says("silent_consumer_renewed")
    processes.make_topic(3)
    until(hears)
    # Made anew before the consumer looks: it may wait for ever for what the old topic would have brought next.
    processes.delete_topic()
    until(lambda: processes.partitions() == 0)
    processes.make_topic(3)
    heard = projector.figure("projector_duplicates_total")
    until(hears)
    kit.assert_complete()
    assert projector.stop() == 0


def test_foreign_malformed_and_impossible_messages_are_dropped_and_counted(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 20)))
    processes.start("relay")
    projector = processes.start("projector").started()
    until(lambda: is_at_head(kit))
    log = read_log(kit.admin)
    lie = RecordedEvent(
        ledger="bank",
        position=len(log) + 1,
        type=log[-1].type,
        data='{"transaction":"a lie","entries":[]}',
        metadata=log[-1].metadata,
        recorded_at=log[-1].recorded_at,
    )
    processes.publish([lie], incarnation="6d1cb0d8-4a8e-4b07-8c4e-000000000000")
    processes.publish(log[:1], incarnation=incarnation(kit), value=b"\xff{]")
    processes.publish(log, incarnation=incarnation(kit))
    until(lambda: projector.figure("projector_duplicates_total") >= len(log))
    assert projector.figure("projector_foreign_total") == 1
    assert projector.figure("projector_malformed_total") == 1
    assert projector.says("foreign_message_dropped")
    kit.assert_complete()


def test_a_killed_relay_is_replaced_by_the_one_standing_by(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 100)))
    first = processes.start("relay", DAYBOOK_LEASE_MS="1000").started()
    until(lambda: first.says("relay_active"))
    second = processes.start("relay", DAYBOOK_LEASE_MS="1000").started()
    until(lambda: is_published(kit))
    until(second.ready)
    assert second.figure("relay_is_active") == 0
    first.kill()
    kit.append("bank", [transfer("later", 5)])
    until(lambda: is_published(kit))
    assert second.figure("relay_is_active") == 1
    assert_each_ledger_is_published(kit, processes)


def test_a_relay_that_was_frozen_past_its_lease_is_fenced(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 50)))
    first = processes.start("relay", DAYBOOK_LEASE_MS="500").started()
    until(lambda: is_published(kit))
    first.freeze()
    second = processes.start("relay", DAYBOOK_LEASE_MS="500").started()
    until(lambda: second.says("relay_active"))
    kit.append("bank", [transfer("later", 5)])
    until(lambda: is_published(kit))
    [(epoch,)] = kit.rows("select epoch from projections.relay_lease")
    first.thaw()
    until(lambda: first.says("lease_lost"))
    kit.append("bank", [transfer("last", 5)])
    until(lambda: is_published(kit))
    assert kit.rows("select epoch from projections.relay_positions") == [(epoch,)]
    assert_each_ledger_is_published(kit, processes)


def assert_each_ledger_is_published(kit: Kit, processes: Processes) -> None:
    """Every event is there at least once, and its first copies are in order."""
    firsts = list(dict.fromkeys(message.value() for message in processes.messages()))
    assert firsts == [canonical_line(event).encode() for event in read_log(kit.admin)]


def test_a_relay_after_a_restore_publishes_the_new_incarnation_from_its_first_event(
    kit: Kit, processes: Processes
) -> None:
    kit.append("bank", list(books("bank", 10)))
    relay = processes.start("relay")
    until(lambda: is_published(kit))
    assert relay.stop() == 0
    kit.admin.execute("select daybook.restored()")
    processes.start("relay")
    until(lambda: len(processes.messages()) == 2 * len(read_log(kit.admin)))
    last = processes.messages()[-1]
    assert dict(last.headers() or [])["daybook_incarnation"].decode() == incarnation(kit)


@pytest.mark.parametrize("role", ["relay", "projector"])
def test_a_log_that_went_back_stops_the_process_with_an_alert_that_names_the_remedy(
    kit: Kit, processes: Processes, role: str
) -> None:
    kit.append("bank", list(books("bank", 10)))
    relay, projector = processes.start("relay"), processes.start("projector")
    until(lambda: is_at_head(kit))
    until(lambda: is_published(kit))
    projector.kill()
    relay.kill()
    for table in ("relay_positions", "positions"):
        kit.admin.execute(f"update projections.{table} set position = position + 7".encode())
    kit.admin.execute("update projections.relay_lease set expires_at = '-infinity'")
    process = processes.start(role)
    assert process.wait() == 1
    assert process.says("daybook restored")
    assert process.says("position_beyond_head")


def test_without_kafka_the_read_model_still_follows_the_log_and_the_relay_says_it_is_not_ready(
    kit: Kit, processes: Processes
) -> None:
    processes.bootstrap = "127.0.0.1:9"
    kit.append("bank", list(books("bank", 20)))
    kit.append("poisoned", list(books("poisoned", 20)))
    heads = dict(kit.rows("select ledger, position from daybook.ledgers"))
    data = change_data(kit, "poisoned", 5, "{")
    relay, projector = processes.start("relay").started(), processes.start("projector").started()
    until(lambda: kit.positions() == {"bank": heads["bank"], "poisoned": 4})
    until(lambda: projector.figure("projector_parked") == 1)
    change_data(kit, "poisoned", 5, data)
    kit.parking().retry("books", "poisoned", patterns=None, actor="olga", reason="the backup had it")
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert kit.rows("select count(*) from projections.dead_letters where published_at is null") == [(1,)]
    assert not relay.ready()
    assert kit.rows("select count(*) from projections.relay_positions") == [(0,)]
    assert (relay.stop(), projector.stop()) == (0, 0)
    for process in (relay, projector):
        told = [json.loads(line) for line in process.log.read_text().splitlines()]  # librdkafka's own words, too
        refused = [line for line in told if "Connection refused" in line["event"]]
        assert len(refused) < len(told) / 2


def test_processes_wait_for_postgres_and_say_so(processes: Processes) -> None:
    gone = {"DAYBOOK_POSTGRES_URL": "postgresql://nobody@127.0.0.1:9/none"}
    both: list[Process] = [processes.start(role, **gone).started() for role in ("relay", "projector")]
    for process in both:
        until(lambda process=process: process.says("postgres_unavailable"))  # type: ignore[misc]
        assert not process.ready()
        assert process.stop() == 0


def test_a_restore_is_followed_by_a_rebuild_that_an_operator_asks_for(kit: Kit, processes: Processes) -> None:
    kit.append("bank", list(books("bank", 20)))
    projector = processes.start("projector").started()
    until(lambda: is_at_head(kit))
    needless = processes.start("rebuild")
    assert needless.wait() == 1
    assert needless.says("rebuild_not_needed")
    assert projector.stop() == 0
    kit.admin.execute("select daybook.restored()")
    projector = processes.start("projector").started()
    until(lambda: projector.figure("projector_is_stopped") == 1)
    assert projector.says("python -m projections rebuild")
    assert not projector.ready()
    assert processes.start("rebuild").wait() == 0
    until(lambda: kit.live() == 2)
    until(projector.ready)
    kit.assert_complete("books_2")


def test_an_unknown_argument_is_told_the_usage(processes: Processes) -> None:
    unknown = processes.start("projectr")
    assert unknown.wait() == 2
    assert unknown.says("usage:")


def test_wrong_settings_are_all_named_and_the_exit_code_is_2(processes: Processes) -> None:
    wrong = processes.start("projector", DAYBOOK_HEADS_MS="soon", DAYBOOK_HTTP_PORT="", DAYBOOK_NONSENSE="1")
    assert wrong.wait() == 2
    for name in ("DAYBOOK_HEADS_MS", "DAYBOOK_HTTP_PORT", "DAYBOOK_NONSENSE"):
        assert wrong.says(name)


def change_data(kit: Kit, ledger: str, position: int, data: str) -> str:
    """What no process may do: the log says something else. Answers what it said."""
    of = [ledger, position]
    [(before,)] = kit.rows("select data from daybook.events where ledger = %s and position = %s", *of)
    kit.admin.execute("set session_replication_role = replica")
    kit.admin.execute("update daybook.events set data = %s where ledger = %s and position = %s", [data, *of])
    kit.admin.execute("set session_replication_role = origin")
    return str(before)


def test_a_poison_event_is_a_dead_letter_with_its_reason_in_the_topic_and_an_operator_may_go_on_without_it(
    kit: Kit, processes: Processes
) -> None:
    for name in ("bank", "poisoned"):
        kit.append(name, list(books(name, 20)))
    [_, traced, *_] = [
        event.position for event in read_log(kit.admin) if event.ledger == "poisoned" and "trace" in event.metadata
    ]
    heads = dict(kit.rows("select ledger, position from daybook.ledgers"))
    change_data(kit, "poisoned", traced, '{"secret": 4711')
    processes.start("relay")
    projector = processes.start("projector").started()
    until(lambda: projector.figure("projector_parked") == 1)
    assert projector.ready()
    until(lambda: kit.positions() == {"bank": heads["bank"], "poisoned": traced - 1})
    until(lambda: kit.rows("select from projections.dead_letters where published_at is not null"))
    letters = f"{processes.topic}.dead-letters"
    [message] = processes.messages(letters)
    [event] = [event for event in read_log(kit.admin) if (event.ledger, event.position) == ("poisoned", traced)]
    assert (message.key(), message.value()) == (b"poisoned", canonical_line(event).encode())
    headers = {name: value.decode() for name, value in dict(message.headers() or []).items()}
    assert headers["ce_id"] == f"poisoned/{traced}"
    assert headers["daybook_incarnation"] == incarnation(kit)
    assert (headers["daybook_projection"], headers["daybook_generation"]) == ("books", "1")
    assert (headers["daybook_error_class"], headers["daybook_attempts"]) == ("DecodeError", "1")
    assert datetime.fromisoformat(headers["daybook_first_attempt_at"]) <= datetime.now(UTC)
    assert headers["traceparent"].split("-")[1] in projector.log.read_text()
    for text in (headers["daybook_error"], projector.log.read_text()):
        assert "4711" not in text

    kit.parking().skip("books", "poisoned", position=traced, actor="olga", reason="ticket 7")
    until(lambda: is_at_head(kit))
    until(lambda: projector.figure("projector_skipped_total") == 1)
    assert kit.rows("select ledger, state, position from projections.standstills") == [("poisoned", "skipped", traced)]


def test_many_ledgers_with_a_poisoned_one_reach_their_heads(kit: Kit, processes: Processes) -> None:
    for number in range(30):
        kit.append(f"ledger:{number:02}", list(books(f"ledger:{number:02}", 10)))
    kit.append("poisoned", list(books("poisoned", 10)))
    [(known,)] = kit.rows("select type from daybook.events where ledger = 'poisoned' and position = 5")
    kit.admin.execute("set session_replication_role = replica")
    kit.admin.execute("update daybook.events set type = 'Nobody.v7' where ledger = 'poisoned' and position = 5")
    processes.start("relay")
    projector = processes.start("projector").started()
    healthy = "select ledger, position from daybook.ledgers where ledger <> 'poisoned'"
    until(lambda: kit.positions() == {**dict(kit.rows(healthy)), "poisoned": 4})
    until(lambda: projector.figure("projector_waiting") == 1)
    assert projector.ready()
    kit.admin.execute("update daybook.events set type = %s where ledger = 'poisoned' and position = 5", [known])
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert kit.standing() == []
    assert read_books(kit.admin, "books_1")["ledgers"]
