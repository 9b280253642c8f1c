"""The Compose file: its schema, what is reachable from outside, and that each process gets its own secrets alone."""

import subprocess
import sys

import pytest

from tests.support.declared import COMPOSE_FILE, ONCE, PROCESSES, compose, from_compose


def test_file_fits_the_compose_specification() -> None:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    outcome = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_exactly_our_processes_and_three_servers_run() -> None:
    assert set(compose()["services"]) == {"postgres", "redis", "kafka", *PROCESSES, *ONCE}


def test_every_port_is_bound_to_loopback() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", [*PROCESSES, *ONCE])
def test_process_gets_only_secrets_of_its_own(name: str) -> None:
    mine = {"roles": {"postgres_url_administrator", "roles_password"}}.get(name, {f"postgres_url_{name}"})
    mine = {"migrate": {"postgres_url_migrator"}, "clock": {"postgres_url_command"}}.get(name, mine)
    assert set(compose()["services"][name]["secrets"]) == mine


@pytest.mark.parametrize("name", [*PROCESSES, *ONCE])
def test_process_cannot_write_gain_privileges_or_keep_capabilities(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", PROCESSES)
def test_process_starts_after_the_migration_and_has_time_to_stop(name: str) -> None:
    service = compose()["services"][name]
    assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert int(service["stop_grace_period"].removesuffix("s")) > 10  # a process ends within 10 s of SIGTERM


@pytest.mark.parametrize("name", PROCESSES)
def test_published_port_is_the_one_the_process_listens_on(name: str) -> None:
    environment = from_compose()[name].environment
    port = environment.get("DAYBOOK_HTTP_PORT")
    published = compose()["services"][name].get("ports", [])
    assert published == ([f"127.0.0.1:{port}:{port}"] if port else [])


def test_images_are_pinned() -> None:
    images = {service["image"] for service in compose()["services"].values()}
    assert all(":" in image and not image.endswith(":latest") for image in images)
