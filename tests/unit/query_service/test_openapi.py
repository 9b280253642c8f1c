"""The API's description is part of the contract: its bytes are golden. UPDATE_GOLDEN=1 writes them anew."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc.jwk import ECKey
from litestar import Litestar

from query_service.container import Container
from query_service.presentation import examples
from query_service.settings import QuerySettings
from shared_kernel.http_docs import openapi_document
from shared_kernel.settings import Secret
from tests.support import described

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
    assert len(document["paths"]) >= 22
    for path, operations in document["paths"].items():
        assert path.startswith(("/v1/ledgers", "/v1/balances", "/v1/trial-balance", "/v1/graphql"))
        [(method, operation)] = operations.items()
        assert method == ("post" if path == "/v1/graphql" else "get")
        answers = operation["responses"]["200"]["content"]
        if "application/json" in answers and method == "get":
            answer = answers["application/json"]["schema"]["$ref"]
            assert schemas[answer.rpartition("/")[2]]["properties"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])


def test_every_body_error_and_odd_parameter_has_an_example_that_fits(document: dict[str, Any]) -> None:
    assert described.without_example(document) == []
    assert described.misfits(document) == []


def test_an_example_is_the_one_that_the_description_shows(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for media_type, content in operation["responses"]["200"]["content"].items():
                [example] = content["examples"].values()
                fence = examples.FENCES[media_type]
                shown = operation["description"].partition(f"```{fence}\n")[2].partition("\n```")[0]
                assert example["value"] == (json.loads(shown) if media_type == "application/json" else shown)


def test_the_errors_that_a_client_meets_are_told_once(document: dict[str, Any]) -> None:
    met: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status not in ("200", "default"):
                    assert answer == {
                        "$ref": f"#/components/responses/{'Unchanged' if status == '304' else f'Problem{status}'}"
                    }
                    met.setdefault(status, []).append(path)
    everywhere = set(document["paths"])
    of_one = {path for path in everywhere if "{ledger}" in path}
    of_some = of_one | {"/v1/balances", "/v1/trial-balance"}
    assert {status: set(paths) for status, paths in met.items()} == {
        "304": everywhere - {"/v1/graphql"},
        "400": everywhere,
        "401": everywhere,
        "403": everywhere - {"/v1/graphql"},
        "404": of_some,
        "409": of_one,
        "503": everywhere,
    }
    assert "content" not in document["components"]["responses"]["Unchanged"]
    for name, answer in document["components"]["responses"].items():
        for content in answer.get("content", {}).values():
            assert [f"Problem{each['value']['status']}" for each in content["examples"].values()] == [name]
