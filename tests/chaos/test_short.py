"""The short experiments, one run each with a fixed seed, on one stand: what every change must pass. `make chaos` runs all, longer."""

import os
import random
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.experiments import EXPERIMENTS
from tests.chaos.load import Load
from tests.chaos.oracle import check
from tests.chaos.running import run
from tests.chaos.stand import Stand, standing

SEED = 1
SHORT = [name for name, known in EXPERIMENTS.items() if known.is_short]

pytestmark = [pytest.mark.chaos, pytest.mark.long]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """One for all of them; each has ledgers of its own."""
    with standing() as made:
        yield made


@pytest.mark.parametrize("name", SHORT)
def test_the_books_hold_after(name: str, stand: Stand, tell: Callable[[str], None]) -> None:
    result = run(stand, name, EXPERIMENTS[name], SEED, is_full=False, at="", commit="")
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in result.recovered.items())
    tell(f"{name}: {'; '.join(result.did)}: {result.commands} commands; recovered: {times}")
    assert result.findings == []


@pytest.mark.parametrize("row", ["books.entries: amount = amount + 1", "periods.timely: debits = debits + 1"])
def test_the_oracle_sees_one_row_that_is_not_as_the_log_has_it(row: str, stand: Stand) -> None:
    """Otherwise all of the above would say nothing."""
    projection, table, change = row.replace(": ", ".", 1).split(".")
    rng = random.Random(SEED)
    load = Load(stand.url("command"), stand.stack.tokens["writer"], name=f"{projection}:{os.getpid()}", rng=rng)
    load.start()
    stand.until(lambda: load.count() >= 20, "no 20 commands were acknowledged")
    load.stop()
    assert check(stand, load, rng) == []
    with stand.admin() as admin:
        [(schema,)] = admin.execute(
            "select schema_name from projections.live join projections.generations using (projection, generation)"
            " where projection = %s",
            [projection],
        ).fetchall()
        one = f"(select ctid from {schema}.{table} where ledger = %s order by position desc limit 1)"
        admin.execute(f"update {schema}.{table} set {change} where ctid = {one}".encode(), [load.ledgers[0]])
    [finding] = check(stand, load, rng)
    assert finding == f"{projection}.{table} differs from the fold of the log: 1 rows of its own, 1 missing"
