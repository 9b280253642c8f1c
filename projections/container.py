"""Wires relay and projector: the one place where their concrete classes are named. No logic."""

import asyncio
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from dependency_injector import containers, providers
from litestar import Litestar
from litestar.di import Provide
from litestar.types import ControllerRouterHandler
from prometheus_client import CollectorRegistry

from projections.application.dead_letters import Postbox
from projections.application.feeding import Feeder
from projections.application.figures import Figures, RelayFigures
from projections.application.jobs import JobLoop
from projections.application.ports import Generation
from projections.application.projector import Pace, Projector
from projections.application.relay import Relay, RelayPace
from projections.application.together import Loop, Together
from projections.application.watching import Watch
from projections.application.worker import Bounds, Worker
from projections.domain.projection import Projection
from projections.infrastructure.child_processes import ChildProcesses
from projections.infrastructure.kafka import KafkaPublisher, KafkaSource
from projections.infrastructure.kafka_clients import KafkaClients
from projections.infrastructure.kafka_dead_letters import KafkaDeadLetterTopic
from projections.infrastructure.postgres import Database, bounds_of
from projections.infrastructure.postgres_controls import PostgresControls
from projections.infrastructure.postgres_dead_letters import PostgresDeadLetters
from projections.infrastructure.postgres_generations import PostgresGenerations
from projections.infrastructure.postgres_jobs import PostgresJobs
from projections.infrastructure.postgres_log import PostgresLog
from projections.infrastructure.postgres_operations import PostgresOperations
from projections.infrastructure.postgres_parking import PostgresParking
from projections.infrastructure.postgres_reached import PostgresReached, PostgresRelayReached
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.postgres_relayed import PostgresRelayed
from projections.infrastructure.postgres_wakeups import PostgresWakeups
from projections.infrastructure.shipped import Found, found, installed
from projections.presentation import operations_routes, parking_routes
from projections.presentation.figures import PROJECTOR, RELAY, FiguresCollector, readiness
from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.breaker import Breaker, BreakerFigures
from shared_kernel.breaker import bounds_of as breaker_bounds_of
from shared_kernel.health import Health, HealthServer
from shared_kernel.http import Lifespan, create_app
from shared_kernel.http_edge import Edge
from shared_kernel.keys import Keys, open_keys
from shared_kernel.metrics import new_registry
from shared_kernel.security import TokenVerifier
from shared_kernel.transactions import TransactionFigures, Transactions

TITLE = "Daybook operations"
DESCRIPTION = """The operators' side: how the projections and the relay stand, and what is to become of them.

Any projector process answers for all of them: what it knows is in Postgres. Every route needs the role `operator`."""
ROUTES: Sequence[ControllerRouterHandler] = (
    operations_routes.Projections,
    operations_routes.Relay,
    operations_routes.Trail,
    parking_routes.Standing,
)


def _owner() -> str:
    return f"{socket.gethostname()}/{secrets.token_hex(4)}"


def _health(figures: Mapping[str, Figures | RelayFigures], breakers: Sequence[Breaker] = ()) -> Health:
    health = Health()
    for name, of in figures.items():
        health.register(name, readiness(of))
    for breaker in breakers:
        health.note(f"{breaker.dependency}_breaker", breaker.tell)
    return health


def _kafka(settings: RelaySettings | ProjectorSettings) -> KafkaClients:
    return KafkaClients(
        bootstrap=settings.kafka_bootstrap,
        connect_ms=settings.kafka_connect_ms,
        request_ms=settings.kafka_request_ms,
        admin_ms=settings.kafka_admin_ms,
    )


def _with(registry: CollectorRegistry, collector: FiguresCollector) -> CollectorRegistry:
    registry.register(collector)
    return registry


def _worker_of(
    *,
    database: Database,
    projection: Projection,
    log: PostgresLog,
    figures: Figures,
    bounds: Bounds,
    stop: threading.Event,
) -> Callable[[Generation], Worker]:
    def pause(wait_s: float) -> None:
        stop.wait(wait_s)

    def worker_of(generation: Generation) -> Worker:
        model = PostgresReadModel(database, projection=projection, generation=generation)
        return Worker(
            projection,
            model=model,
            log=log,
            figures=figures,
            bounds=bounds,
            monotonic=time.monotonic,
            pause=pause,
        )

    return worker_of


class RelayContainer(containers.DeclarativeContainer):
    """One relay. `settings` is given by `__main__`."""

    settings = providers.Dependency(instance_of=RelaySettings)
    stop = providers.Singleton(threading.Event)
    figures = providers.Singleton(RelayFigures)
    registry = providers.Singleton(new_registry)
    postgres_bounds = providers.Singleton(bounds_of, settings)
    kafka = providers.Singleton(_kafka, settings)
    kafka_bounds = providers.Factory(breaker_bounds_of, "kafka", settings)
    breaker = providers.Singleton(
        Breaker, "kafka", bounds=kafka_bounds, figures=providers.Singleton(BreakerFigures, registry)
    )
    database = providers.Singleton(
        Database,
        settings.provided.postgres_url,
        name="daybook relay",
        bounds=postgres_bounds,
        transactions=providers.Singleton(Transactions, providers.Singleton(TransactionFigures, registry)),
    )
    relay = providers.Singleton(
        Relay,
        providers.Callable(_owner),
        log=providers.Singleton(PostgresLog, database),
        relayed=providers.Singleton(PostgresRelayed, database),
        publisher=providers.Singleton(
            KafkaPublisher,
            kafka,
            topic=settings.provided.kafka_topic,
            partitions=settings.provided.kafka_partitions,
            replicas=settings.provided.kafka_replicas,
            stall_ms=settings.provided.kafka_stall_ms,
            breaker=breaker,
        ),
        wakeups=providers.Singleton(
            PostgresWakeups,
            providers.Singleton(
                Database, settings.provided.postgres_url, name="daybook relay wake-ups", bounds=postgres_bounds
            ),
        ),
        figures=figures,
        pace=providers.Singleton(
            RelayPace,
            batch_events_max=settings.provided.batch_events_max,
            batch_bytes_max=settings.provided.batch_bytes_max,
            ledgers_max=settings.provided.batch_ledgers_max,
            lease_ms=settings.provided.lease_ms,
            stop_ms=settings.provided.stop_ms,
            round_ms=settings.provided.round_ms,
            rest_ms_max=settings.provided.rest_ms_max,
            poll_ms=settings.provided.poll_ms,
            retry_ms=settings.provided.retry_ms,
            retry_max_ms=settings.provided.retry_max_ms,
        ),
        stop=stop,
        monotonic=providers.Object(time.monotonic),
    )
    watch = providers.Singleton(
        Watch,
        providers.Dict(relay=figures),
        looks=providers.Singleton(
            PostgresRelayReached,
            providers.Singleton(
                Database, settings.provided.postgres_url, name="daybook relay watch", bounds=postgres_bounds
            ),
        ),
        every_ms=settings.provided.watch_ms,
        stop=stop,
        monotonic=providers.Object(time.monotonic),
    )
    health = providers.Singleton(_health, providers.Dict(relay=figures), providers.List(breaker))
    health_server = providers.Singleton(
        HealthServer,
        health,
        providers.Singleton(_with, registry, providers.Singleton(FiguresCollector, figures, part="relay", docs=RELAY)),
        host=settings.provided.health_host,
        port=settings.provided.health_port,
    )


class ProjectorContainer(containers.DeclarativeContainer):
    """One projector of one projection: a thread of its process, with connections and a consumer group of its own."""

    settings = providers.Dependency(instance_of=ProjectorSettings)
    projection = providers.Dependency(instance_of=Projection)
    controls = providers.Dependency(instance_of=PostgresControls)
    stop = providers.Dependency(instance_of=threading.Event)
    transactions = providers.Dependency(instance_of=Transactions)
    postgres_bounds = providers.Singleton(bounds_of, settings)
    kafka = providers.Singleton(_kafka, settings)
    figures = providers.Singleton(Figures)
    database = providers.Singleton(
        Database,
        settings.provided.postgres_url,
        name=providers.Callable("daybook projector {}".format, projection.provided.name),
        bounds=postgres_bounds,
        transactions=transactions,
    )
    generations = providers.Singleton(PostgresGenerations, database, projection)
    bounds = providers.Singleton(
        Bounds,
        batch_events_max=settings.provided.batch_events_max,
        batch_bytes_max=settings.provided.batch_bytes_max,
        ledgers_max=settings.provided.batch_ledgers_max,
        rows_max=settings.provided.rows_max,
        tries_max=settings.provided.tries_max,
        retry_ms=settings.provided.waiting_retry_ms,
        retry_max_ms=settings.provided.waiting_retry_max_ms,
        standing_ms=settings.provided.standing_ms,
        parked_max=settings.provided.parked_ledgers_max,
    )
    log = providers.Singleton(PostgresLog, database)
    worker_of = providers.Callable(
        _worker_of,
        database=database,
        projection=projection,
        log=log,
        figures=figures,
        bounds=bounds,
        stop=stop,
    )
    projector = providers.Singleton(
        Projector,
        projection.provided.name,
        generations=generations,
        worker_of=worker_of,
        source=providers.Singleton(
            KafkaSource,
            kafka,
            topic=settings.provided.kafka_topic,
            group=providers.Callable("{}.{}".format, settings.provided.kafka_group_prefix, projection.provided.name),
            session_ms=settings.provided.kafka_session_ms,
            close_ms=settings.provided.kafka_close_ms,
            batch_events_max=settings.provided.batch_events_max,
            figures=figures,
        ),
        postbox=providers.Singleton(
            Postbox,
            letters=providers.Singleton(PostgresDeadLetters, database, projection.provided.name),
            topic=providers.Singleton(
                KafkaDeadLetterTopic,
                kafka,
                events_topic=settings.provided.kafka_topic,
                delivery_ms=settings.provided.kafka_delivery_ms,
            ),
            log=log,
            figures=figures,
        ),
        controls=controls,
        figures=figures,
        pace=providers.Singleton(
            Pace,
            batch_events_max=settings.provided.batch_events_max,
            round_ms=settings.provided.round_ms,
            rest_ms_max=settings.provided.rest_ms_max,
            poll_ms=settings.provided.poll_ms,
            heads_ms=settings.provided.heads_ms,
            commit_ms=settings.provided.offsets_ms,
            silent_ms=settings.provided.silent_ms,
            retry_ms=settings.provided.retry_ms,
            retry_max_ms=settings.provided.retry_max_ms,
            swap_behind_max=settings.provided.swap_behind_max,
        ),
        stop=stop,
    )

    feeding = providers.Singleton(
        Database,
        settings.provided.postgres_url,
        name=providers.Callable("daybook feeder {}".format, projection.provided.name),
        bounds=postgres_bounds,
    )
    feeder = providers.Singleton(
        Feeder,
        projection.provided.name,
        generations=providers.Singleton(PostgresGenerations, feeding, projection),
        worker_of=providers.Callable(
            _worker_of,
            database=feeding,
            projection=projection,
            log=providers.Singleton(PostgresLog, feeding),
            figures=providers.Singleton(Figures),
            bounds=bounds,
            stop=stop,
        ),
        controls=controls,
        feed_ms=settings.provided.feed_ms,
        stop=stop,
    )


def _of_each(
    settings: ProjectorSettings,
    known: Found,
    controls: PostgresControls,
    stop: threading.Event,
    transactions: Transactions,
) -> Mapping[str, ProjectorContainer]:
    names = [name for name in settings.projections.split(",") if name] or list(known.usable)
    if strange := [name for name in names if name not in known.usable and name not in known.refused]:
        raise ValueError(f"no such projection: {', '.join(strange)}; there are {', '.join(known.usable)}")
    return {
        name: ProjectorContainer(
            settings=settings,
            projection=known.usable[name],
            controls=controls,
            stop=stop,
            transactions=transactions,
        )
        for name in names
        if name in known.usable
    }


def _refused(settings: ProjectorSettings, known: Found) -> Mapping[str, str]:
    names = [name for name in settings.projections.split(",") if name]
    return {name: reason for name, reason in known.refused.items() if not names or name in names}


def _figures_of_each(parts: Mapping[str, ProjectorContainer], refused: Mapping[str, str]) -> Mapping[str, Figures]:
    of_refused = {name: Figures(is_stopped=True, trouble="projection_unusable") for name in refused}
    return of_refused | {name: part.figures() for name, part in parts.items()}


def _loops(
    parts: Mapping[str, ProjectorContainer], controls: PostgresControls, jobs: JobLoop, watch: Watch
) -> Mapping[str, Loop]:
    loops: dict[str, Loop] = {"controls": controls, "jobs": jobs, "watch": watch}
    for name, part in parts.items():
        loops[name] = part.projector()
        loops[f"feeding {name}"] = part.feeder()
    return loops


def _app(
    *,
    settings: ProjectorSettings,
    verifier: TokenVerifier,
    keys: Keys,
    health: Health,
    registry: CollectorRegistry,
    operations: PostgresOperations,
    parking: PostgresParking,
    together: Together,
) -> Edge:
    return create_app(
        title=TITLE,
        description=DESCRIPTION,
        route_handlers=ROUTES,
        lifespan=[_lifespan(keys, together)],
        verifier=verifier,
        health=health,
        registry=registry,
        settings=settings,
        dependencies={
            "operations": Provide(lambda: operations, use_cache=True, sync_to_thread=False),
            "parking": Provide(lambda: parking, use_cache=True, sync_to_thread=False),
        },
    )


def _lifespan(keys: Keys, together: Together) -> Lifespan:
    """The loops begin with the server and end before it does; when one of them fails, the process is told to stop."""

    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        together.start(on_failure=lambda: signal.raise_signal(signal.SIGTERM))
        try:
            yield
        finally:
            await asyncio.to_thread(together.stop)
            keys.close()

    return running


class ProjectorsContainer(containers.DeclarativeContainer):
    """One projector process: a projector of each projection, one page of health, metrics and the operators' API for all."""

    settings = providers.Dependency(instance_of=ProjectorSettings)
    stop = providers.Singleton(threading.Event)
    registry = providers.Singleton(new_registry)
    known = providers.Singleton(found)
    postgres_bounds = providers.Singleton(bounds_of, settings)
    transactions = providers.Singleton(Transactions, providers.Singleton(TransactionFigures, registry))
    controls = providers.Singleton(
        PostgresControls,
        providers.Singleton(Database, settings.provided.postgres_url, name="daybook controls", bounds=postgres_bounds),
        poll_ms=settings.provided.control_poll_ms,
        stop=stop,
    )
    parts = providers.Singleton(_of_each, settings, known, controls, stop, transactions)
    refused = providers.Singleton(_refused, settings, known)
    figures = providers.Singleton(_figures_of_each, parts, refused)
    figures_of_parts = providers.Singleton(_figures_of_each, parts, providers.Object({}))
    jobs = providers.Singleton(
        JobLoop,
        providers.Callable(_owner),
        jobs=providers.Singleton(
            PostgresJobs,
            providers.Singleton(Database, settings.provided.postgres_url, name="daybook jobs", bounds=postgres_bounds),
        ),
        figures=figures_of_parts,
        children=providers.Singleton(ChildProcesses),
        controls=controls,
        lease_ms=settings.provided.job_lease_ms,
        attempts_max=settings.provided.job_attempts_max,
        reconcile_hours=settings.provided.reconcile_hours,
        stop=stop,
        monotonic=providers.Object(time.monotonic),
    )
    watch = providers.Singleton(
        Watch,
        figures_of_parts,
        looks=providers.Singleton(
            PostgresReached,
            providers.Singleton(Database, settings.provided.postgres_url, name="daybook watch", bounds=postgres_bounds),
        ),
        every_ms=settings.provided.watch_ms,
        stop=stop,
        monotonic=providers.Object(time.monotonic),
    )
    together = providers.Singleton(Together, providers.Callable(_loops, parts, controls, jobs, watch), stop)
    health = providers.Singleton(_health, figures)
    keys = providers.Singleton(open_keys, settings)
    operations = providers.Singleton(
        PostgresOperations,
        providers.Singleton(
            Database, settings.provided.postgres_url, name="daybook operations", bounds=postgres_bounds
        ),
        providers.Callable(installed),
        figures,
    )
    app = providers.Singleton(
        _app,
        settings=settings,
        verifier=providers.Singleton(
            TokenVerifier,
            keys,
            issuer=settings.provided.jwt_issuer,
            audience=settings.provided.jwt_audience,
            leeway_seconds=settings.provided.jwt_leeway_seconds,
        ),
        keys=keys,
        health=health,
        registry=providers.Singleton(
            _with, registry, providers.Singleton(FiguresCollector, figures, part="projector", docs=PROJECTOR)
        ),
        operations=operations,
        parking=providers.Singleton(
            PostgresParking,
            providers.Singleton(
                Database, settings.provided.postgres_url, name="daybook parking", bounds=postgres_bounds
            ),
        ),
        together=together,
    )
