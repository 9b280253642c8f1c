"""The image: its file passes hadolint, brings what it copies, and holds neither a root user nor a setting of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.declared import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = [
    source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
]
IMPORTED = """
import importlib, sys
from importlib.metadata import packages_distributions
absent, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")
for module, distributions in packages_distributions().items():
    if absent.issuperset(name.lower().replace("_", "-") for name in distributions):
        sys.modules[module] = None
for module in modules:
    importlib.import_module(module)
"""


def test_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.prefix) / "bin" / "hadolint"
    outcome = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("source", sorted(set(COPIED)))
def test_what_the_image_copies_is_there_and_sent_to_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert any(source == name or source.startswith(f"{name}/") for name in allowed)


def test_every_package_of_the_distribution_is_in_the_image() -> None:
    packages = re.search(r"^packages = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert {name.strip(' "') for name in packages[1].split(",")} <= set(COPIED)


def test_last_stage_runs_as_an_ordinary_user() -> None:
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE) == ["10001:10001"]


def test_image_sets_no_setting_because_each_process_refuses_those_of_others() -> None:
    assert not re.findall(r"^(?:ENV|ARG|\s+)\s*DAYBOOK_\w+=", DOCKERFILE, re.MULTILINE)


def test_everything_installed_is_pinned_by_hash() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)
    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_processes_run_on_the_versions_that_the_tests_ran_on() -> None:
    run, tested = _pins("requirements-run.lock"), _pins("requirements.lock")
    assert run
    assert {name: version for name, version in run.items() if tested.get(name) != version} == {}


def test_processes_need_nothing_that_the_image_lacks() -> None:
    modules = ["command_service", "query_service", "projections", "daybook"]
    modules = [f"{module}.__main__" for module in modules] + ["daybook.stack.database"]
    absent = set(_pins("requirements-dev.lock")) - set(_pins("requirements-run.lock"))
    assert {"jgo", "pytest"} <= absent
    argv = [sys.executable, "-W", "error", "-c", IMPORTED, ",".join(absent), ",".join(modules)]
    outcome = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
