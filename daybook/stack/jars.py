"""Java archives pinned by a lock: fetched once, checked by SHA-256, kept in the user's cache.

A lock names exact artifacts and sums, never an address: where they come from is the business of
jgo, which asks Maven Central. A jar's path in the cache contains its sum, so what is there is right.
"""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import resources
from pathlib import Path

import msgspec

from daybook.stack.cache import cache_folder, cache_lock, draft_folder
from daybook.stack.layout import write_whole
from daybook.terminal import CommandFailed, Exit

Report = Callable[[str], None]

KAFKA_LOCK = "kafka-4.3.1.json"
SWAGGER_LOCK = "swagger-ui-5.30.3.json"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-ui.css", "favicon-32x32.png")

FETCHES_AT_ONCE = 8  # measured: 46 jars in 4-7 s; more gained nothing
FETCH_TRIES = 3
FETCH_TIMEOUT_S = 30


class LockedJar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pinned artifact; `sha256` is 64 hexadecimal digits, `size` is in bytes."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def read_lock(name: str) -> list[LockedJar]:
    """The entries of a lock that ships with this package."""
    text = resources.files("daybook.stack").joinpath("locks", name).read_bytes()
    return msgspec.json.decode(text, type=list[LockedJar])


def fetch_jars(lock_entries: Sequence[LockedJar], report: Report, *, offline_folder: Path | None = None) -> list[Path]:
    """Every jar of the lock is on this disk with the right bytes; their paths, in the lock's order.

    With `offline_folder` nothing is downloaded: the jars are taken from there by file name and
    checked. Raises `CommandFailed` when one cannot be had or its sum is another.
    """
    if offline_folder is not None:
        return [_checked(offline_folder / jar.filename, jar) for jar in lock_entries]
    if _missing(lock_entries):
        with cache_lock("jars"):  # another stack may be fetching the same jars right now
            missing = _missing(lock_entries)
            if missing:
                _download(missing, report)
    return [_kept(jar) for jar in lock_entries]


def unpack_swagger(target: Path, report: Report) -> None:
    """`target` holds the script, preset, style and icon of Swagger UI, to be served by ourselves."""
    lock = read_lock(SWAGGER_LOCK)
    stamp = target / "version"
    if stamp.exists() and stamp.read_text() == lock[0].sha256:
        return
    (jar,) = fetch_jars(lock, report)
    target.mkdir(exist_ok=True)
    inside = f"META-INF/resources/webjars/{lock[0].artifact}/{lock[0].version}"
    with zipfile.ZipFile(jar) as archive:
        for name in SWAGGER_FILES:
            write_whole(target / name, archive.read(f"{inside}/{name}"))
    write_whole(stamp, lock[0].sha256.encode())


def _kept(jar: LockedJar) -> Path:
    return cache_folder() / "jars" / jar.sha256[:16] / jar.filename


def _missing(jars: Sequence[LockedJar]) -> list[LockedJar]:
    return [jar for jar in jars if not _kept(jar).exists()]


def _download(jars: Sequence[LockedJar], report: Report) -> None:
    total_mb = sum(jar.size for jar in jars) / 1e6
    done_bytes = 0
    report(f"downloading {len(jars)} jars, {total_mb:.0f} MB")
    with draft_folder() as draft, ThreadPoolExecutor(FETCHES_AT_ONCE) as threads:
        fetches = {threads.submit(_fetch, jar, draft): jar for jar in jars}
        try:
            for count, fetch in enumerate(as_completed(fetches), start=1):
                fetch.result()
                done_bytes += fetches[fetch].size
                report(f"downloaded {count} of {len(jars)} jars, {done_bytes / 1e6:.0f} of {total_mb:.0f} MB")
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(jar: LockedJar, draft: Path) -> None:
    from jgo.maven import MavenContext

    for attempt in range(1, FETCH_TRIES + 1):
        # A folder of its own for each try: a file cut short by a broken connection is not found again.
        context = MavenContext(repo_cache=draft / f"{jar.sha256[:16]}-{attempt}", timeout=FETCH_TIMEOUT_S)
        try:
            found = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except Exception as error:  # jgo lets the faults of its HTTP client through as they are
            if attempt < FETCH_TRIES:
                continue
            raise CommandFailed(
                f"{jar.group}:{jar.artifact}:{jar.version} could not be fetched ({error}); without network, name "
                "a folder that holds the jars in DAYBOOK_KAFKA_JARS",
                Exit.UNAVAILABLE,
            ) from error
        _checked(found, jar)
        kept = _kept(jar)
        kept.parent.mkdir(parents=True, exist_ok=True)
        found.chmod(0o644)
        found.rename(kept)
        return


def _checked(path: Path, jar: LockedJar) -> Path:
    if not path.exists():
        raise CommandFailed(f"{path} is missing")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise CommandFailed(f"{path.name} is not the pinned file: SHA-256 is {found}, the lock says {jar.sha256}")
    return path
