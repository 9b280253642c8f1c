"""Monitors on a module's own database whose looks the tests take themselves: nothing here waits for a timer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from daybook.monitor.container import Container
from daybook.monitor.domain.alerts import Episode
from daybook.monitor.domain.looks import Look
from daybook.monitor.settings import MonitorSettings
from shared_kernel.settings import Secret
from tests.services import Database, Servers

KEY = ECKey.generate_key("P-256", {"kid": "k"})
WITHIN_S = 60


class Monitor:
    """One monitor; `look` is one look of it."""

    def __init__(self, container: Container, http: httpx.AsyncClient) -> None:
        self.container = container
        self._http = http

    async def look(self) -> Look:
        """The next look: it waits out the least time between two."""
        while (look := await self.container.watch().look()) is None:
            await asyncio.sleep(0.01)
        return look

    async def looks_until(self, is_so: Callable[[Look], bool]) -> Look:
        """Looks until it is so."""
        async with asyncio.timeout(WITHIN_S):
            while not is_so(look := await self.look()):
                pass
        return look

    async def episodes(self, kind: str) -> list[Episode]:
        """What the history has of this kind, newest first."""
        page = await self.container.watched().history(limit=1_000, before=None)
        return [episode for episode in page.episodes if episode.kind == kind]

    async def get(self, path: str, *roles: str, ledgers: tuple[str, ...] = ("**",)) -> httpx.Response:
        """The answer to GET /v1/operations<path>."""
        claims = {"iss": "i", "aud": "a", "sub": "o", "exp": 4_000_000_000, "roles": roles, "ledgers": ledgers}
        token = jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY, algorithms=["ES256"])
        return await self._http.get(f"/v1/operations{path}", headers={"authorization": f"Bearer {token}"})

    async def metrics(self) -> dict[str, float]:
        """Every line of /metrics, by name and labels."""
        lines = (await self._http.get("/metrics")).text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in pairs}


NewMonitor = Callable[..., Monitor]


@pytest.fixture
async def monitor(database: Database, stack: Servers, tmp_path: Path) -> AsyncIterator[NewMonitor]:
    """Makes monitors, with settings of the test's own; all are ended with the test, and what they found is forgotten."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    async with AsyncExitStack() as made:

        def make(**settings: Any) -> Monitor:
            base: dict[str, Any] = {
                "postgres_url": Secret(database.urls["monitor"]),
                "redis_url": Secret(stack.redis_url),
                "jwt_issuer": "i",
                "jwt_audience": "a",
                "jwt_keys_file": str(keys),
                "look_ms": 100,
                "look_timeout_ms": 30_000,
                "redis_timeout_ms": 10_000,
            }
            container = Container(settings=MonitorSettings(**(base | settings)))
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app=container.app()), base_url="http://monitor")
            made.push_async_callback(http.aclose)
            made.push_async_callback(container.watched().close)
            if stack.redis_url and base.get("redis_url") and settings.get("redis_url", True):
                made.push_async_callback(container.lock_table().close)
            return Monitor(container, http)

        yield make
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("truncate monitor.findings")
        connection.execute("update monitor.last_look set taken_at = '-infinity', look = ''")
