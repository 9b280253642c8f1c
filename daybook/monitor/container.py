"""Wires a monitor: the one place where its concrete classes are named. No logic."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dependency_injector import containers, providers
from litestar import Litestar
from litestar.di import Provide
from prometheus_client import CollectorRegistry

from daybook.monitor.application.watch import Pace, Watch
from daybook.monitor.domain.alerts import Hysteresis
from daybook.monitor.domain.cancelling import Policy
from daybook.monitor.domain.findings import Limits
from daybook.monitor.infrastructure.figures import MonitorFigures
from daybook.monitor.infrastructure.postgres import PostgresWatched
from daybook.monitor.infrastructure.process_metrics import ProcessMetrics
from daybook.monitor.infrastructure.redis_locks import NoLockTable, RedisLockTable
from daybook.monitor.infrastructure.webhook import NoBell, Webhook
from daybook.monitor.presentation.routes import Operations
from daybook.monitor.settings import MonitorSettings
from shared_kernel.errors import DaybookError
from shared_kernel.health import Health
from shared_kernel.http import Lifespan, create_app
from shared_kernel.http_edge import Edge
from shared_kernel.keys import Keys, open_keys
from shared_kernel.metrics import new_registry
from shared_kernel.security import TokenVerifier
from shared_kernel.transactions import TransactionFigures, Transactions

TITLE = "Daybook monitor"
DESCRIPTION = """Who waits for whom, how far everything is behind, and what is wrong.

For operators: role `operator`. What concerns a ledger that the token does not cover is left out."""


def _lock_table(settings: MonitorSettings) -> RedisLockTable | NoLockTable:
    if not settings.redis_url:
        return NoLockTable()
    return RedisLockTable(settings.redis_url, timeout_ms=settings.redis_timeout_ms, locks_max=settings.locks_max)


def _bell(settings: MonitorSettings, figures: MonitorFigures) -> Webhook | NoBell:
    if not settings.webhook_url:
        return NoBell()
    return Webhook(
        settings.webhook_url,
        figures,
        timeout_ms=settings.webhook_timeout_ms,
        attempts_max=settings.webhook_attempts_max,
    )


def _lifespan(
    keys: Keys, watch: Watch, watched: PostgresWatched, lock_table: RedisLockTable | NoLockTable, bell: Webhook | NoBell
) -> Lifespan:
    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(watch.run(), name="watch"), asyncio.create_task(bell.run(), name="webhook")]
        try:
            yield
        finally:
            tasks[0].cancel()
            await bell.close()
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await watched.close()
            if isinstance(lock_table, RedisLockTable):
                await lock_table.close()
            keys.close()

    return running


def _right_to_signal(settings: MonitorSettings, watched: PostgresWatched) -> Callable[[], object]:
    async def check() -> str | None:
        if settings.cancelling == "off":
            return None
        try:
            may = await watched.may_signal()
        except DaybookError:
            return None  # the check of the watch says so
        return None if may else "DAYBOOK_CANCELLING is on, and the role is no member of pg_signal_backend"

    return check


def _app(
    *,
    settings: MonitorSettings,
    verifier: TokenVerifier,
    health: Health,
    registry: CollectorRegistry,
    keys: Keys,
    watch: Watch,
    watched: PostgresWatched,
    lock_table: RedisLockTable | NoLockTable,
    bell: Webhook | NoBell,
) -> Edge:
    health.register("looks", watch.trouble)
    health.register("cancelling", _right_to_signal(settings, watched))  # type: ignore[arg-type]
    return create_app(
        title=TITLE,
        description=DESCRIPTION,
        route_handlers=(Operations,),
        lifespan=[_lifespan(keys, watch, watched, lock_table, bell)],
        verifier=verifier,
        health=health,
        registry=registry,
        settings=settings,
        dependencies={"records": Provide(lambda: watched, use_cache=True, sync_to_thread=False)},
    )


class Container(containers.DeclarativeContainer):
    """One process. `settings` is given by `__main__`."""

    settings = providers.Dependency(instance_of=MonitorSettings)
    registry = providers.Singleton(new_registry)
    health = providers.Singleton(Health)
    figures = providers.Singleton(MonitorFigures, registry)
    keys = providers.Singleton(open_keys, settings)
    verifier = providers.Singleton(
        TokenVerifier,
        keys,
        issuer=settings.provided.jwt_issuer,
        audience=settings.provided.jwt_audience,
        leeway_seconds=settings.provided.jwt_leeway_seconds,
    )
    watched = providers.Singleton(
        PostgresWatched,
        settings.provided.postgres_url,
        timeout_ms=settings.provided.look_timeout_ms,
        transactions=providers.Singleton(Transactions, providers.Singleton(TransactionFigures, registry)),
    )
    lock_table = providers.Singleton(_lock_table, settings)
    bell = providers.Singleton(_bell, settings, figures)
    watch = providers.Singleton(
        Watch,
        watched=watched,
        lock_table=lock_table,
        processes=providers.Singleton(
            ProcessMetrics,
            providers.Callable(str.split, settings.provided.metrics_urls),
            timeout_ms=settings.provided.metrics_timeout_ms,
        ),
        bell=bell,
        figures=figures,
        limits=providers.Singleton(
            Limits,
            transaction_ms_max=settings.provided.transaction_ms_max,
            blocked_ms_max=settings.provided.blocked_ms_max,
            lock_ms_max=settings.provided.lock_ms_max,
            lag_ms_max=settings.provided.lag_ms_max,
        ),
        hysteresis=providers.Singleton(
            Hysteresis, raise_looks=settings.provided.raise_looks, clear_looks=settings.provided.clear_looks
        ),
        policy=providers.Singleton(
            Policy,
            cancelling=settings.provided.cancelling,
            cancel_after_ms=settings.provided.cancel_after_ms,
            terminate_after_ms=settings.provided.terminate_after_ms,
        ),
        pace=providers.Singleton(
            Pace,
            look_ms=settings.provided.look_ms,
            rows_max=settings.provided.history_rows_max,
            days_max=settings.provided.history_days_max,
        ),
        name=providers.Callable(lambda: f"{socket.gethostname()}/{os.getpid()}"),
    )
    app = providers.Singleton(
        _app,
        settings=settings,
        verifier=verifier,
        health=health,
        registry=registry,
        keys=keys,
        watch=watch,
        watched=watched,
        lock_table=lock_table,
        bell=bell,
    )
