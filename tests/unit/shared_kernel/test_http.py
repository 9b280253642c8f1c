"""What every HTTP request of both processes meets: tokens, bounds, problem documents, ids, health, documents."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from litestar import Request, get, post
from litestar.params import FromPath, QueryParameter

from shared_kernel.errors import Contention, Corruption, DaybookError, Refusal, Unavailable
from shared_kernel.events import UnknownEventType
from shared_kernel.health import Health
from shared_kernel.http import create_app
from shared_kernel.http_context import SURPLUS_KEY, context_of
from shared_kernel.http_docs import SWAGGER_FILES, openapi_document
from shared_kernel.http_edge import Edge, body_of
from shared_kernel.json_text import decode
from shared_kernel.keys import FileKeys
from shared_kernel.metrics import new_registry
from shared_kernel.security import TokenVerifier
from shared_kernel.settings import HttpSettings, Secret

NOW = 1_800_000_000
KEY = ECKey.generate_key("P-256", {"kid": "k"})
BODY_BYTES_MAX = 2048


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    amount: int


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entries: list[Entry]


DECODER = msgspec.json.Decoder(Body)
AnyRequest = Request[Any, Any, Any]
ERRORS: dict[str, Exception] = {
    "refusal": Refusal("insufficient_funds", account="a", missing=7),
    "amounts": Refusal("insufficient_funds", account="a", asset="X", missing=7, limit=0, position=7),
    "numbers": Refusal("metadata_too_large", limit=50, found=7),
    "contention": Contention("conflict", retry_after_ms=1_500),
    "unavailable": Unavailable("dependency_unavailable", dependency="postgres"),
    "corruption": Corruption("corruption"),
    "unknown_event_type": UnknownEventType("unknown_event_type", event_type="TransactionPosted.v9"),
    "unknown": DaybookError("never_heard_of"),
    "bug": RuntimeError("canary"),
    "ours": msgspec.ValidationError("canary"),
}


@post("/v1/ledgers/{ledger:str}/things", status_code=201)
async def make_thing(ledger: FromPath[str], request: AnyRequest) -> dict[str, Any]:
    """Takes a thing."""
    request.user.require_on("writer", ledger)
    body = decode(body_of(request.scope), DECODER)
    context = context_of(request.scope)
    return {
        "entries": len(body.entries),
        "again": len(await request.body()),
        "subject": request.user.subject,
        "correlation_id": context.correlation_id,
        "traceparent": context.traceparent,
    }


@get("/v1/things")
async def list_things(
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=100)] = 10,
    pattern: Annotated[str | None, QueryParameter(name="address", required=False)] = None,
) -> dict[str, Any]:
    """Lists things."""
    return {"limit": limit, "address": pattern}


@get("/v1/fail/{name:str}")
async def fail(name: FromPath[str]) -> None:
    """Fails."""
    raise ERRORS[name]


def make_app(
    tmp_path: Path,
    swagger_dir: Path | None = None,
    health: Health | None = None,
    body_seconds_max: float = 10.0,
    **more: int,
) -> Edge:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    settings = HttpSettings(
        postgres_url=Secret(""),
        http_port=1,
        http_body_bytes_max=BODY_BYTES_MAX,
        http_body_seconds_max=body_seconds_max,
        jwt_issuer="i",
        jwt_audience="a",
        jwt_keys_file=str(keys),
        swagger_dir=str(swagger_dir) if swagger_dir else None,
        **more,  # type: ignore[arg-type]
    )
    return create_app(
        title="Daybook <test>",
        description="A test.",
        route_handlers=[make_thing, list_things, fail, show_balances],
        lifespan=[],
        verifier=TokenVerifier(FileKeys(keys), issuer="i", audience="a", now=lambda: NOW),
        health=health or Health(),
        registry=new_registry(),
        settings=settings,
    )


def token(**claims: Any) -> str:
    whole = {"iss": "i", "aud": "a", "sub": "alice", "exp": NOW + 60, "roles": ["writer"], "ledgers": ["acme:*"]}
    return jwt.encode({"alg": "ES256", "kid": "k"}, whole | claims, KEY, algorithms=["ES256"])


def client_of(app: Edge, bearer: str | None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://daybook", headers=headers)


@pytest.fixture
def app(tmp_path: Path) -> Edge:
    return make_app(tmp_path)


@pytest.fixture
async def client(app: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, token()) as client:
        yield client


@pytest.fixture
async def stranger(app: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, None) as client:
        yield client


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:daybook:problem:{code}"
    assert document["code"] == code
    assert document["status"] == status
    assert document["title"]
    assert document["trace_id"] == response.headers["x-request-id"]
    assert "canary" not in response.text
    return document


GOOD = b'{"entries": [{"amount": 1}]}'
JSON = {"content-type": "application/json"}
THINGS = "/v1/ledgers/acme:main/things"


async def test_a_good_request_reaches_its_route_with_caller_and_context(client: httpx.AsyncClient) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await client.post(
        THINGS, content=GOOD, headers={"content-type": "application/json; charset=UTF-8", "traceparent": trace}
    )

    assert response.status_code == 201
    assert response.json() == {
        "entries": 1,
        "again": len(GOOD),
        "subject": "alice",
        "correlation_id": "0af7651916cd43dd8448eb211c80319c",
        "traceparent": trace,
    }
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("bearer", [None, "x", token(exp=NOW - 60), token(iss="other")])
@pytest.mark.parametrize("path", ["/v1/things", "/v1/fail/bug", "/nowhere", "/metrics/", "/docs2", "//metrics"])
async def test_without_a_good_token_there_is_only_401(app: Edge, bearer: str | None, path: str) -> None:
    async with client_of(app, bearer) as client:
        response = await client.get(f"http://daybook{path}")

    assert problem(response, 401, "unauthenticated")["detail"]
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_the_wrong_role_is_403_and_another_tenants_ledger_404(app: Edge) -> None:
    async with client_of(app, token(roles=["reader"])) as reader:
        problem(await reader.post(THINGS, content=GOOD, headers=JSON), 403, "forbidden")
        problem(await reader.post("/v1/ledgers/other/things", content=GOOD, headers=JSON), 404, "ledger_not_found")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"entries": [{"amount": 1.5}]}', "$.entries[0].amount"),
        (b'{"entries": [{"amount": "1"}]}', "$.entries[0].amount"),
        (b'{"entries": [{}]}', "$.entries[0].amount"),
        (b'{"entries": [], "extra": 1}', "$.extra"),
        (b'{"entries": [], "entries": []}', "$.entries"),
        (b"{", "$"),
        (b"\xff", "$"),
        (b"", "$"),
        (b"[" * 40 + b"]" * 40, "$"),
    ],
)
async def test_a_malformed_body_is_400_with_its_path(client: httpx.AsyncClient, body: bytes, path: str) -> None:
    document = problem(await client.post(THINGS, content=body, headers=JSON), 400, "invalid_request")

    assert document["path"] == path
    assert document["detail"]


async def test_a_body_beyond_the_bound_is_413_however_it_is_sent(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 1024

    exact = GOOD + b" " * (BODY_BYTES_MAX - len(GOOD))
    assert (await client.post(THINGS, content=exact, headers=JSON)).status_code == 201
    for body in (exact + b" ", chunks()):
        document = problem(await client.post(THINGS, content=body, headers=JSON), 413, "body_too_large")
        assert document["bytes_max"] == BODY_BYTES_MAX
    wrong = JSON | {"content-length": "9" * 30}
    problem(await client.post(THINGS, content=GOOD, headers=wrong), 413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_other_media_are_415(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    problem(await client.post(THINGS, content=GOOD, headers=headers), 415, "unsupported_media_type")


async def test_what_is_not_there_is_404_or_405(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nowhere"), 404, "not_found")
    response = await client.delete("/v1/things")
    problem(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


async def test_query_parameters_are_strict(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/things?limit=5&address=a:*")).json() == {"limit": 5, "address": "a:*"}
    for query, path in [
        ("limt=5", "limt"),
        ("pattern=a", "pattern"),
        ("limit=5&limit=6", "limit"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1.5", "limit"),
        ("x=", "x"),
        ("address=%ff", "$"),
        ("address=%00", "$"),
    ]:
        document = problem(await client.get(f"/v1/things?{query}"), 400, "invalid_request")
        assert document["path"] == path, query
    problem(await client.get("/v1/fail/%00"), 400, "invalid_request")
    problem(await client.get("/v1/fail/bug?dry_run=true"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("refusal", 422, "insufficient_funds"),
        ("contention", 409, "conflict"),
        ("unavailable", 503, "dependency_unavailable"),
        ("corruption", 500, "corruption"),
        ("unknown_event_type", 503, "unknown_event_type"),
        ("unknown", 500, "internal_error"),
        ("bug", 500, "internal_error"),
        ("ours", 500, "internal_error"),
    ],
)
async def test_errors_are_problem_documents(client: httpx.AsyncClient, name: str, status: int, code: str) -> None:
    document = problem(await client.get(f"/v1/fail/{name}"), status, code)

    if name == "refusal":
        assert (document["account"], document["missing"]) == ("a", 7)


async def test_retry_after_is_in_whole_seconds(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/fail/contention")).headers["retry-after"] == "2"
    assert (await client.get("/v1/fail/unavailable")).headers["retry-after"] == "1"
    assert "retry-after" not in (await client.get("/v1/fail/refusal")).headers


async def test_the_correlation_id_is_taken_made_and_given_back(client: httpx.AsyncClient) -> None:
    given = await client.get("/v1/things", headers={"x-request-id": "req-1"})
    other = await client.get("/v1/things", headers={"x-correlation-id": "corr:1"})
    made = [(await client.get("/v1/things")).headers["x-request-id"] for _ in range(2)]

    assert given.headers["x-request-id"] == "req-1"
    assert other.headers["x-correlation-id"] == "corr:1"
    assert made[0] != made[1]
    for wrong in ("a b", "x" * 129, 'a"b', ""):
        response = await client.get("/v1/things", headers={"x-request-id": wrong})
        assert response.headers["x-request-id"] not in ("", wrong)


@pytest.mark.parametrize(
    "trace",
    ["x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
)
async def test_a_malformed_traceparent_is_passed_over(client: httpx.AsyncClient, trace: str) -> None:
    response = await client.post(THINGS, content=GOOD, headers=JSON | {"traceparent": trace})

    assert response.json()["traceparent"] is None


async def test_health_and_metrics_need_no_token(tmp_path: Path) -> None:
    health = Health()
    async with client_of(make_app(tmp_path, health=health), None) as stranger:
        assert (await stranger.get("/health/live")).json() == {"status": "live"}
        assert (await stranger.get("/health/ready")).json() == {"status": "ready", "checks": {}}
        health.register("postgres", lambda: "away")
        response = await stranger.get("/health/ready")
        assert response.status_code == 503
        assert response.json() == {"status": "not_ready", "checks": {"postgres": {"ok": False, "detail": "away"}}}
        text = (await stranger.get("/metrics")).text

    assert 'daybook_http_requests_total{method="GET",route="/health/ready",status="503"} 1.0' in text
    assert "daybook_http_requests_in_flight 1.0" in text
    assert "process_resident_memory_bytes" in text


async def test_requests_are_counted_by_route_template(client: httpx.AsyncClient) -> None:
    await client.post(THINGS, content=GOOD, headers=JSON)
    await client.get("/nowhere")
    text = (await client.get("/metrics")).text

    route = "/v1/ledgers/{ledger}/things"
    assert f'daybook_http_requests_total{{method="POST",route="{route}",status="201"}} 1.0' in text
    assert f'daybook_http_request_seconds_count{{method="POST",route="{route}"}} 1.0' in text
    assert 'daybook_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert "acme" not in text


async def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    app = make_app(tmp_path, body_seconds_max=0.01)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/ledgers/acme:main/things",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token()}".encode()), (b"content-type", b"application/json")],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "request_timeout"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_one_request_too_many_is_turned_away_at_once_and_health_is_not(tmp_path: Path) -> None:
    app = make_app(tmp_path, http_requests_max=1)
    release = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await release.wait()
        return {"type": "http.request", "body": GOOD, "more_body": False}

    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"authorization", f"Bearer {token()}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": THINGS, "query_string": b"", "headers": headers}
    first = asyncio.create_task(app(scope, receive, send))
    await asyncio.sleep(0)
    assert app.in_flight == 1
    async with client_of(app, None) as client:  # nobody looks at its token
        refused = await client.post(THINGS, content=GOOD, headers=JSON)
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert (await client.get("/health/live")).status_code == 200
        figures = (await client.get("/metrics")).text
        assert "daybook_http_requests_shed_total 1.0" in figures
    first.cancel()
    await first
    assert app.in_flight == 0
    async with client_of(app, token()) as client:
        assert (await client.post(THINGS, content=GOOD, headers=JSON)).status_code == 201


@pytest.mark.parametrize("is_connection_surplus", [True, False])
async def test_what_the_server_marks_as_surplus_is_turned_away(tmp_path: Path, *, is_connection_surplus: bool) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": THINGS, "query_string": b"", "headers": []}
    await make_app(tmp_path)(scope | {SURPLUS_KEY: is_connection_surplus}, None, send)
    assert sent[0]["status"] == 503
    assert ((b"connection", b"close") in sent[0]["headers"]) == is_connection_surplus


async def test_who_asks_too_often_is_429_and_others_are_not(tmp_path: Path) -> None:
    app = make_app(tmp_path, http_requests_per_second_max=1, http_requests_burst_max=2)
    async with client_of(app, token()) as alice, client_of(app, token(sub="bob")) as bob:
        statuses = [(await alice.get("/v1/things")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await alice.post(THINGS, content=GOOD, headers=JSON)
        problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert (await bob.get("/v1/things")).status_code == 200


async def test_a_client_that_leaves_is_no_error(app: Edge) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token()}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": THINGS, "query_string": b"", "headers": headers}
    await app(scope, receive, send)

    assert sent == []
    assert app.in_flight == 0


async def test_the_document_describes_routes_tokens_and_problems(app: Edge, stranger: httpx.AsyncClient) -> None:
    document = (await stranger.get("/openapi.json")).json()

    assert document == json.loads(json.dumps(openapi_document(app.app)))
    assert set(document["paths"]) == {"/v1/ledgers/{ledger}/things", "/v1/things", "/v1/balances", "/v1/fail/{name}"}
    assert document["security"] == [{"token": []}]
    responses = document["paths"]["/v1/things"]["get"]["responses"]
    for status in set(responses) - {"200"}:
        assert list(responses[status]["content"]) == ["application/problem+json"]


async def test_docs_without_swagger_files_say_so(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/docs")

    assert response.status_code == 200
    assert "/openapi.json" in response.text
    assert "DAYBOOK_SWAGGER_DIR" in response.text
    assert "&lt;test&gt;" in response.text


async def test_docs_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "swagger"
    folder.mkdir()
    for name in SWAGGER_FILES:
        (folder / name).write_text(name)

    async with client_of(make_app(tmp_path, swagger_dir=folder), None) as stranger:
        page = await stranger.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "://" not in page.text
        for name in SWAGGER_FILES:
            assert (await stranger.get(f"/docs/{name}")).text == name
            assert f"/docs/{name}" in page.text
        script = (await stranger.get("/docs/start.js")).text
        assert "validatorUrl: null" in script
        assert "if (!parameter.required) delete parameter.examples" in script
        assert (await stranger.get("/docs/../v1/things")).status_code == 401
        assert (await stranger.get("/docs/%2e%2e/v1/things")).status_code in (401, 404)
    (folder / "swagger-ui.css").unlink()
    with pytest.raises(OSError, match=r"swagger-ui\.css"):
        make_app(tmp_path, swagger_dir=folder)


# --- amounts as strings

BALANCES = {
    "account": "amount",
    "balances": {"CZK/2": {"posted": 2**127, "available": -5}},
    "entries": [{"amount": 7, "index": 7}],
    "metadata": {"amount": "7"},
    "position": 7,
    "is": True,
}


@get("/v1/balances")
async def show_balances() -> dict[str, Any]:
    """Shows balances."""
    return BALANCES


@pytest.mark.parametrize(
    ("query", "prefer"),
    [
        ("?amounts=string", ""),
        ("", "amounts=string"),
        ("", 'wait=5, Amounts="string"'),
        ("?amounts=string", "amounts=x"),
    ],
)
async def test_amounts_are_strings_for_who_asks(client: httpx.AsyncClient, query: str, prefer: str) -> None:
    answer = await client.get(f"/v1/balances{query}", headers={"prefer": prefer} if prefer else {})
    assert answer.json() == BALANCES | {
        "balances": {"CZK/2": {"posted": str(2**127), "available": "-5"}},
        "entries": [{"amount": "7", "index": 7}],
    }
    assert answer.headers["vary"] == "prefer"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize(("query", "prefer"), [("", ""), ("?amounts=integer", "amounts=string"), ("", "amounts=big")])
async def test_amounts_are_whole_numbers_for_all_others(client: httpx.AsyncClient, query: str, prefer: str) -> None:
    answer = await client.get(f"/v1/balances{query}", headers={"prefer": prefer} if prefer else {})
    assert (answer.json(), "vary" in answer.headers) == (BALANCES, False)


async def test_a_problem_s_amounts_are_strings_too_for_who_asks(client: httpx.AsyncClient) -> None:
    told = problem(await client.get("/v1/fail/amounts?amounts=string"), 422, "insufficient_funds")
    assert (told["missing"], told["limit"], told["position"]) == ("7", "0", 7)
    assert problem(await client.get("/v1/fail/amounts"), 422, "insufficient_funds")["missing"] == 7
    counted = problem(await client.get("/v1/fail/numbers?amounts=string"), 422, "metadata_too_large")
    assert (counted["limit"], counted["found"]) == (50, 7)


async def test_amounts_in_no_known_form_are_refused(client: httpx.AsyncClient) -> None:
    for query in ("amounts=float", "amounts=", "amounts=string&amounts=string"):
        assert problem(await client.get(f"/v1/balances?{query}"), 400, "invalid_request")["path"] == "amounts"


# --- no body


async def test_a_post_without_a_body_needs_no_media_type(client: httpx.AsyncClient) -> None:
    assert problem(await client.post(THINGS), 400, "invalid_request")["path"] == "$"
