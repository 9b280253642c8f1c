"""Puts one stack together: which parts it has, where each is, and what stack.json says of it.

A server whose URL is given in the environment is used and never started. This module decides;
`supervisor` runs what it decided.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from daybook.stack.database import prepare_database, role_urls, roles_password
from daybook.stack.jars import Report, unpack_swagger
from daybook.stack.kafka import Quorum, broker_fault, kafka_part, new_cluster_id
from daybook.stack.layout import Layout
from daybook.stack.parts import Part
from daybook.stack.ports import settle_ports
from daybook.stack.postgres import connection_fault, postgres_part
from daybook.stack.postgres import server_url as postgres_url
from daybook.stack.processes import KAFKA_TOPIC, NEEDS, PROCESSES, Places, process_part
from daybook.stack.redis import ping_fault, redis_part
from daybook.stack.redis import server_url as redis_url
from daybook.stack.stack_file import JwtPlace, StackFile
from daybook.stack.tokens import AUDIENCE, ISSUER, ensure_signing_key, mint_role_tokens
from daybook.stack.users import ServerUser, require_reachable, server_user
from daybook.terminal import CommandFailed, Exit

PartName = Literal["postgres", "redis", "kafka", "command", "query", "relay", "projector", "clock", "monitor"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

GIVEN_BY = {
    "postgres": "DAYBOOK_POSTGRES_URL",
    "redis": "DAYBOOK_REDIS_URL",
    "kafka": "DAYBOOK_KAFKA_BOOTSTRAP",
}


class Assembly(msgspec.Struct, frozen=True):
    """The parts of a stack in the order they depend on each other, and its stack.json without pids."""

    parts: list[Part]
    stack_file: StackFile


def assemble(layout: Layout, *, only: frozenset[str], port_base: int | None) -> Assembly:
    """The stack of this data folder with the parts named in `only` (all, if empty).

    Afterwards the folder, the ports, the signing key and the password of the roles exist.
    """
    chosen = only or frozenset(PART_NAMES)
    given = {name: os.environ.get(variable, "").strip() for name, variable in GIVEN_BY.items()}
    _require_neighbours(chosen, given)
    user = server_user(os.environ)
    layout.make()
    started_here = {name for name in chosen if not given.get(name)}
    if started_here & set(GIVEN_BY):
        require_reachable(layout.root, user)
    wanted = started_here | ({"kafka_controller"} if "kafka" in started_here else set())
    ports = settle_ports(layout.ports_file, base=port_base, wanted=wanted)
    addresses = _server_addresses(chosen, given, ports)
    places = Places(
        ports=ports,
        postgres_urls=role_urls(addresses["postgres"], roles_password(layout)) if addresses["postgres"] else {},
        redis_url=addresses["redis"],
        kafka_bootstrap=addresses["kafka"],
        keys_file=layout.jwks_file,
        swagger_folder=layout.swagger,
    )
    servers = _server_parts(layout, chosen, given, ports, user)
    ours = _own_parts(layout, chosen, places, addresses["postgres"])
    known = {part.name for part in (*servers, *ours)}
    # A process may do without a part that was not asked for (its needs were checked above).
    parts = [
        dataclasses.replace(part, needs=tuple(need for need in part.needs if need in known))
        for part in (*servers, *ours)
    ]
    return Assembly(parts, _describe(layout, chosen, places, addresses))


def _require_neighbours(chosen: frozenset[str], given: Mapping[str, str]) -> None:
    for process in PROCESSES:
        if process not in chosen:
            continue
        needed = ["postgres", *(need for need in NEEDS[process] if need == "kafka")]
        for need in needed:
            if need not in chosen and not given[need]:
                raise CommandFailed(f"{process} needs {need}: add it to --only, or set {GIVEN_BY[need]}", Exit.USAGE)


def _server_addresses(chosen: frozenset[str], given: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    own = {
        "postgres": postgres_url(ports["postgres"]),
        "redis": redis_url(ports["redis"]),
        "kafka": f"127.0.0.1:{ports['kafka']}",
    }
    return {name: given[name] or (own[name] if name in chosen else "") for name in own}


def _server_parts(
    layout: Layout,
    chosen: frozenset[str],
    given: Mapping[str, str],
    ports: Mapping[str, int],
    user: ServerUser | None,
) -> list[Part]:
    faults = {"postgres": connection_fault, "redis": ping_fault, "kafka": broker_fault}
    parts = []
    for name, url in given.items():
        if url:
            # The default argument ties this round's values: a closure would see the last ones.
            def fault(url: str = url, name: str = name) -> str | None:
                return faults[name](url)

            parts.append(Part(name=name, address=f"given by {GIVEN_BY[name]}", fault=fault))
        elif name in chosen:
            parts.append(_local_server(name, layout, ports, user))
    return parts


def _local_server(name: str, layout: Layout, ports: Mapping[str, int], user: ServerUser | None) -> Part:
    match name:
        case "postgres":
            return postgres_part(layout, port=ports["postgres"], user=user)
        case "redis":
            return redis_part(layout, port=ports["redis"], user=user)
        case _:
            jars = os.environ.get("DAYBOOK_KAFKA_JARS")
            return kafka_part(
                layout,
                node=1,
                port=ports["kafka"],
                quorum=Quorum(new_cluster_id(), [ports["kafka_controller"]]),
                user=user,
                jars_folder=Path(jars) if jars else None,
            )


def _own_parts(layout: Layout, chosen: frozenset[str], places: Places, administrator_url: str) -> list[Part]:
    processes = [name for name in PROCESSES if name in chosen]
    if not processes:
        return []
    password = roles_password(layout)
    parts = [
        Part(
            name="database",
            needs=("postgres",),
            prepare=lambda report: prepare_database(administrator_url, password, report),
        )
    ]
    if {"command", "query", "monitor"} & set(processes):
        parts.append(Part(name="swagger", prepare=lambda report: _try_swagger(layout.swagger, report)))
    return [*parts, *(process_part(name, places, layout.root) for name in processes)]


def _try_swagger(folder: Path, report: Report) -> None:
    try:
        unpack_swagger(folder, report)
    except CommandFailed as failure:  # a page of documentation is no reason to keep books closed
        report(f"no Swagger UI: {failure.message}")


def _describe(layout: Layout, chosen: frozenset[str], places: Places, addresses: Mapping[str, str]) -> StackFile:
    key = ensure_signing_key(layout)
    urls = {name: places.url(name) if name in chosen else "" for name in PROCESSES}
    return StackFile(
        command_url=urls["command"],
        query_url=urls["query"],
        relay_url=urls["relay"],
        projector_url=urls["projector"],
        clock_url=urls["clock"],
        monitor_url=urls["monitor"],
        postgres_url=addresses["postgres"],
        postgres_urls=places.postgres_urls,
        redis_url=addresses["redis"],
        kafka_bootstrap=addresses["kafka"],
        kafka_topic=KAFKA_TOPIC,
        pids={},
        tokens=mint_role_tokens(key),
        jwt=JwtPlace(issuer=ISSUER, audience=AUDIENCE, keys_file=str(layout.jwks_file)),
    )
