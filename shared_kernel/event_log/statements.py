"""Reads files of named SQL statements: `-- name: <name>` begins one, further comments are dropped."""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final, LiteralString

_MARK: Final = "-- name: "

SESSION_OPTIONS: Final = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"
"""libpq `options` for sessions that keep prepared statements on the log: their plans then never depend on statistics.

A statement planned while its table was empty would otherwise keep a sequential scan (measured: a factor of four).
"""


def load_statements(package: str, file_name: str) -> Mapping[str, LiteralString]:
    """The statements of a file by name, without comments. A name that is missing or there twice fails at import."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (files(package) / file_name).read_text("utf-8").splitlines():
        if line.startswith(_MARK):
            name = line.removeprefix(_MARK).strip()
            if name in found:
                raise ValueError(f"{file_name} names {name} twice")
            found[name] = lines = []
        elif not line.startswith("--"):
            lines.append(line)
    return MappingProxyType({name: "\n".join(text).strip() for name, text in found.items()})
