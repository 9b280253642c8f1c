"""The local stack as a person uses it: real servers, real processes, the command line and nothing else."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from daybook.stack.children import start_time
from daybook.stack.layout import Layout
from daybook.stack.processes import PROCESSES
from daybook.stack.stack_file import PartStatus, read_state
from tests.services import SERVERS, daybook, folder_for_servers

pytestmark = pytest.mark.long
START_WITHIN_S = 240  # the first run on a machine downloads the jars
ONLY_SERVERS = ("up", "--only", SERVERS, "--detach")
LIGHT = ("up", "--only", "postgres,redis", "--detach")


def environment() -> dict[str, str]:
    """Ours without what would make the stack use other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder that any user may reach; whatever still runs in it is stopped, its talk goes to the report."""
    with folder_for_servers() as folder:
        yield folder / "data"
        daybook("down", data=folder / "data")
        log = folder / "data" / "logs" / "supervisor.log"
        print(log.read_text() if log.exists() else "no detached supervisor")


def up(data: Path, *arguments: str, **more: str) -> dict[str, Any]:
    """The stack is ready; its stack.json."""
    env = {**environment(), **more}
    daybook(*arguments, "--owner", str(os.getpid()), data=data, within_s=START_WITHIN_S, env=env)
    return read_stack(data)


def read_stack(data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((data / "stack.json").read_bytes())
    return content


def states(data: Path) -> Mapping[str, Mapping[str, Any]]:
    answer = json.loads(daybook("status", "--json", data=data, is_checked=False).stdout)
    return {part["name"]: part for part in answer["parts"]}


def part(data: Path, name: str) -> PartStatus:
    """What `daybook status` would say of it, without a process for each look."""
    state = read_state(Layout.at(data))
    assert state is not None
    return next(part for part in state.parts if part.name == name)


def wait_until(is_so: Callable[[], bool], *, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(0.05)


@pytest.mark.thorough
def test_the_servers_start_answer_survive_a_crash_and_keep_their_data(data: Path) -> None:
    stack = up(data, *ONLY_SERVERS)

    # Up: three servers on loopback, each by its own pid, and status agrees.
    assert set(stack["pids"]) == {"supervisor", "postgres", "redis", "kafka"}
    assert stack["command_url"] == ""
    assert stack["kafka_bootstrap"].startswith("127.0.0.1:")
    assert {name: part["state"] for name, part in states(data).items()} == dict.fromkeys(SERVERS.split(","), "ready")
    assert (data / "stack.json").stat().st_mode & 0o777 == 0o600
    with psycopg.connect(stack["postgres_url"], autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
    client = redis.Redis.from_url(stack["redis_url"])
    client.set("kept", "42")
    client.close()

    # Up again: the same stack.
    daybook(*ONLY_SERVERS, data=data, env=environment())
    assert read_stack(data)["pids"] == stack["pids"]

    # A crash: started again, under another pid that stack.json knows.
    for name in ("redis", "postgres", "kafka"):
        os.kill(stack["pids"][name], signal.SIGKILL)
    for name in ("redis", "postgres", "kafka"):
        wait_until(lambda name=name: part(data, name).restarts == 1 and part(data, name).state == "ready")  # type: ignore[misc]
    assert {name: seen["restarts"] for name, seen in states(data).items()} == dict.fromkeys(SERVERS.split(","), 1)
    again = read_stack(data)
    assert all(again["pids"][name] != stack["pids"][name] for name in ("postgres", "redis", "kafka"))

    # Down and up: nothing is lost, and the addresses are the same.
    daybook("down", data=data)
    assert not (data / "stack.json").exists()
    assert all(start_time(pid) is None for pid in again["pids"].values())
    stopped = daybook("status", data=data, is_checked=False)
    assert stopped.returncode == 5
    back = up(data, *LIGHT)
    assert back["postgres_url"] == stack["postgres_url"]
    with psycopg.connect(back["postgres_url"]) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)
    client = redis.Redis.from_url(back["redis_url"])
    assert client.get("kept") == b"42"
    client.close()


@pytest.mark.thorough
def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_works(data: Path) -> None:
    pids = up(data, *LIGHT)["pids"]

    os.kill(pids["supervisor"], signal.SIGKILL)

    wait_until(lambda: all(start_time(pid) is None for pid in pids.values()))
    again = up(data, *LIGHT)["pids"]
    assert not set(again.values()) & set(pids.values())


@pytest.mark.thorough
def test_the_stack_ends_with_its_owner(data: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        daybook(*LIGHT, "--owner", str(owner.pid), data=data, within_s=START_WITHIN_S, env=environment())
        pids = read_stack(data)["pids"]
    finally:
        owner.communicate()

    wait_until(lambda: all(start_time(pid) is None for pid in pids.values()))


def test_a_stack_in_the_foreground_stops_on_ctrl_c_and_its_data_are_printed(data: Path) -> None:
    argv = [sys.executable, "-P", "-m", "daybook", "up", "--only", "redis", "--data", str(data)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as stack:
        wait_until((data / "stack.json").exists)
        pids = read_stack(data)["pids"]
        assert pids["supervisor"] == stack.pid
        stack.send_signal(signal.SIGINT)
        told, said = stack.communicate(timeout=60)

    assert stack.returncode == 0, said
    assert read_ports(data)["redis"] in told
    assert "redis: stopped" in said
    assert start_time(pids["redis"]) is None


def read_ports(data: Path) -> dict[str, str]:
    return {name: str(port) for name, port in json.loads((data / "ports.json").read_bytes()).items()}


@pytest.mark.thorough
def test_given_servers_are_used_and_not_started(data: Path) -> None:
    first = up(data, *LIGHT)
    other = data.with_name("other")
    try:
        second = up(other, *LIGHT, DAYBOOK_POSTGRES_URL=first["postgres_url"], DAYBOOK_REDIS_URL=first["redis_url"])
        assert set(second["pids"]) == {"supervisor"}
        assert second["postgres_url"] == first["postgres_url"]
        assert second["redis_url"] == first["redis_url"]
    finally:
        daybook("down", data=other)
    with psycopg.connect(first["postgres_url"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_what_is_asked_for_wrongly_is_a_usage_error(data: Path) -> None:
    for arguments in (
        ("up", "--only", "mysql"),
        ("up", "--only", "relay"),
        ("up", "--bogus"),
        ("token", "--role", "x"),
    ):
        outcome = daybook(*arguments, data=data, env=environment(), is_checked=False)
        assert outcome.returncode == 2, outcome.stderr
        assert outcome.stdout == ""


def test_the_whole_stack_starts_and_its_first_commands_can_be_pasted(data: Path) -> None:
    """As `make run` does it: everything, then what the welcome says, word for word."""
    arguments = ("up", "--detach", "--owner", str(os.getpid()))
    told = daybook(*arguments, data=data, within_s=START_WITHIN_S, env=environment()).stdout
    commands = [line.strip() for line in told.splitlines() if line.strip().startswith(("export ", "curl "))]
    assert len(commands) == 4

    # The balance is asked for until the transaction is visible: the read side follows the write side.
    script = "\n".join(["set -eu", *commands[:3], "for _ in $(seq 100); do", f"  {commands[3]}; sleep 0.1", "done"])
    with subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as shell:
        assert shell.stdout is not None
        answers = ""
        while '"posted":70000' not in answers:
            more = shell.stdout.read(1)
            assert more, answers
            answers += more
        shell.kill()

    stack = read_stack(data)
    assert set(PROCESSES) < set(stack["pids"])
    assert stack["command_url"] in told
    assert set(stack["tokens"]) == {"reader", "writer", "operator", "auditor", "admin"}
    if hasattr(os, "SCHED_BATCH"):
        batch = {name for name, pid in stack["pids"].items() if os.sched_getscheduler(pid) == os.SCHED_BATCH}
        assert batch == {"kafka", "relay", "projector", "clock", "monitor"}
    for process in PROCESSES:
        os.kill(stack["pids"][process], signal.SIGKILL)
    for process in PROCESSES:
        wait_until(lambda name=process: part(data, name).restarts == 1 and part(data, name).state == "ready")  # type: ignore[misc]
    daybook("status", data=data)  # exit code 0: all of it is ready
    pids = read_stack(data)["pids"]

    daybook("down", data=data)

    assert all(start_time(pid) is None for pid in pids.values())


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_plain_user_without_a_home_of_its_own_can_run_it(data: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    nobody = pwd.getpwnam("nobody")
    repository = Path(__file__).parents[2]
    packages = sysconfig.get_paths()["purelib"]
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{repository}{os.pathsep}{packages}",
        "XDG_CACHE_HOME": str(data / "c"),
    }

    def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), "-m", "daybook", *arguments, "--data", str(data / "stack")],
            check=False, capture_output=True, text=True, timeout=60, cwd="/", stdin=subprocess.DEVNULL,
            env=env, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
        )  # fmt: skip

    data.mkdir()
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    if python is None or as_nobody("--version").returncode != 0:
        pytest.skip("no Python that another user may run and that our packages are built for")

    outcome = as_nobody("up", "--only", "postgres", "--detach", "--owner", str(os.getpid()))
    try:
        assert outcome.returncode == 0, outcome.stderr
        stack = json.loads((data / "stack" / "stack.json").read_bytes())
        assert all(os.stat(f"/proc/{pid}").st_uid == nobody.pw_uid for pid in stack["pids"].values())
    finally:
        ended = as_nobody("down")
        assert ended.returncode == 0, ended.stderr
