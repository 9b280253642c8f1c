"""The locks of jars, and what is done with a jar that is not the pinned one. Nothing is downloaded here."""

import hashlib
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from daybook.stack.jars import KAFKA_LOCK, SWAGGER_LOCK, LockedJar, fetch_jars, read_lock
from daybook.terminal import CommandFailed


def nothing(text: str) -> None:
    """Nobody listens."""


def locked(content: bytes) -> LockedJar:
    return LockedJar(
        group="org.example",
        artifact="thing",
        version="1",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


@pytest.mark.parametrize(("name", "count"), [(KAFKA_LOCK, 46), (SWAGGER_LOCK, 1)])
def test_a_lock_pins_every_jar_by_a_whole_sum(name: str, count: int) -> None:
    jars = read_lock(name)

    assert len(jars) == count
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)
    assert all(jar.size > 0 for jar in jars)
    assert set(Counter(jar.filename for jar in jars).values()) == {1}


@pytest.mark.parametrize("name", [KAFKA_LOCK, SWAGGER_LOCK])
def test_a_lock_names_no_address(name: str) -> None:
    text = resources.files("daybook.stack").joinpath("locks", name).read_text()

    assert "://" not in text


def test_the_jars_of_kafka_speak_to_its_log_library_in_one_version() -> None:
    versions = {jar.version for jar in read_lock(KAFKA_LOCK) if jar.group.startswith("org.apache.logging")}

    assert len(versions) == 1


def test_jars_are_taken_from_a_folder_on_a_machine_without_network(tmp_path: Path) -> None:
    jar = locked(b"right")
    (tmp_path / "thing-1.jar").write_bytes(b"right")

    assert fetch_jars([jar], nothing, offline_folder=tmp_path) == [tmp_path / "thing-1.jar"]


def test_a_jar_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing-1.jar").write_bytes(b"wrong")

    with pytest.raises(CommandFailed, match=r"thing-1\.jar is not the pinned file"):
        fetch_jars([locked(b"right")], nothing, offline_folder=tmp_path)


def test_a_missing_jar_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"thing-1\.jar is missing"):
        fetch_jars([locked(b"right")], nothing, offline_folder=tmp_path)
