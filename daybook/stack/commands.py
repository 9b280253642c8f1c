"""The commands round the local stack: up, down, status, logs, token.

They parse, find the supervisor of a data folder and talk; what a stack is made of is decided in
`assembly`, and run by `supervisor`.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter, validators

from daybook.stack.assembly import PART_NAMES, Assembly, PartName, assemble
from daybook.stack.children import end_leftovers, start_time
from daybook.stack.layout import Layout, read_tail
from daybook.stack.processes import unknown_settings
from daybook.stack.single import lock_holder, take_lock
from daybook.stack.stack_file import StackState, read_stack_file, read_state
from daybook.stack.supervisor import Supervisor
from daybook.stack.tokens import mint_from
from daybook.stack.view import LiveView, PlainView, status_table, welcome
from daybook.terminal import CommandFailed, Exit, out, talk

LOOK_EVERY_S = 0.05
STOPS_WITHIN_S = 120.0  # more than all the graces of the supervisor one after another

Data = Annotated[Path, Parameter(env_var="DAYBOOK_DATA")]
Role = Literal["reader", "writer", "operator", "auditor", "admin"]
DEFAULT_DATA = Path(".data")


def up(
    *,
    data: Data = DEFAULT_DATA,
    port_base: int | None = None,
    detach: bool = False,
    only: Annotated[str, Parameter(negative=())] = "",
    owner: Annotated[int | None, Parameter(validator=validators.Number(gt=0))] = None,
    is_detached: Annotated[bool, Parameter(show=False)] = False,
) -> int:
    """Start everything on this machine: PostgreSQL, Redis, Kafka and Daybook's own processes.

    Servers named in DAYBOOK_POSTGRES_URL, DAYBOOK_REDIS_URL or DAYBOOK_KAFKA_BOOTSTRAP are used
    instead of started. Ctrl-C stops all in order; the data stay.

    Parameters
    ----------
    data
        The folder for data, logs, ports and keys; made when missing.
    port_base
        Count the ports from here (command +0, query +1, relay +2, projector +3, clock +4,
        monitor +5, PostgreSQL +10, Redis +11, Kafka +12 and +13). Without it, free ports are chosen once and kept.
    detach
        Return when all is ready and leave the stack running; `daybook down` stops it.
    only
        Start only these parts, separated by commas.
    owner
        Stop when the process with this pid ends.
    is_detached
        Said by `--detach` to the process that it starts: who called gives the welcome.
    """
    layout = Layout.at(data)
    chosen = _chosen_parts(only)
    if lock_holder(layout) is not None:
        return _join(layout, chosen)
    if detach:
        return _start_detached(layout, port_base=port_base, only=only, owner=owner)
    layout.make()
    lock = take_lock(layout)
    if lock is None:
        return _join(layout, chosen)
    try:
        for name in unknown_settings(os.environ):
            talk().print(f"{name} is set, and nothing here reads it")
        end_leftovers(layout, talk().print)
        assembly = assemble(layout, only=chosen, port_base=port_base)
        asyncio.run(_supervise(layout, assembly, owner=owner, is_detached=is_detached))
    finally:
        os.close(lock)
    return Exit.DONE


def down(*, data: Data = DEFAULT_DATA) -> None:
    """Stop the stack of a data folder in order and wait until it has stopped.

    Parameters
    ----------
    data
        The stack's data folder.
    """
    layout = Layout.at(data)
    holder = lock_holder(layout)
    if holder is None:
        talk().print(f"no stack is running in {layout.root}")
        return
    started = start_time(holder)
    os.kill(holder, signal.SIGTERM)
    _wait_for(lambda: start_time(holder) != started, STOPS_WITHIN_S, f"the stack (pid {holder}) has not stopped")
    talk().print("stopped")


def status(*, data: Data = DEFAULT_DATA, json: bool = False) -> int:
    """Show what runs: exit code 0 when all parts are ready, 5 when not.

    Parameters
    ----------
    data
        The stack's data folder.
    json
        Print JSON for programs.
    """
    layout = Layout.at(data)
    holder = lock_holder(layout)
    state = read_state(layout)
    if holder is None or state is None:
        state = StackState(phase="stopped", supervisor=0, parts=[])
    if json:
        out().print(msgspec.json.encode(state).decode(), markup=False, soft_wrap=True)
    elif holder is None:
        talk().print(f"no stack is running in {layout.root}")
    else:
        talk().print(f"{state.phase}, supervised by pid {state.supervisor}, in {layout.root}")
        out().print(status_table(state.parts))
    is_well = state.phase == "ready" and all(part.state in {"ready", "done"} for part in state.parts)
    return Exit.DONE if is_well else Exit.UNAVAILABLE


def logs(part: PartName, /, *, data: Data = DEFAULT_DATA, lines: int = 50) -> None:
    """Show the last lines of one part's log.

    Parameters
    ----------
    part
        postgres, redis, kafka, command, query, relay, projector, clock or monitor.
    data
        The stack's data folder.
    lines
        How many lines.
    """
    for line in read_tail(Layout.at(data).log(part), offset=0, lines=lines):
        out().print(line, markup=False, soft_wrap=True)


def token(
    *,
    role: Role,
    ledgers: Annotated[list[str] | None, Parameter(negative=())] = None,
    subject: str | None = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print a token for the local stack, good for 30 days.

    Parameters
    ----------
    role
        What its bearer may do.
    ledgers
        A pattern of ledger names it is good for; may be repeated. All ledgers, if absent.
    subject
        Who its bearer is; `local-ROLE`, if absent.
    data
        The stack's data folder.
    """
    print(mint_from(Layout.at(data), role=role, subject=subject, ledgers=ledgers or ()))


async def _supervise(layout: Layout, assembly: Assembly, *, owner: int | None, is_detached: bool) -> None:
    console = talk()
    view = LiveView(console, layout) if console.is_terminal else PlainView(console, layout, is_detached=is_detached)
    supervisor = Supervisor(layout, assembly.parts, assembly.stack_file, view, pid=os.getpid())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    try:
        await supervisor.run(owner=owner)
    finally:
        view.close()


def _chosen_parts(only: str) -> frozenset[str]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in PART_NAMES]
    if unknown:
        raise CommandFailed(
            f"--only: no part is named {', '.join(unknown)}; parts are {', '.join(PART_NAMES)}", Exit.USAGE
        )
    return frozenset(names)


def _start_detached(layout: Layout, *, port_base: int | None, only: str, owner: int | None) -> int:
    layout.make()
    argv = [sys.executable, "-P", "-m", "daybook", "up", "--is-detached", "--data", str(layout.root)]
    argv += [] if port_base is None else ["--port-base", str(port_base)]
    argv += ["--only", only] if only else []
    argv += [] if owner is None else ["--owner", str(owner)]
    log = layout.open_log("supervisor")
    offset = os.fstat(log).st_size
    try:
        # Its own session: the end of this terminal is not the end of the stack.
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    finally:
        os.close(log)
    follower = _Follower(layout.log("supervisor"), offset)
    while child.poll() is None:
        follower.relay()
        state = read_state(layout)
        if state is not None and state.supervisor == child.pid and state.phase == "ready":
            follower.relay()
            out().print(welcome(read_stack_file(layout), layout), markup=False, soft_wrap=True)
            return Exit.DONE
        holder = lock_holder(layout)
        if holder is not None and holder != child.pid:
            child.wait()  # another `up` was first: the child joins it, and so do we
            return _join(layout, _chosen_parts(only))
        time.sleep(LOOK_EVERY_S)
    follower.relay()
    raise CommandFailed(
        f"the stack did not start; see {layout.log('supervisor')}", Exit(child.returncode or Exit.FAULT)
    )


def _join(layout: Layout, chosen: frozenset[str]) -> int:
    """Wait until the stack that runs already is ready, and show it."""
    talk().print(f"a stack is running in {layout.root} already; waiting until it is ready")
    while lock_holder(layout) is not None:
        state = read_state(layout)
        if state is not None and state.phase == "ready" and layout.stack_file.exists():
            missing = sorted((chosen or set(PART_NAMES)) - {part.name for part in state.parts})
            if missing:
                raise CommandFailed(f"it runs without {', '.join(missing)}: stop it with `daybook down` first")
            out().print(welcome(read_stack_file(layout), layout), markup=False, soft_wrap=True)
            return Exit.DONE
        time.sleep(LOOK_EVERY_S)
    state = read_state(layout)
    raise CommandFailed((state.fault if state else "") or "it has stopped", Exit.UNAVAILABLE)


class _Follower:
    """Passes on what a detached supervisor writes into its log."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path, self._offset = path, offset

    def relay(self) -> None:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        self._offset += len(text)
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()


def _wait_for(is_so: Callable[[], bool], within_s: float, complaint: str) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise CommandFailed(f"{complaint} within {within_s:.0f} s")
        time.sleep(LOOK_EVERY_S)
