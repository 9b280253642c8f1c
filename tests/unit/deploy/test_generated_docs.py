"""What is derived from the code is as the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import generate_docs
from shared_kernel.problems import PROBLEMS
from tests.support.declared import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


def test_generated_documents_are_not_stale() -> None:
    argv = [sys.executable, "scripts/generate_docs.py", "--check"]
    outcome = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_every_problem_code_and_setting_is_in_its_document() -> None:
    assert all(f"`{code}`" in generate_docs.problem_table() for code in PROBLEMS)
    settings = generate_docs.settings_document()
    assert "?" not in {cell.strip() for line in settings.splitlines() for cell in line.split("|")}  # no description
    assert settings.count("| `DAYBOOK_JWT_ISSUER` |") == 1  # once, though two processes read it


def test_a_part_is_replaced_between_its_marks_alone() -> None:
    begin, end = "<!-- begin: x, by scripts/generate_docs.py -->", "<!-- end: x -->"
    made = generate_docs.with_part(f"before\n{begin}\nstale\n{end}\nafter\n", "x", "new\n")
    assert made == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(SystemExit):
        generate_docs.with_part("no marks", "x", "new\n")


def test_decisions_are_listed_by_their_own_titles(tmp_path: Path) -> None:
    (tmp_path / "0002-two.md").write_text("# ADR 0002. Second\n")
    (tmp_path / "0001-one.md").write_text("# 0001: First of 2\n")
    table = generate_docs.decision_table(tmp_path)
    assert table.splitlines()[2:] == ["| [0001](0001-one.md) | First of 2 |", "| [0002](0002-two.md) | Second |"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_to_files_of_the_repository(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
