"""The two files by which others know a running stack: stack.json and run/state.json.

stack.json is for users of the stack (addresses, tokens, pids); it exists only while one runs. The
state file is for `daybook status`, a second `daybook up`, and `daybook down`.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from daybook.stack.layout import Layout, write_whole
from daybook.terminal import CommandFailed, Exit

Phase = Literal["starting", "ready", "stopping", "stopped"]
PartState = Literal["waiting", "preparing", "starting", "ready", "done", "crashed", "stopping", "stopped"]


class JwtPlace(msgspec.Struct, frozen=True):
    """What a service needs to check the stack's tokens."""

    issuer: str
    audience: str
    keys_file: str


class StackFile(msgspec.Struct, frozen=True):
    """stack.json: where everything of one running stack is. An empty text: not part of this stack."""

    command_url: str
    query_url: str
    relay_url: str
    projector_url: str
    clock_url: str
    monitor_url: str
    postgres_url: str
    postgres_urls: Mapping[str, str]
    redis_url: str
    kafka_bootstrap: str
    kafka_topic: str
    pids: Mapping[str, int]
    tokens: Mapping[str, str]
    jwt: JwtPlace


class PartStatus(msgspec.Struct):
    """What is known of one part now; `detail` is the last thing it said about itself."""

    name: str
    state: PartState = "waiting"
    pid: int | None = None
    address: str = ""
    detail: str = ""
    restarts: int = 0
    ready_after_s: float | None = None


class StackState(msgspec.Struct):
    """The state file; `supervisor` is the pid of the process that wrote it."""

    phase: Phase
    supervisor: int
    parts: list[PartStatus]
    fault: str = ""


def read_stack_file(layout: Layout) -> StackFile:
    """The running stack of this data folder, or `CommandFailed` saying how to start one."""
    try:
        return msgspec.json.decode(layout.stack_file.read_bytes(), type=StackFile)
    except FileNotFoundError as error:
        message = f"no stack is running in {layout.root}: start one with `daybook up`, or name another with --data"
        raise CommandFailed(message, Exit.UNAVAILABLE) from error
    except PermissionError as error:
        raise CommandFailed(f"{layout.stack_file} is readable only by who started the stack") from error
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{layout.stack_file} is damaged: {error}") from error


def write_stack_file(layout: Layout, content: StackFile) -> None:
    # 0600: it holds tokens.
    write_whole(layout.stack_file, msgspec.json.format(msgspec.json.encode(content)) + b"\n", mode=0o600)


def read_state(layout: Layout) -> StackState | None:
    try:
        return msgspec.json.decode(layout.state_file.read_bytes(), type=StackState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_state(layout: Layout, state: StackState) -> None:
    write_whole(layout.state_file, msgspec.json.encode(state))
