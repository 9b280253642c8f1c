"""Made-up books as events: for tests of whatever reads the log. Deterministic in its random source."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from shared_kernel import events, tags
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from shared_kernel.event_log.types import Decision, NewEvent, RecordedEvent, Tail
from shared_kernel.events import AccountOpened, CommandRefused, Entry, Event, LedgerOpened, Metadata, TransactionPosted

BEGAN_AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
ASSETS = ("USD/2", "JPY", "BTC/8")
APPEND_EVENTS_MAX = 2_000


def opened(ledger: str) -> LedgerOpened:
    """The first event of every ledger."""
    return LedgerOpened(ledger=ledger, accounts="explicit", metadata={"made": "up"})


def account(address: str, normal_balance: events.NormalBalance = "credit") -> AccountOpened:
    """An account without limits."""
    return AccountOpened(address=address, normal_balance=normal_balance)


def transfer(
    name: str, amount: int, *, debit: str = "bank:cash", credit: str = "users:1", asset: str = "USD/2"
) -> TransactionPosted:
    """One transaction of two entries."""
    entries = [
        Entry(account=debit, direction="debit", amount=amount, asset=asset),
        Entry(account=credit, direction="credit", amount=amount, asset=asset),
    ]
    return TransactionPosted(transaction=name, entries=entries)


def books(ledger: str, transactions: int, *, seed: int = 1, accounts: int = 20) -> Iterator[Event]:
    """A ledger, its accounts, and transactions of two to four entries with all optional fields; some refusals between."""
    chance = random.Random(f"{seed}/{ledger}")
    yield opened(ledger)
    yield account("bank:cash", "debit")
    for number in range(accounts):
        yield account(f"users:{number}:wallet")
    for number in range(transactions):
        asset = chance.choice(ASSETS)
        parts = [chance.randrange(1, 10**9) for _ in range(chance.choice((1, 1, 2, 3)))]
        payers = [f"users:{chance.randrange(accounts)}:wallet" for _ in parts]
        entries = [Entry(account="bank:cash", direction="debit", amount=sum(parts), asset=asset)]
        entries += [
            Entry(account=payer, direction="credit", amount=part, asset=asset, draws=chance.random() < 0.1)
            for payer, part in zip(payers, parts, strict=True)
        ]
        yield TransactionPosted(
            transaction=f"{ledger}-{number}",
            entries=entries,
            reference=f"ref {number}" if chance.random() < 0.5 else None,
            description="tab\there, back\\slash, line\nfeed, \N{SNOWMAN}, \\N" if chance.random() < 0.2 else None,
            effective_at="1993-01-01T12:00:00Z" if chance.random() < 0.3 else None,
            metadata={"kind": "test", "note": 'a "quoted" \\ text'} if chance.random() < 0.3 else {},
        )
        if chance.random() < 0.05:
            yield CommandRefused(
                command="post-transaction", code="limit_breached", fields={}, asked=events.msgspec.Raw(b"{}")
            )


def recorded(ledger: str, what: Sequence[Event], *, first: int = 1) -> list[RecordedEvent]:
    """The events as the log would hold them, a second apart."""
    return [
        RecordedEvent(
            ledger=ledger,
            position=position,
            type=events.TYPE_NAMES[type(event)],
            data=events.encode(event),
            metadata=events.encode(_metadata(position)),
            recorded_at=BEGAN_AT + timedelta(seconds=position),
        )
        for position, event in enumerate(what, start=first)
    ]


def append(url: str, ledger: str, what: Sequence[Event]) -> int:
    """The events are in the log; answers the head."""
    head = 0
    with PostgresLedgerRecorder(url, ledger) as recorder:
        for begin in range(0, len(what), APPEND_EVENTS_MAX):
            new = [
                NewEvent(
                    type=events.TYPE_NAMES[type(event)],
                    data=events.encode(event),
                    metadata=events.encode(_metadata(number)),
                    tags=tags.of(event, _metadata(number)),
                )
                for number, event in enumerate(what[begin : begin + APPEND_EVENTS_MAX])
            ]
            head = append_new(recorder, new)
    return head


def append_new(recorder: PostgresLedgerRecorder, new: Sequence[NewEvent]) -> int:
    """Whatever these are, they are in the log; answers the head."""
    decision = Decision(group=0, events=new, fences=())
    return recorder.append_decisions([decision], seen=None, tail=Tail(events_max=0, bytes_max=0)).head


def _metadata(number: int) -> Metadata:
    trace = f"00-{number:032x}-{number:016x}-01" if number % 7 == 0 else None
    return Metadata(actor="tester", correlation_id=f"c-{number}", trace=trace)
