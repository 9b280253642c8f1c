"""The request bodies and headers of the write side in its OpenAPI document; Litestar writes the rest from `routes.py`.

Routes read their bodies themselves, so Litestar cannot know them. The golden document (tests/golden) covers all of it.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from litestar import Litestar
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)

from command_service.presentation.examples import BOOKS, FOUND, KEY, OPERATIONS, Json
from command_service.presentation.shapes import (
    AccountAnswer,
    AccountChangeAnswer,
    BatchAcrossAnswer,
    BatchAnswer,
    LedgerAnswer,
    LedgerChangeAnswer,
    TransactionAnswer,
    TransactionChangeAnswer,
)
from shared_kernel.errors import Refusal, Rejection, Unavailable
from shared_kernel.http_docs import Told, example_of, of_tokens, problem_told, told_once
from shared_kernel.problems import PROBLEMS

ANSWERS = (
    LedgerAnswer,
    LedgerChangeAnswer,
    AccountAnswer,
    AccountChangeAnswer,
    TransactionAnswer,
    TransactionChangeAnswer,
    BatchAnswer,
    BatchAcrossAnswer,
)
KEY_HEADER = Parameter(
    name="Idempotency-Key",
    param_in="header",
    required=False,
    schema=Schema(type=cast("Any", "string"), pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=200),
    examples=example_of(KEY),
    description="Makes repeating safe, for ever: the same key and body give the first answer again, the same key and another"
    " body 409 `idempotency_key_reused`. Without one the server makes one, and a repetition is a second command.",
)
_OF_OTHER_PROCESSES = {
    "position_beyond_head",
    "ledger_not_parked",
    "ledger_stands_still",
    "no_rows_by_account",
    "rebuild_running",
    "not_verified",
    "generation_behind",
    "generation_building",
    "generation_live",
    "nothing_to_roll_back",
    "log_restored",
}


def _codes(status: int) -> str:
    return ", ".join(
        f"`{code}`" for code, known in PROBLEMS.items() if known.status == status and code not in _OF_OTHER_PROCESSES
    )


TOLD: Mapping[str, Told] = {
    **of_tokens("writer"),
    "400": Told(
        "Malformed: `invalid_request`, `unbalanced`, `key_missing`; `path` says where",
        Rejection("invalid_request", path="$.entries[0].amount", detail="Expected `int` >= 1"),
    ),
    "404": Told(
        "`ledger_not_found`, also where the token does not cover the ledger; `transaction_not_found`",
        Rejection("ledger_not_found", ledger="bank"),
    ),
    "409": Told(f"Taken, or over already: {_codes(409)}", Rejection("idempotency_key_reused", position=17)),
    "413": Told("`body_too_large`", Rejection("body_too_large", bytes_max=1_048_576)),
    "415": Told("`unsupported_media_type`", Rejection("unsupported_media_type")),
    "422": Told(
        f"The rules say no, and that is on record: {_codes(422)}",
        Refusal(
            "insufficient_funds",
            account="users:42:wallet",
            asset="EUR/2",
            available=500,
            limit=0,
            missing=100,
            position=18,
            judged_at=17,
        ),
    ),
    "503": Told(
        "Not applied, or not known yet whether applied (`outcome_unknown`): repeat with the same key",
        Unavailable("outcome_unknown"),
    ),
}
NOT_FOUND = Told(
    "`command_not_found`: not in the log yet, with the `head` looked at; `ledger_not_found`",
    Rejection("command_not_found", head=17),
)


def describe_requests(app: Litestar) -> None:
    """The application's OpenAPI document now has the request bodies, the key header and the problems of each command."""
    document = app.openapi_schema
    kinds = [operation.body for operation in OPERATIONS]
    schemas, components = msgspec.json.schema_components([*kinds, *ANSWERS], ref_template="#/components/schemas/{name}")
    # Litestar's own structure has no place for a ready schema; what it does not know, it writes as it stands. It cannot
    # describe `Raw` either, so the answers' schemas are replaced too.
    cast("dict[str, Any]", document.components.schemas).update(components)
    named = told_once(document, {f"Problem{status}": problem_told(told) for status, told in TOLD.items()})
    problems = {status: named[f"Problem{status}"] for status in TOLD}
    for operation, schema in zip(OPERATIONS, schemas[: len(kinds)], strict=True):
        described = _described(app, operation.path, operation.method)
        media_type = OpenAPIMediaType(schema=Reference(ref=schema["$ref"]), examples=example_of(operation.asked))
        is_needed = any(field.required for field in msgspec.structs.fields(operation.body))
        described.request_body = RequestBody(content={"application/json": media_type}, required=is_needed)
        described.parameters = [*(described.parameters or []), KEY_HEADER]
        described.responses = {**_done(described, {str(operation.status): operation.answered}), **problems}
    find = _described(app, f"{BOOKS}/commands/{{key}}", "get")
    find.responses = {
        **_done(find, FOUND),
        **{status: problems[status] for status in ("400", "401", "403", "422", "503")},
        "404": problem_told(NOT_FOUND),
    }


def _described(app: Litestar, path: str, method: str) -> Operation:
    operation: Operation | None = getattr((app.openapi_schema.paths or {})[path], method)
    assert operation is not None  # noqa: S101 - routes.py declares it
    return operation


def _done(operation: Operation, answered: Mapping[str, Json]) -> dict[str, OpenAPIResponse | Reference]:
    """What the operation answers where all went well, by status, with an example of each."""
    found = {status: told for status, told in (operation.responses or {}).items() if status < "400"}
    for status, told in found.items():
        for content in (cast("OpenAPIResponse", told).content or {}).values():
            content.examples = example_of(answered[status])
    return found
