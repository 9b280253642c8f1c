"""Every read of a random history equals the plainest fold of its log, at random moments: what test_equality.py compares, with
histories and moments that Hypothesis draws and, where one fails, makes small.
"""

import random
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import count

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.query_service import test_equality as equality
from tests.integration.query_service.bookkeeper import Bookkeeper
from tests.integration.query_service.conftest import Client, services
from tests.services import Database
from tests.support.lives import Life
from tests.support.plain_reads import PlainReads

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.thorough]

EXAMPLES = 12  # chosen: about a second each
STEPS_MAX = 40
CHECKS = (
    equality.test_balances_equal_the_fold,
    equality.test_ledger_and_accounts_equal_the_fold,
    equality.test_transactions_equal_the_fold,
    equality.test_entries_equal_the_fold,
    equality.test_statements_equal_the_fold,
    equality.test_explanations_add_up_to_the_fold,
    equality.test_differences_equal_the_fold,
    equality.test_refusals_equal_the_fold,
    equality.test_events_equal_the_log,
    equality.test_exported_entries_equal_the_fold,
    equality.test_the_graph_equals_the_fold,
)
NAMES = (f"life-{number}" for number in count())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """The service; ledgers come with the examples."""
    keeper = Bookkeeper(database.admin_url)
    keeper.start_over()
    keeper.close()
    async with services(database, tmp_path_factory.mktemp("keys")) as start:
        yield await start()


@settings(max_examples=EXAMPLES)
@given(
    chance=st.randoms(use_true_random=False),
    steps=st.integers(0, STEPS_MAX),
    question=st.tuples(st.booleans(), st.integers(0, 3)),
)
async def test_every_read_of_a_random_history_equals_its_fold(
    client: Client, database: Database, chance: random.Random, steps: int, question: tuple[bool, int]
) -> None:
    has_effective, segments = question
    lives = [Life(next(NAMES), chance) for _ in range(2)]
    with closing(Bookkeeper(database.admin_url)) as keeper:  # also where Hypothesis gives the example up
        of_each = [
            equality.Books(
                client, life.ledger, PlainReads(equality.record(keeper, life, steps)), sorted(life.addresses)
            )
            for life in lives
        ]
    books = of_each[0]
    asked = equality.moments(books, chance, has_effective=has_effective)
    for check in CHECKS:
        await check(books, asked)
    await equality.test_sums_and_the_trial_balance_equal_the_fold(books, asked, segments)
    await equality.compare_across(of_each[0], of_each[1], asked)
