"""The parts of command process and clock and how they fit together. The only place that names concrete classes; no logic."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from dependency_injector import containers, providers
from litestar import Litestar
from litestar.di import Provide
from prometheus_client import CollectorRegistry

from command_service.application.clock import Clock, Pace
from command_service.application.decisions import DECISIONS
from command_service.application.executor import Executor
from command_service.application.writer import Bounds
from command_service.infrastructure.account_locks import AccountLocks
from command_service.infrastructure.clock_metrics import PrometheusClock
from command_service.infrastructure.clock_process import ClockProcess
from command_service.infrastructure.due import PostgresDue
from command_service.infrastructure.lease import RedisLeases
from command_service.infrastructure.locks import NoLocks, RedisLocks
from command_service.infrastructure.metrics import CommandMetrics
from command_service.infrastructure.process import CommandProcess
from command_service.infrastructure.redis_link import RedisLink
from command_service.presentation.commands import Commands
from command_service.presentation.openapi import describe_requests
from command_service.presentation.routes import ROUTES, DirectRoutes
from command_service.settings import ClockSettings, CommandSettings
from shared_kernel import lock_table
from shared_kernel.breaker import Breaker, BreakerFigures, bounds_of
from shared_kernel.event_log.pool import LogPool
from shared_kernel.event_log.types import Tail
from shared_kernel.health import Health, HealthServer
from shared_kernel.http import create_app
from shared_kernel.http_docs import describe_later
from shared_kernel.http_edge import Edge
from shared_kernel.keys import open_keys
from shared_kernel.metrics import new_registry
from shared_kernel.redis_client import connect_redis
from shared_kernel.security import TokenVerifier
from shared_kernel.transactions import TransactionFigures, Transactions

TITLE = "Daybook commands"
DESCRIPTION = """The write side: what is to be done, done at most once, and answered the same each time.

Send every command with an `Idempotency-Key` and repeat it with the same key until it is answered: it is applied once. What the
rules turn down is a 422 with a stable `code`, recorded like any other event. `Daybook-Position` says where in its ledger's log
the command stands: give it to a query, and the answer knows the command."""


def _pool(
    settings: CommandSettings | ClockSettings,
    connections_max: int,
    transactions: Transactions | None = None,
    breaker: Breaker | None = None,
    *,
    is_for_health: bool = False,
    refused: Callable[[], None] = lambda: None,
) -> LogPool:
    return LogPool(
        settings.postgres_url,
        name="daybook command" if isinstance(settings, CommandSettings) else "daybook clock",
        connections_max=connections_max,
        borrow_timeout_ms=settings.log_borrow_timeout_ms,
        connect_timeout_ms=settings.log_connect_timeout_ms,
        silence_timeout_ms=settings.log_silence_timeout_ms,
        settle_timeout_ms=settings.log_settle_timeout_ms,
        lock_timeout_ms=settings.log_lock_timeout_ms,
        statement_timeout_ms=settings.log_statement_timeout_ms,
        transactions=transactions,
        breaker=breaker,
        is_for_health=is_for_health,
        refused=refused,
    )


def _locks(
    *, settings: CommandSettings, pool: LogPool, metrics: CommandMetrics, breaker: Breaker
) -> RedisLocks | NoLocks:
    if settings.locks == "off" or not settings.redis_url:
        return NoLocks()
    redis = connect_redis(settings.redis_url, timeout_ms=settings.redis_timeout_ms)
    link = RedisLink(redis, metrics=metrics, breaker=breaker)
    worker = lock_table.worker_name()
    accounts = AccountLocks(
        link,
        worker=worker,
        incarnation=lambda: pool.incarnation,
        metrics=metrics,
        lease_ms=settings.lease_ms,
        timeout_ms=settings.lock_timeout_ms,
        background_timeout_ms=settings.redis_timeout_ms,
        mark_ms=max(1, settings.lock_wait_ms),  # nobody waits for longer
        slow_ms=settings.lock_slow_ms,
    )
    leases = RedisLeases(
        link,
        worker=worker,
        incarnation=lambda: pool.incarnation,
        metrics=metrics,
        lease_ms=settings.lease_ms,
        timeout_ms=settings.redis_timeout_ms,
        ledgers_max=settings.lease_ledgers_max,
    )
    return RedisLocks(link, accounts, leases if settings.locks == "adaptive" else None)


def _bounds(settings: CommandSettings) -> Bounds:
    return Bounds(
        batch_commands_max=settings.batch_commands_max,
        batch_entries_max=settings.batch_entries_max,
        queue_commands_max=settings.queue_commands_max,
        queue_wait_s_max=settings.queue_wait_ms_max / 1_000,
        tail=Tail(events_max=settings.tail_events_max, bytes_max=settings.tail_bytes_max),
        conflicts_before_slow_path=settings.conflicts_before_slow_path,
        follow_commands_min=settings.follow_commands_min,
        lock_wait_s=settings.lock_wait_ms / 1_000,
        slow_s=settings.lock_slow_ms / 1_000,
        idle_s=settings.ledger_idle_seconds,
    )


def _app(
    *,
    settings: CommandSettings,
    verifier: TokenVerifier,
    health: Health,
    registry: CollectorRegistry,
    metrics: CommandMetrics,
    executor: Executor,
    pool: LogPool,
    commands: Commands,
    process: CommandProcess,
    breakers: Sequence[Breaker],
) -> Edge:
    health.register("database", process.check_database)
    for breaker in breakers:
        health.note(f"{breaker.dependency}_breaker", breaker.tell)
    metrics.watch(lambda: executor.waiting, pool)
    edge = create_app(
        title=TITLE,
        description=DESCRIPTION,
        route_handlers=ROUTES,
        lifespan=[process.lifespan],
        verifier=verifier,
        health=health,
        registry=registry,
        settings=settings,
        dependencies={"commands": Provide(lambda: commands, use_cache=True, sync_to_thread=False)},
    )
    describe_later(cast("Litestar", edge.app), describe_requests)
    edge.app = DirectRoutes(edge.app, commands)
    return edge


class Container(containers.DeclarativeContainer):
    """One process. `settings` is given by `__main__`."""

    settings = providers.Dependency(instance_of=CommandSettings)
    registry = providers.Singleton(new_registry)
    health = providers.Singleton(Health)
    metrics = providers.Singleton(CommandMetrics, registry)
    keys = providers.Singleton(open_keys, settings)
    verifier = providers.Singleton(
        TokenVerifier,
        keys,
        issuer=settings.provided.jwt_issuer,
        audience=settings.provided.jwt_audience,
        leeway_seconds=settings.provided.jwt_leeway_seconds,
    )
    transactions = providers.Singleton(Transactions, providers.Singleton(TransactionFigures, registry))
    breaker_figures = providers.Singleton(BreakerFigures, registry)
    postgres_bounds = providers.Factory(bounds_of, "postgres", settings)
    postgres_breaker = providers.Singleton(Breaker, "postgres", bounds=postgres_bounds, figures=breaker_figures)
    pool = providers.Singleton(
        _pool,
        settings,
        settings.provided.log_connections_max,
        transactions,
        postgres_breaker,
        refused=metrics.provided.connection_refused,
    )
    probe = providers.Singleton(_pool, settings, 1, breaker=postgres_breaker, is_for_health=True)
    redis_bounds = providers.Factory(bounds_of, "redis", settings)
    redis_breaker = providers.Singleton(Breaker, "redis", bounds=redis_bounds, figures=breaker_figures)
    locks = providers.Singleton(_locks, settings=settings, pool=pool, metrics=metrics, breaker=redis_breaker)
    executor = providers.Singleton(
        Executor,
        log=pool,
        locks=locks,
        metrics=metrics,
        bounds=providers.Singleton(_bounds, settings),
        deadline_s=settings.provided.command_seconds_max,
    )
    commands = providers.Singleton(
        lambda executor, settings: Commands(
            executor,
            query_url=settings.query_public_url.rstrip("/"),
            clock=lambda: datetime.now(UTC),
            effective_ahead=timedelta(days=settings.effective_ahead_days_max),
        ),
        executor,
        settings,
    )
    process = providers.Singleton(CommandProcess, executor=executor, locks=locks, pool=pool, probe=probe, keys=keys)
    app = providers.Singleton(
        _app,
        settings=settings,
        verifier=verifier,
        health=health,
        registry=registry,
        metrics=metrics,
        executor=executor,
        pool=pool,
        commands=commands,
        process=process,
        breakers=providers.List(postgres_breaker, redis_breaker),
    )


class ClockContainer(containers.DeclarativeContainer):
    """One clock. `settings` is given by `__main__`."""

    settings = providers.Dependency(instance_of=ClockSettings)
    registry = providers.Singleton(new_registry)
    health = providers.Singleton(Health)
    stop = providers.Singleton(asyncio.Event)
    transactions = providers.Singleton(Transactions, providers.Singleton(TransactionFigures, registry))
    breaker_figures = providers.Singleton(BreakerFigures, registry)
    postgres_bounds = providers.Factory(bounds_of, "postgres", settings)
    postgres_breaker = providers.Singleton(Breaker, "postgres", bounds=postgres_bounds, figures=breaker_figures)
    pool = providers.Singleton(_pool, settings, settings.provided.log_connections_max, transactions, postgres_breaker)
    executor = providers.Singleton(
        Executor,
        log=pool,
        locks=providers.Singleton(NoLocks),  # a clock writes a little everywhere: no lease is worth its while
        metrics=providers.Singleton(CommandMetrics, registry),
        bounds=providers.Singleton(Bounds),
        deadline_s=settings.provided.command_seconds_max,
    )
    due = providers.Singleton(
        PostgresDue,
        settings.provided.postgres_url,
        page_max=settings.provided.page_commands_max,
        connect_timeout_ms=settings.provided.log_connect_timeout_ms,
        silence_timeout_ms=settings.provided.log_silence_timeout_ms,
        statement_timeout_ms=settings.provided.log_statement_timeout_ms,
        breaker=postgres_breaker,
    )
    clock = providers.Singleton(
        Clock,
        due=due,
        executor=executor,
        decisions=providers.Object(DECISIONS),
        metrics=providers.Singleton(PrometheusClock, registry),
        pace=providers.Singleton(Pace, poll_ms=settings.provided.poll_ms, retry_max_ms=settings.provided.retry_max_ms),
        now=providers.Object(lambda: datetime.now(UTC)),
        stop=stop,
    )
    process = providers.Singleton(
        ClockProcess,
        clock=clock,
        stop=stop,
        executor=executor,
        due=due,
        pool=pool,
        breaker=postgres_breaker,
        health=health,
        server=providers.Singleton(
            HealthServer,
            health,
            registry,
            host=settings.provided.health_host,
            port=settings.provided.health_port,
        ),
    )
