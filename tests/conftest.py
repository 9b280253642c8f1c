"""Fixtures for tests on real servers. A unit test asks for none of them, and then nothing starts."""

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import Database, Servers, fresh_database, running_servers


@pytest.fixture(scope="session")
def stack() -> Iterator[Servers]:
    """PostgreSQL, Redis and Kafka, one set for the whole run.

    Not below pytest's own folder: the start of another pytest makes that 0700 again, under the feet of servers that
    run as another user.
    """
    with tempfile.TemporaryDirectory(prefix="daybook-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        with running_servers(Path(folder)) as servers:
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
