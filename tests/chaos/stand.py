"""What the experiments are done to: servers and processes started as an operator would, with a proxy between the two.

Two stacks of `daybook up`: one with the servers, one with Daybook's processes, which are given the servers by URLs that lead through
the proxies (Kafka tells its clients its own address, so there is none before it); or directly, where an experiment measures how fast
something is: the proxies are Python and take part of the cores. Each has its supervisor, which starts again what ends. A Kafka of
several brokers is beside them: what is done to those, and when they start again, the experiment says.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from joserfc import jwt
from joserfc.jwk import ECKey

from daybook.stack.layout import Layout
from daybook.stack.ports import LOOPBACK
from daybook.stack.processes import ARGUMENTS, health_fault
from daybook.stack.restarts import CRASHES_MAX, WINDOW_S
from daybook.stack.stack_file import StackFile, read_stack_file, read_state
from daybook.stack.tokens import AUDIENCE, ISSUER
from tests.services import daybook, free_port
from tests.support.kafka_cluster import KafkaCluster, running_cluster
from tests.support.proxy import ThreadedProxy, proxied_in_thread

ROOT = Path(__file__).parents[2]
SERVERS = ("postgres", "redis", "kafka")
PROCESSES = ("command", "query", "relay", "projector", "clock", "monitor")
START_WITHIN_S = 240
STOP_WITHIN_S = 120
PATIENCE_S = 90.0  # three times the longest recovery seen
# Short leases and looks, and small numbers, so that what an hour would show is shown in seconds; all else as it is shipped.
PARKED_MAX = 20
QUICK = {
    "DAYBOOK_LAG_MS_MAX": "5000",
    "DAYBOOK_LEASE_MS": "2000",
    "DAYBOOK_LOG_LEVEL": "info",
    "DAYBOOK_LOOK_MS": "500",
    "DAYBOOK_PARKED_LEDGERS_MAX": str(PARKED_MAX),
    "DAYBOOK_TRANSACTION_MS_MAX": "1000",
}


def shipped(settings: type[msgspec.Struct], name: str) -> int:
    """The default of a setting that is not among these."""
    return next(int(field.default) for field in msgspec.structs.fields(settings) if field.name == name)


class More(NamedTuple):
    """A process started besides."""

    url: str
    child: "subprocess.Popen[bytes]"


class Stand:
    """One set of servers and processes. Everything is sent, killed and frozen by the name of a part."""

    def __init__(
        self,
        servers: Layout,
        processes: Layout,
        postgres: ThreadedProxy,
        redis: ThreadedProxy,
        outer: dict[str, str],
        *,
        brokers: KafkaCluster | None,
    ) -> None:
        self._servers = servers
        self._processes = processes
        self._outer = outer
        self.postgres = postgres
        self.redis = redis
        self.brokers = brokers
        """Kafka, where it has several."""
        self.stack: StackFile = read_stack_file(processes)
        self.admin_url = read_stack_file(servers).postgres_url
        self.redis_url = read_stack_file(servers).redis_url
        self._more: list[subprocess.Popen[bytes]] = []
        self._programs: Path | None = None
        self.is_spent = False
        """Something was done to it that cannot be undone: another is needed for the next run."""
        self._crashes: dict[str, deque[float]] = {}

    @property
    def data(self) -> Path:
        """The data folder of Daybook's own processes."""
        return self._processes.root

    def admin(self) -> "psycopg.Connection[Any]":
        """A session of the administrator, past the proxy."""
        return psycopg.connect(self.admin_url, autocommit=True, application_name="chaos")

    def pid(self, part: str) -> int:
        """The process of a part, once it has one that lives: for a moment the supervisor's file names the one that was killed."""
        layout = self._layout(part)

        def now() -> int | None:
            state = read_state(layout)
            found = [each.pid for each in state.parts if each.name == part] if state else []
            return found[0] if found and _is_alive(found[0]) else None

        pid: int = self.until(now, f"{part} has no process")
        return pid

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """It ends by this signal, and its supervisor starts it again."""
        self._spare(part)
        pid = self.pid(part)
        os.kill(pid, number)
        self.until(lambda: not _is_alive(pid), f"{part} survived {number.name}")

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """It stands still meanwhile, as on a host that hangs."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def down(self, part: str, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """It is gone meanwhile: its supervisor stands still, and starts it again afterwards."""
        self._spare(part)
        state = read_state(self._layout(part))
        assert state is not None
        pid = self.pid(part)
        os.kill(state.supervisor, signal.SIGSTOP)
        try:
            os.kill(pid, number)
            yield
        finally:
            os.kill(state.supervisor, signal.SIGCONT)

    @contextmanager
    def stopped(self, part: str, number: signal.Signals | None = None) -> Iterator[None]:
        """A server is gone meanwhile, with all its processes, in order if no signal is named; its supervisor starts it again."""
        leader = self.pid(part)
        with self.down(part, number or (signal.SIGINT if part == "postgres" else signal.SIGTERM)):
            own = [leader, *_children(leader)]
            self.until(lambda: not any(map(_is_alive, own)), f"{part} does not stop")
            yield

    def lead_to(self, admin_url: str, port: int) -> None:
        """Another server takes the place of Postgres: whoever is connected is cut off, and finds that one."""
        self.admin_url = admin_url
        self.postgres.set(port=port)
        self.postgres.cut()

    def postgres_program(self, name: str) -> Path:
        """A program of the very Postgres that runs, or ran."""
        if self._programs is None:
            self._programs = Path(f"/proc/{self.pid('postgres')}/exe").resolve().parent
        return self._programs / name

    def server_folder(self, part: str) -> Path:
        """Where a server keeps what it has."""
        return self._servers.server(part)

    def is_ready(self, part: str) -> bool:
        """What its /health/ready says."""
        return self.is_ready_at(self.url(part))

    def is_ready_at(self, url: str) -> bool:
        """The same of a process started besides."""
        return health_fault(f"{url}/health/ready") is None

    def ready_again(self) -> None:
        """Every process says that it is ready."""
        for part in PROCESSES:
            self.until(lambda part=part: self.is_ready(part), f"{part} is not ready")  # type: ignore[misc]

    def url(self, part: str) -> str:
        """Where it answers."""
        url: str = getattr(self.stack, f"{part}_url")
        return url

    def figure(self, part: str, name: str) -> float:
        """The sum of a figure of /metrics over its labels; 0 where it has none."""
        return self.figure_at(self.url(part), name)

    def figure_at(self, url: str, name: str) -> float:
        """The same of a process started besides."""
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:  # noqa: S310 - loopback
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def token(self, *, issued_at: float, expires_at: float) -> str:
        """A writer's token with these times (seconds since 1970), signed as the stack's own are."""
        key = ECKey.import_key(msgspec.json.decode(self._processes.signing_key_file.read_bytes()))
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "chaos",
            "roles": ["writer"],
            "ledgers": ["**"],
            "iat": int(issued_at),
            "exp": int(expires_at),
        }
        return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key, algorithms=["ES256"])

    def alerts(self) -> list[str]:
        """The kinds of alerts that are raised now, as the monitor's figures have them: they need no Postgres."""
        with urllib.request.urlopen(f"{self.url('monitor')}/metrics", timeout=10) as page:  # noqa: S310 - loopback
            text = page.read().decode()
        return re.findall(r'^daybook_monitor_alerts\{kind="(\w+)"\} [1-9]', text, re.MULTILINE)

    def raised(self, kind: str) -> float:
        """How often the monitor has raised an alert of this kind; it needs no Postgres either."""
        return self.figure("monitor", f'daybook_monitor_alerts_raised_total{{kind="{kind}"}}')

    def log_bytes(self, part: str) -> int:
        """How long its log is."""
        return self._layout(part).log(part).stat().st_size

    def environment(self, part: str) -> dict[str, str]:
        """What the process was started with."""
        raw = Path(f"/proc/{self.pid(part)}/environ").read_bytes().decode()
        return dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)

    @contextmanager
    def processes_stopped(self, **environment: str) -> Iterator[None]:
        """Daybook's own processes are stopped in order meanwhile, the servers go on. Afterwards they have this environment besides."""
        _down(self._processes)
        yield
        _up(self._processes, PROCESSES, self._outer | environment)
        self.stack = read_stack_file(self._processes)

    def start_more(
        self,
        part: str,
        *,
        under: Sequence[str] = (),
        log: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> "More":
        """Another process of the same kind, with the same environment but for its port, once it is ready.

        `under`: a module of ours and its arguments, which runs the process's own and may end it at once. `log`: where it writes, if not beside the others.
        """
        environment, port = self.environment(part), free_port()
        for name in ("DAYBOOK_HTTP_PORT", "DAYBOOK_HEALTH_PORT"):
            if name in environment:
                environment[name] = str(port)
        if under:
            environment["PYTHONPATH"] = str(ROOT)
        with (log or self._processes.root / "logs" / f"{part}-more.log").open("ab") as out:
            argv = [sys.executable, "-P", "-m", *under, *ARGUMENTS[part]]
            child = subprocess.Popen(
                argv, env=environment | dict(settings or {}), stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        more = More(f"http://{LOOPBACK}:{port}", child)
        self._more.append(child)
        self.until(
            lambda: more.child.poll() is not None or health_fault(f"{more.url}/health/ready") is None,
            f"the second {part} is not ready",
        )
        assert under or child.poll() is None, f"the second {part} has ended: {child.returncode}"
        return more

    def end_more(self) -> None:
        """Processes started besides are over."""
        for child in self._more:
            with suppress(ProcessLookupError):
                child.kill()
            child.wait()
        self._more.clear()

    def until(self, is_so: Callable[[], Any], complaint: str, within_s: float = PATIENCE_S) -> Any:
        """What `is_so` answers once that is something."""
        deadline = time.monotonic() + within_s
        while not (found := is_so()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{complaint} within {within_s:.0f} s")
            time.sleep(0.05)
        return found

    def _spare(self, part: str) -> None:
        """Waits until one more crash of the part does not make its supervisor give up."""
        crashes = self._crashes.setdefault(part, deque())
        while len(crashes) >= CRASHES_MAX - 1:
            time.sleep(max(0.0, crashes[0] + WINDOW_S + 1 - time.monotonic()))
            crashes.popleft()
        crashes.append(time.monotonic())

    def keep_logs(self, to: Path) -> None:
        """What every process has written so far, in a folder that outlives the stand."""
        brokers = self.brokers.layouts.values() if self.brokers else ()
        for layout in (self._servers, self._processes, *brokers):
            shutil.copytree(layout.root / "logs", to / layout.root.name)

    def _layout(self, part: str) -> Layout:
        return self._servers if part in SERVERS else self._processes


def _children(pid: int) -> list[int]:
    """The processes that it has started and that have not ended."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@contextmanager
def standing(*, is_direct: bool = False, brokers: int = 1) -> Iterator[Stand]:
    """A stand that is ready; all of it is stopped and removed afterwards.

    `is_direct`: the processes are not behind the proxies. `brokers`: so many has its Kafka; several have no supervisor.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    with ExitStack() as made:
        folder = Path(
            made.enter_context(tempfile.TemporaryDirectory(prefix="daybook-chaos-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o711)
        servers, processes = Layout.at(folder / "servers"), Layout.at(folder / "processes")
        cluster = made.enter_context(running_cluster(folder, brokers)) if brokers > 1 else None
        _up(servers, SERVERS, clean | ({"DAYBOOK_KAFKA_BOOTSTRAP": cluster.bootstrap} if cluster else {}))
        made.callback(_down, servers)
        given = read_stack_file(servers)
        postgres = made.enter_context(proxied_in_thread(given.postgres_url))
        redis = made.enter_context(proxied_in_thread(given.redis_url))
        urls = {
            "DAYBOOK_POSTGRES_URL": given.postgres_url if is_direct else postgres.url,
            "DAYBOOK_REDIS_URL": given.redis_url if is_direct else redis.url,
            "DAYBOOK_KAFKA_BOOTSTRAP": given.kafka_bootstrap,
        }
        outer = clean | QUICK | urls
        _up(processes, PROCESSES, outer)
        made.callback(_down, processes)
        stand = Stand(servers, processes, postgres, redis, outer, brokers=cluster)
        made.callback(stand.end_more)
        stand.ready_again()
        stand.postgres_program("postgres")  # learned while it runs
        yield stand


def _up(layout: Layout, parts: tuple[str, ...], environment: dict[str, str]) -> None:
    arguments = ("up", "--only", ",".join(parts), "--detach", "--owner", str(os.getpid()))
    daybook(*arguments, data=layout.root, within_s=START_WITHIN_S, env=environment)


def _down(layout: Layout) -> None:
    daybook("down", data=layout.root, within_s=STOP_WITHIN_S)


def in_background(work: Callable[[threading.Event], None]) -> Callable[[], None]:
    """The work runs in a thread until the function that is answered is called, which raises what the work has ended with before."""
    stop = threading.Event()
    ended_with: list[Exception] = []

    def run() -> None:
        try:
            work(stop)
        except Exception as error:
            ended_with.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(PATIENCE_S)
        if ended_with:
            raise ended_with[0]

    return end
