"""What is derived from the code is as the code says."""

import subprocess
import sys

import pytest

from scripts import generate_docs
from shared_kernel.problems import PROBLEMS
from tests.support.declared import ROOT


def test_generated_documents_are_not_stale() -> None:
    argv = [sys.executable, "scripts/generate_docs.py", "--check"]
    outcome = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_every_problem_code_and_setting_is_in_its_document() -> None:
    assert all(f"`{code}`" in generate_docs.problem_table() for code in PROBLEMS)
    settings = generate_docs.settings_document()
    assert "?" not in {cell.strip() for line in settings.splitlines() for cell in line.split("|")}  # no description
    assert settings.count("| `DAYBOOK_JWT_ISSUER` |") == 1  # once, though two processes read it


def test_table_is_replaced_between_its_marks_alone() -> None:
    document = f"before\n{generate_docs.BEGIN}\nstale\n{generate_docs.END}\nafter\n"
    made = generate_docs.with_problem_table(document)
    assert made == f"before\n{generate_docs.BEGIN}\n{generate_docs.problem_table()}{generate_docs.END}\nafter\n"
    with pytest.raises(SystemExit):
        generate_docs.with_problem_table("no marks")
