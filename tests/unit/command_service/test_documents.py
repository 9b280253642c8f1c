"""docs/api.md and docs/rule-book.md leave out no command, no refusal and no bound of the write side. Their blocks are run by tests/e2e."""

import ast
import re

import pytest

from command_service.domain.commands import ENTRIES_MAX, METADATA_MAX
from command_service.presentation.batches import BATCH_COMMANDS_MAX
from command_service.presentation.examples import OPERATIONS, Operation
from shared_kernel.json_text import DEPTH_MAX
from shared_kernel.problems import PROBLEMS
from shared_kernel.words import ADDRESS_LENGTH_MAX, AMOUNT_MAX, LEDGER_LENGTH_MAX
from tests.support.declared import ROOT

API, RULES = ((ROOT / "docs" / name).read_text() for name in ("api.md", "rule-book.md"))
BLOCKS = "\n".join(re.findall(r"^```bash\n(.*?)^```", API + RULES, re.MULTILINE | re.DOTALL))
LEDGER = r"(?:\$DESK|/v1/ledgers/[^/\s]+)"


def test_every_refusal_of_the_domain_is_a_problem_that_the_rule_book_names() -> None:
    raised = given_to("Refusal")
    assert raised == {code for code, problem in PROBLEMS.items() if problem.status == 422}
    assert [code for code in sorted(raised) if f"`{code}`" not in RULES] == []
    assert [code for code in sorted(PROBLEMS) if f"`{code}`" not in API] == []


def test_what_cannot_be_taken_is_never_a_refusal() -> None:
    rejected = given_to("Rejection")
    assert rejected
    assert {PROBLEMS[code].status for code in rejected} <= {400, 404, 409}


def given_to(error: str) -> set[str]:
    """The codes with which the domain raises this, its own functions' `code` arguments among them."""
    codes: set[str] = set()
    for path in (ROOT / "command_service" / "domain").glob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            asked = [keyword.value for keyword in call.keywords if keyword.arg == "code" and error == "Refusal"]
            asked += call.args[:1] if name == error else []
            codes |= {value.value for value in asked if isinstance(value, ast.Constant)}
    return codes


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_every_command_is_shown_in_a_block_that_runs(operation: Operation) -> None:
    path = operation.path.replace("/v1/ledgers/{ledger}", LEDGER)
    path = re.sub(r"\{\w+\}", r"[^/\\s]+", path)
    # `post` of docs/api.md sends POST; `ask` of docs/rule-book.md names the method; else the address stands behind curl.
    sent = rf"(?:post \S+ \S+ |ask {operation.method.upper()} \S+ \S+ \"?){path}[\s\"?]"
    assert re.search(sent, BLOCKS), sent


@pytest.mark.parametrize(
    "bound",
    [
        f"2 to {ENTRIES_MAX} entries",
        f"1 to {BATCH_COMMANDS_MAX:,} commands",
        f"up to {METADATA_MAX} texts",
        f"{DEPTH_MAX} levels",
        f"1 to 2^{AMOUNT_MAX.bit_length()}-1",
        f"{ADDRESS_LENGTH_MAX} characters in all",
        f"{LEDGER_LENGTH_MAX} characters in all",
    ],
)
def test_the_bounds_of_a_request_are_documented(bound: str) -> None:
    assert bound in API
