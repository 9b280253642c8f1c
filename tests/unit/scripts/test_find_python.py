"""Which Python `make` takes: the first on PATH, unless another one there is clearly faster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "find_python.py"


def find(*folders: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, folders))
    return subprocess.run([sys.executable, SCRIPT], env={"PATH": path}, capture_output=True, text=True, check=False)


def build(folder: Path, name: str, says: str, *, code: int = 0) -> Path:
    """A program that answers as a Python would that was asked to do the work."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("first_s", "second_s", "taken"),
    [("0.010", "0.009", "/one"), ("0.013", "0.010", "/two"), ("0.010", "0.020", "/one")],
)
def test_the_first_is_taken_unless_another_is_clearly_faster(
    tmp_path: Path, first_s: str, second_s: str, taken: str
) -> None:
    one = build(tmp_path / "a", "python3", f"{first_s} /one")
    two = build(tmp_path / "b", "python3.11", f"{second_s} /two")
    assert find(one, two).stdout == f"{taken}\n"


def test_what_cannot_make_an_environment_is_passed_over(tmp_path: Path) -> None:
    old = build(tmp_path / "a", "python3", "not for Daybook", code=1)
    fit = build(tmp_path / "b", "python3.12", "0.01 /fit python")
    assert find(old, fit, tmp_path / "missing").stdout == "/fit python\n"


def test_without_any_python_it_says_what_is_needed(tmp_path: Path) -> None:
    done = find(build(tmp_path / "a", "python3", "not for Daybook", code=1))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or later" in done.stderr


def test_a_real_python_does_the_work() -> None:
    real = Path(sys._base_executable)  # type: ignore[attr-defined]
    done = find(real.parent)
    assert done.returncode == 0, done.stderr
    assert os.access(done.stdout.strip(), os.X_OK)
