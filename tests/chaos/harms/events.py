"""Harm to the way of events from the log to the read models: to Kafka, to messages, to single events."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from projections.infrastructure.kafka import INCARNATION, headers_of
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import canonical_line
from tests.chaos.harms.rebuilds import BEHIND_TIMES_MAX, P99_TIMES_MAX, asked, finished
from tests.chaos.oracle import log_of, published
from tests.chaos.running import Run, head_of, heads_of, p99, reached
from tests.chaos.stand import PARKED_MAX
from tests.support.kafka_cluster import KafkaCluster

PARKED_WITHIN_S = 5.0
DRAINED_TIMES_MIN = 5.0  # so much faster than events come
P99_TIMES_MAX_OF_FEW = 3.0  # chosen: of some hundred commands the p99 is two or three of them
READ_WITHIN_S = 15.0  # while one broker of several is away; three times the longest seen
GAP_WITHIN_S = 2.0  # chosen: else the log was asked before the messages came, as it is where none come
FIGURES = {name: f"daybook_projector_{name}_total" for name in ("duplicates", "gaps")}
UNREADABLE = '{"poisoned": true}'


def kafka_down(run: Run) -> None:
    usual, _ = run.measured(30 if run.is_full else 4, run.load.ledgers)
    for seconds in (60, 600) if run.is_full else (4,):
        before = time.monotonic()
        with run.stand.admin() as admin:
            heads = heads_of(admin, run.load.ledgers)
            with run.stand.down("kafka"):
                run.did.append(f"Kafka gone for {seconds} s")
                time.sleep(seconds)
                answered = [known for known in run.load.acknowledged if known.began > before]
                assert len(answered) > seconds, f"{len(answered)} commands in {seconds} s without Kafka"
                _as_quick_as_usual(run, before, usual, "without Kafka")
            inflow = (sum(heads_of(admin, run.load.ledgers).values()) - sum(heads.values())) / seconds
            run.caught_up()
            _drained(run, admin, inflow)
    kafka_restarted(run)


def kafka_restarted(run: Run) -> None:
    with run.stand.stopped("kafka"):
        run.did.append("Kafka restarted in order")
    run.caught_up()
    run.published_again()


def brokers_restarted(run: Run) -> None:
    brokers = run.stand.brokers
    assert brokers is not None
    usual, _ = run.measured(30 if run.is_full else 4, run.load.ledgers)
    before = run.load.count()
    with run.without_gaps():
        for _ in range(2 if run.is_full else 1):
            for node in brokers.layouts:
                _without_broker(run, brokers, node, signal.SIGTERM, usual)
            _without_broker(run, brokers, run.rng.choice(list(brokers.layouts)), signal.SIGKILL, usual)
        run.caught_up()
    answered = run.load.acknowledged[before:]
    assert all(known.attempts == 1 for known in answered), "a command failed for want of a broker"


def _without_broker(run: Run, brokers: KafkaCluster, node: int, number: signal.Signals, usual: float) -> None:
    """One broker ends by this signal and starts again later: meanwhile events are published and read, and commands as quick as usual."""
    seconds = 60 if run.is_full else 4
    before = time.monotonic()
    brokers.stop(node, number)
    run.did.append(f"broker {node} gone by {number.name} for {seconds} s")
    while time.monotonic() < before + seconds:
        run.more_commands(10)
        run.caught_up(within_s=READ_WITHIN_S)
        run.published_again(within_s=READ_WITHIN_S)
    _as_quick_as_usual(run, before, usual, "with a broker away")
    with run.recovery("brokers"):
        brokers.start(node)
        run.stand.until(brokers.is_whole, "a partition lacks a replica")


def _as_quick_as_usual(run: Run, since: float, usual: float, when: str) -> None:
    """The p99 of the commands begun since then is about what it was, and each was answered at its first attempt."""
    answered = [known for known in run.load.acknowledged if known.began > since]
    assert all(known.attempts == 1 for known in answered), f"a command failed {when}"
    slowest = p99([known.ended - known.began for known in answered])
    times_max = P99_TIMES_MAX if run.is_full else P99_TIMES_MAX_OF_FEW
    assert slowest <= times_max * usual, f"p99 {usual:.3f} s, and {slowest:.3f} s {when}"


def _drained(run: Run, admin: "psycopg.Connection[Any]", inflow: float) -> None:
    """Measures until the relay has published what it could not, and how much faster it does so than events come."""
    relayed = "select coalesce(sum(position), 0)::bigint from projections.relay_positions where ledger = any(%s)"

    def now() -> tuple[float, int]:
        at = time.monotonic()
        return at, int(admin.execute(relayed, [run.load.ledgers]).fetchall()[0][0])

    with run.recovery("published again"):
        last = [now()]

        def goes_on() -> tuple[float, int] | None:
            began, last[0] = last[0], now()
            return began if last[0][1] > began[1] else None

        began_at, began = run.stand.until(goes_on, "the relay publishes nothing")
        heads = heads_of(admin, run.load.ledgers)
        run.stand.until(lambda: published(admin, heads), "the relay has not caught up")
        ended_at, ended = now()
    rate = (ended - began) / (ended_at - began_at)
    run.did.append(f"{ended - began} events published at {rate:,.0f} a second, while {inflow:,.0f} a second came")
    assert rate >= DRAINED_TIMES_MIN * inflow, f"{rate:.0f} events a second are published, and {inflow:.0f} come"


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
    run.published_again()


def repeated_messages(run: Run) -> None:
    """Another producer sends what the relay has sent, or is going to send: again, in another order, before its time, all from zero."""
    stack = run.stand.stack
    run.some_time(2)
    messages = run.topic.messages()
    incarnation = dict(messages[-1].headers() or [])[INCARNATION]
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})

    def give(event: RecordedEvent) -> None:
        headers = [*headers_of(event), (INCARNATION, incarnation)]
        producer.produce(stack.kafka_topic, canonical_line(event), event.ledger, headers=headers)

    before = {name: run.stand.figure("projector", figure) for name, figure in FIGURES.items()}
    with run.stand.admin() as admin:
        with run.stand.frozen("relay"):  # so that its messages come late, after those that should stand behind them

            def gaps_are_seen() -> bool:
                early[:] = _given_away_early(run, admin, give)
                producer.flush(30)
                with suppress(AssertionError):
                    run.stand.until(
                        lambda: run.stand.figure("projector", FIGURES["gaps"]) > before["gaps"],
                        "no gaps were seen",
                        within_s=GAP_WITHIN_S,
                    )
                    return True
                return False

            early: list[RecordedEvent] = []
            run.stand.until(gaps_are_seen, "no gaps were seen")
            run.did.append(
                f"{len(early)} events given away in disorder while the relay was frozen, so that its own come late"
            )
            run.stand.until(
                lambda: reached(admin, {event.ledger: event.position for event in early}), "they were not applied"
            )
        run.caught_up()
    for each in messages:
        producer.produce(stack.kafka_topic, each.value(), each.key(), headers=each.headers())
    run.did.append(f"{len(messages)} messages once more from zero")
    chosen = run.rng.sample(messages, min(len(messages), 2_000))
    for each in chosen:
        producer.produce(stack.kafka_topic, each.value(), each.key(), headers=each.headers())
    producer.flush(30)
    run.did.append(f"{len(chosen)} messages once more in another order")
    sent_again = before["duplicates"] + len(messages)
    run.stand.until(
        lambda: run.stand.figure("projector", FIGURES["duplicates"]) >= sent_again,
        "what was sent again was not dropped",
    )
    run.caught_up()


def _given_away_early(
    run: Run, admin: "psycopg.Connection[Any]", give: Callable[[RecordedEvent], None]
) -> list[RecordedEvent]:
    """Gives away what comes now in disorder, but for the first of each ledger: a gap, unless the log is asked before."""
    heads = heads_of(admin, run.load.ledgers)
    run.more_commands(100)
    early = [event for ledger, at in heads.items() for event in log_of(admin, ledger)[at + 1 :]]
    run.rng.shuffle(early)
    for event in early:
        give(event)
    return early


def poisoned(run: Run) -> None:
    run.load.open_more((1_000 if run.is_full else 100) - len(run.load.ledgers))
    run.caught_up()
    seconds = 30 if run.is_full else 4
    ledger, *others = run.load.ledgers
    projections = _projections(run)
    is_parked = "select projection from projections.waiting where ledger = %s and state = 'parked'"
    _, behind_before = run.measured(seconds, others)
    with run.stand.admin() as admin:
        # Who reads the log stands still meanwhile, so that the event is poisoned before it is read.
        with run.stand.frozen("relay"), run.stand.frozen("projector"):
            head = head_of(admin, ledger)
            run.stand.until(lambda: head_of(admin, ledger) > head + 2, "no event came")
            position = head_of(admin, ledger)
            known = _poison(admin, ledger, position, UNREADABLE)
        run.did.append(f"an event with other data in one of {len(run.load.ledgers)} ledgers")
        with run.recovery("parked", within_s=PARKED_WITHIN_S):
            run.stand.until(
                lambda: {name for (name,) in admin.execute(is_parked, [ledger])} == projections,
                "the ledger is not parked",
            )
        healthy = heads_of(admin, others)
        run.stand.until(lambda: reached(admin, healthy), "the other ledgers do not go on")
        _, behind = run.measured(seconds, others)
        run.did.append(f"the others were {behind_before:.1f} events behind on average, and {behind:.1f}")
        assert behind < BEHIND_TIMES_MAX * max(behind_before, 1.0), (
            f"{behind_before:.1f} events behind, then {behind:.1f}"
        )
        assert not _is_complete(run, ledger), "an answer about the parked ledger calls itself complete"
        assert all(_is_complete(run, other) for other in others[:10]), "an answer about another ledger is not complete"
        assert {name for (name,) in admin.execute(is_parked, [ledger])} == projections, "it goes on by itself"
        _poison(admin, ledger, position, known)
    projector = run.operator("projector")
    for name in projections:
        path = f"/v1/operations/projections/{name}/standing/{ledger}/retry"
        projector.post(path, b'{"reason": "mended"}', key=None)
    projector.close()
    run.did.append("mended, and retried by an operator")
    run.caught_up()
    assert _is_complete(run, ledger), "an answer about the mended ledger is not complete"
    for name in projections:
        repaired = finished(run, name, asked(run, name, "repair", ledger=ledger))
        assert repaired["state"] == "done", repaired
    run.did.append("repaired by an operator besides")
    run.caught_up()


def _projections(run: Run) -> set[str]:
    projector = run.operator("projector")
    found = {each["projection"] for each in projector.get("/v1/operations/projections").read(dict)["data"]}
    projector.close()
    return found


def _is_complete(run: Run, ledger: str) -> bool:
    """What an answer about the ledger says of itself."""
    reader = run.reader()
    answer = reader.get(f"/v1/ledgers/{ledger}/accounts/users:0/balances").read(dict)
    reader.close()
    return bool(answer["complete"])


def poisoned_everywhere(run: Run) -> None:
    names = sorted(_projections(run))
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
