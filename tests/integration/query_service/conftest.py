"""The whole query process but its server, on real Postgres: fresh generation and ledgers for every test."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from query_service.container import Container
from query_service.settings import QuerySettings
from shared_kernel.settings import Secret
from tests.integration.query_service.bookkeeper import Bookkeeper
from tests.services import Database

KEY = ECKey.generate_key("P-256", {"kid": "k"})
NEVER = 4_000_000_000  # seconds since 1970
Service = Callable[..., Any]


def token(role: str, *ledgers: str) -> str:
    """A token that does not expire."""
    claims = {"iss": "i", "aud": "a", "sub": role, "exp": NEVER, "roles": [role], "ledgers": list(ledgers or ["**"])}
    return jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY, algorithms=["ES256"])


class Client:
    """Asks the service as one caller."""

    def __init__(self, http: httpx.AsyncClient, container: Container) -> None:
        self.http = http
        self.container = container

    async def get(
        self, path: str, *, role: str = "reader", ledgers: tuple[str, ...] = (), headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """The response to GET /v1/ledgers<path>."""
        return await self.http.get(
            f"/v1/ledgers{path}", headers={"authorization": f"Bearer {token(role, *ledgers)}", **(headers or {})}
        )

    async def ok(self, path: str, **how: Any) -> dict[str, Any]:
        """The body of a 200."""
        response = await self.get(path, **how)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def problem(self, path: str, status: int, code: str, **how: Any) -> dict[str, Any]:
        """The problem document of a refusal."""
        response = await self.get(path, **how)
        assert (response.status_code, response.json().get("code")) == (status, code), response.text
        assert response.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = response.json()
        return document


@pytest.fixture
def keeper(database: Database) -> Iterator[Bookkeeper]:
    """An empty log and an empty live generation 1."""
    keeper = Bookkeeper(database.admin_url)
    keeper.start_over()
    yield keeper
    keeper.close()


@asynccontextmanager
async def services(database: Database, folder: Path) -> AsyncIterator[Service]:
    """A function that starts the service with settings of the test's own; all are stopped at the end."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    base: dict[str, Any] = {
        "postgres_url": Secret(database.urls["query"]),
        "jwt_issuer": "i",
        "jwt_audience": "a",
        "jwt_keys_file": str(keys),
        "visible_poll_ms": 5,
    }
    async with AsyncExitStack() as stack:

        async def start(*, listens: bool = True, **settings: Any) -> Client:
            container = Container(settings=QuerySettings(**(base | settings)))
            edge = container.app()
            books, replicated = container.books(), container.replicated()
            await books.open()
            stack.push_async_callback(books.close)
            await replicated.open()
            stack.push_async_callback(replicated.close)
            if (cached := container.cached()) is not None:
                stack.push_async_callback(cached.close)
            if listens:
                announcements = container.announcements()
                await announcements.open()
                stack.push_async_callback(announcements.close)
                await container.visible().listening.wait()
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app=edge), base_url="http://query")
            await stack.enter_async_context(http)
            return Client(http, container)

        yield start


def statements(client: Client) -> float:
    """How many questions Postgres has answered for this service."""
    return client.container.registry().get_sample_value("daybook_query_answers_total", {"source": "primary"}) or 0.0


@pytest.fixture
async def open_service(database: Database, keeper: Bookkeeper, tmp_path: Path) -> AsyncIterator[Service]:
    """Starts the service with settings of the test's own, listening for what becomes visible."""
    async with services(database, tmp_path) as start:
        yield start


@pytest.fixture
async def client(open_service: Service) -> Client:
    """The service with ordinary settings."""
    started: Client = await open_service()
    return started
