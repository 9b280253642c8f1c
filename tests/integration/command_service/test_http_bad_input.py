"""Bad input over HTTP: the right problem with its stable code and place, and not a byte written."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.integration.command_service.conftest import KEY, Caller, NewWorker, token, workers
from tests.services import Database, Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")
POST = "/{ledger}/transactions"


def entry(**changes: Any) -> dict[str, Any]:
    return {"account": "a", "direction": "debit", "amount": 5, "asset": "CZK/2"} | changes


def transaction(first: dict[str, Any] | None = None, **changes: Any) -> bytes:
    credit = entry(account="b", direction="credit")
    return json.dumps({"entries": [first or entry(), credit]} | changes).encode()


def problem(answer: httpx.Response, status: int, code: str, path: str | None = None) -> dict[str, Any]:
    """The problem document, which is one and says this."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    document: dict[str, Any] = answer.json()
    assert document["code"] == code, document
    assert document["status"] == status
    assert document["type"] == f"urn:daybook:problem:{code}"
    assert document["title"]
    assert document["trace_id"]
    if path is not None:
        assert document["path"] == path, document
    assert "Traceback" not in answer.text
    return document


Frozen = Callable[[], int]


@pytest.fixture
def rows(database: Database) -> Frozen:
    """A function that counts everything the log holds."""

    def count() -> int:
        with psycopg.connect(database.admin_url) as connection:
            row = connection.execute(
                "select (select count(*) from daybook.ledgers) + (select count(*) from daybook.events)"
                " + (select count(*) from daybook.event_tags)"
            ).fetchone()
        assert row is not None
        return int(row[0])

    return count


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    database: Database, stack: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NewWorker]:
    async with workers(database, stack, tmp_path_factory.mktemp("keys")) as start:
        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(worker: NewWorker) -> Caller:
    """One worker for all: what they ask for changes nothing."""
    made: Caller = await worker()
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(caller: Caller) -> str:
    return await caller.open_ledger()


@pytest.mark.parametrize(
    ("content", "code", "path"),
    [
        (b"", "invalid_request", "$"),
        (b"{", "invalid_request", "$"),
        (b"\xff\xfe", "invalid_request", "$"),
        (b"[]", "invalid_request", "$"),
        (b'{"entries":' + b"[" * 200_000, "invalid_request", "$"),
        (b'{"metadata":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "invalid_request", "$"),
        (b'{"entries":[],"entries":[]}', "invalid_request", "$.entries"),
        (
            transaction().replace(b'"account"', b'"account": "a", "account"', 1),
            "invalid_request",
            "$.entries[0].account",
        ),
        (b'{"metadata":' + b"[" * 32 + b"]" * 32 + b"}", "invalid_request", "$"),
        (transaction(entry(memo="x")), "invalid_request", "$.entries[0].memo"),
        (transaction(memo="x"), "invalid_request", "$.memo"),
        (transaction(entry(amount=5.0)), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount=1e400)), "invalid_request", None),
        (transaction().replace(b"5", b"5e0", 1), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount="5e0")), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount="5.0")), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount=0)), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount=-5)), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount="-5")), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount=2**127)), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(amount="1" * 5000)), "invalid_request", "$.entries[0].amount"),
        (transaction(entry(asset="dollars")), "invalid_request", "$.entries[0].asset"),
        (transaction(entry(account="a b")), "invalid_request", "$.entries[0].account"),
        (transaction(entry(account="a\n")), "invalid_request", "$.entries[0].account"),
        (transaction(entry(account="a\0")), "invalid_request", "$"),
        (transaction(entry(amount=6)), "unbalanced", "$.entries"),
        (transaction(entries=[entry()] * 501), "invalid_request", "$.entries"),
        (transaction(effective_at="1993-01-01T12:00:00"), "invalid_request", "$.effective_at"),
        (transaction(effective_at="9999-12-31T23:59:59-01:00"), "invalid_request", "$.effective_at"),
        (transaction(status="open"), "invalid_request", "$.status"),
        (transaction(status="scheduled"), "invalid_request", "$.effective_at"),
        (transaction(conditions=[]), "invalid_request", "$.conditions"),
        (transaction(reference="\ud800"), "invalid_request", "$"),
    ],
)
async def test_a_malformed_body_writes_nothing(
    *, caller: Caller, ledger: str, rows: Frozen, content: bytes, code: str, path: str | None
) -> None:
    before = rows()
    problem(await caller.post(POST.format(ledger=ledger), content=content), 400, code, path)
    assert rows() == before


async def test_an_oversized_body_is_turned_away(worker: NewWorker, rows: Frozen) -> None:
    caller = await worker(http_body_bytes_max=2_000)
    ledger = await caller.open_ledger()
    before = rows()
    problem(
        await caller.post(POST.format(ledger=ledger), content=transaction(description="x" * 2_000)),
        413,
        "body_too_large",
    )
    assert rows() == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_only_json_is_taken(caller: Caller, ledger: str, kind: str) -> None:
    answer = await caller.post(POST.format(ledger=ledger), content=transaction(), headers={"content-type": kind})
    problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer ",
        "Bearer x.y.z",
        "Basic dTpw",
        f"Bearer {token('writer', exp=1)}",
        f"Bearer {token('writer', aud='other')}",
        f"Bearer {token('writer', iss='other')}",
        f"Bearer {token('writer')}x",
        "Bearer "
        + jwt.encode(
            {"alg": "ES256", "kid": "k"},
            {"iss": "i", "aud": "a", "sub": "s", "exp": 4_000_000_000, "roles": ["writer"], "ledgers": ["**"]},
            ECKey.generate_key("P-256", {"kid": "k"}),
            algorithms=["ES256"],
        ),
    ],
    ids=["none", "empty", "garbage", "basic", "expired", "audience", "issuer", "damaged", "forged"],
)
async def test_a_missing_or_bad_token_is_turned_away(
    caller: Caller, ledger: str, rows: Frozen, authorization: str | None
) -> None:
    before = rows()
    for path in (POST.format(ledger=ledger), "", f"/{ledger}/batches", f"/{ledger}/accounts"):
        answer = await caller.post(path, content=transaction(), authorization=authorization)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert rows() == before


@pytest.mark.parametrize("role", ["reader", "operator", "auditor", "nonsense"])
async def test_only_a_writer_may_command(caller: Caller, ledger: str, rows: Frozen, role: str) -> None:
    before = rows()
    bearer = f"Bearer {token(role)}"
    for path in (POST.format(ledger=ledger), "", f"/{ledger}/batches", f"/{ledger}/accounts"):
        problem(await caller.post(path, content=transaction(), authorization=bearer), 403, "forbidden")
    assert rows() == before


async def test_another_tenant_s_ledger_looks_absent(caller: Caller, rows: Frozen) -> None:
    ledger = await caller.open_ledger()  # bank:…
    before = rows()
    bearer = f"Bearer {token('writer', ledgers=('acme:*', 'bank'))}"
    for path in (POST, "/{ledger}/batches", "/{ledger}/accounts"):
        theirs = await caller.post(path.format(ledger=ledger), content=transaction(), authorization=bearer)
        absent = await caller.post(path.format(ledger="acme:none"), content=transaction(), authorization=bearer)
        told = problem(theirs, 404, "ledger_not_found")
        if path == POST:
            assert told.keys() == problem(absent, 404, "ledger_not_found").keys()
    opened = await caller.post("", {"ledger": "bank:mine"}, authorization=bearer)
    problem(opened, 404, "ledger_not_found")
    assert rows() == before
    assert (await caller.post("", {"ledger": "acme:main"}, authorization=bearer)).status_code == 201


@pytest.mark.parametrize("name", ["nowhere", "no%20way", "a::b", "%0A", "a%0A", "%2A%2A", "x" * 65, "%F0%9F%98%80"])
async def test_a_ledger_that_is_not_there_is_said_to_be(caller: Caller, rows: Frozen, name: str) -> None:
    before = rows()
    for path in ("transactions", "accounts"):
        body = {"address": "a"} if path == "accounts" else None
        content = None if body else transaction()
        problem(await caller.post(f"/{name}/{path}", body, content=content), 404, "ledger_not_found")
    assert rows() == before


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "\u00e9"])
async def test_a_malformed_key_is_told(caller: Caller, ledger: str, rows: Frozen, key: str) -> None:
    before = rows()
    for path in ("transactions", "batches", "accounts"):
        answer = await caller.http.post(
            f"/v1/ledgers/{ledger}/{path}",
            content=transaction() if path == "transactions" else b'{"address":"a"}',
            headers=[
                (b"authorization", f"Bearer {token('writer')}".encode()),
                (b"content-type", b"application/json"),
                (b"idempotency-key", key.encode("latin-1")),
            ],
        )
        problem(answer, 400, "invalid_request", "Idempotency-Key")
    assert rows() == before


async def test_two_keys_are_one_too_many(caller: Caller, ledger: str, rows: Frozen) -> None:
    before = rows()
    headers = [
        ("authorization", f"Bearer {token('writer')}"),
        ("content-type", "application/json"),
        ("idempotency-key", "a"),
        ("idempotency-key", "b"),
    ]
    answer = await caller.http.post(f"/v1/ledgers/{ledger}/transactions", content=transaction(), headers=headers)
    problem(answer, 400, "invalid_request", "Idempotency-Key")
    assert rows() == before


@pytest.mark.parametrize("path", ["transactions", "batches", "accounts", "archive"])
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("dryrun=true", "dryrun"),
        ("dry_run=yes", "dry_run"),
        ("dry_run=", "dry_run"),
        ("dry_run=true&dry_run=false", "dry_run"),
        ("amounts=text", "amounts"),
    ],
)
async def test_unknown_query_parameters_and_values_are_refused_and_nothing_is_done(
    *, caller: Caller, ledger: str, rows: Frozen, path: str, query: str, told: str
) -> None:
    before = rows()
    content = {"archive": b"{}", "accounts": b'{"address":"a"}'}.get(path, transaction())
    if path == "batches":
        content = b'{"commands":[{"type":"archive_ledger","key":"k","data":{}}]}'
    answer = await caller.post(f"/{ledger}/{path}?{query}", content=content)
    problem(answer, 400, "invalid_request", told)
    assert rows() == before


@pytest.mark.parametrize(
    ("content", "code", "path"),
    [
        (b"[]", "invalid_request", "$"),
        (b'{"commands":[]}', "invalid_request", "$.commands"),
        (b'{"commands":[{}],"atomic":1}', "invalid_request", "$.atomic"),
        (b'{"commands":[{}],"atomic":true}', "invalid_request", "$.commands[0].type"),
        (b'{"commands":[{}],"mode":1}', "invalid_request", "$.mode"),
        (json.dumps({"commands": [{}] * 1001}).encode(), "invalid_request", "$.commands"),
        (b'{"commands":[{"type":"open_account","data":{"address":"a"}}]}', "key_missing", "$.commands[0].key"),
    ],
)
async def test_a_malformed_batch_is_refused_whole(
    *, caller: Caller, ledger: str, rows: Frozen, content: bytes, code: str, path: str
) -> None:
    before = rows()
    problem(await caller.post(f"/{ledger}/batches", content=content), 400, code, path)
    assert rows() == before


async def test_a_batch_to_an_absent_ledger_says_so_for_each_command(caller: Caller, rows: Frozen) -> None:
    before = rows()
    body = {"commands": [{"type": "open_account", "key": key, "data": {"address": "a"}} for key in "xy"]}
    results = (await caller.post("/nowhere/batches", body)).json()["results"]
    assert [(result["status"], result["body"]["code"]) for result in results] == [(404, "ledger_not_found")] * 2
    assert rows() == before


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/ledgers/bank/transactions", 405, "method_not_allowed"),
        ("PUT", "/v1/ledgers/bank/transactions", 405, "method_not_allowed"),
        ("DELETE", "/v1/ledgers/bank/accounts", 405, "method_not_allowed"),
        ("POST", "/v1/ledgers/bank/transactions/x/expire", 404, "not_found"),
        ("POST", "/v1/ledgers/bank/accounts/a/limits", 405, "method_not_allowed"),
        ("GET", "/v1/ledgers/bank/transactions/x/void", 405, "method_not_allowed"),
        ("POST", "/v1/ledgers/bank/transactions%0A", 404, "not_found"),
        ("POST", "/v1/ledgers/bank/commands/k", 405, "method_not_allowed"),
        ("GET", "/v1/ledgers/bank/commands/", 404, "not_found"),
        ("GET", "/v2", 404, "not_found"),
    ],
)
async def test_what_is_not_offered_is_a_problem_too(
    caller: Caller, method: str, path: str, status: int, code: str
) -> None:
    headers = {"authorization": f"Bearer {token('writer')}", "content-type": "application/json"}
    content = b"{}" if method != "GET" else None
    problem(await caller.http.request(method, path, headers=headers, content=content), status, code)


async def test_a_key_in_the_address_is_read_strictly(caller: Caller, ledger: str) -> None:
    problem(await caller.get(f"/{ledger}/commands/a%20b"), 400, "invalid_request", "key")
    problem(await caller.get(f"/{ledger}/commands/{'x' * 201}"), 400, "invalid_request", "key")
    problem(await caller.get(f"/{ledger}/commands/k?x=1"), 400, "invalid_request", "x")


async def test_the_tokens_of_these_tests_are_signed_with_their_key() -> None:
    assert jwt.decode(token("writer"), KEY, algorithms=["ES256"]).claims["roles"] == ["writer"]
