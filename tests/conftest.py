"""Fixtures for tests on real servers. A unit test asks for none of them, and then nothing starts.

With `-n` the tests run in several workers at a time, each module in one of them: one set of servers serves all, and
what keeps two modules apart is their database, their topic and the prefix of their Redis keys.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.services import (
    Database,
    FrontDesk,
    Servers,
    ask_front_desk,
    folder_for_servers,
    fresh_database,
    running_servers,
)

# CI looks at the same examples every time; a person's run, and a nightly one, look at new ones.
# Nor does either fail where a busy machine is slow.
TIMELESS: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, **TIMELESS)
settings.register_profile("person", **TIMELESS)
settings.load_profile("ci" if os.environ.get("CI") else "person")

FRONT_DESK = pytest.StashKey[FrontDesk]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules begin first, so that no worker is left alone with one; otherwise the order stays random."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Each worker of pytest-xdist is told where to ask for servers."""
    stash = node.config.stash
    if FRONT_DESK not in stash:
        stash[FRONT_DESK] = FrontDesk()
        node.config.add_cleanup(stash[FRONT_DESK].close)
    node.workerinput["front_desk"] = stash[FRONT_DESK].port


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests had to tell."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [line for report in reports for name, line in report.user_properties if name == "told"]
    if lines:
        terminalreporter.section("told by tests")
    for line in lines:
        terminalreporter.line(line)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A function that takes a line for the end of the run: what a worker prints nobody reads."""
    return lambda line: record_property("told", line)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """PostgreSQL, Redis and Kafka, one set for the whole run."""
    workerinput = getattr(request.config, "workerinput", None)
    if workerinput is not None:
        yield ask_front_desk(workerinput["front_desk"])
        return
    with folder_for_servers() as folder, running_servers(folder) as servers:
        yield servers


@pytest.fixture(scope="module")
def database(stack: Servers) -> Iterator[Database]:
    """A fresh, migrated database with Daybook's roles for this module."""
    with fresh_database(stack) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def redis_prefix() -> str:
    """What the names of this module's Redis keys begin with."""
    return f"t:{secrets.token_hex(6)}:"


@pytest.fixture(scope="module")
def kafka_topic() -> str:
    """A topic's name that only this module uses; whoever needs the topic makes it."""
    return f"t.{secrets.token_hex(6)}"
