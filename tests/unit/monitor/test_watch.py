"""What the watch tells when it does not hear what became of its own COMMIT."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from daybook.monitor.application.watch import Pace, Watch
from daybook.monitor.domain.alerts import Episode, Hysteresis
from daybook.monitor.domain.cancelling import Policy
from daybook.monitor.domain.findings import Limits
from daybook.monitor.domain.looks import Lock, Look
from daybook.monitor.infrastructure.figures import MonitorFigures
from shared_kernel.errors import Unavailable

LIMITS = Limits(transaction_ms_max=1, blocked_ms_max=1, lock_ms_max=1, lag_ms_max=1)
ENDLESS = Lock(key="k", kind="lease", ledger="bank", holder="h", left_ms=None, held_ms=1)


class Postgres:
    """Remembers what is committed. `is_lost`: whoever commits does not hear it; `becomes`: what becomes of it then."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 29, tzinfo=UTC)
        self.looks: list[Look] = []
        self.is_lost = False
        self.becomes: bool | None = True

    async def due(self, after_ms: int) -> datetime | None:
        self.at += timedelta(seconds=5)
        return self.at

    @asynccontextmanager
    async def turn(self, after_ms: int) -> AsyncIterator[Any]:
        yield self
        if self.is_lost:
            raise Unavailable("dependency_unavailable", dependency="postgres", reason="TimeoutError")

    async def was_kept(self, taken_at: datetime) -> bool | None:
        return self.becomes

    async def keep(self, look: Look, episodes: Sequence[Episode], *, rows_max: int, days_max: int) -> None:
        self.looks.append(look)

    async def last(self) -> None:
        return None

    async def deadlocks(self) -> dict[str, int]:
        return {}

    async def nothing(self) -> list[Any]:
        return []

    sessions = relay_lease = lags = standing = open_episodes = alerts = nothing


class Redis:
    async def locks(self) -> tuple[list[Lock], str]:
        return [ENDLESS], ""


class Nobody:
    async def ask(self) -> tuple[list[Any], str]:
        return [], ""


class Bell:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, event: str, episode: Episode) -> None:
        self.rung.append(event)


def watch(postgres: Postgres, bell: Bell) -> Watch:
    return Watch(
        watched=cast("Any", postgres),
        lock_table=Redis(),
        processes=Nobody(),
        bell=bell,
        figures=MonitorFigures(CollectorRegistry()),
        limits=LIMITS,
        hysteresis=Hysteresis(raise_looks=1, clear_looks=1),
        policy=Policy(cancelling="off", cancel_after_ms=1, terminate_after_ms=1),
        pace=Pace(look_ms=5_000, rows_max=1, days_max=1),
        name="m",
    )


@pytest.mark.parametrize(
    ("becomes", "told", "looks"),
    [
        pytest.param(True, ["alert_raised"], 2, id="committed"),
        pytest.param(False, [], 2, id="rolled back"),
        pytest.param(None, [], 1, id="not over yet"),
    ],
)
async def test_an_alert_whose_commit_was_not_heard_of_is_told_once_it_is_known_to_stand(
    becomes: bool | None, told: list[str], looks: int
) -> None:
    postgres, bell = Postgres(), Bell()
    watching = watch(postgres, bell)
    postgres.is_lost, postgres.becomes = True, becomes
    with pytest.raises(Unavailable):
        await watching.look()
    assert bell.rung == []
    with pytest.raises(Unavailable) if becomes is not None else nullcontext():
        await watching.look()
    assert (bell.rung, len(postgres.looks)) == (told, looks)


async def test_an_alert_is_told_when_it_is_committed() -> None:
    postgres, bell = Postgres(), Bell()
    await watch(postgres, bell).look()
    assert bell.rung == ["alert_raised"]
