"""Harm to the way of events from the log to the read models: to Kafka, to messages, to single events."""

import time
from typing import Any

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.chaos.oracle import published
from tests.chaos.running import Run, head_of, heads_of, reached
from tests.chaos.stand import PARKED_MAX
from tests.chaos.topic import Topic

PARKED_WITHIN_S = 5.0
UNREADABLE = '{"poisoned": true}'


def kafka_down(run: Run) -> None:
    seconds = 60 if run.is_full else 4
    before = time.monotonic()
    with run.stand.down("kafka"):
        run.did.append(f"Kafka gone for {seconds} s")
        time.sleep(seconds)
        answered = [known for known in run.load.acknowledged if known.began > before]
        assert len(answered) > seconds, f"{len(answered)} commands in {seconds} s without Kafka"
        assert all(known.attempts == 1 for known in answered), "a command failed for want of Kafka"
    run.caught_up()
    with run.recovery("published again"), run.stand.admin() as admin:
        heads = heads_of(admin, run.load.ledgers)
        run.stand.until(lambda: published(admin, heads), "the relay has not caught up")


def topic_deleted(run: Run) -> None:
    topic = run.stand.stack.kafka_topic
    kafka = AdminClient({"bootstrap.servers": run.stand.stack.kafka_bootstrap})
    count = len(kafka.list_topics(topic, timeout=30).topics[topic].partitions)
    kafka.create_partitions([NewPartitions(topic, count + 2)])[topic].result(30)
    run.did.append(f"{count + 2} partitions instead of {count}")
    run.caught_up()
    kafka.delete_topics([topic], operation_timeout=30)[topic].result(30)
    run.did.append("the topic deleted")
    run.caught_up()
    with run.recovery("published again"), run.stand.admin() as admin:
        heads = heads_of(admin, run.load.ledgers)
        run.stand.until(lambda: published(admin, heads), "the relay has not made the topic anew")


def repeated_messages(run: Run) -> None:
    stack = run.stand.stack
    run.some_time(2)
    messages = Topic(stack.kafka_bootstrap, stack.kafka_topic, is_whole=True).messages()
    chosen = run.rng.sample(messages, min(len(messages), 2_000)) + messages[-300:]
    run.rng.shuffle(chosen)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    before = run.stand.figure("projector", "daybook_projector_duplicates_total")
    for each in chosen:
        producer.produce(stack.kafka_topic, each.value(), each.key(), headers=each.headers())
    producer.flush(30)
    run.did.append(f"{len(chosen)} messages sent again in another order")
    run.stand.until(
        lambda: run.stand.figure("projector", "daybook_projector_duplicates_total") > before, "no duplicate was dropped"
    )
    run.caught_up()


def poisoned(run: Run) -> None:
    ledger, *others = run.load.ledgers
    is_parked = "select from projections.waiting where ledger = %s and state = 'parked'"
    with run.stand.admin() as admin:
        # Who reads the log stands still meanwhile, so that the event is poisoned before it is read.
        with run.stand.frozen("relay"), run.stand.frozen("projector"):
            head = head_of(admin, ledger)
            run.stand.until(lambda: head_of(admin, ledger) > head + 2, "no event came")
            position = head_of(admin, ledger)
            known = _poison(admin, ledger, position, UNREADABLE)
        run.did.append("an event with other data")
        with run.recovery("parked", within_s=PARKED_WITHIN_S):
            run.stand.until(
                lambda: admin.execute(is_parked, [ledger]).fetchone() is not None, "the ledger is not parked"
            )
        healthy = heads_of(admin, others)
        run.stand.until(lambda: reached(admin, healthy), "the other ledgers do not go on")
        _poison(admin, ledger, position, known)
        admin.execute(
            "update projections.waiting set state = 'waiting', asked_at = clock_timestamp() where ledger = %s", [ledger]
        )
        run.did.append("mended and retried")
        run.caught_up()


def poisoned_everywhere(run: Run) -> None:
    projector = run.operator("projector")
    names = [each["projection"] for each in projector.get("/v1/operations/projections").read(dict)["data"]]
    projector.close()
    with run.stand.admin() as admin:
        with run.stand.frozen("relay"), run.stand.frozen("projector"):
            opened = run.load.open_more(PARKED_MAX + 10)
            known = {
                ledger: (at, _poison(admin, ledger, at, UNREADABLE)) for ledger, at in heads_of(admin, opened).items()
            }
        run.did.append(f"the newest event of {len(known)} ledgers cannot be applied; {PARKED_MAX} may be parked")
        with run.recovery("stopped"):
            run.stand.until(lambda: not run.stand.is_ready("projector"), "the projector calls itself ready")
            run.stand.until(
                lambda: _parked(admin) == dict.fromkeys(names, PARKED_MAX + 1), "the projections go on parking"
            )
        with run.recovery("alert"):
            run.stand.until(
                lambda: _alerts(run, "parked_ledgers") == sorted(names), "not one alert for each projection"
            )
        before, size = _written(admin), run.stand.log_bytes("projector")
        seconds = 60 if run.is_full else 5
        time.sleep(seconds)
        assert _written(admin) == before, "it goes on writing"
        grown = (run.stand.log_bytes("projector") - size) / seconds
        assert grown < 1_000, f"the log grows by {grown:.0f} bytes a second"
        assert _alerts(run, "parked_ledgers") == sorted(names), "there are other alerts by now"
        for ledger, (at, data) in known.items():
            _poison(admin, ledger, at, data)
        run.did.append("all mended, all retried")
        with run.recovery("retried"):  # twice: what was beyond the bound meets what Kafka has kept of the faults
            run.stand.until(lambda: _retried(run, admin, names), "ledgers stay parked")
        run.caught_up()
    with run.recovery("alert cleared"):
        run.stand.until(lambda: not _alerts(run, "parked_ledgers"), "the alert stands")


def _parked(admin: "psycopg.Connection[Any]") -> dict[str, int]:
    """How many ledgers each projection has parked."""
    return dict(
        admin.execute(
            "select projection, count(*) from projections.waiting where state = 'parked' group by 1"
        ).fetchall()
    )


def _retried(run: Run, admin: "psycopg.Connection[Any]", names: list[str]) -> bool:
    """Every projection is ready and has nothing parked; else what is parked is retried."""
    if run.stand.is_ready("projector") and not _parked(admin):
        return True
    projector = run.operator("projector")
    for name in names:
        projector.post(f"/v1/operations/projections/{name}/standing/retry", b'{"reason": "mended"}', key=None)
    projector.close()
    return False


def _written(admin: "psycopg.Connection[Any]") -> list[Any]:
    """How much there is of what is written for what stands still."""
    return admin.execute(
        "select (select count(*) from projections.waiting), (select count(*) from projections.dead_letters)"
    ).fetchall()


def _alerts(run: Run, kind: str) -> list[str]:
    """What the monitor raises alerts of this kind for."""
    monitor = run.operator("monitor")
    found = monitor.get("/v1/operations/alerts").read(dict)["data"]
    monitor.close()
    return sorted(each["subject"] for each in found if each["kind"] == kind)


def _poison(admin: "psycopg.Connection[Any]", ledger: str, position: int, data: str) -> str:
    """The event has other data now; answers what it had. The log has triggers against this, which only a superuser can lift."""
    with admin.transaction():
        admin.execute("set local session_replication_role = replica")
        where = "where ledger = %s and position = %s"
        (known,) = admin.execute(f"select data from daybook.events {where}", [ledger, position]).fetchone() or ("",)
        admin.execute(f"update daybook.events set data = %s {where}", [data, ledger, position])
    return str(known)
