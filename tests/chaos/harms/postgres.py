"""Harm to Postgres, the one neighbour that cannot be done without."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.chaos.running import Run
from tests.chaos.stand import in_background
from tests.services import daybook


def slow_commit(run: Run) -> None:
    held, *others = run.load.ledgers
    seconds = 10 if run.is_full else 2
    run.did.append(f"held the head of one ledger of {1 + len(others)} for {seconds} s")
    with psycopg.connect(run.stand.admin_url) as session:
        session.execute("select from daybook.ledgers where ledger = %s for update", [held])
        before = time.monotonic()
        time.sleep(seconds)
        unaffected = [known for known in run.load.acknowledged if known.ledger in others and known.began > before]
        assert len(unaffected) > seconds, f"only {len(unaffected)} commands to the other ledgers in {seconds} s"
        slowest = max(known.ended - known.began for known in unaffected)
        assert slowest < 2, f"a command to another ledger took {slowest:.1f} s"
        session.rollback()
    run.commands_again()
    run.caught_up()


def rolled_back(run: Run) -> None:
    counts = {"pg_cancel_backend": 0, "pg_terminate_backend": 0}

    def abort(stop: threading.Event) -> None:
        rng = random.Random(run.rng.random())
        with run.stand.admin() as admin:
            while not stop.wait(rng.random() * 0.02):
                how = "pg_cancel_backend" if rng.random() < 0.8 else "pg_terminate_backend"
                done = admin.execute(
                    f"select {how}(pid) from pg_stat_activity where usename = 'daybook_command' and state = 'active'"
                ).fetchall()
                counts[how] += len(done)

    end = in_background(abort)
    time.sleep(60 if run.is_full else 5)
    end()
    run.did.append(", ".join(f"{how} {count} times" for how, count in counts.items()))
    run.commands_again()
    run.caught_up()


def idle_elsewhere(run: Run) -> None:
    monitor = run.operator("monitor")
    url = run.stand.admin_url.rpartition("/")[0] + "/postgres"
    with psycopg.connect(url, application_name="left idle") as idle:
        idle.execute("select txid_current()")
        pid = idle.info.backend_pid
        time.sleep(120 if run.is_full else 3)
        with run.recovery("named by the monitor"):
            run.stand.until(
                lambda: b"left idle" in monitor.get("/v1/operations/alerts").body, "the monitor does not name it"
            )
        run.caught_up()
    run.did.append(f"pid {pid} stayed idle in transaction in the database postgres")
    monitor.close()


def restored(run: Run) -> None:
    stand = run.stand
    projector, migrator_url = stand.environment("projector"), stand.stack.postgres_urls["migrator"]
    binaries = Path(f"/proc/{stand.pid('postgres')}/exe").resolve().parent
    with stand.processes_stopped():
        dump = Path(tempfile.gettempdir()) / f"daybook-chaos-{os.getpid()}.dump"
        database = stand.admin_url.rpartition("/")[2]
        server = stand.admin_url.rpartition("/")[0]
        _tool(binaries / "pg_dump", "--format=custom", f"--file={dump}", stand.admin_url)
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute(f"drop database {database} with (force)".encode())
            admin.execute(f"create database {database}".encode())
        _tool(binaries / "pg_restore", "--exit-on-error", f"--dbname={stand.admin_url}", str(dump))
        dump.unlink()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
        admin_of = clean | {"DAYBOOK_POSTGRES_URL": stand.admin_url}
        password = urlsplit(migrator_url).password or ""
        daybook("roles", env=admin_of | {"DAYBOOK_ROLES_PASSWORD": password})
        daybook("restored", env=clean | {"DAYBOOK_POSTGRES_URL": migrator_url})
        rebuild = [sys.executable, "-P", "-m", "projections", "rebuild"]
        subprocess.run(rebuild, env=projector, check=True, capture_output=True, timeout=60)
    run.did.append("pg_dump, another database, pg_restore, daybook restored, rebuild")
    run.commands_again()
    run.caught_up()


def reply_lost(run: Run) -> None:
    share = 0.05
    before = run.stand.postgres.cuts
    rng = random.Random(run.rng.random())
    run.stand.postgres.set(
        rule_for="daybook_command", rule=lambda frame: None if frame == b"Z" and rng.random() < share else b""
    )
    try:
        run.some_time(30 if run.is_full else 4)
    finally:
        run.stand.postgres.set(rule=None, rule_for="")
    run.did.append(f"{run.stand.postgres.cuts - before} replies dropped, {share:.0%} of all")
    assert run.stand.postgres.cuts > before
    run.commands_again()
    run.caught_up()


def postgres_restarted(run: Run) -> None:
    for number in (signal.SIGQUIT, signal.SIGKILL):
        with run.stand.down("postgres", number):
            run.did.append(f"{number.name} to Postgres, 1 s down")
            time.sleep(1)
        run.commands_again()
        run.some_time(1)
    run.caught_up()


def _tool(program: Path, *arguments: str) -> None:
    outcome = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
