"""Reads a process's settings from its environment into one frozen struct, and names every fault at once.

Processes declare a struct (frozen, kw_only; one field, one variable) and call `load_or_exit`. Nothing else reads the
environment. A secret's value never appears in a fault, a repr or a log.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Meta, inspect

PREFIX = "DAYBOOK_"
# Read by the command line and the local stack; a shell that runs them may pass these on to any process.
STACK_NAMES = frozenset(PREFIX + name for name in ("SERVICES", "KAFKA_JARS", "RUN_AS", "DATA", "TOKEN"))
SECRET_FILE_BYTES_MAX = 64 * 1024  # chosen: no password or URL is longer; a wrong path may be a huge file

StructT = TypeVar("StructT", bound=msgspec.Struct)


class Secret(str):
    """Text that must not be shown: `***` in a repr and in formatted text. Drivers take it as the str it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every process of Daybook reads."""

    postgres_url: Annotated[Secret, Meta(description="libpq URL of this process's own role")]
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe level that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"], Meta(description="One JSON object a line, or text for people")
    ] = "json"


# What the processes with circuit breakers read; the structs have one line of ancestors, so each names those that it has.
BreakerWindowMs = Annotated[
    int, Meta(ge=100, le=3_600_000, description="The time over which circuit breakers count calls and failures")
]
BreakerCallsMin = Annotated[
    int, Meta(ge=1, le=100_000, description="Fewer calls in that time say nothing of a rate of failures")
]
BreakerFailuresPercent = Annotated[
    int, Meta(ge=1, le=100, description="A breaker opens where so many of those calls failed, in percent")
]
BreakerFailuresInRow = Annotated[
    int, Meta(ge=1, le=100_000, description="It also opens after so many failures without an answer between them")
]
BreakerOpenMs = Annotated[
    int, Meta(ge=1, le=3_600_000, description="How long an open breaker lets nobody through, before it probes")
]
BreakerProbesMax = Annotated[
    int, Meta(ge=1, le=1_000, description="So many probes at a time, and so many answers in a row before it closes")
]


class HttpSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the two HTTP processes read besides; each gives its own default port and body bound."""

    http_port: Annotated[int, Meta(ge=1, le=65535, description="TCP port of the HTTP API")]
    http_host: Annotated[str, Meta(min_length=1, description="Address the HTTP API listens on")] = "127.0.0.1"
    http_port_shared: Annotated[
        bool, Meta(description="Let several processes of one machine listen on the port together")
    ] = False
    http_body_bytes_max: Annotated[int, Meta(ge=1024, description="Longest request body taken")] = 1024 * 1024
    http_head_seconds_max: Annotated[
        int, Meta(ge=1, le=600, description="A client whose head of a request takes longer is cut off")
    ] = 10
    http_body_seconds_max: Annotated[int, Meta(ge=1, le=600, description="Longest a body may take to arrive")] = 30
    http_send_seconds_max: Annotated[
        int,
        Meta(ge=1, le=3_600, description="A client that takes next to nothing of its answer for so long is cut off"),
    ] = 60
    http_requests_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests being answered at once; more are turned away as overloaded")
    ] = 1_000
    http_connections_max: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Connections at once; of later ones only health checks are answered"),
    ] = 2_000
    http_requests_per_second_max: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Requests a second that each token's subject may send; 0: no limit"),
    ] = 0
    http_requests_burst_max: Annotated[
        int, Meta(ge=1, le=1_000_000, description="So many of them at once, after a while without any")
    ] = 100
    http_stop_seconds_max: Annotated[
        int, Meta(ge=1, le=600, description="Longest that requests in flight may take after SIGTERM")
    ] = 8
    jwt_keys_file: Annotated[str | None, Meta(description="JWKS file with the public keys of tokens")] = None
    jwt_keys_url: Annotated[str | None, Meta(description="URL of that JWKS instead")] = None
    jwt_keys_timeout_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="Longest that URL may take to be reached, and to send its next bytes")
    ] = 5_000
    jwt_issuer: Annotated[str, Meta(min_length=1, description="The `iss` that tokens must have")]
    jwt_audience: Annotated[str, Meta(min_length=1, description="The `aud` that tokens must have")]
    jwt_leeway_seconds: Annotated[int, Meta(ge=0, le=300, description="Clock difference forgiven in tokens")] = 30
    swagger_dir: Annotated[str | None, Meta(description="Folder with the files of Swagger UI for /docs")] = None

    def __post_init__(self) -> None:
        if (self.jwt_keys_file is None) == (self.jwt_keys_url is None):
            raise ValueError("DAYBOOK_JWT_KEYS_FILE, DAYBOOK_JWT_KEYS_URL: exactly one of them is needed")


class SettingsError(Exception):
    """The environment does not make the settings. Its text has one line a fault, each with the variable's name."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class SettingDoc(NamedTuple):
    """One setting, for generated documents."""

    name: str
    type: str
    default: str | None
    doc: str


def load(struct_type: type[StructT], environ: Mapping[str, str], prefix: str = PREFIX) -> StructT:
    """The settings in `environ`; field `http_port` comes from `DAYBOOK_HTTP_PORT`, an empty text counts as absent.

    A `Secret` field is also taken from the file that `<NAME>_FILE` names. Raises `SettingsError` with all faults:
    missing, malformed, both forms of a secret given, unreadable file, and names with the prefix that nobody knows.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    known = set(STACK_NAMES)
    for field in msgspec.structs.fields(struct_type):
        name = prefix + field.name.upper()
        known.add(name)
        try:
            text = environ.get(name) or None
            if _is_secret(field.type):
                known.add(name + "_FILE")
                text = _secret_text(name, text, environ.get(name + "_FILE") or None)
            if text is not None:
                values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_decode)
            elif field.required:
                raise ValueError("is not set")
        except msgspec.ValidationError as error:
            faults.append(f"{name}: {_without_value(str(error))}")
        except ValueError as error:
            faults.append(f"{name}: {error}")
    unknown = sorted(name for name in environ if name.startswith(prefix) and name not in known)
    faults += [f"{name}: is not a setting of this process" for name in unknown]
    if not faults:
        try:
            return struct_type(**values)
        except ValueError as error:  # from __post_init__, which names the variables itself
            faults.append(str(error))
    raise SettingsError(faults)


def load_or_exit(struct_type: type[StructT], environ: Mapping[str, str], prefix: str = PREFIX) -> StructT:
    """The settings, or all faults on standard error and exit code 2."""
    try:
        return load(struct_type, environ, prefix)
    except SettingsError as error:
        exit_with(error)


def exit_with(error: SettingsError) -> NoReturn:
    """All faults on standard error and exit code 2."""
    print("Daybook cannot start: its settings are wrong.", *error.faults, sep="\n  ", file=sys.stderr)
    raise SystemExit(2) from None


def describe(struct_type: type[msgspec.Struct], prefix: str = PREFIX) -> list[SettingDoc]:
    """Every setting of the struct, in its order, for the generated reference. Secrets have no default shown."""
    docs = []
    for field in msgspec.structs.fields(struct_type):
        kind = "secret" if _is_secret(field.type) else _kind(inspect.type_info(field.type))
        default = None if field.required else _shown(field.default)
        docs.append(SettingDoc(prefix + field.name.upper(), kind, default, _doc(field.type)))
    return docs


def _shown(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Secret):
        return repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decode(kind: type[Any], value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"settings of type {kind!r}")


def _is_secret(annotation: Any) -> bool:
    args = getattr(annotation, "__args__", ())
    return annotation is Secret or any(_is_secret(arg) for arg in args)


def _secret_text(name: str, text: str | None, path: str | None) -> str | None:
    if path is None:
        return text
    if text is not None:
        raise ValueError(f"is given twice, {name}_FILE is set too")
    try:
        with Path(path).open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
        if len(content) > SECRET_FILE_BYTES_MAX:
            raise ValueError(f"the file that {name}_FILE names is too long")
        return content.decode().strip() or None
    except OSError as error:
        raise ValueError(f"the file that {name}_FILE names cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"the file that {name}_FILE names is not UTF-8 text") from None


def _without_value(fault: str) -> str:
    """msgspec quotes the value of an enumeration; what somebody pasted into the wrong variable may be a password."""
    return re.sub(r"^Invalid enum value .*$", "is not one of the values it may have", fault, flags=re.DOTALL)


def _kind(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(type=inner):
            return _kind(inner)
        case inspect.UnionType(types=types):
            return " | ".join(_kind(inner) for inner in types if not isinstance(inner, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return " | ".join(str(value) for value in values)
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _doc(annotation: Any) -> str:
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    return ""
