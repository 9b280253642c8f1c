"""A made-up history, written straight into the log by the owner of an empty database: a million events in some seconds.

Every event is what the command service would have written for a transfer of two entries with a description, metadata and a key; only
tags are left out, which no projection reads.
"""

import random
from datetime import UTC, datetime, timedelta

import psycopg

from shared_kernel import events
from shared_kernel.events import Entry, LedgerOpened, Metadata, TransactionPosted

ACCOUNTS = 10_000
ASSET = "EUR/2"
SEED = 20261128
APPENDED_TOGETHER = 20  # events with one recorded time, as a busy ledger's are
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_COPY = "copy daybook.events (ledger, position, type, data, metadata, recorded_at) from stdin"


def fill(admin_url: str, *, ledgers: int, count: int) -> int:
    """The log has `count` events, in so many ledgers of equal length; each transfer between two of ACCOUNTS accounts of its ledger.

    Answers how many there are.
    """
    each = count // ledgers
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        with connection.cursor().copy(_COPY) as copy:
            for number in range(ledgers):
                copy.write("".join(_lines(f"bench:{number:05d}", each, max(ACCOUNTS // ledgers, 10))))
        connection.execute(
            "insert into daybook.ledgers (ledger, position, recorded_at)"
            " select e.ledger, max(e.position), max(e.recorded_at) from daybook.events e group by e.ledger"
        )
        connection.execute("analyze daybook.events")
        connection.execute("checkpoint")
    return each * ledgers


def _lines(ledger: str, count: int, accounts: int) -> list[str]:
    chance = random.Random(f"{SEED}/{ledger}")
    opened = events.encode(LedgerOpened(ledger=ledger, accounts="on-first-use"))
    metadata = events.encode(Metadata(actor="bench", correlation_id="0" * 32, key="k" * 20, fingerprint="f" * 43))
    posted = events.encode(
        TransactionPosted(
            transaction="TRANSACTION",
            entries=[
                Entry(account="FROM", direction="debit", amount=777_777, asset=ASSET, draws=True),
                Entry(account="TO", direction="credit", amount=777_777, asset=ASSET),
            ],
            description="a transfer of the bench",
            metadata={"order": "NUMBER"},
        )
    )
    lines = [f"{ledger}\t1\tLedgerOpened.v1\t{opened}\t{metadata}\t{_BEGAN.isoformat()}\n"]
    for position in range(2, count + 1):
        source, target = chance.sample(range(accounts), 2)
        data = (
            posted.replace("TRANSACTION", f"0198f3a0-{position % 65536:04x}-7000-8000-{position:012x}")
            .replace("FROM", f"users:{source:05d}:wallet")
            .replace("TO", f"users:{target:05d}:wallet")
            .replace("777777", str(chance.randint(1, 100_000)))
            .replace("NUMBER", str(position))
        )
        at = _BEGAN + timedelta(milliseconds=position // APPENDED_TOGETHER)
        lines.append(f"{ledger}\t{position}\tTransactionPosted.v1\t{data}\t{metadata}\t{at.isoformat()}\n")
    return lines
