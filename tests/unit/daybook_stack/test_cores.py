"""Which cores a part may run on."""

import os

import pytest

from daybook.stack.cores import cores_of, interrupts_nobody

WHOLE = ("postgres", "redis", "kafka", "command", "query", "relay", "projector")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7}, raising=False)


@pytest.mark.usefixtures("four_cores")
def test_command_and_postgres_keep_out_of_each_others_way() -> None:
    assert cores_of("command", WHOLE) == {4}
    assert cores_of("postgres", WHOLE) == {5, 6, 7}


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("part", ["redis", "kafka", "query", "relay", "projector"])
def test_everything_else_runs_where_there_is_room(part: str) -> None:
    assert cores_of(part, WHOLE) is None


@pytest.mark.usefixtures("four_cores")
def test_servers_alone_have_all_cores() -> None:
    assert cores_of("postgres", ("postgres", "redis", "kafka")) is None


def test_one_core_is_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert cores_of("command", WHOLE) is None


def test_a_system_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores_of("command", WHOLE) is None


def test_what_works_in_rounds_interrupts_nobody() -> None:
    assert {part for part in WHOLE if interrupts_nobody(part)} == {"kafka", "relay", "projector"}


def test_a_system_without_batch_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    assert not interrupts_nobody("relay")
