"""The time-outs of relay and projector are those of their settings."""

from psycopg.conninfo import conninfo_to_dict

from projections.container import RelayContainer
from projections.container_of_jobs import JobContainer
from projections.infrastructure.postgres import Work, bounds_of, build_bounds_of
from projections.settings import ProjectorSettings, RelaySettings
from shared_kernel.postgres import conninfo
from shared_kernel.settings import Secret

RELAY = RelaySettings(
    postgres_url=Secret("postgresql://h/d"),
    health_port=0,
    kafka_bootstrap="k:1",
    kafka_connect_ms=2_001,
    kafka_request_ms=2_002,
    kafka_admin_ms=2_003,
    postgres_connect_ms=7_001,
    postgres_silence_ms=7_002,
    postgres_lock_ms=7_003,
    postgres_statement_ms=7_004,
    postgres_idle_ms=7_005,
    postgres_transaction_ms=7_006,
)
PROJECTOR = ProjectorSettings(
    postgres_url=Secret("postgresql://h/d"),
    http_port=0,
    jwt_keys_file="keys",
    jwt_issuer="i",
    jwt_audience="a",
    kafka_bootstrap="k:1",
    postgres_lock_ms=7_003,
    build_statement_ms=8_001,
    build_transaction_ms=8_002,
)


def test_every_bound_of_a_transaction_is_a_setting() -> None:
    terms = Work(name="w").terms(bounds_of(RELAY))
    assert (terms.lock_timeout_ms, terms.statement_timeout_ms) == (7_003, 7_004)
    assert (terms.idle_timeout_ms, terms.transaction_timeout_ms) == (7_005, 7_006)


def test_what_works_on_a_whole_read_model_has_bounds_of_its_own() -> None:
    terms = Work(name="w").terms(build_bounds_of(PROJECTOR))
    assert (terms.lock_timeout_ms, terms.statement_timeout_ms, terms.transaction_timeout_ms) == (7_003, 8_001, 8_002)


def test_the_containers_hand_the_bounds_on() -> None:
    relay = RelayContainer(settings=RELAY)
    assert relay.postgres_bounds() == bounds_of(RELAY)
    kafka = relay.kafka()
    assert (kafka.connect_ms, kafka.request_ms, kafka.admin_ms) == (2_001, 2_002, 2_003)
    assert kafka.admin_s == 2.003
    assert JobContainer(settings=PROJECTOR).postgres_bounds() == bounds_of(PROJECTOR)


def test_a_connection_is_told_its_bounds() -> None:
    told = conninfo_to_dict(conninfo(RELAY.postgres_url, connect_ms=7_001, silence_ms=7_002, lock_ms=3, statement_ms=4))
    assert (told["connect_timeout"], told["tcp_user_timeout"]) == ("7", "7002")
    assert "-c lock_timeout=3" in str(told["options"])
    assert "-c statement_timeout=4" in str(told["options"])
