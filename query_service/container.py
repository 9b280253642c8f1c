"""Wires a query process: the one place where its concrete classes are named. No logic."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, cast

from dependency_injector import containers, providers
from litestar import Litestar
from litestar.di import Provide
from litestar.types import ControllerRouterHandler
from prometheus_client import CollectorRegistry

from query_service.application.exports import Exports
from query_service.application.log_reader import LogReader
from query_service.application.query_handler import QueryHandler
from query_service.infrastructure import statements
from query_service.infrastructure.announcements import Announcements
from query_service.infrastructure.appended_listener import AppendedListener
from query_service.infrastructure.cached_books import CachedBooks
from query_service.infrastructure.figures import QueryFigures
from query_service.infrastructure.postgres_books import PostgresBooks
from query_service.infrastructure.replicas import Replica, ReplicatedBooks
from query_service.infrastructure.visible_listener import VisibleListener
from query_service.presentation.across_routes import Across
from query_service.presentation.export_routes import EXPORT_ROUTES
from query_service.presentation.graph_routes import Graph
from query_service.presentation.log_routes import LOG_ROUTES
from query_service.presentation.openapi import describe_answers
from query_service.presentation.refusal_routes import Refusals
from query_service.presentation.report_routes import Reports
from query_service.presentation.routes import Books, Ledgers
from query_service.presentation.statement_routes import Statements
from query_service.presentation.streams import Streams
from query_service.presentation.transaction_routes import Transactions
from query_service.settings import QuerySettings
from shared_kernel.breaker import Breaker, BreakerFigures, bounds_of
from shared_kernel.health import Health
from shared_kernel.http import Lifespan, create_app
from shared_kernel.http_docs import describe_later
from shared_kernel.http_edge import Edge
from shared_kernel.keys import Keys, open_keys
from shared_kernel.metrics import new_registry
from shared_kernel.postgres import conninfo
from shared_kernel.redis_client import connect_redis
from shared_kernel.security import TokenVerifier

TITLE = "Daybook queries"
DESCRIPTION = """The read side: what the books say, and as of which position.

Every answer says `as_of` and carries the same position in the header `Daybook-Position`. Give a query the
`Daybook-Position` that a command answered with, and the answer knows that command: it waits up to `Prefer: wait=` seconds
for it. Lists come in pages that hold still while others post: give `next_cursor` as `cursor`."""

ROUTES: Sequence[ControllerRouterHandler] = (
    Ledgers,
    Books,
    Transactions,
    Reports,
    Statements,
    Across,
    Refusals,
    *LOG_ROUTES,
    *EXPORT_ROUTES,
    Graph,
)


def _app(
    *,
    settings: QuerySettings,
    verifier: TokenVerifier,
    health: Health,
    registry: CollectorRegistry,
    figures: QueryFigures,
    keys: Keys,
    books: PostgresBooks,
    cached: CachedBooks | None,
    replicas: Sequence[Replica],
    replicated: ReplicatedBooks,
    announcements: Announcements,
    handler: QueryHandler,
    log: LogReader,
    exports: Exports,
    streams: Streams,
    breakers: Sequence[Breaker],
) -> Edge:
    health.register("postgres", books.check_database)
    health.register("books", books.check_live)
    for breaker in (*breakers, *(replica.breaker for replica in replicas)):
        health.note(f"{breaker.dependency}_breaker", breaker.tell)
    health.when_stopping(streams.stop)
    figures.watch_streams(lambda: streams.running)
    edge = create_app(
        title=TITLE,
        description=DESCRIPTION,
        route_handlers=ROUTES,
        lifespan=[_lifespan(keys, cached, (books, replicated, announcements))],
        verifier=verifier,
        health=health,
        registry=registry,
        settings=settings,
        dependencies={
            "handler": Provide(handler.for_request, sync_to_thread=False),
            "log": Provide(lambda: log, use_cache=True, sync_to_thread=False),
            "exports": Provide(lambda: exports, use_cache=True, sync_to_thread=False),
            "streams": Provide(lambda: streams, use_cache=True, sync_to_thread=False),
        },
    )
    describe_later(cast("Litestar", edge.app), describe_answers)
    return edge


def _replicas(
    settings: QuerySettings, known: statements.Statements, figures: QueryFigures, breakers: BreakerFigures
) -> list[Replica]:
    return [
        Replica(
            PostgresBooks(
                url=url,
                statements=known,
                figures=figures,
                connections_max=settings.postgres_connections_max,
                requests_waiting_max=settings.postgres_requests_waiting_max,
                pool_wait_ms=settings.postgres_pool_wait_ms,
                connect_ms=settings.postgres_connect_ms,
                silence_ms=settings.postgres_silence_ms,
                reconnect_ms=settings.postgres_reconnect_ms,
                statement_ms=settings.postgres_statement_ms,
                overdue_ms=settings.postgres_overdue_ms,
                server=breaker.dependency,
                attempts_max=2,  # another generation may have become live; all else is the primary's to mend
                breaker=breaker,
            ),
            breaker,
            conninfo=conninfo(
                url,
                name="daybook query",
                connect_ms=settings.postgres_connect_ms,
                silence_ms=settings.postgres_silence_ms,
            ),
            figures=figures,
            check_ms=settings.postgres_replica_check_ms,
            lag_ms_max=settings.postgres_replica_lag_ms_max,
        )
        for number, url in enumerate((settings.postgres_replica_urls or "").split(), start=1)
        for breaker in (Breaker(f"replica-{number}", bounds=bounds_of("replica", settings), figures=breakers),)
    ]


def _cached(
    settings: QuerySettings,
    replicated: ReplicatedBooks,
    visible: VisibleListener,
    figures: QueryFigures,
    breaker: Breaker,
) -> CachedBooks | None:
    if not settings.cache_url:
        return None
    return CachedBooks(
        replicated,
        connect_redis(settings.cache_url, timeout_ms=settings.cache_timeout_ms),
        visible,
        figures,
        seconds_max=settings.cache_seconds_max,
        live_ms=settings.cache_live_ms,
        bytes_max=settings.cache_bytes_max,
        entry_bytes_max=settings.cache_entry_bytes_max,
        timeout_ms=settings.cache_timeout_ms,
        breaker=breaker,
    )


def _first(cached: CachedBooks | None, replicated: ReplicatedBooks) -> CachedBooks | ReplicatedBooks:
    return replicated if cached is None else cached


class _Part(Protocol):
    async def open(self) -> None: ...
    async def close(self) -> None: ...


def _lifespan(keys: Keys, cached: CachedBooks | None, parts: Sequence[_Part]) -> Lifespan:
    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(keys.close)
            for part in parts:
                await part.open()
                stack.push_async_callback(part.close)
            if cached is not None:
                stack.push_async_callback(cached.close)
            yield

    return running


class Container(containers.DeclarativeContainer):
    """One process. `settings` is given by `__main__`."""

    settings = providers.Dependency(instance_of=QuerySettings)
    registry = providers.Singleton(new_registry)
    health = providers.Singleton(Health)
    figures = providers.Singleton(QueryFigures, registry)
    breaker_figures = providers.Singleton(BreakerFigures, registry)
    postgres_bounds = providers.Factory(bounds_of, "postgres", settings)
    postgres_breaker = providers.Singleton(Breaker, "postgres", bounds=postgres_bounds, figures=breaker_figures)
    cache_bounds = providers.Factory(bounds_of, "cache", settings)
    cache_breaker = providers.Singleton(Breaker, "cache", bounds=cache_bounds, figures=breaker_figures)
    keys = providers.Singleton(open_keys, settings)
    verifier = providers.Singleton(
        TokenVerifier,
        keys,
        issuer=settings.provided.jwt_issuer,
        audience=settings.provided.jwt_audience,
        leeway_seconds=settings.provided.jwt_leeway_seconds,
    )
    all_statements = providers.Singleton(statements.Statements.load)
    books = providers.Singleton(
        PostgresBooks,
        url=settings.provided.postgres_url,
        statements=all_statements,
        figures=figures,
        connections_max=settings.provided.postgres_connections_max,
        requests_waiting_max=settings.provided.postgres_requests_waiting_max,
        pool_wait_ms=settings.provided.postgres_pool_wait_ms,
        connect_ms=settings.provided.postgres_connect_ms,
        silence_ms=settings.provided.postgres_silence_ms,
        reconnect_ms=settings.provided.postgres_reconnect_ms,
        statement_ms=settings.provided.postgres_statement_ms,
        overdue_ms=settings.provided.postgres_overdue_ms,
        breaker=postgres_breaker,
    )
    replicas = providers.Singleton(_replicas, settings, all_statements, figures, breaker_figures)
    replicated = providers.Singleton(ReplicatedBooks, books, replicas, figures)
    visible = providers.Singleton(VisibleListener, figures)
    appended = providers.Singleton(AppendedListener)
    announcements = providers.Singleton(
        Announcements,
        providers.Callable(
            conninfo,
            settings.provided.postgres_url,
            name="daybook query listener",
            connect_ms=settings.provided.postgres_connect_ms,
            silence_ms=settings.provided.postgres_silence_ms,
        ),
        providers.List(visible, appended),
    )
    cached = providers.Singleton(_cached, settings, replicated, visible, figures, cache_breaker)
    handler = providers.Singleton(
        QueryHandler,
        providers.Callable(_first, cached, replicated),
        visible,
        figures,
        wait_ms=settings.provided.wait_ms,
        wait_ms_max=settings.provided.wait_ms_max,
        poll_ms=settings.provided.visible_poll_ms,
        seconds_max=settings.provided.query_seconds_max,
    )
    # Who follows a log is woken by the primary: a replica may not have yet what was announced.
    primary = providers.Singleton(
        QueryHandler,
        books,
        visible,
        figures,
        wait_ms=settings.provided.wait_ms,
        wait_ms_max=settings.provided.wait_ms_max,
        poll_ms=settings.provided.visible_poll_ms,
        seconds_max=settings.provided.query_seconds_max,
    )
    log = providers.Singleton(
        LogReader,
        handler,
        appended,
        primary=primary,
        reads_max=settings.provided.stream_reads_max,
        poll_ms=settings.provided.follow_poll_ms,
    )
    exports = providers.Singleton(Exports, handler, log)
    streams = providers.Singleton(
        Streams,
        streams_max=settings.provided.streams_max,
        stall_seconds_max=settings.provided.stream_stall_seconds_max,
        stop_seconds_max=settings.provided.http_stop_seconds_max,
    )
    app = providers.Singleton(
        _app,
        settings=settings,
        verifier=verifier,
        health=health,
        registry=registry,
        figures=figures,
        keys=keys,
        books=books,
        cached=cached,
        replicas=replicas,
        replicated=replicated,
        announcements=announcements,
        handler=handler,
        log=log,
        exports=exports,
        streams=streams,
        breakers=providers.List(postgres_breaker, cache_breaker),
    )
