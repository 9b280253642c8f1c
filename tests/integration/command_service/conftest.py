"""The whole command process but its server, on real Postgres and Redis: workers of one log, and callers who ask them."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from command_service.container import Container
from command_service.settings import CommandSettings
from shared_kernel.settings import Secret
from tests.services import Database, Servers

KEY = ECKey.generate_key("P-256", {"kid": "k"})
NEVER = 4_000_000_000  # seconds since 1970
QUERY_URL = "https://query.example"


def token(*roles: str, subject: str = "teller", ledgers: tuple[str, ...] = ("**",), **claims: Any) -> str:
    """A token that does not expire."""
    made = {"iss": "i", "aud": "a", "sub": subject, "exp": NEVER, "roles": roles, "ledgers": ledgers} | claims
    return jwt.encode({"alg": "ES256", "kid": "k"}, made, KEY, algorithms=["ES256"])


class Caller:
    """Somebody who asks one worker over HTTP. Without `authorization` they are a writer on every ledger."""

    def __init__(self, http: httpx.AsyncClient, container: Container) -> None:
        self.http = http
        self.container = container

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        authorization: str | None = "",
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """The response to POST /v1/ledgers<path>; `content` instead of a body goes out as it is."""
        return await self.send(
            "POST", f"/ledgers{path}", body, key=key, authorization=authorization, headers=headers, content=content
        )

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        authorization: str | None = "",
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """The response to any command at /v1<path>."""
        sent = {"content-type": "application/json"} | (headers or {})
        if authorization is not None:
            sent["authorization"] = authorization or f"Bearer {token('writer')}"
        if key is not None:
            sent["idempotency-key"] = key
        if content is None:
            content = b"" if body is None else json.dumps(body).encode()
        return await self.http.request(method, f"/v1{path}", content=content, headers=sent)

    async def get(self, path: str, **claims: Any) -> httpx.Response:
        """The response to GET /v1/ledgers<path>."""
        return await self.http.get(
            f"/v1/ledgers{path}", headers={"authorization": f"Bearer {token('writer', **claims)}"}
        )

    async def open_ledger(self, **terms: object) -> str:
        """The name of a new ledger."""
        ledger = f"bank:{uuid4().hex[:12]}"
        response = await self.post("", {"ledger": ledger, **terms})
        assert response.status_code == 201, response.text
        return ledger

    async def metric(self, name: str) -> float:
        """What /metrics says of a name, with its labels if it has any; 0 where it says nothing."""
        text = (await self.http.get("/metrics")).text
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0


NewWorker = Callable[..., Any]


@asynccontextmanager
async def workers(database: Database, stack: Servers, folder: Path) -> AsyncIterator[NewWorker]:
    """A function that starts a worker with settings of the test's own; all are stopped at the end."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    async with AsyncExitStack() as started:

        async def start(**settings: Any) -> Caller:
            base: dict[str, Any] = {
                "postgres_url": Secret(database.urls["command"]),
                "redis_url": Secret(stack.redis_url),
                "jwt_issuer": "i",
                "jwt_audience": "a",
                "jwt_keys_file": str(keys),
                "query_public_url": QUERY_URL,
                "log_connections_max": 3,
            }
            container = Container(settings=CommandSettings(**(base | settings)))
            app = container.app()
            await started.enter_async_context(container.process().lifespan(None))
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://command")
            return Caller(await started.enter_async_context(http), container)

        yield start


@pytest.fixture
async def worker(database: Database, stack: Servers, tmp_path: Path) -> AsyncIterator[NewWorker]:
    """Starts workers that end with the test."""
    async with workers(database, stack, tmp_path) as start:
        yield start


@pytest.fixture
async def caller(worker: NewWorker) -> Caller:
    """A caller of one worker."""
    made: Caller = await worker()
    return made


@pytest.fixture
def events(database: Database) -> Callable[[str], list[str]]:
    """A function that gives the types of a ledger's events in order, read past the service."""

    def read(ledger: str) -> list[str]:
        with psycopg.connect(database.admin_url) as connection:
            rows = connection.execute(
                "select type from daybook.events where ledger = %s order by position", (ledger,)
            ).fetchall()
        return [row[0] for row in rows]

    return read


@pytest.fixture
def redis_url(stack: Servers) -> str:
    """Redis of this test run."""
    return stack.redis_url
