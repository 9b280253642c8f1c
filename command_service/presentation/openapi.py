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

from command_service.presentation.examples import BOOKS, OPERATIONS
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
from shared_kernel.http_errors import PROBLEM_TYPE
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
KEY = Parameter(
    name="Idempotency-Key",
    param_in="header",
    required=False,
    schema=Schema(type=cast("Any", "string"), pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=200),
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


TOLD = {
    "400": "Malformed: `invalid_request`, `unbalanced`, `key_missing`; `path` says where",
    "401": "`unauthenticated`",
    "403": "`forbidden`: the token lacks the role",
    "404": "`ledger_not_found`, also where the token does not cover the ledger; `transaction_not_found`",
    "409": f"Taken, or over already: {_codes(409)}",
    "413": "`body_too_large`",
    "415": "`unsupported_media_type`",
    "422": f"The rules say no, and that is on record: {_codes(422)}",
    "503": "Not applied, or not known yet whether applied (`outcome_unknown`): repeat with the same key",
}


def describe_requests(app: Litestar) -> None:
    """The application's OpenAPI document now has the request bodies, the key header and the problems of each command."""
    document = app.openapi_schema
    kinds = [operation.body for operation in OPERATIONS]
    schemas, components = msgspec.json.schema_components([*kinds, *ANSWERS], ref_template="#/components/schemas/{name}")
    # Litestar's own structure has no place for a ready schema; what it does not know, it writes as it stands. It cannot
    # describe `Raw` either, so the answers' schemas are replaced too.
    cast("dict[str, Any]", document.components.schemas).update(components)
    for operation, schema in zip(OPERATIONS, schemas[: len(kinds)], strict=True):
        described = _described(app, operation.path, operation.method)
        media_type = OpenAPIMediaType(schema=Reference(ref=schema["$ref"]), example=_as_it_is(operation.asked))
        is_needed = any(field.required for field in msgspec.structs.fields(operation.body))
        described.request_body = RequestBody(content={"application/json": media_type}, required=is_needed)
        described.parameters = [*(described.parameters or []), KEY]
        done = {status: told for status, told in (described.responses or {}).items() if status < "400"}
        (answered,) = (cast("OpenAPIResponse", told) for told in done.values())
        for content in (answered.content or {}).values():
            content.example = _as_it_is(operation.answered)
        described.responses = {**done, **{status: _problem(text) for status, text in TOLD.items()}}
    find = _described(app, f"{BOOKS}/commands/{{key}}", "get")
    find.responses = {
        **{status: told for status, told in (find.responses or {}).items() if status < "400"},
        "404": _problem("`command_not_found`: not in the log yet, with the `head` looked at; `ledger_not_found`"),
        "422": _problem("The recorded refusal"),
    }


def _described(app: Litestar, path: str, method: str) -> Operation:
    operation: Operation | None = getattr((app.openapi_schema.paths or {})[path], method)
    assert operation is not None  # noqa: S101 - routes.py declares it
    return operation


def _as_it_is(example: Mapping[str, Any]) -> msgspec.Raw:
    """Litestar leaves out what is null, but not within what it does not know."""
    return msgspec.Raw(msgspec.json.encode(example))


def _problem(text: str) -> OpenAPIResponse:
    schema = Reference(ref="#/components/schemas/Problem")
    return OpenAPIResponse(description=text, content={PROBLEM_TYPE: OpenAPIMediaType(schema=schema)})
