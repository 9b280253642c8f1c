"""The common oracle: what must hold after every experiment, whatever was done. One function; an empty list means that it holds.

The history of each account is linearizable: there is one order, that of the positions (of a refusal: of what it was judged on), in which
each command was answered, done or refused as the state before it demands, and which agrees with who was answered before whom.

For each ledger: positions 1 … n without a gap, every rule of the books at every position (shared_kernel/checking.py), debits equal to
credits; every acknowledged command in the log exactly once, where its answer said, and none before another that had been answered
before it was sent; a repetition gets the first answer, of what was under way when the harm was done as of others; Kafka holds every
event, none before its predecessor; every read model equal to the fold of the log (tests/support/plain_books.py, which shares no code
with it); and what clients read meanwhile no older than they asked for, and what the log says as of its position.
"""

import json
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from itertools import accumulate
from operator import itemgetter
from typing import Any

import psycopg

from projections.infrastructure.postgres_read_model import as_projected
from projections.infrastructure.shipped import shipped
from shared_kernel.checking import Checker
from shared_kernel.event_log.types import RecordedEvent
from tests.chaos.load import Acknowledged, Load
from tests.chaos.readers import Readers, Seen
from tests.chaos.stand import Stand
from tests.chaos.topic import Topic, left_out
from tests.support.folding import project_in_batches, written
from tests.support.plain_books import COLUMNS, comparable, plain_books

REPEATED = 10  # commands that are sent once more, beside those whose first attempt was not answered
REPEATED_MAX = 300  # of these
FINDINGS_MAX = 20
NEWER = {
    "TransactionPosted.v2": "TransactionPosted.v1"
}  # what the next release writes, which has the same data (next_release/)
FOLDED = ("periods",)  # compared with the projection's own fold; `books` with one that shares no code


def check(
    stand: Stand, load: Load, rng: random.Random, readers: Readers | None = None, topic: Topic | None = None
) -> list[str]:
    """Waits until Kafka and the read models have what the log has, then says everything that does not hold.

    `topic`: as it was before the load began; None where the harm was done to what Kafka holds.
    """
    found = [*load.surprises, *(f"never answered: {key}" for key in load.unanswered)]
    seen = readers.seen if readers else []
    found += readers.surprises if readers else []
    with stand.admin() as admin:
        stand.until(lambda: not behind(admin, load.ledgers), "the read models have not caught up")
        events = {ledger: log_of(admin, ledger) for ledger in load.ledgers}
        for ledger, log in events.items():
            found += _rules(ledger, log)
            found += _acknowledged(ledger, log, load)
            found += out_of_order([known for known in load.acknowledged if known.ledger == ledger])
            found += wrongly_refused(log)
            found += judged_too_early([known for known in load.acknowledged if known.ledger == ledger], log)
            found += misread([each for each in seen if each.ledger == ledger], log)
        found += _read_models(admin, events)
        if topic is not None:
            heads = {ledger: len(log) for ledger, log in events.items()}
            stand.until(lambda: published(admin, heads), "the relay has not caught up")
            found += left_out(topic.published(heads), heads)
    found += repeated(load, to_repeat(load.acknowledged, rng))
    return found[:FINDINGS_MAX]


def check_restored(
    found: "psycopg.Connection[Any]", admin: "psycopg.Connection[Any]", load: Load, acknowledged: int
) -> list[str]:
    """Everything that does not hold in a restored database, beside the one that has gone on since.

    Each log is a beginning of the one that went on, with its head where it ends; the first `acknowledged` answers stand in it; no
    projection is ahead of it, and each read model is the fold of it up to where the projection stands.
    """
    told = []
    logs = {ledger: log_of(found, ledger) for ledger in load.ledgers}
    heads = dict(
        found.execute("select ledger, position from daybook.ledgers where ledger = any(%s)", [load.ledgers]).fetchall()
    )
    for ledger, log in logs.items():
        told += _rules(ledger, log)
        if log != log_of(admin, ledger)[: len(log)]:
            told.append(f"{ledger}: what was restored is not the beginning of what went on")
        if heads.get(ledger) != len(log):
            told.append(f"{ledger}: {len(log)} events, and a head at {heads.get(ledger)}")
    for known in load.acknowledged[:acknowledged]:
        if known.position > len(logs[known.ledger]):
            told.append(f"{known.ledger}: {known.key} was acknowledged at {known.position} and is not there")
    positions = found.execute(
        "select projection, ledger, position from projections.positions join projections.live using (projection, generation)"
        " where ledger = any(%s)",
        [load.ledgers],
    ).fetchall()
    reached = {(projection, ledger): position for projection, ledger, position in positions}
    told += [
        f"{projection}: ahead of {ledger}" for (projection, ledger), at in reached.items() if at > len(logs[ledger])
    ]
    for projection in ("books", *FOLDED):
        upto = {ledger: log[: reached.get((projection, ledger), 0)] for ledger, log in logs.items()}
        told += _read_models(found, upto, only=projection)
    return told


def behind(admin: "psycopg.Connection[Any]", ledgers: list[str]) -> list[Any]:
    """Ledgers that a live generation does not have whole."""
    return admin.execute(
        "select g.projection, l.ledger, l.position, p.position from daybook.ledgers l cross join projections.live g"
        " left join projections.positions p on p.projection = g.projection and p.generation = g.generation"
        " and p.ledger = l.ledger where l.ledger = any(%s) and coalesce(p.position, 0) < l.position",
        [ledgers],
    ).fetchall()


def published(admin: "psycopg.Connection[Any]", heads: Mapping[str, int]) -> bool:
    """The relay has given these ledgers to Kafka up to these positions."""
    found = admin.execute(
        "select ledger, position from projections.relay_positions where ledger = any(%s)", [list(heads)]
    ).fetchall()
    known = dict(found)
    return all(known.get(ledger, 0) >= head for ledger, head in heads.items())


def log_of(admin: "psycopg.Connection[Any]", ledger: str) -> list[RecordedEvent]:
    rows = admin.execute(
        "select ledger, position, type, data, metadata, recorded_at from daybook.events where ledger = %s order by position",
        [ledger],
    )
    return [
        RecordedEvent(
            ledger=name,
            position=position,
            type=NEWER.get(type_, type_),
            data=data,
            metadata=metadata,
            recorded_at=recorded_at.astimezone(UTC),
        )
        for name, position, type_, data, metadata, recorded_at in rows
    ]


def _rules(ledger: str, log: list[RecordedEvent]) -> list[str]:
    checker = Checker()
    found = [f"{ledger}: {finding}" for event in log for finding in checker.take(event)]
    for asset, difference in checker.debits_less_credits().items():
        if difference:
            found.append(f"{ledger}: debits less credits of {asset} are {difference}")
    return found


def _acknowledged(ledger: str, log: list[RecordedEvent], load: Load) -> list[str]:
    positions: dict[str, list[int]] = {}
    for event in log:
        if (key := json.loads(event.metadata).get("key")) is not None:
            positions.setdefault(key, []).append(event.position)
    types = {event.position: event.type for event in log}
    found = []
    for known in load.acknowledged:
        if known.ledger != ledger:
            continue
        at = sorted(set(positions.get(known.key, ())))
        if known.position and known.position not in at:
            found.append(f"{ledger}: {known.key} was acknowledged at {known.position} and stands at {at}")
        outcomes = [
            types[position] for position in at if types[position] in ("TransactionPosted.v1", "CommandRefused.v1")
        ]
        expected = "TransactionPosted.v1" if known.status == 201 else "CommandRefused.v1"
        if outcomes != [expected]:
            found.append(f"{ledger}: {known.key} was answered {known.status} and stands as {outcomes}")
    return found


def out_of_order(acknowledged: Iterable[Acknowledged]) -> list[str]:
    """Commands of one ledger that stand before one which had been answered before they were sent the first time."""
    found: list[str] = []
    sent_last = None
    for known in sorted(acknowledged, key=lambda each: each.position):
        if not known.position:
            continue
        if sent_last is not None and known.ended < sent_last.first:
            found.append(
                f"{known.ledger}: {known.key} was answered at {known.position} before {sent_last.key} was sent, which stands at"
                f" {sent_last.position}"
            )
        if sent_last is None or known.first > sent_last.first:
            sent_last = known
    return found


def wrongly_refused(log: Sequence[RecordedEvent]) -> list[str]:
    """Transfers of the load that were refused although the payer had the money in the state that they were judged on."""
    found = []
    balances: dict[str, list[tuple[int, int]]] = {}
    for event in log:
        if event.type == "TransactionPosted.v1":
            for entry in json.loads(event.data)["entries"]:
                history = balances.setdefault(entry["account"], [(0, 0)])
                amount = entry["amount"] if entry["direction"] == "credit" else -entry["amount"]
                history.append((event.position, history[-1][1] + amount))
        elif event.type == "CommandRefused.v1":
            refused = json.loads(event.data)
            judged_at = refused.get("judged_at") or event.position - 1
            for entry in refused["asked"]["entries"]:
                if entry["direction"] == "debit":
                    history = balances.get(entry["account"], [(0, 0)])
                    balance = history[bisect_right(history, judged_at, key=itemgetter(0)) - 1][1]
                    if balance >= entry["amount"]:
                        found.append(
                            f"{event.ledger}: {entry['account']} had {balance} as of {judged_at}, and {entry['amount']} were refused"
                            f" at {event.position}"
                        )
    return found


def judged_too_early(acknowledged: Iterable[Acknowledged], log: Sequence[RecordedEvent]) -> list[str]:
    """Refusals of one ledger judged on a state without a command that had been answered before theirs was sent the first time."""
    judged_at = {
        event.position: json.loads(event.data).get("judged_at") or event.position - 1
        for event in log
        if event.type == "CommandRefused.v1"
    }
    by_end = sorted(acknowledged, key=lambda each: each.ended)
    ends = [known.ended for known in by_end]
    newest = list(accumulate((known.position for known in by_end), max, initial=0))
    found = []
    for known in by_end:
        answered = newest[bisect_left(ends, known.first)]
        if answered > judged_at.get(known.position, answered):
            found.append(
                f"{known.ledger}: {known.key} was refused as of {judged_at[known.position]}, and {answered} had been answered before"
            )
    return found


def misread(seen: Iterable[Seen], log: Sequence[RecordedEvent]) -> list[str]:
    """What clients read of one ledger that is older than they had asked for, or not what its log says as of that position."""
    at: dict[str, list[int]] = {}
    totals: dict[str, list[tuple[int, int]]] = {}
    for event in log:
        if event.type != "TransactionPosted.v1":  # the load makes no others that move anything
            continue
        for entry in json.loads(event.data)["entries"]:
            of_account = totals.setdefault(entry["account"], [(0, 0)])
            debited, credited = of_account[-1]
            if entry["direction"] == "debit":
                debited += entry["amount"]
            else:
                credited += entry["amount"]
            of_account.append((debited, credited))
            at.setdefault(entry["account"], []).append(event.position)
    found = []
    for each in seen:
        expected = totals.get(each.account, [(0, 0)])[bisect_right(at.get(each.account, []), each.position)]
        what = f"{each.ledger}: {each.account} was read as of {each.position}"
        if each.position < each.asked:
            found.append(f"{what}, which is older than {each.asked}")
        if (each.debited, each.credited) != expected:
            found.append(f"{what} with {each.debited}, {each.credited}, and the log says {expected[0]}, {expected[1]}")
    return found


def _read_models(
    admin: "psycopg.Connection[Any]", events: dict[str, list[RecordedEvent]], *, only: str | None = None
) -> list[str]:
    """Where the live read models, or one of them, are not the fold of these events."""
    ledgers = list(events)
    found = []
    schemas = dict(
        admin.execute(
            "select l.projection, g.schema_name from projections.live l join projections.generations g using (projection, generation)"
        ).fetchall()
    )
    if only in (None, "books"):
        expected = plain_books(event for log in events.values() for event in log)
        for table, columns in COLUMNS.items():
            rows = admin.execute(
                f"select {columns} from {schemas['books']}.{table} where ledger = any(%s)".encode(), [ledgers]
            ).fetchall()
            found += _differing(f"books.{table}", (comparable(table, row) for row in rows), expected[table])
    for name in FOLDED if only is None else set(FOLDED) & {only}:
        projection = shipped()[name]
        for table, folded in written(projection, project_in_batches(projection, [events])).items():
            columns = ", ".join(projection.tables[table].columns)
            rows = admin.execute(
                f"select {columns} from {schemas[name]}.{table} where ledger = any(%s)".encode(), [ledgers]
            ).fetchall()
            found += _differing(f"{name}.{table}", (tuple(map(as_projected, row)) for row in rows), folded)
    return found


def _differing(table: str, held: Iterable[tuple[Any, ...]], folded: Iterable[tuple[Any, ...]]) -> list[str]:
    """A finding where the table does not hold these rows and no others, each as often."""
    ours, theirs = Counter(map(repr, held)), Counter(map(repr, folded))
    if ours == theirs:
        return []
    more, less = (ours - theirs).total(), (theirs - ours).total()
    return [f"{table} differs from the fold of the log: {more} rows of its own, {less} missing"]


def to_repeat(acknowledged: Sequence[Acknowledged], rng: random.Random) -> list[Acknowledged]:
    """Some at random, and those that were under way when something went wrong: their first attempt was not answered."""
    under_way = [known for known in acknowledged if known.attempts > 1]
    some = rng.sample(under_way, min(REPEATED_MAX, len(under_way)))
    return some + rng.sample(acknowledged, min(REPEATED, len(acknowledged)))


def repeated(load: Load, commands: Iterable[Acknowledged]) -> list[str]:
    """Those of them that are not answered as they were the first time."""
    found = []
    for known in commands:
        status, body = load.again(known, load.body_of(known))
        told = json.loads(body), json.loads(known.body)
        for each in told:
            each.pop("trace_id", None)
        if (status, told[0]) != (known.status, told[1]):
            found.append(f"{known.key} was answered {known.status} and, repeated, {status}")
    return found
