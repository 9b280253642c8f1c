"""Several projectors of one read model: partitions shared and handed over, deliveries of every kind, and each event applied once."""

import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupState

from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.processes import Process, Processes
from tests.integration.projections.test_processes import incarnation, is_at_head
from tests.services import Database, Servers
from tests.support.histories import transfer
from tests.support.lives import books
from tests.support.plain_books import read_log

pytestmark = [pytest.mark.long, pytest.mark.thorough]
LEDGERS = [f"ledger:{number}" for number in range(8)]
BY_KAFKA_ALONE = {"DAYBOOK_HEADS_MS": "3600000"}


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


@pytest.fixture
def ledgers(kit: Kit) -> list[str]:
    """Many ledgers, so that every partition has some."""
    for ledger in LEDGERS:
        kit.append(ledger, list(books(ledger, 30)))
    return LEDGERS


def applied(*projectors: Process) -> int:
    return int(sum(projector.figure("projector_applied_total") for projector in projectors))


def append_until(kit: Kit, ledgers: list[str], has_come: list[Process]) -> None:
    """Every ledger grows until each of these processes has had its part of it."""
    before = [applied(projector) for projector in has_come]

    def grown() -> bool:
        for ledger in ledgers:
            kit.append(ledger, [transfer(f"more-{secrets.token_hex(4)}", 5)])
        return all(applied(each) > count for each, count in zip(has_come, before, strict=True))

    until(grown)


def digest(kit: Kit) -> list[list[bytes]]:
    return [
        kit.dump(f"books_1.{table}")
        for (table,) in kit.rows("select tablename from pg_tables where schemaname = 'books_1' order by 1")
    ]


def test_whatever_a_producer_delivers_becomes_the_fold_and_a_replay_from_zero_changes_nothing(
    kit: Kit, processes: Processes, ledgers: list[str]
) -> None:
    processes.make_topic(3)
    log, chance = read_log(kit.admin), random.Random(7)
    delivered = [event for event in log if chance.random() < 0.9]
    delivered += chance.sample(delivered, k=len(delivered) // 3)
    chance.shuffle(delivered)
    projectors = [processes.start("projector").started() for _ in range(2)]
    processes.publish(delivered, incarnation=incarnation(kit))
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert applied(*projectors) == len(log)
    before = digest(kit)
    seen = sum(projector.figure("projector_duplicates_total") for projector in projectors)
    processes.publish(log, incarnation=incarnation(kit))
    until(lambda: sum(each.figure("projector_duplicates_total") for each in projectors) >= seen + len(log))
    assert digest(kit) == before
    assert applied(*projectors) == len(log)


def test_partitions_that_are_added_are_found_and_ledgers_that_move_to_them_stay_in_order(
    kit: Kit, processes: Processes, ledgers: list[str]
) -> None:
    processes.make_topic(2)
    projector = processes.start("projector", **BY_KAFKA_ALONE).started()
    before = read_log(kit.admin)
    processes.publish(before, incarnation=incarnation(kit))
    until(lambda: is_at_head(kit))
    processes.add_partitions(7)
    for ledger in ledgers:
        kit.append(ledger, [transfer(f"t{number}", 5) for number in range(5)])
    added = [event for event in read_log(kit.admin) if event not in before]
    until(lambda: processes.partitions() == 7)
    processes.publish(added, incarnation=incarnation(kit))
    until(lambda: is_at_head(kit))  # by Kafka alone
    kit.assert_complete()
    assert projector.figure("projector_from_log_total") == 0


def test_two_projectors_share_the_ledgers_and_one_that_ends_hands_its_own_over(
    kit: Kit, processes: Processes, ledgers: list[str]
) -> None:
    processes.start("relay")
    first = processes.start("projector", **BY_KAFKA_ALONE).started()
    second = processes.start("projector", **BY_KAFKA_ALONE).started()
    append_until(kit, ledgers, [first, second])
    until(lambda: is_at_head(kit))
    assert applied(first, second) == len(read_log(kit.admin))
    by_first = applied(first)
    assert first.stop() == 0
    append_until(kit, ledgers, [second])
    until(lambda: is_at_head(kit))  # by Kafka alone: all partitions are the second one's
    kit.assert_complete()
    assert applied(second) == len(read_log(kit.admin)) - by_first


def test_a_projector_killed_during_a_rebalance_costs_nothing(
    kit: Kit, processes: Processes, ledgers: list[str]
) -> None:
    processes.start("relay")
    first = processes.start("projector", **BY_KAFKA_ALONE).started()
    second = processes.start("projector", **BY_KAFKA_ALONE).started()
    append_until(kit, ledgers, [first, second])
    until(lambda: is_at_head(kit))
    until(lambda: processes.group_state() == ConsumerGroupState.STABLE)
    before = applied(first, second)
    first.freeze()  # so that the rebalance which the other's leaving begins cannot end without it
    assert second.stop() == 0
    until(lambda: processes.group_state() == ConsumerGroupState.PREPARING_REBALANCING)
    for ledger in ledgers:
        kit.append(ledger, [transfer("meanwhile", 5)])
    first.kill()
    third = processes.start("projector", **BY_KAFKA_ALONE).started()
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert before + applied(third) == len(read_log(kit.admin))


def test_a_projector_that_was_frozen_past_its_session_applies_nothing_twice(
    kit: Kit, processes: Processes, ledgers: list[str]
) -> None:
    processes.start("relay")
    first = processes.start("projector").started()
    until(lambda: is_at_head(kit))
    first.freeze()
    second = processes.start("projector").started()
    for ledger in ledgers:
        kit.append(ledger, [transfer("meanwhile", 5)])
    until(lambda: is_at_head(kit))
    first.thaw()  # and believes that all partitions are its own
    append_until(kit, ledgers, [second])
    until(lambda: is_at_head(kit))
    kit.assert_complete()
    assert applied(first, second) == len(read_log(kit.admin))
