"""What the settings of this suite promise, tried on a small suite of its own: run by two workers, as `make test` does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
TESTS = 8  # of a module: the chance that a random order is the written one is 1 : 40,320
# Each test takes what the one before it left behind: the suite's order is its only fault.
LEANING = """
import pytest

done = []

@pytest.mark.parametrize("number", range(8))
def test_after_the_last_one(number, worker_id, request):
    with open({ran!r}, "a") as ran:
        print(request.path.stem, worker_id, number, file=ran)
    before, done[:] = list(done), [*done, number]
    assert before == list(range(number))
"""
WARNING = """
import warnings

def test_that_warns():
    warnings.warn("careless", stacklevel=1)
"""


class Run(NamedTuple):
    """What was printed, and by which worker each module's tests were run, in which order."""

    told: str
    ran: list[tuple[str, str, int]]

    def modules(self) -> list[str]:
        """In the order in which they began."""
        return list(dict.fromkeys(module for module, _, _ in self.ran))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of four leaning modules, of which `test_d` is marked as long, and of a test that warns."""
    folder = tmp_path_factory.mktemp("suite")
    ran = folder / "ran.txt"
    leaning = LEANING.format(ran=str(ran))
    for name in "abc":
        (folder / f"test_{name}.py").write_text(leaning)
    (folder / "test_d.py").write_text(f"{leaning}\npytestmark = pytest.mark.long\n")
    (folder / "test_warning.py").write_text(WARNING)
    argv = [sys.executable, "-m", "pytest", "-n", "2", "-p", "tests.conftest", "-p", "no:cacheprovider", "--tb=no"]
    outcome = subprocess.run(
        [*argv, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    lines = [line.split() for line in ran.read_text().splitlines()]
    return Run(outcome.stdout, [(module, worker, int(number)) for module, worker, number in lines])


@pytest.mark.parametrize("module", ["test_a", "test_b", "test_c", "test_d"])
def test_a_test_that_leans_on_the_order_of_another_fails(run: Run, module: str) -> None:
    order = [number for name, _, number in run.ran if name == module]
    assert sorted(order) == list(range(TESTS))
    assert order != sorted(order)
    assert re.search(rf"^FAILED \S*{module}.py::test_after_the_last_one", run.told, re.MULTILINE)


def test_the_tests_of_a_module_run_in_one_worker_and_the_workers_share_the_modules(run: Run) -> None:
    workers = {module: {worker for name, worker, _ in run.ran if name == module} for module in run.modules()}
    assert all(len(found) == 1 for found in workers.values()), workers
    assert set.union(*workers.values()) == {"gw0", "gw1"}


def test_long_modules_begin_first(run: Run) -> None:
    assert "test_d" in run.modules()[:2]  # two workers, two first modules


def test_a_warning_is_an_error(run: Run) -> None:
    assert re.search(r"^FAILED \S*test_warning.py::test_that_warns - UserWarning: careless", run.told, re.MULTILINE)


def test_the_closing_line_of_pytest_is_the_last_one(run: Run) -> None:
    assert re.fullmatch(r"=+ \d+ failed(, \d+ passed)? in .+s( \(.+\))? =+", run.told.rstrip().splitlines()[-1])
