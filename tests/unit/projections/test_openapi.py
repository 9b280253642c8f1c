"""The operators' API's description is part of the contract: its bytes are golden. UPDATE_GOLDEN=1 writes them anew."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from litestar import Litestar

from projections.container import ProjectorsContainer
from projections.settings import ProjectorSettings
from shared_kernel.http_docs import openapi_document
from shared_kernel.settings import Secret
from tests.support import tokens

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi" / "operations.json"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """What /openapi.json serves."""
    settings = ProjectorSettings(
        postgres_url=Secret("postgresql://none"),
        http_port=1,
        kafka_bootstrap="none",
        jwt_issuer="i",
        jwt_audience="a",
        jwt_keys_file=str(tokens.keys_file(tmp_path)),
    )
    return openapi_document(cast("Litestar", ProjectorsContainer(settings=settings).app().app))


def test_description_is_the_golden_one(document: dict[str, Any]) -> None:
    document["info"]["version"] = "…"  # a release is no change of the API
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert json.loads(text) == json.loads(GOLDEN.read_text())


def test_every_answer_error_and_parameter_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        assert path.startswith("/v1/operations/")
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            [done] = (told for status, told in operation["responses"].items() if status < "300")
            answer = done["content"]["application/json"]["schema"]["$ref"]
            assert schemas[answer.rpartition("/")[2]]["properties"]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (path, parameter["name"])
