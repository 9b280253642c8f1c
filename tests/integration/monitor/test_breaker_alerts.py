"""From a neighbour that is away, through the breaker of a real process, to the alert; by the list of processes that the stack gives."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.monitor.domain.looks import Look
from daybook.stack.processes import PROCESSES, Places, environment
from tests.integration.monitor.conftest import NewMonitor
from tests.integration.projections.processes import Process, Processes
from tests.integration.query_service.bookkeeper import Bookkeeper, account, opened
from tests.services import Database
from tests.support.own_servers import OwnServers, own_servers

pytestmark = [pytest.mark.long, pytest.mark.thorough]


@pytest.fixture
def kafka() -> Iterator[OwnServers]:
    """One that the test may stop."""
    with own_servers("kafka") as own:
        yield own


@pytest.fixture
def processes(database: Database, kafka: OwnServers, kafka_topic: str, tmp_path: Path) -> Iterator[Processes]:
    """Those that are started by a test, and ended with it."""
    started = Processes(database, kafka.start(), kafka_topic, tmp_path)
    yield started
    started.end()


@pytest.fixture
def keeper(database: Database) -> Iterator[Bookkeeper]:
    """Who appends."""
    made = Bookkeeper(database.admin_url)
    yield made
    made.close()


def told(relay: Process, folder: Path) -> str:
    """What the local stack tells a monitor to ask, were this its relay."""
    port = re.search(r'"port":(\d+)', relay.log.read_text())
    assert port is not None
    places = Places(
        ports=dict.fromkeys(PROCESSES, 1) | {"relay": int(port.group(1))},
        postgres_urls=dict.fromkeys(PROCESSES, ""),
        redis_url="",
        kafka_bootstrap="",
        keys_file=folder,
        swagger_folder=folder,
    )
    return environment("monitor", places, {})["DAYBOOK_METRICS_URLS"]


async def test_a_relay_that_has_given_kafka_up_is_told_to_the_operator_until_it_goes_on(
    monitor: NewMonitor, processes: Processes, kafka: OwnServers, keeper: Bookkeeper, tmp_path: Path
) -> None:
    keeper.append("bank", opened("bank"))
    relay = await asyncio.to_thread(processes.start("relay", DAYBOOK_KAFKA_STALL_MS="5000").started)
    watching = monitor(metrics_urls=told(relay, tmp_path), raise_looks=1, clear_looks=1)
    await watching.looks_until(lambda _: relay.figure("relay_published_total") == 1)

    await asyncio.to_thread(kafka.stop)
    keeper.append("bank", account("cash"))

    def gave_up(look: Look) -> bool:
        return any("kafka" in process.open_breakers for process in look.processes)

    await watching.looks_until(gave_up)
    (alert,) = await watching.episodes("breaker_open")
    assert (alert.detail["dependency"], alert.ended_at) == ("kafka", None)
    assert alert.raised_at is not None
    checks = relay.checks()
    assert checks["relay"] == {"ok": True}  # it waits, as it does for events
    assert checks["kafka_breaker"]["detail"].startswith("breaker ")

    await asyncio.to_thread(kafka.start)
    await watching.looks_until(lambda look: not gave_up(look))
    assert all(alert.ended_at is not None for alert in await watching.episodes("breaker_open"))
    await watching.looks_until(lambda _: relay.figure("relay_published_total") == 2)
