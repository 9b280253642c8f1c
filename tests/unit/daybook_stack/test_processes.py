"""What each of Daybook's processes is told, and nothing else."""

import pkgutil
from pathlib import Path

import pytest

from daybook.stack.ports import ports_from
from daybook.stack.processes import PROCESSES, SETTINGS, Places, environment, unknown_settings
from shared_kernel.settings import load

COMMON = {"DAYBOOK_POSTGRES_URL"}
HTTP = {
    "DAYBOOK_HTTP_HOST",
    "DAYBOOK_HTTP_PORT",
    "DAYBOOK_JWT_KEYS_FILE",
    "DAYBOOK_JWT_ISSUER",
    "DAYBOOK_JWT_AUDIENCE",
    "DAYBOOK_SWAGGER_DIR",
}
HEALTH = {"DAYBOOK_HEALTH_HOST", "DAYBOOK_HEALTH_PORT"}
CARRIER = {"DAYBOOK_KAFKA_BOOTSTRAP", "DAYBOOK_KAFKA_TOPIC"}
EXPECTED = {
    "command": COMMON | HTTP | {"DAYBOOK_REDIS_URL", "DAYBOOK_QUERY_PUBLIC_URL"},
    "query": COMMON | HTTP,
    "relay": COMMON | CARRIER | HEALTH,
    "projector": COMMON | CARRIER | HTTP,
    "clock": COMMON | HEALTH,
    "monitor": COMMON | HTTP | {"DAYBOOK_REDIS_URL", "DAYBOOK_METRICS_URLS"},
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "version").touch()
    return Places(
        ports=ports_from(8080),
        postgres_urls={process: f"postgresql://daybook_{process}@127.0.0.1/daybook" for process in PROCESSES},
        redis_url="redis://127.0.0.1:8091/0",
        kafka_bootstrap="127.0.0.1:8092",
        keys_file=tmp_path / "jwks.json",
        swagger_folder=tmp_path,
    )


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_is_told_exactly_what_it_needs(process: str, places: Places) -> None:
    given = environment(process, places, {"PATH": "/usr/bin"})

    assert given.pop("PATH") == "/usr/bin"
    assert set(given) == EXPECTED[process]
    role = "command" if process == "clock" else process
    assert given["DAYBOOK_POSTGRES_URL"] == f"postgresql://daybook_{role}@127.0.0.1/daybook"


@pytest.mark.parametrize("process", PROCESSES)
def test_settings_of_the_stack_and_of_others_do_not_leak_into_a_process(process: str, places: Places) -> None:
    outer = {
        "DAYBOOK_POSTGRES_URL": "postgresql://administrator@127.0.0.1/daybook",
        "DAYBOOK_HTTP_PORT": "1",
        "DAYBOOK_HEALTH_PORT": "1",
        "DAYBOOK_JWT_KEYS_URL": "http://canary",
        "DAYBOOK_RUN_AS": "nobody",
        "DAYBOOK_TOKEN": "canary",
        "DAYBOOK_LOG_LEVEL": "debug",
        "DAYBOOK_LOG_FORMAT": "",
    }

    given = environment(process, places, outer)

    assert set(given) == EXPECTED[process] | {"DAYBOOK_LOG_LEVEL"}
    assert not {"canary", "http://canary", "1"} & set(given.values())


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_accepts_what_it_is_told(process: str, places: Places) -> None:
    load(pkgutil.resolve_name(SETTINGS[process]), environment(process, places, {}))


def test_the_monitor_asks_every_process_that_has_breakers(places: Places) -> None:
    asked = environment("monitor", places, {})["DAYBOOK_METRICS_URLS"].split()

    with_breakers = [
        name for name in PROCESSES if "breaker_window_ms" in pkgutil.resolve_name(SETTINGS[name]).__struct_fields__
    ]
    assert sorted(asked) == sorted(f"{places.url(name)}/metrics" for name in with_breakers)


def test_what_a_person_set_reaches_only_the_process_that_knows_it(places: Places) -> None:
    outer = {"DAYBOOK_LOCKS": "off", "DAYBOOK_KAFKA_GROUP_PREFIX": "mine"}

    told = {process: {name for name in environment(process, places, outer) if name in outer} for process in PROCESSES}

    assert told["command"] == {"DAYBOOK_LOCKS"}
    assert told["projector"] == {"DAYBOOK_KAFKA_GROUP_PREFIX"}
    assert told["query"] == told["relay"] == told["clock"] == set()


def test_a_misspelt_setting_is_found() -> None:
    outer = {"DAYBOOK_LOG_LEVL": "debug", "DAYBOOK_LOG_LEVEL": "info", "DAYBOOK_RUN_AS": "x", "PATH": "/"}

    assert unknown_settings(outer) == ["DAYBOOK_LOG_LEVL"]


def test_no_process_listens_beyond_this_machine(places: Places) -> None:
    for process in PROCESSES:
        given = environment(process, places, {})
        assert given.get("DAYBOOK_HTTP_HOST", "127.0.0.1") == "127.0.0.1"
        assert given.get("DAYBOOK_HEALTH_HOST", "127.0.0.1") == "127.0.0.1"


def test_a_process_is_not_sent_to_pages_that_are_not_there(places: Places) -> None:
    (places.swagger_folder / "version").unlink()

    assert "DAYBOOK_SWAGGER_DIR" not in environment("query", places, {})
