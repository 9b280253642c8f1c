"""Harm to disks: no space is left for Postgres, for Kafka, or for a log; then there is space again, and nobody does anything by hand."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daybook.stack.users import server_user
from tests.chaos.running import Run, Skipped, tool
from tests.chaos.stand import Stand

SPARE_BYTES = 64 << 20  # four segments of WAL
LOG_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
# What may be told of a command while nothing can be written: each says what the client may believe of it.
CLEAN = {"deadline_passed", "dependency_unavailable", "outcome_unknown"}


def full(run: Run) -> None:
    if os.geteuid() != 0 or not _mounts():
        raise Skipped("nothing can be mounted here: a disk of a small size needs root, and a container's leave")
    _log_full(run)
    _kafka_full(run)
    _postgres_full(run)


def _log_full(run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="daybook-chaos-log-") as folder, _mounted(Path(folder), LOG_BYTES):
        more = run.stand.start_more("command", log=Path(folder) / "command.log")
        run.load.send_also_to(more.url)
        with _filled(Path(folder)):
            run.did.append("no space for the log of a command process")
            run.more_commands(100)
            assert more.child.poll() is None, f"a process whose log is full has ended: {more.child.returncode}"
            assert run.stand.is_ready_at(more.url), "a process whose log is full is not ready"
        size = (Path(folder) / "command.log").stat().st_size
        run.stand.until(lambda: (Path(folder) / "command.log").stat().st_size > size, "it logs nothing more")
        run.load.send_no_more_to(more.url)
        run.stand.end_more()


def _kafka_full(run: Run) -> None:
    before = time.monotonic()
    with _small_disk(run.stand, "kafka", "log") as disk:
        run.caught_up()
        run.stand.until(lambda: not run.stand.alerts(), "there are alerts before")
        with _filled(disk), _alerted(run, "relay_lag"):
            run.did.append("no space for Kafka")
            run.some_time(20 if run.is_full else 4)
        answered = [known for known in run.load.acknowledged if known.first > before]
        assert answered
        assert all(known.attempts == 1 for known in answered), "a command failed for want of Kafka"
        run.published_again()


def _postgres_full(run: Run) -> None:
    with _small_disk(run.stand, "postgres", "data") as disk:
        run.commands_again()
        run.caught_up()
        run.stand.until(lambda: not run.stand.alerts(), "there are alerts before")
        with _filled(disk), _alerted(run, "database_unreachable"):
            run.did.append("no space for Postgres")
            told: list[tuple[int, bytes]] = []

            def is_turned_away() -> bool:
                answer = run.load.one_more_at(run.stand.url("command"))
                assert answer is not None, "a command was not answered"
                told.append(answer)
                return answer[0] != 201

            for _ in range(2):
                run.stand.until(is_turned_away, "commands are answered as if there were space")
            refused = [answer for answer in told if answer[0] != 201]
            codes = [json.loads(text)["code"] if status == 503 else f"{status} {text!r}" for status, text in refused]
            assert set(codes) <= CLEAN, f"commands were answered {', '.join(codes)}"
            run.did.append(f"commands were answered 503 {', '.join(codes)}")
        run.commands_again()
        run.caught_up()
    run.commands_again()


@contextmanager
def _alerted(run: Run, kind: str) -> Iterator[None]:
    """The monitor raises an alert of this kind meanwhile, or soon."""
    before = run.stand.raised(kind)
    yield
    with run.recovery("alert"):
        run.stand.until(lambda: run.stand.raised(kind) > before, f"there is no alert of {kind}")
    run.did.append(f"alert: {kind}")


@contextmanager
def _small_disk(stand: Stand, part: str, name: str) -> Iterator[Path]:
    """The server's folder lies on a disk with little to spare meanwhile; it is stopped for a moment at both ends."""
    folder = stand.server_folder(part) / name
    kept = folder.with_name(f"{name}.kept")
    with stand.stopped(part):
        size = int(subprocess.run(("du", "-sb", folder), capture_output=True, check=True).stdout.split()[0])
        folder.rename(kept)
        folder.mkdir(mode=0o700)
        tool(
            Path("/bin/mount"),
            "-t",
            "tmpfs",
            "-o",
            f"size={size + SPARE_BYTES},mode=0700",
            "daybook-chaos",
            str(folder),
        )
        _move(kept, folder)
    try:
        yield folder
    finally:
        with stand.stopped(part):
            kept.mkdir(mode=0o700)
            _move(folder, kept)
            tool(Path("/bin/umount"), str(folder))
            folder.rmdir()
            kept.rename(folder)


def _move(source: Path, target: Path) -> None:
    tool(Path("/bin/cp"), "-a", f"{source}/.", str(target))
    user = server_user(os.environ)
    if user is not None:
        os.chown(target, user.uid, user.gid)
    for each in source.iterdir():
        shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    if not os.path.ismount(source):
        source.rmdir()


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """There is no space meanwhile."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for piece in (PIECE_BYTES, 4096):
            with suppress(OSError):
                while file.write(b"\0" * piece) == piece:
                    pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _mounted(folder: Path, size: int) -> Iterator[None]:
    tool(Path("/bin/mount"), "-t", "tmpfs", "-o", f"size={size}", "daybook-chaos", str(folder))
    try:
        yield
    finally:
        tool(Path("/bin/umount"), "--lazy", str(folder))


def _mounts() -> bool:
    with tempfile.TemporaryDirectory(prefix="daybook-chaos-mount-") as folder:
        try:
            with _mounted(Path(folder), LOG_BYTES):
                return True
        except (AssertionError, OSError):
            return False
