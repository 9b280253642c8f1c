"""Which user the servers run as, and what that user can reach.

PostgreSQL refuses to run as root, so a stack started by root runs its servers as another user:
DAYBOOK_RUN_AS, else `postgres`, else `nobody`. That user may be unable to enter folders that root
can (mode 0700); what it cannot run is copied, a data folder it cannot reach is refused.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from daybook.terminal import CommandFailed

FALLBACK_USERS = ("postgres", "nobody")


class ServerUser(msgspec.Struct, frozen=True):
    """A user to change to, with the ids the system has for it."""

    name: str
    uid: int
    gid: int


def server_user(environ: Mapping[str, str]) -> ServerUser | None:
    """Who runs the servers: None means ourselves, which is so unless we are root."""
    if os.geteuid() != 0:
        return None
    asked = environ.get("DAYBOOK_RUN_AS", "")
    for name in (asked,) if asked else FALLBACK_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise CommandFailed("DAYBOOK_RUN_AS names root, and PostgreSQL does not run as root")
        return ServerUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    named = f"DAYBOOK_RUN_AS={asked} names no user" if asked else "no user `postgres` or `nobody` exists"
    raise CommandFailed(f"started by root, the servers need another user to run as: {named}")


def can_execute(path: Path, user: ServerUser | None) -> bool:
    """Whether the servers' user may run this file (or enter this folder)."""
    if user is None:
        return os.access(path, os.X_OK)
    test = shutil.which("test") or "/usr/bin/test"
    return run_as(user, [test, "-x", str(path)]).returncode == 0


def run_as(
    user: ServerUser | None, argv: list[str], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a short command as the servers' user and wait for it; its output is captured as text."""
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        cwd="/",  # our own folder may be closed to that user
        env=dict(server_environment() if env is None else env),
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
        start_new_session=True,  # Ctrl-C is for the supervisor, which then stops in order
    )


def server_environment() -> dict[str, str]:
    """What a server sees of our environment: no secrets, one language, one time zone."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def give_to(user: ServerUser | None, folder: Path) -> None:
    """The folder exists, 0700, and all in it belongs to the servers' user."""
    folder.mkdir(exist_ok=True)
    if user is None:
        return
    if folder.stat().st_uid != user.uid:
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(os.path.join(parent, name), user.uid, user.gid, follow_symlinks=False)
        os.chown(folder, user.uid, user.gid)
    folder.chmod(0o700)


def require_reachable(root: Path, user: ServerUser | None) -> None:
    """Refuse a data folder that the servers' user cannot enter, with one that it could."""
    if user is None or can_execute(root, user):
        return
    raise CommandFailed(
        f"the servers run as `{user.name}`, who cannot enter {root} (a folder above it is closed to others): "
        f"use another data folder, say --data /var/tmp/daybook, or name another user in DAYBOOK_RUN_AS"
    )
