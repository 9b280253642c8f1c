"""A release brings version 2 of an event, and an upcaster for version 1: old histories make the same rows, and older software waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from projections.domain.projection import Projection
from shared_kernel import events
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from shared_kernel.event_log.types import NewEvent
from shared_kernel.events import Entry, Event, Metadata, TransactionPosted
from tests.integration.projections.conftest import BOOKS, PERIODS, Kit, until
from tests.integration.projections.test_generations import projecting
from tests.integration.projections.test_worker import heal
from tests.support.histories import append_new, opened, transfer
from tests.support.lives import books
from tests.support.plain_books import plain_books, read_books, read_log

V1, V2 = "TransactionPosted.v1", "TransactionPosted.v2"
METADATA = events.encode(Metadata(actor="tester", correlation_id="c"))


class PostedV2(msgspec.Struct, frozen=True):
    """What version 2 writes: entries as rows, and a name that says more."""

    transaction_id: str
    entries: list[tuple[str, events.Direction, int, str]]


def from_v2(text: str) -> Event:
    """The newest struct from the newest text."""
    told = msgspec.json.decode(text, type=PostedV2)
    entries = [
        Entry(account=account, direction=direction, amount=amount, asset=asset)
        for account, direction, amount, asset in told.entries
    ]
    return TransactionPosted(transaction=told.transaction_id, entries=entries)


def from_v1(text: str) -> Event:
    """The upcaster: the newest struct from the text of version 1."""
    return msgspec.json.decode(text, type=TransactionPosted)


@contextmanager
def released() -> Iterator[None]:
    """This process runs software that knows version 2; its upcaster is another function than the decoder that was there."""
    decoders: dict[str, Callable[[str], Event]] = {V2: from_v2, V1: from_v1}
    with pytest.MonkeyPatch.context() as patch:
        for name, decoder in decoders.items():
            patch.setitem(events._DECODERS, name, decoder)
        patch.setitem(events.UPCASTERS, V1, from_v1)
        yield


def append_v2(kit: Kit, ledger: str, what: TransactionPosted) -> None:
    told = PostedV2(
        what.transaction, [(each.account, each.direction, each.amount, each.asset) for each in what.entries]
    )
    new = NewEvent(type=V2, data=msgspec.json.encode(told).decode(), metadata=METADATA, tags=[])
    with PostgresLedgerRecorder(kit.database.urls["command"], ledger) as recorder:
        append_new(recorder, [new])


@pytest.mark.parametrize("projection", [BOOKS, PERIODS], ids=["books", "periods"])
def test_an_old_history_rebuilds_through_the_upcaster_to_the_same_read_model(kit: Kit, projection: Projection) -> None:
    for name in ("a", "b"):
        kit.append(name, list(books(name, 100)))
    kit.worker(projection)[0].apply(read_log(kit.admin))
    rebuilt = msgspec.structs.replace(projection, version=projection.version + 1)
    with released(), projecting(kit, rebuilt):
        until(lambda: kit.live(projection.name) == 2)
    for table in projection.tables:
        before, after = kit.dump(f"{projection.name}_1.{table}"), kit.dump(f"{projection.name}_2.{table}")
        assert before, table
        assert before == after


def test_an_older_worker_waits_at_the_new_version_for_that_ledger_alone_and_goes_on_after_the_upgrade(kit: Kit) -> None:
    for name in ("a", "b"):
        kit.append(name, [opened(name), transfer("t1", 1)])
    append_v2(kit, "a", transfer("t2", 2))
    kit.append("a", [transfer("t3", 3)])
    kit.append("b", [transfer("t2", 2)])
    older, figures = kit.worker()
    older.apply(read_log(kit.admin))
    heal(older)
    [(state, ledger, position, error_class, attempts)] = kit.standing()
    assert (state, ledger, position, error_class) == ("waiting", "a", 3, "UnknownEventType")
    assert attempts > 1
    assert (figures.waiting, figures.parked, kit.positions()) == (1, 0, {"a": 2, "b": 3})
    assert kit.rows("select from projections.dead_letters") == []

    with released():
        newer, _ = kit.worker()
        heal(newer)
        assert kit.standing() == []
        assert kit.positions() == {"a": 4, "b": 3}
        as_v1 = [
            msgspec.structs.replace(event, type=V1, data=events.encode(events.decode(V2, event.data)))
            if event.type == V2
            else event
            for event in read_log(kit.admin)
        ]
        assert read_books(kit.admin, "books_1") == plain_books(as_v1)
    heal(older)  # it sees that the ledger has gone on, and has nothing to say of it
    assert kit.standing() == []
