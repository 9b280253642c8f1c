"""A ledger of a million entries for the bench of reads: accounts with histories of every length, and groups of accounts to sum.

Written straight into the log by the function that all appends go through, and projected by the stack's own projector. The same
ledger each time, so that one that is there already is used again.
"""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import psycopg

from daybook.terminal import CommandFailed, talk
from shared_kernel import events, tags
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from shared_kernel.event_log.types import Decision, NewEvent, Tail
from shared_kernel.events import AccountOpened, Entry, Event, LedgerOpened, Metadata, TransactionPosted
from shared_kernel.words import format_time

TRANSACTIONS: Final = 500_000  # of two entries each
LENGTHS: Final = (10, 100, 1_000, 10_000, 100_000)
GROUPS: Final = {
    "few": (10, 10),
    "some": (100, 10),
    "deep": (100, 1_000),
    "many": (1_000, 10),
    "most": (10_000, 10),
}
"""By the first segment of their addresses: how many accounts, and the entries of each."""
TILL: Final = "till"  # the other side of all: the longest history
JITTERED: Final = "jittered"  # its clients' clocks differ by seconds: half of its entries are behind one before
JITTERED_ENTRIES: Final = 50_000
BEGIN: Final = datetime(2021, 1, 1, tzinfo=UTC)
JITTERED_DAY: Final = BEGIN + timedelta(days=1_000)
STEP: Final = timedelta(minutes=5)  # five years of transactions
BACK_DATED: Final = 0.05
ASSET: Final = "EUR/2"
_APPENDED_AT_ONCE: Final = 1_000
_SEED: Final = 20261128
_NO_TAIL: Final = Tail(events_max=0, bytes_max=0)


def name(transactions: int) -> str:
    """What the ledger of that size is called."""
    return f"reads-{transactions}"


def account(length: int) -> str:
    """The one whose history is that long."""
    return f"one:{length}"


def days(address: str, transactions: int) -> tuple[datetime, timedelta]:
    """When its entries are effective: from a time, for so long."""
    return (JITTERED_DAY, timedelta(days=1)) if address == JITTERED else (BEGIN, transactions * STEP)


def write(url: str, transactions: int) -> int:
    """The ledger stands in the log; answers its head."""
    ledger = name(transactions)
    with psycopg.connect(url) as connection:
        row = connection.execute("select position from daybook.ledgers where ledger = %s", [ledger]).fetchone()
    made = _events(ledger, transactions)
    if row is not None:
        expected = sum(1 for _ in made)
        if row[0] != expected:
            raise CommandFailed(f"the ledger {ledger} holds {row[0]} events, not {expected}: give another data folder")
        return expected
    metadata = events.encode(Metadata(actor="bench", correlation_id="bench", key=None))
    plain = events.decode_metadata(metadata)
    head = 0
    with closing(PostgresLedgerRecorder(url, ledger)) as log:
        while batch := list(islice(made, _APPENDED_AT_ONCE)):
            new = [
                NewEvent(
                    type=events.TYPE_NAMES[type(event)],
                    data=events.encode(event),
                    metadata=metadata,
                    tags=tags.of(event, plain),
                )
                for event in batch
            ]
            decision = Decision(group=0, events=new, fences=())
            head = log.append_decisions([decision], seen=None, tail=_NO_TAIL).head
            if head % 50_000 < _APPENDED_AT_ONCE:
                talk().print(f"{head:,} events are in the log")
    return head


def _events(ledger: str, transactions: int) -> Iterator[Event]:
    chance = random.Random(_SEED)
    credited = _credited(transactions)
    chance.shuffle(credited)
    yield LedgerOpened(ledger=ledger, accounts="explicit")
    yield AccountOpened(address=TILL, normal_balance="debit")
    for address in sorted(set(credited)):
        yield AccountOpened(address=address, normal_balance="credit")
    for number, address in enumerate(credited):
        effective_at = BEGIN + number * STEP
        if address == JITTERED:  # all on one day, out of order by seconds: what spans have to bear
            effective_at = JITTERED_DAY + timedelta(seconds=number * 86_400 / transactions + chance.uniform(-5, 5))
        elif chance.random() < BACK_DATED:
            effective_at -= timedelta(minutes=chance.randrange(1, 400 * 24 * 60))
        amount = chance.randrange(1, 100_000)
        yield TransactionPosted(
            transaction=f"t{number}",
            entries=[
                Entry(account=TILL, direction="debit", amount=amount, asset=ASSET),
                Entry(account=address, direction="credit", amount=amount, asset=ASSET),
            ],
            effective_at=format_time(effective_at),
        )


def _credited(transactions: int) -> list[str]:
    """An account for each transaction."""
    found = [JITTERED] * min(JITTERED_ENTRIES, transactions // 10)
    for length in LENGTHS:
        found += [account(length)] * length
    for group, (accounts, entries) in GROUPS.items():
        found += [f"{group}:{number}" for number in range(accounts) for _ in range(entries)]
    if len(found) > transactions:
        raise CommandFailed(f"the histories alone take {len(found):,} transactions")
    return found + [f"rest:{number % 1_000}" for number in range(transactions - len(found))]
