"""The API's description is part of the contract: it is golden. UPDATE_GOLDEN=1 writes it anew."""

import json
import os
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from joserfc.jwk import ECKey
from litestar import Litestar

from command_service.container import Container
from command_service.domain.commands import COMMAND_TYPES, SYSTEM_COMMANDS
from command_service.presentation import shapes
from command_service.presentation.batches import Batch, BatchAcross
from command_service.presentation.examples import BOOKS, OPERATIONS, Operation
from command_service.presentation.requests import BODIES
from command_service.presentation.routes import DirectRoutes
from command_service.settings import CommandSettings
from shared_kernel.http_docs import openapi_document
from shared_kernel.settings import Secret
from tests.support import described

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi" / "command.json"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Litestar:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
    settings = CommandSettings(
        postgres_url=Secret("postgresql://none"),
        jwt_issuer="i",
        jwt_audience="a",
        jwt_keys_file=str(keys),
        query_public_url="https://query.example",
    )
    hot = cast("DirectRoutes", Container(settings=settings).app().app)
    return cast("Litestar", hot.app)


@pytest.fixture(scope="module")
def document(app: Litestar) -> dict[str, Any]:
    """What /openapi.json serves; for reading only."""
    return openapi_document(app)


def test_the_document_is_completed_once(app: Litestar, document: dict[str, Any]) -> None:
    assert openapi_document(app) == document


def test_description_is_the_golden_one(document: dict[str, Any]) -> None:
    golden = document | {"info": document["info"] | {"version": "…"}}  # a release is no change of the API
    text = json.dumps(golden, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert json.loads(text) == json.loads(GOLDEN.read_text())


def named(document: dict[str, Any], operation: Operation) -> tuple[dict[str, Any], str]:
    """The operation in the document, and the name of the shape of what is done."""
    found = document["paths"][operation.path][operation.method]
    answer = found["responses"][str(operation.status)]["content"]["application/json"]
    assert described.shown(answer) == [operation.answered]
    return found, answer["schema"]["$ref"].rpartition("/")[2]


def test_every_command_has_body_key_answer_and_problems(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    offered = {
        (method, path) for path, methods in document["paths"].items() for method in methods if method != "parameters"
    }
    assert offered == {(one.method, one.path) for one in OPERATIONS} | {("get", f"{BOOKS}/commands/{{key}}")}
    for one in OPERATIONS:
        operation, answer = named(document, one)
        body = operation["requestBody"]["content"]["application/json"]
        assert described.shown(body) == [one.asked]
        assert schemas[body["schema"]["$ref"].rpartition("/")[2]]["additionalProperties"] is False
        assert {"Idempotency-Key", "dry_run", "amounts"} <= {each["name"] for each in operation["parameters"]}
        assert schemas[answer]["properties"]
        assert [status for status in operation["responses"] if status < "400"] == [str(one.status)]
        for status in ("400", "401", "403", "404", "409", "413", "415", "422", "503"):
            assert operation["responses"][status] == {"$ref": f"#/components/responses/Problem{status}"}


def test_every_body_error_and_odd_parameter_has_an_example_that_fits(document: dict[str, Any]) -> None:
    assert described.without_example(document) == []
    assert described.misfits(document) == []


def test_an_error_is_shown_under_its_own_status(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    for name, answer in responses.items():
        [problem] = described.shown(answer["content"]["application/problem+json"])
        assert f"Problem{problem['status']}" == name


def test_a_look_up_is_no_command(document: dict[str, Any]) -> None:
    look_up = document["paths"][f"{BOOKS}/commands/{{key}}"]["get"]
    assert {each["name"] for each in look_up["parameters"]} == {"ledger", "key", "amounts"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for kind in ("schemas", "responses"):
        names = {part.partition('"')[0] for part in text.split(f"#/components/{kind}/")[1:]}
        assert names <= set(document["components"][kind])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_every_example_is_well_formed(document: dict[str, Any], operation: Operation) -> None:
    """Of answers too: nothing in an example that the shape does not have, and nothing missing."""
    msgspec.convert(operation.asked, operation.body)
    shape = getattr(shapes, named(document, operation)[1])
    read = msgspec.json.decode(msgspec.json.encode(operation.answered), type=shape)
    assert json.loads(msgspec.json.encode(read)) == operation.answered


def test_every_command_for_clients_has_a_route() -> None:
    bodies = {one.body for one in OPERATIONS}
    offered = set(COMMAND_TYPES.values()) - SYSTEM_COMMANDS
    assert {BODIES.get(kind, kind) for kind in offered} | {Batch, BatchAcross} == bodies
