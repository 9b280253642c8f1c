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
from command_service.presentation.openapi import BODIES
from command_service.presentation.routes import DirectRoutes
from command_service.settings import CommandSettings
from shared_kernel.http_docs import openapi_document
from shared_kernel.settings import Secret

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi" / "command.json"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """What /openapi.json serves."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
    settings = CommandSettings(
        postgres_url=Secret("postgresql://none"),
        jwt_issuer="i",
        jwt_audience="a",
        jwt_keys_file=str(keys),
        query_public_url="https://query.example",
    )
    hot = cast("DirectRoutes", Container(settings=settings).app().app)
    return openapi_document(cast("Litestar", hot.app))


def test_description_is_the_golden_one(document: dict[str, Any]) -> None:
    document["info"]["version"] = "…"  # a release is no change of the API
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert json.loads(text) == json.loads(GOLDEN.read_text())


def test_every_command_has_body_key_answer_and_problems(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(document["paths"]) == {*BODIES, "/v1/ledgers/{ledger}/commands/{key}"}
    for path in BODIES:
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert schemas[body.rpartition("/")[2]]["additionalProperties"] is False
        assert {"Idempotency-Key", "amounts"} <= {one["name"] for one in operation["parameters"]}
        made = "200" if path.endswith("batches") else "201"
        answer = operation["responses"][made]["content"]["application/json"]["schema"]["$ref"]
        assert schemas[answer.rpartition("/")[2]]["properties"]
        for status in ("400", "401", "403", "404", "409", "413", "415", "422", "503"):
            assert "application/problem+json" in operation["responses"][status]["content"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


@pytest.mark.parametrize("path", BODIES)
def test_every_example_is_well_formed(path: str) -> None:
    kind, example = BODIES[path]
    msgspec.convert(example, kind)
