"""The per-user cache: what was downloaded or copied once and serves every stack of this user.

Everything in it can be removed at any time while no stack starts. For root it lies where the
servers' user can read it, because root's home folder is usually closed to others.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daybook.stack.users import ServerUser, can_execute
from daybook.terminal import CommandFailed


def cache_folder() -> Path:
    """The cache of this user; it exists afterwards."""
    if os.geteuid() == 0:
        folder = Path("/var/cache/daybook")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "daybook"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daybook"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    return folder


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """Only one process of this user is inside for this name; others wait."""
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives the lock back
        yield


@contextmanager
def draft_folder() -> Iterator[Path]:
    """An empty folder in the cache, on the same file system, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="draft-", dir=cache_folder(), ignore_cleanup_errors=True) as draft:
        folder = Path(draft)
        folder.chmod(0o755)  # made 0700: what is renamed out of it must be readable by the servers
        yield folder


def reachable_program(trees: list[Path], program: str, user: ServerUser | None, *, label: str) -> Path:
    """A path of `program` (relative to the parent of `trees`) that the servers' user can run.

    It is the program where it lies, if that user can run it there. Otherwise `trees`, which lie
    side by side and find each other's libraries by relative paths, are copied once as `label`.
    """
    origin = trees[0].parent
    if can_execute(origin / program, user):
        return origin / program
    copy = cache_folder() / "programs" / label
    if not (copy / program).exists():
        with cache_lock("programs"), draft_folder() as draft:
            if not (copy / program).exists():
                for tree in trees:
                    shutil.copytree(tree, draft / "copy" / tree.relative_to(origin), symlinks=True)
                (draft / "copy").chmod(0o755)
                copy.parent.mkdir(exist_ok=True)
                (draft / "copy").rename(copy)
    if not can_execute(copy / program, user):
        raise CommandFailed(f"{copy / program} cannot be run by the servers' user")
    return copy / program
