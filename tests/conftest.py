"""Fixtures for tests on real servers. A unit test asks for none of them, and then nothing starts."""

import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.services import Database, Servers, folder_for_servers, fresh_database, running_servers

# CI looks at the same examples every time; a person's run, and a nightly one, look at new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("person", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "person")


@pytest.fixture(scope="session")
def stack() -> Iterator[Servers]:
    """PostgreSQL, Redis and Kafka, one set for the whole run."""
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
