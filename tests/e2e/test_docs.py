"""README.md and docs/api.md do what they say: every bash block is run, in order, against a stack as `make run` starts it.

A json block right after a bash block is the answer that the last command gives; `…` and times stand for any value.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.services import daybook, folder_for_servers

pytestmark = [pytest.mark.long, pytest.mark.thorough]
ROOT = Path(__file__).parents[2]
MARK = "@@@ block"
START_WITHIN_S = 240  # the first run on a machine downloads 45 MB of jars
BLOCKS_WITHIN_S = 120
OTHERS = {"DAYBOOK_POSTGRES_URL", "DAYBOOK_REDIS_URL", "DAYBOOK_KAFKA_BOOTSTRAP", "DAYBOOK_TOKEN"}  # not this stack's
_BLOCK = re.compile(r"^```bash\n(?P<script>.*?)^```\n(?:```json\n(?P<answer>.*?)^```$)?", re.MULTILINE | re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Block(NamedTuple):
    """A script, and the answer that the document shows for it."""

    script: str
    answer: Any


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a person's shell has: the blocks take COMMAND, QUERY and the data folder from it where they are set."""
    with folder_for_servers() as folder:
        shell = {name: value for name, value in os.environ.items() if name not in OTHERS}
        daybook("up", "--detach", "--owner", str(os.getpid()), data=folder, within_s=START_WITHIN_S, env=shell)
        try:
            stack = json.loads((folder / "stack.json").read_text())
            yield shell | {
                "COMMAND": stack["command_url"],
                "QUERY": stack["query_url"],
                "DAYBOOK_DATA": str(folder),
                "NO_PROXY": "*",
            }
        finally:
            daybook("down", data=folder, within_s=60)


@pytest.mark.timeout(START_WITHIN_S + BLOCKS_WITHIN_S)
@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/api.md", "docs/rule-book.md", "docs/reading-as-a-client.md", "docs/reading-as-an-auditor.md"],
)
def test_every_block_runs_and_answers_what_the_document_shows(name: str, environment: dict[str, str]) -> None:
    blocks = read_blocks(name)
    script = "\n".join(f"echo; echo '{MARK} {index}'\n{block.script}" for index, block in enumerate(blocks))
    outcome = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(".venv/bin/", f"{Path(sys.executable).parent}/")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BLOCKS_WITHIN_S,
        check=False,
    )
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"
    answers = re.split(rf"^{MARK} \d+\n", outcome.stdout, flags=re.MULTILINE)[1:]
    assert len(answers) == len(blocks)
    for block, answer in zip(blocks, answers, strict=True):
        if block.answer is not None:
            assert differences(block.answer, json.loads(answer.strip().splitlines()[-1]), "$") == [], answer


def test_a_wrong_answer_would_be_noticed() -> None:
    shown = {"a": [{"at": "2026-11-24T09:30:00.000000Z", "b": 1}], "c": "…"}
    assert differences(shown, {"a": [{"at": "2031-01-01T00:00:00.123456Z", "b": 1, "more": 2}], "c": 3}, "$") == []
    assert differences(shown, {"a": [{"at": "2026-11-24T09:30:00Z", "b": 2}]}, "$") == [
        "$.a[0].at: '2026-11-24T09:30:00Z'",
        "$.a[0].b: 2",
        "$.c: missing",
    ]


def test_readme_has_exactly_two_commands_to_set_up() -> None:
    (setup,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [line.partition("#")[0].split() for line in setup.splitlines()]
    assert commands == [["make", "run"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for _, target in commands)


def read_blocks(name: str) -> list[Block]:
    """The bash blocks of a document in their order."""
    found = _BLOCK.finditer((ROOT / name).read_text())
    blocks = [Block(each["script"], None if each["answer"] is None else json.loads(each["answer"])) for each in found]
    assert blocks
    return blocks


def differences(shown: Any, found: Any, path: str) -> list[str]:
    """Where an answer is not as shown. It may have more members than a document shows, and any time for a time."""
    if shown == "…" or (isinstance(shown, str) and isinstance(found, str) and _both_times(shown, found)):
        return []
    if isinstance(shown, dict) and isinstance(found, dict):
        return [
            fault
            for name, value in shown.items()
            for fault in (
                differences(value, found[name], f"{path}.{name}") if name in found else [f"{path}.{name}: missing"]
            )
        ]
    if isinstance(shown, list) and isinstance(found, list) and len(shown) == len(found):
        pairs = enumerate(zip(shown, found, strict=True))
        return [fault for index, (one, other) in pairs for fault in differences(one, other, f"{path}[{index}]")]
    return [] if shown == found and type(shown) is type(found) else [f"{path}: {found!r}"]


def _both_times(shown: str, found: str) -> bool:
    return _TIME.fullmatch(shown) is not None and _TIME.fullmatch(found) is not None
