"""Connections to a fresh log, closed when the test ends, and the two ways of appending that share one contract."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.recorder import PostgresLedgerRecorder
from tests.integration.event_log.words import BothWays, opening
from tests.services import Database

Connect = Callable[..., Awaitable[LogConnection]]


@pytest.fixture
async def connect(database: Database) -> AsyncIterator[Connect]:
    """Opens connections as the command service does."""
    opened: list[LogConnection] = []

    async def open_connection(url: str = database.urls["command"], **options: object) -> LogConnection:
        connection = await LogConnection.connect(url, **{"incarnation": None, **options})  # type: ignore[arg-type]
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
async def connection(connect: Connect) -> LogConnection:
    """One connection of the command service."""
    return await connect()


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The administrator, statement by statement: looks behind the log's doors and breaks things."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def ledger(connection: LogConnection) -> str:
    """A ledger that was opened a moment ago: its head is 1."""
    name = f"ledger:{uuid4().hex}"
    await opening(connection, name)
    return name


@pytest.fixture(params=["fast client", "recorder"])
async def log(
    request: pytest.FixtureRequest, database: Database, connection: LogConnection, ledger: str
) -> AsyncIterator[BothWays]:
    """The batched append of one opened ledger: by the fast client, and by the synchronous recorder."""
    if request.param == "fast client":
        yield BothWays(ledger, lambda decisions, **how: connection.append(ledger, decisions=decisions, **how))
        return
    with PostgresLedgerRecorder(database.urls["command"], ledger) as recorder:
        yield BothWays(ledger, lambda decisions, **how: asyncio.to_thread(recorder.append_decisions, decisions, **how))
