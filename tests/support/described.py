"""What is held of an OpenAPI document: wherever a body, a parameter or an error stands there is an example, and it fits its schema."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

Json = dict[str, Any]


class Place(NamedTuple):
    """Where an example belongs, the schema there, and the examples that there are."""

    name: str
    schema: Json
    examples: list[Any]


def places(document: Json) -> Iterator[Place]:
    """All of them; of parameters those whose form is not plain from their schema."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method} {path}"
            for parameter in operation.get("parameters", []):
                if not _is_plain(parameter):
                    yield _place(f"{name} {parameter['name']}", parameter)
            bodies = {"body": operation["requestBody"]} if "requestBody" in operation else {}
            for status, answer in operation["responses"].items():
                if status != "default":  # any other error, and so an example of none
                    bodies[status] = told(document, answer)
            for part, body in bodies.items():
                for media_type, content in body.get("content", {}).items():
                    yield _place(f"{name} {part} {media_type}", content)


def told(document: Json, answer: Json) -> Json:
    """The answer, also where the operation refers to one that it shares with others."""
    if "$ref" not in answer:
        return answer
    found: Json = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    return found


def without_example(document: Json) -> list[str]:
    """The names of places that lack one."""
    return [place.name for place in places(document) if not place.examples]


def misfits(document: Json) -> list[str]:
    """What the schemas say against the examples."""
    return [
        f"{place.name}: {error.message}"
        for place in places(document)
        for example in place.examples
        for error in Draft202012Validator(place.schema | {"components": document["components"]}).iter_errors(example)
    ]


def _is_plain(parameter: Json) -> bool:
    schema = parameter["schema"]
    return "enum" in schema or schema.get("type") == "boolean" or parameter["name"] == "limit"


def shown(holder: Json) -> list[Any]:
    """The examples of a parameter or of a body in one media type."""
    return [example["value"] for example in holder.get("examples", {}).values()]


def _place(name: str, holder: Json) -> Place:
    return Place(name, holder["schema"], shown(holder))
