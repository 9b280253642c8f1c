"""Each process starts with what it is given: the declared environment is read by the process's own settings struct.

A variable that is missing, unknown or malformed fails here as it would at the start.
"""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daybook.stack.processes import ARGUMENTS
from scripts.generate_docs import STRUCTS, struct_of
from shared_kernel.settings import SettingsError, load
from tests.support.declared import ONCE, PROCESSES, Declared, from_compose, from_kubernetes

DECLARED = [
    pytest.param(declared, id=f"{place}-{name}")
    for place, found in (("compose", from_compose()), ("kubernetes", from_kubernetes()))
    for name, declared in found.items()
]
OF_PROCESSES = [param for param in DECLARED if param.values[0].name in PROCESSES]
# What the one-shot commands read (daybook/stack/database.py); they have no settings struct.
READ_ONCE = {
    "roles": {"DAYBOOK_POSTGRES_URL_FILE", "DAYBOOK_ROLES_PASSWORD_FILE"},
    "migrate": {"DAYBOOK_POSTGRES_URL_FILE"},
}


def test_both_places_declare_every_process() -> None:
    assert set(from_compose()) == {*PROCESSES, *ONCE}
    assert set(from_kubernetes()) == {*PROCESSES, "migrate"}
    assert set(STRUCTS) == set(ARGUMENTS) == set(PROCESSES)


@pytest.mark.parametrize("declared", DECLARED)
def test_command_is_that_of_the_local_stack(declared: Declared) -> None:
    if declared.name in ONCE:
        assert declared.command == ("daybook", declared.name)
    else:
        assert declared.command == ("python", "-m", *ARGUMENTS[declared.name])


@pytest.mark.parametrize("declared", DECLARED)
def test_every_file_that_a_variable_names_is_mounted(declared: Declared) -> None:
    named = {value for name, value in declared.environment.items() if name.endswith("_FILE")}
    assert named == declared.files


@pytest.mark.parametrize("declared", OF_PROCESSES)
def test_process_takes_its_declared_environment(declared: Declared, tmp_path: Path) -> None:
    environment = dict(declared.environment)
    for name in environment:
        if name.endswith("_URL_FILE"):
            secret = tmp_path / name
            secret.write_text("scheme://user:password@server/database\n")
            environment[name] = str(secret)
    load(struct_of(declared.name), environment)


@pytest.mark.parametrize("declared", OF_PROCESSES)
def test_a_variable_of_another_process_would_be_noticed(declared: Declared) -> None:
    with pytest.raises(SettingsError, match="DAYBOOK_ROLES_PASSWORD"):
        load(struct_of(declared.name), declared.environment | {"DAYBOOK_ROLES_PASSWORD": "x"})


@pytest.mark.parametrize("declared", [param for param in DECLARED if param.values[0].name == "monitor"])
def test_the_monitor_asks_every_process_that_has_breakers(declared: Declared) -> None:
    asked = {urlsplit(url).hostname or "" for url in declared.environment["DAYBOOK_METRICS_URLS"].split()}
    names = {name.removeprefix("daybook-").removesuffix("-pods") for name in asked}
    assert names == {name for name in PROCESSES if "breaker_window_ms" in struct_of(name).__struct_fields__}


@pytest.mark.parametrize("declared", [param for param in DECLARED if param.values[0].name in ONCE])
def test_one_shot_command_gets_what_it_reads(declared: Declared) -> None:
    assert set(declared.environment) == READ_ONCE[declared.name]
