"""/openapi.json and /docs: the API's own description, and Swagger UI on it, without a byte from elsewhere.

Litestar makes the document from the routes; here it gets the one shape that all our errors have. The files of Swagger UI
come from a folder that a setting names (the local stack unpacks them there).
"""

import html
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Reference,
    SecurityScheme,
)
from litestar.types import ControllerRouterHandler

from shared_kernel.amounts import PARAMETER
from shared_kernel.errors import DaybookError, Rejection
from shared_kernel.http_errors import PROBLEM_TYPE
from shared_kernel.problems import problem

_DESCRIBE = "daybook_describe"
_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"  # W3C Trace Context's own example
SWAGGER_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui-standalone-preset.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
# Swagger UI sets style attributes by script and embeds its icons; nothing else is let in, and nothing from elsewhere.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "Problem",
    "description": "An error, after RFC 9457. `code` is stable; codes bring fields of their own.",
    "required": ["type", "title", "status", "code", "trace_id"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:daybook:problem:insufficient_funds"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "examples": ["insufficient_funds"]},
        "detail": {"type": "string"},
        "path": {"type": "string", "description": "At 400: the JSON path, parameter or header that is wrong"},
        "trace_id": {"type": "string"},
    },
    "additionalProperties": True,
}
_AMOUNTS = {
    "name": PARAMETER,
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["integer", "string"], "default": "integer"},
    "description": "`string`: all amounts of the answer are decimal strings. `Prefer: amounts=string` asks for the same",
}
_START_SCRIPT = b"""\
// Swagger UI fills in every example there is: of parameters that may be left out it would ask for all at once.
const withoutOptional = (text) => {
  const spec = JSON.parse(text);
  for (const path of Object.values(spec.paths))
    for (const operation of Object.values(path))
      for (const parameter of operation.parameters || []) if (!parameter.required) delete parameter.examples;
  return JSON.stringify(spec);
};
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
  responseInterceptor: (answer) => {
    if (answer.url.endsWith("/openapi.json")) answer.text = withoutOptional(answer.text);
    return answer;
  },
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "BaseLayout",
});
"""
_SWAGGER_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<noscript>The API is described in <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/swagger-ui-standalone-preset.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_PLAIN_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<h1>{title}</h1>
<p>The API is described in <a href="/openapi.json">/openapi.json</a>.</p>
<p>Swagger UI is not served here: DAYBOOK_SWAGGER_DIR names no folder with its files.</p>
</body>
</html>
"""


class Told(NamedTuple):
    """What an error's status means, and an error that shows it."""

    text: str
    shown: DaybookError


def openapi_config(title: str, description: str) -> OpenAPIConfig:
    """What Litestar needs to make the document. Its own pages, which load from elsewhere, are left out."""
    return OpenAPIConfig(
        title=title,
        description=description,
        version=_version(),
        path="/docs/schema",
        render_plugins=[JsonRenderPlugin()],  # without one Litestar adds its own, with a page
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"token": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
        security=[{"token": []}],
    )


def describe_later(app: Litestar, describe: Callable[[Litestar], None]) -> None:
    """`describe` completes the document when somebody asks for it first: making it takes longer than the rest of a start."""
    app.state[_DESCRIBE] = describe


def example_of(value: object) -> dict[str, Example | Reference]:
    """The `examples` of a body with one. Litestar leaves out what is null, but not within what it does not know."""
    return {"example": Example(value=msgspec.Raw(msgspec.json.encode(value)))}


def of_tokens(role: str) -> dict[str, Told]:
    """What is told of a request without a token, and of a token without the role."""
    return {
        "401": Told("`unauthenticated`", Rejection("unauthenticated", detail="There is no Authorization header")),
        "403": Told("`forbidden`: the token lacks the role", Rejection("forbidden", role=role)),
    }


def problem_told(told: Told) -> OpenAPIResponse:
    """An error with its example."""
    _, shown = problem(told.shown, _TRACE_ID)
    schema = Reference(ref="#/components/schemas/Problem")
    content = {PROBLEM_TYPE: OpenAPIMediaType(schema=schema, examples=example_of(shown))}
    return OpenAPIResponse(description=told.text, content=content)


def told_once(document: OpenAPI, responses: Mapping[str, OpenAPIResponse]) -> dict[str, Reference]:
    """The responses stand in the document under their names; answers how operations refer to them."""
    document.components.responses = {**(document.components.responses or {}), **responses}
    return {name: Reference(ref=f"#/components/responses/{name}") for name in responses}


def openapi_document(app: Litestar) -> dict[str, Any]:
    """The OpenAPI document of an application, with our errors in place of Litestar's."""
    describe = app.state.pop(_DESCRIBE, None)
    if describe is not None:
        describe(app)
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(app.openapi_schema.to_schema()))
    document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
    any_problem = {
        "description": "An error",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in document.get("paths", {}).values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation.setdefault("parameters", []).append(_AMOUNTS)
                _say_if_optional(operation.get("requestBody"))
            if isinstance(operation, dict) and "responses" in operation:
                responses = operation["responses"]
                for status, answer in responses.items():
                    if status >= "400" and PROBLEM_TYPE not in answer.get("content", {}) and "$ref" not in answer:
                        responses[status] = any_problem | {"description": answer["description"]}
                responses.setdefault("default", any_problem)
    return document


def _say_if_optional(body: dict[str, Any] | None) -> None:
    """A body that may be null may be left out: Litestar says `required` of every body."""
    if body is not None:
        shapes = [content["schema"] for content in body["content"].values()]
        if all({"type": "null"} in shape.get("oneOf", []) for shape in shapes):
            body["required"] = False


def docs_routes(title: str, swagger_dir: Path | None) -> list[ControllerRouterHandler]:
    """/openapi.json, /docs and the files the page needs. Raises OSError if the folder lacks one of them."""
    page = _PLAIN_PAGE if swagger_dir is None else _SWAGGER_PAGE
    page_bytes = page.format(title=html.escape(title)).encode()
    encoded = lru_cache(maxsize=1)(lambda app: msgspec.json.encode(openapi_document(app)))

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def document(request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(encoded(request.app), media_type="application/json")

    @get("/docs", include_in_schema=False, sync_to_thread=False)
    def docs() -> Response[bytes]:
        headers = {"content-security-policy": CONTENT_POLICY, "referrer-policy": "no-referrer"}
        return Response(page_bytes, media_type="text/html", headers=headers)

    routes: list[ControllerRouterHandler] = [document, docs]
    if swagger_dir is not None:
        routes.append(_file_route("start.js", _START_SCRIPT, "text/javascript; charset=utf-8"))
        routes += [_file_route(name, (swagger_dir / name).read_bytes(), kind) for name, kind in SWAGGER_FILES.items()]
    return routes


def _file_route(name: str, content: bytes, media_type: str) -> HTTPRouteHandler:
    @get(f"/docs/{name}", include_in_schema=False, sync_to_thread=False)
    def file() -> Response[bytes]:
        return Response(content, media_type=media_type, headers={"cache-control": "public, max-age=3600"})

    return file


def _version() -> str:
    try:
        return version("daybook-ledger")
    except PackageNotFoundError:  # run from the work tree without an installation
        return "0"
