"""Where on the processor a part runs."""

import os

import pytest

from daybook.stack.cores import place_of

WHOLE = ("postgres", "redis", "kafka", "command", "query", "relay", "projector")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7}, raising=False)


@pytest.mark.usefixtures("four_cores")
def test_command_and_postgres_keep_out_of_each_others_way() -> None:
    assert place_of("command", WHOLE).cores == {4}
    assert place_of("postgres", WHOLE).cores == {5, 6, 7}


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("part", ["redis", "kafka", "query", "relay", "projector"])
def test_everything_else_runs_where_there_is_room(part: str) -> None:
    assert place_of(part, WHOLE).cores is None


@pytest.mark.usefixtures("four_cores")
def test_servers_alone_have_all_cores() -> None:
    assert place_of("postgres", ("postgres", "redis", "kafka")).cores is None


def test_one_core_is_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert place_of("command", WHOLE).cores is None


def test_a_system_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert place_of("command", WHOLE).cores is None


def test_what_works_in_rounds_interrupts_nobody() -> None:
    assert {part for part in WHOLE if place_of(part, WHOLE).is_batch} == {"kafka", "relay", "projector"}


def test_a_system_without_batch_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    assert not place_of("relay", WHOLE).is_batch


def test_only_commands_go_first() -> None:
    assert {part for part in WHOLE if place_of(part, WHOLE).nice} == {"command"}
