"""The request bodies and headers of the write side in its OpenAPI document; Litestar writes the rest from `routes.py`.

Routes read their bodies themselves, so Litestar cannot know them. The golden document (tests/golden) covers all of it.
"""

from typing import Any, cast

import msgspec
from litestar import Litestar
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, Parameter, Reference, RequestBody, Schema

from command_service.domain.commands import OpenAccount, OpenLedger, PostTransaction
from command_service.presentation.answers import AccountAnswer, BatchAnswer, LedgerAnswer, TransactionAnswer
from command_service.presentation.requests import Batch
from shared_kernel.http_errors import PROBLEM_TYPE

LEDGERS = "/v1/ledgers"
BOOKS = "/v1/ledgers/{ledger}"
BODIES: dict[str, tuple[type[msgspec.Struct], dict[str, Any]]] = {
    LEDGERS: (
        OpenLedger,
        {
            "ledger": "bank",
            "accounts": "on-first-use",
            "defaults": [
                {"pattern": "users:*:wallet", "normal_balance": "credit", "limits": {"EUR/2": {"minimum": 0}}}
            ],
            "metadata": {},
        },
    ),
    f"{BOOKS}/accounts": (
        OpenAccount,
        {
            "address": "users:42:wallet",
            "normal_balance": "credit",
            "limits": {"EUR/2": {"minimum": 0, "maximum": 500_000}},
            "metadata": {},
        },
    ),
    f"{BOOKS}/transactions": (
        PostTransaction,
        {
            "entries": [
                {"account": "bank:cash", "direction": "debit", "amount": 70_000, "asset": "CZK/2"},
                {"account": "bank:clients:2378", "direction": "credit", "amount": 70_000, "asset": "CZK/2"},
            ],
            "reference": "berka-695247",
            "effective_at": "1993-01-01T12:00:00Z",
            "description": "cash in",
            "metadata": {},
        },
    ),
    f"{BOOKS}/batches": (
        Batch,
        {
            "atomic": False,
            "commands": [
                {"type": "open_account", "key": "open-42", "data": {"address": "users:42:wallet"}},
                {
                    "type": "post_transaction",
                    "key": "pay-1",
                    "data": {
                        "entries": [
                            {"account": "bank:cash", "direction": "debit", "amount": 100, "asset": "EUR/2"},
                            {"account": "users:42:wallet", "direction": "credit", "amount": 100, "asset": "EUR/2"},
                        ]
                    },
                },
            ],
        },
    ),
}
ANSWERS = (LedgerAnswer, AccountAnswer, TransactionAnswer, BatchAnswer)
KEY = Parameter(
    name="Idempotency-Key",
    param_in="header",
    required=False,
    schema=Schema(type=cast("Any", "string"), pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=200),
    description="Makes repeating safe, for ever: the same key and body give the first answer again, the same key and another"
    " body 409 `idempotency_key_reused`. Without one the server makes one, and a repetition is a second command.",
)
PROBLEMS = {
    "400": "Malformed: `invalid_request`, `unbalanced`, `key_missing`; `path` says where",
    "401": "`unauthenticated`",
    "403": "`forbidden`: the token lacks the role",
    "404": "`ledger_not_found`, also where the token does not cover the ledger",
    "409": "Taken: `idempotency_key_reused`, `reference_taken`, `transaction_exists`, `account_exists`, `ledger_exists`",
    "413": "`body_too_large`",
    "415": "`unsupported_media_type`",
    "422": "The rules say no, and that is on record: `insufficient_funds`, `limit_exceeded`, `account_not_open`,"
    " `effective_at_too_late`",
    "503": "Not applied, or not known yet whether applied (`outcome_unknown`): repeat with the same key",
}


def describe_requests(app: Litestar) -> None:
    """The application's OpenAPI document now has the request bodies, the key header and the problems of each command."""
    document = app.openapi_schema
    kinds = [kind for kind, _ in BODIES.values()]
    schemas, components = msgspec.json.schema_components([*kinds, *ANSWERS], ref_template="#/components/schemas/{name}")
    # Litestar's own structure has no place for a ready schema; what it does not know, it writes as it stands. It cannot
    # describe `Raw` either, so the answers' schemas are replaced too.
    cast("dict[str, Any]", document.components.schemas).update(components)
    for (path, (_, example)), schema in zip(BODIES.items(), schemas[: len(kinds)], strict=True):
        operation = (document.paths or {})[path].post
        assert operation is not None  # noqa: S101 - routes.py declares it
        media_type = OpenAPIMediaType(schema=Reference(ref=schema["$ref"]), example=example)
        operation.request_body = RequestBody(content={"application/json": media_type}, required=True)
        operation.parameters = [*(operation.parameters or []), KEY]
        operation.responses = {
            **{status: told for status, told in (operation.responses or {}).items() if status < "400"},
            **{status: _problem(text) for status, text in PROBLEMS.items()},
        }
    find = (document.paths or {})[f"{BOOKS}/commands/{{key}}"].get
    assert find is not None  # noqa: S101 - routes.py declares it
    find.responses = {
        **{status: told for status, told in (find.responses or {}).items() if status == "201"},
        "404": _problem("`command_not_found`: not in the log yet, with the `head` looked at; `ledger_not_found`"),
        "422": _problem("The recorded refusal"),
    }


def _problem(text: str) -> OpenAPIResponse:
    schema = Reference(ref="#/components/schemas/Problem")
    return OpenAPIResponse(description=text, content={PROBLEM_TYPE: OpenAPIMediaType(schema=schema)})
