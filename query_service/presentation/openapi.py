"""What Litestar cannot know of the read side for its OpenAPI document: examples of answers, errors, the body of a GraphQL request.

The examples are those that the routes' descriptions show; nothing is written twice. The golden document covers all of it.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

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
from litestar.openapi.spec.enums import OpenAPIType

from query_service.presentation import examples
from query_service.presentation.graph_routes import PATH, GraphRequest
from shared_kernel.errors import Rejection, Unavailable
from shared_kernel.http_docs import Told, example_of, of_tokens, problem_told, told_once

TOLD: Final[Mapping[str, Told]] = {
    **of_tokens("reader"),
    "400": Told(
        "Malformed: `invalid_request`, `invalid_cursor`; `path` says where",
        Rejection("invalid_request", path="as_of", detail="The time has not come"),
    ),
    "404": Told(
        "`ledger_not_found`, also where the token does not cover the ledger; `account_not_found`, `transaction_not_found`,"
        " `event_not_found`",
        Rejection("account_not_found", account="users:43:wallet"),
    ),
    "409": Told(
        "`position_beyond_head`: no such event is in the log yet",
        Rejection("position_beyond_head", position=18, head=17),
    ),
    "503": Told(
        "Ask again after `Retry-After`: `read_model_behind`, `read_model_parked`, `dependency_unavailable`, `overloaded`",
        Unavailable("read_model_behind", position=18, head=18, visible=17, lag=1),
    ),
}
UNCHANGED: Final = OpenAPIResponse(description="The answer that `If-None-Match` names still stands; it has no body")
# Which of its parameters make an operation answer in this way; the rest of TOLD every operation may.
_FOR: Final[Mapping[str, frozenset[str]]] = {
    "304": frozenset({"If-None-Match"}),
    "404": frozenset({"ledger", "ledgers"}),
    "409": frozenset({"Daybook-Position"}),
}


def describe_answers(app: Litestar) -> None:
    """The application's OpenAPI document now has an example of each answer, and the errors that a client meets."""
    document = app.openapi_schema
    named = told_once(
        document, {"Unchanged": UNCHANGED} | {f"Problem{status}": problem_told(told) for status, told in TOLD.items()}
    )
    shared = {"304": named["Unchanged"]} | {status: named[f"Problem{status}"] for status in TOLD}
    for path, item in (document.paths or {}).items():
        operation = cast("Operation", item.get or item.post)
        answer = cast("OpenAPIResponse", (operation.responses or {})["200"])
        if path == PATH:
            _describe_graph(app, operation, answer)
        shown = examples.shown_in(operation.description or "")
        for media_type, content in (answer.content or {}).items():
            content.examples = example_of(shown[media_type])
        told = {status: reference for status, reference in shared.items() if _is_met(status, path, operation)}
        operation.responses = {"200": answer, **told}


def _is_met(status: str, path: str, operation: Operation) -> bool:
    if path == PATH and status == "403":  # stands in the answer
        return False
    names = {each.name for each in operation.parameters or () if isinstance(each, Parameter)}
    return status not in _FOR or not names.isdisjoint(_FOR[status])


def _describe_graph(app: Litestar, operation: Operation, answer: OpenAPIResponse) -> None:
    """The route reads its body itself, and what it answers is for the query to say."""
    (schema,), components = msgspec.json.schema_components([GraphRequest], ref_template="#/components/schemas/{name}")
    # Litestar's own structure has no place for a ready schema; what it does not know, it writes as it stands.
    cast("dict[str, Any]", app.openapi_schema.components.schemas).update(components)
    asked = OpenAPIMediaType(
        schema=Reference(ref=schema["$ref"]), examples=example_of(msgspec.json.decode(examples.GRAPH_ASKED))
    )
    operation.request_body = RequestBody(content={"application/json": asked}, required=True)
    told = Schema(
        type=OpenAPIType.OBJECT,
        properties={
            "data": Schema(type=[OpenAPIType.OBJECT, OpenAPIType.NULL], description="What was asked for"),
            "errors": Schema(
                type=OpenAPIType.ARRAY, description="What went wrong; `extensions` has its code and fields"
            ),
        },
    )
    answer.content = {"application/json": OpenAPIMediaType(schema=told)}
