"""Which ports a stack takes."""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from daybook.stack.ports import FREE_BELOW, FREE_FROM, OFFSETS, choose_free, is_free, ports_from, settle_ports
from daybook.terminal import CommandFailed


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server of somebody else's on a port within our range."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", choose_free(taken=set())))
        other.listen()
        yield other


def test_ports_are_counted_from_the_base_that_a_person_chose() -> None:
    ports = ports_from(8080)

    assert ports["command"] == 8080
    assert ports["projector"] == 8083
    assert ports["clock"] == 8084
    assert ports["monitor"] == 8085
    assert ports["postgres"] == 8090
    assert ports["kafka_controller"] == 8093


@pytest.mark.parametrize("base", [-1, 0, 1023, 65_523, 70_000])
def test_a_base_that_leaves_the_usual_ports_is_refused(base: int) -> None:
    with pytest.raises(CommandFailed, match="--port-base"):
        ports_from(base)


def test_free_ports_are_chosen_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"

    first = settle_ports(path, base=None, wanted=OFFSETS)
    second = settle_ports(path, base=None, wanted=OFFSETS)

    assert first == second == msgspec.json.decode(path.read_bytes())
    assert len(set(first.values())) == len(OFFSETS)
    assert all(FREE_FROM <= port < FREE_BELOW for port in first.values())


def test_only_the_port_that_was_taken_meanwhile_changes(tmp_path: Path, listener: socket.socket) -> None:
    path = tmp_path / "ports.json"
    first = settle_ports(path, base=None, wanted=OFFSETS)
    taken = listener.getsockname()[1]
    path.write_bytes(msgspec.json.encode({**first, "redis": taken}))

    second = settle_ports(path, base=None, wanted=OFFSETS)

    assert second["redis"] != taken
    assert {**second, "redis": 0} == {**first, "redis": 0}


def test_a_taken_port_that_is_not_wanted_is_nobodys_business(tmp_path: Path, listener: socket.socket) -> None:
    base = listener.getsockname()[1] - OFFSETS["redis"]

    assert settle_ports(tmp_path / "ports.json", base=base, wanted=["kafka_controller"])["redis"] == base + 11


def test_a_taken_port_of_a_chosen_base_is_named(tmp_path: Path, listener: socket.socket) -> None:
    taken = listener.getsockname()[1]

    with pytest.raises(CommandFailed, match=rf"port {taken} \(redis\) is taken"):
        settle_ports(tmp_path / "ports.json", base=taken - OFFSETS["redis"], wanted=["redis"])


def test_a_damaged_file_of_ports_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    path.write_text("{")

    with pytest.raises(CommandFailed, match=r"ports\.json is damaged"):
        settle_ports(path, base=None, wanted=OFFSETS)


def test_a_port_with_a_listener_is_not_free(listener: socket.socket) -> None:
    assert not is_free(listener.getsockname()[1])
