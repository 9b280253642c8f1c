"""Twenty readers page through everything while a writer goes on: what was there before a first page comes once, and nothing else."""

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shared_kernel.events import Entry, HoldVoided, TransactionHeld
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened, posting
from tests.integration.query_service.conftest import Client, Service
from tests.services import Database

pytestmark = pytest.mark.thorough

LISTS = (
    "/bank/accounts?",
    "/bank/accounts?balances=true&",
    "/bank/accounts?filter=metadata.owner%20=%20a:7&",
    "/bank/transactions?",
    "/bank/transactions?order=oldest&",
    "/bank/transactions?account=a:1&",
    "/bank/transactions?status=pending&",
    "/bank/transactions?sort=effective_at&",
    "/bank/accounts/a:1/entries?",
    "/bank/accounts/a:1/statement?asset=EUR/2&",
    "/bank/accounts/a:1/statement?asset=EUR/2&axis=effective&",
    "/bank/accounts/a:1/explanation?asset=EUR/2&",
    "/bank/balances/diff?from_position=3&",
    "/bank/refusals?",
    "/bank/events?",
)
READERS = 20
CIRCLE = 9  # accounts


@pytest.fixture
def bank(keeper: Bookkeeper) -> Bookkeeper:
    """Accounts in a circle, some transactions, some holds."""
    keeper.append("bank", opened("bank"), *(account(f"a:{number}") for number in range(CIRCLE)))
    keeper.append("bank", *(event for number in range(60) for event in _step(number)))
    keeper.project("bank")
    return keeper


def _step(number: int) -> list[Any]:
    """What one turn of the writer appends: postings now and dated back, a hold, and the end of an older one."""
    chance = random.Random(number)
    debit, credit = f"a:{number % CIRCLE}", f"a:{(number + 1) % CIRCLE}"
    effective_at = f"2025-12-{chance.randint(1, 28):02}T12:00:00Z" if number % 3 == 0 else None
    events: list[Any] = [posting(f"t{number}", debit, credit, number + 1, effective_at=effective_at)]
    entries = [
        Entry(account=debit, direction="debit", amount=1, asset="EUR/2"),
        Entry(account=credit, direction="credit", amount=1, asset="EUR/2"),
    ]
    events.append(TransactionHeld(transaction=f"h{number}", entries=entries))
    if number % 2:
        events.append(HoldVoided(transaction=f"h{number - 1}", released=entries))
    return events


class _Writer(threading.Thread):
    """Appends and projects until it is told to stop, with a connection of its own."""

    def __init__(self, database: Database, heads: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._keeper = Bookkeeper(database.admin_url)
        self._keeper.heads.update(heads)
        self.done = threading.Event()
        self.turns = 0

    def run(self) -> None:
        number = 1_000
        while not self.done.is_set():
            self._keeper.append("bank", *_step(number), account(f"b:{number}"), account(f"0:{number}"))
            self._keeper.project("bank")
            number += 1
            self.turns += 1
        self._keeper.close()


@pytest.fixture
def writer(database: Database, bank: Bookkeeper) -> Iterator[_Writer]:
    """A writer at work."""
    thread = _Writer(database, bank.heads)
    thread.start()
    yield thread
    thread.done.set()
    thread.join(30)


async def test_pages_hold_still_for_twenty_readers_while_a_writer_goes_on(
    open_service: Service, writer: _Writer
) -> None:
    # On a machine busy with other tests twenty readers wait longer for a connection than a person would.
    client: Client = await open_service(postgres_pool_wait_ms=60_000)

    async def read(number: int) -> None:
        chance = random.Random(number)
        for path in chance.sample(LISTS, 5):
            page = await client.ok(f"{path}limit={chance.randint(3, 20)}", role="admin")
            position = page["as_of"]["position"]
            found = list(page["data"])
            while page["next_cursor"] is not None:
                turns = writer.turns
                page = await client.ok(
                    f"{path}limit={chance.randint(3, 20)}&cursor={page['next_cursor']}", role="admin"
                )
                assert page["as_of"]["position"] == position
                found += page["data"]
                while writer.turns == turns and writer.is_alive():
                    await asyncio.sleep(0.001)  # the writer has its turn between two pages
            # What the books were at that position, told by whole pages of a later time.
            again = "" if path == "/bank/events?" else f"&as_of_position={position}"
            until = f"&to_position={position}" if path == "/bank/events?" else ""
            whole = await client.ok(f"{path}limit=1000{again}{until}", role="admin")
            assert whole["next_cursor"] is None
            assert found == whole["data"], path

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number in range(READERS):
            group.create_task(read(number))
    assert writer.is_alive()
    assert writer.turns > 0
