"""The API's description is part of the contract: its bytes are golden. UPDATE_GOLDEN=1 writes them anew."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc.jwk import ECKey
from litestar import Litestar

from query_service.container import Container
from query_service.settings import QuerySettings
from shared_kernel.http_docs import openapi_document
from shared_kernel.settings import Secret

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi" / "query.json"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """What /openapi.json serves."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [ECKey.generate_key("P-256").as_dict(private=False)]}))
    settings = QuerySettings(
        postgres_url=Secret("postgresql://none"), jwt_issuer="i", jwt_audience="a", jwt_keys_file=str(keys)
    )
    return openapi_document(cast("Litestar", Container(settings=settings).app().app))


def test_description_is_the_golden_one(document: dict[str, Any]) -> None:
    document["info"]["version"] = "…"  # a release is no change of the API
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text)
    assert json.loads(text) == json.loads(GOLDEN.read_text())


def test_every_answer_error_and_parameter_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert len(document["paths"]) >= 21
    for path, operations in document["paths"].items():
        assert path.startswith(("/v1/ledgers", "/v1/balances", "/v1/trial-balance"))
        assert set(operations) == {"get"}
        operation = operations["get"]
        assert "```" in operation["description"]
        answers = operation["responses"]["200"]["content"]
        if "application/json" in answers:
            answer = answers["application/json"]["schema"]["$ref"]
            assert schemas[answer.rpartition("/")[2]]["properties"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])
