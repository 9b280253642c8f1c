"""Daybook's own processes on one machine: their commands, their whole environment, their health.

This is the one place that says what a process is given here; compose files and manifests say the
same for theirs, and a test compares the names.
"""

import json
import os
import pkgutil
import sys
import urllib.error
from collections.abc import Mapping
from pathlib import Path

import msgspec

from daybook.stack.parts import Launch, Part
from daybook.stack.ports import LOOPBACK
from daybook.stack.tokens import AUDIENCE, ISSUER
from shared_kernel.http_out import open_url
from shared_kernel.settings import PREFIX, STACK_NAMES

PROCESSES = ("command", "query", "relay", "projector", "clock", "monitor")
KAFKA_TOPIC = "daybook.events"
HEALTH_TIMEOUT_S = 2.0

ARGUMENTS = {
    "command": ("command_service",),
    "query": ("query_service",),
    "relay": ("projections", "relay"),
    "projector": ("projections", "projector"),
    "clock": ("command_service", "clock"),
    "monitor": ("daybook.monitor",),
}

NEEDS = {
    "command": ("database", "redis", "swagger"),
    "query": ("database", "swagger"),
    "relay": ("database", "kafka"),
    "projector": ("database", "kafka", "swagger"),
    "clock": ("database",),
    "monitor": ("database", "redis", "swagger"),
}

# The database role of a process that has none of its own name.
ROLES = {"clock": "command"}

# Whose figures the monitor reads: those with a queue or breakers. The projector has neither (ADR 0013).
WATCHED = ("command", "query", "relay", "clock")

# What each process can be told, for handing on what a person has set.
SETTINGS = {
    "command": "command_service.settings:CommandSettings",
    "query": "query_service.settings:QuerySettings",
    "relay": "projections.settings:RelaySettings",
    "projector": "projections.settings:ProjectorSettings",
    "clock": "command_service.settings:ClockSettings",
    "monitor": "daybook.monitor.settings:MonitorSettings",
}


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the processes of one stack are told about their neighbours."""

    ports: Mapping[str, int]
    postgres_urls: Mapping[str, str]
    redis_url: str
    kafka_bootstrap: str
    keys_file: Path
    swagger_folder: Path

    def url(self, process: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[process]}"


def environment(process: str, places: Places, outer: Mapping[str, str]) -> dict[str, str]:
    """All that one process sees: the machine's own variables, what a person set for it, and what we decide.

    What we decide (servers, ports, keys) wins over what was set.
    """
    env = {name: value for name, value in outer.items() if not name.startswith(PREFIX)}
    env |= {name: outer[name] for name in settable(process) if outer.get(name)}
    env["DAYBOOK_POSTGRES_URL"] = places.postgres_urls[ROLES.get(process, process)]
    if process in {"command", "query", "projector", "monitor"}:
        env |= {
            "DAYBOOK_HTTP_HOST": LOOPBACK,
            "DAYBOOK_HTTP_PORT": str(places.ports[process]),
            "DAYBOOK_JWT_KEYS_FILE": str(places.keys_file),
            "DAYBOOK_JWT_ISSUER": ISSUER,
            "DAYBOOK_JWT_AUDIENCE": AUDIENCE,
        }
        if (places.swagger_folder / "version").exists():
            env["DAYBOOK_SWAGGER_DIR"] = str(places.swagger_folder)
    if process in {"command", "monitor"}:
        env["DAYBOOK_REDIS_URL"] = places.redis_url
    if process == "command":
        env["DAYBOOK_QUERY_PUBLIC_URL"] = places.url("query")
    if process == "monitor":
        env["DAYBOOK_METRICS_URLS"] = " ".join(f"{places.url(name)}/metrics" for name in WATCHED)
    if process in {"relay", "projector"}:
        env |= {
            "DAYBOOK_KAFKA_BOOTSTRAP": places.kafka_bootstrap,
            "DAYBOOK_KAFKA_TOPIC": KAFKA_TOPIC,
        }
    if process in {"relay", "clock"}:
        env |= {"DAYBOOK_HEALTH_HOST": LOOPBACK, "DAYBOOK_HEALTH_PORT": str(places.ports[process])}
    return env


def settable(process: str) -> set[str]:
    """The variables of this process that a person may set: all but those about tokens, which are the stack's own."""
    fields = msgspec.structs.fields(pkgutil.resolve_name(SETTINGS[process]))
    names = {PREFIX + field.name.upper() for field in fields}
    return {name for name in names if not name.startswith(f"{PREFIX}JWT_")}


def unknown_settings(outer: Mapping[str, str]) -> list[str]:
    """The variables with our prefix that no process and no part of the stack reads: misspelt, most likely."""
    known = STACK_NAMES | {f"{PREFIX}{name}" for name in ("KAFKA_BOOTSTRAP", "REDIS_URL", "POSTGRES_URL")}
    known = known.union(*(settable(process) for process in PROCESSES))
    return sorted(name for name in outer if name.startswith(PREFIX) and name not in known)


def process_part(process: str, places: Places, folder: Path) -> Part:
    """One process; ready when its own /health/ready says so."""
    url = places.url(process)

    def launch() -> Launch:
        # -P: `folder` and its surroundings must not shadow our packages.
        argv = [sys.executable, "-P", "-m", *ARGUMENTS[process]]
        return Launch(argv, environment(process, places, os.environ), folder)

    return Part(
        name=process,
        address=url,
        needs=NEEDS[process],
        launch=launch,
        fault=lambda: health_fault(f"{url}/health/ready"),
        is_ours=True,
        stop_grace_s=15.0,  # contract: a process ends within 10 s of SIGTERM
    )


def health_fault(url: str) -> str | None:
    """None when a process says that it is ready; else what it says is missing."""
    try:
        with open_url(url, timeout_s=HEALTH_TIMEOUT_S, is_neighbour=True):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return _failed_checks(error.read(), error.code)
    except OSError as error:
        return str(getattr(error, "reason", error))


def _failed_checks(body: bytes, status: int) -> str:
    try:
        checks = json.loads(body)["checks"]
        failed = [f"{name}: {check.get('detail', 'not ok')}" for name, check in checks.items() if not check["ok"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"answers {status}"
    return "; ".join(failed) or f"answers {status}"
