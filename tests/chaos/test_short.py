"""The short experiments, one run each with a fixed seed, on one stand: what every change must pass. `make chaos` runs all, longer."""

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.experiments import EXPERIMENTS, run
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
    result = run(stand, name, SEED, is_full=False, at="", commit="")
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in result.recovered.items())
    tell(f"{name}: {'; '.join(result.did)}: {result.commands} commands; recovered: {times}")
    assert result.findings == []
