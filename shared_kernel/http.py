"""Puts an HTTP process together: routes, errors, health, metrics and documents behind the edge.

Command and query call `create_app` in their containers and `shared_kernel.serve` in `main`. Routes read the caller from
`request.user` and the rest from `context_of(request.scope)`. No route and no rule of theirs is known here.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.types import ControllerRouterHandler
from prometheus_client import CollectorRegistry

from shared_kernel import amounts
from shared_kernel.errors import DaybookError
from shared_kernel.health import LIVE_DOCUMENT, Health, Readiness
from shared_kernel.http_docs import docs_routes, openapi_config
from shared_kernel.http_edge import Edge, HttpMetrics
from shared_kernel.http_errors import on_daybook_error, on_exception, on_http_exception
from shared_kernel.json_text import invalid
from shared_kernel.metrics import CONTENT_TYPE, render
from shared_kernel.rates import Rates
from shared_kernel.security import TokenVerifier
from shared_kernel.settings import HttpSettings

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]


def create_app(
    *,
    title: str,
    description: str,
    route_handlers: Sequence[ControllerRouterHandler],
    lifespan: Sequence[Lifespan | AbstractAsyncContextManager[None]],
    verifier: TokenVerifier,
    health: Health,
    registry: CollectorRegistry,
    settings: HttpSettings,
    dependencies: dict[str, Any] | None = None,
) -> Edge:
    """The ASGI application of a process; `.app` is the Litestar inside, for its OpenAPI document.

    What holds for every route without its doing: a token is needed, unknown query parameters are refused, errors are
    problem documents, a log line and metrics are written. Roles and ledgers are for the routes to require.
    """
    app = Litestar(
        route_handlers=[
            *route_handlers,
            *health_routes(health, registry),
            *docs_routes(title, Path(settings.swagger_dir) if settings.swagger_dir else None),
        ],
        lifespan=list(lifespan),
        dependencies=dependencies or {},
        before_request=refuse_unknown_parameters,
        exception_handlers={
            DaybookError: on_daybook_error,
            HTTPException: on_http_exception,
            Exception: on_exception,
        },
        openapi_config=openapi_config(title, description),
        logging_config=None,  # our own lines instead
        request_max_body_size=None,  # the edge has bounded it already
        debug=False,  # never a stack trace, whatever LITESTAR_DEBUG says
    )
    return Edge(
        app,
        verifier=verifier,
        metrics=HttpMetrics(registry),
        body_bytes_max=settings.http_body_bytes_max,
        body_seconds_max=settings.http_body_seconds_max,
        requests_max=settings.http_requests_max,
        rates=Rates(settings.http_requests_per_second_max, burst=settings.http_requests_burst_max)
        if settings.http_requests_per_second_max
        else None,
    )


def health_routes(health: Health, registry: CollectorRegistry) -> list[ControllerRouterHandler]:
    """/health/live, /health/ready and /metrics, open to all that reach the port."""

    @get("/health/live", include_in_schema=False, sync_to_thread=False)
    def live() -> Response[bytes]:
        return Response(LIVE_DOCUMENT, media_type="application/json")

    @get("/health/ready", include_in_schema=False)
    async def ready() -> Response[Readiness]:
        found = await health.ready()
        return Response(found, status_code=200 if found.is_ready else 503)

    @get("/metrics", include_in_schema=False, sync_to_thread=False)
    def metrics() -> Response[bytes]:
        return Response(render(registry), media_type=CONTENT_TYPE)

    return [live, ready, metrics]


_PARAMETERS = "daybook_query_parameters"


async def refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """Before each route: query parameters that it does not declare, or that come twice, are `invalid_request`.

    A misspelt filter that is passed over gives a right-looking wrong answer (design §8). Not a guard: Litestar copies the
    handler for each call of a guard (27 µs), and it is `async` because a plain function would go through a thread (90 µs).
    """
    query = request.scope["query_string"]
    if not query:
        return
    handler = request.scope["route_handler"]
    known = handler.opt.get(_PARAMETERS)
    if known is None:
        known = handler.opt[_PARAMETERS] = _declared_parameters(request)
    try:
        given = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise invalid("$", "The query of the address cannot be read") from None
    seen: set[str] = set()
    for name, _ in given:
        if name not in known and name != amounts.PARAMETER:  # the edge reads that one, for every route
            raise invalid(name, "There is no such query parameter")
        if name in seen:
            raise invalid(name, "The query parameter is given twice")
        seen.add(name)


def _declared_parameters(request: Request[Any, Any, Any]) -> frozenset[str]:
    names: Any = request.scope["path_params"]  # of the path's parameters only the names are looked at
    model = request.scope["route_handler"].create_kwargs_model(path_parameters=names)
    return frozenset(parameter.field_alias for parameter in model.expected_query_params)
