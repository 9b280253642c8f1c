"""The supervisor with real child processes that are no servers: crashes, giving up, order, orphans."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from daybook.stack.layout import Layout
from daybook.stack.parts import Launch, Part
from daybook.stack.stack_file import JwtPlace, PartStatus, StackFile, read_stack_file, read_state
from daybook.stack.supervisor import Supervisor
from daybook.terminal import CommandFailed

PATIENCE_S = 30
SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
NOTES_ITS_END = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(sys.argv[1], file=open(sys.argv[2], "a")) or 0))
pathlib.Path(sys.argv[3]).touch()
signal.pause()
"""


@dataclass
class Witness:
    """A view that remembers and lets a test wait for what it hears."""

    heard: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, status: PartStatus) -> None:
        self.seen.append((status.name, status.state))
        self.news.set()

    def said(self, text: str) -> None:
        self.heard.append(text)
        self.news.set()

    def all_ready(self, stack: StackFile) -> None:
        self.ready.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.at(tmp_path)
    layout.make()
    return layout


def child(name: str, code: str, *arguments: str, needs: tuple[str, ...] = (), is_ours: bool = False) -> Part:
    argv = [sys.executable, "-c", code, *arguments]
    return Part(
        name=name,
        needs=needs,
        is_ours=is_ours,
        launch=lambda: Launch(argv, {"PATH": os.defpath}, Path("/")),
    )


def supervisor(layout: Layout, parts: list[Part], witness: Witness) -> Supervisor:
    nowhere = dict.fromkeys(
        (
            "command_url",
            "query_url",
            "relay_url",
            "projector_url",
            "clock_url",
            "monitor_url",
            "postgres_url",
            "redis_url",
            "kafka_bootstrap",
        ),
        "",
    )
    stack_file = StackFile(
        **nowhere,
        postgres_urls={},
        kafka_topic="",
        pids={},
        tokens={},
        jwt=JwtPlace(issuer="", audience="", keys_file=""),
    )
    return Supervisor(layout, parts, stack_file, witness, pid=os.getpid())


@asynccontextmanager
async def running(layout: Layout, parts: list[Part], witness: Witness) -> AsyncIterator[Supervisor]:
    """A supervisor whose parts are all ready, stopped in order at the end."""
    it = supervisor(layout, parts, witness)
    run = asyncio.create_task(it.run(owner=None))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(
                [run, ready := asyncio.create_task(witness.ready.wait())], return_when=asyncio.FIRST_COMPLETED
            )
        assert ready.done(), "the supervisor ended before all was ready"
        yield it
    finally:
        it.stop()
        async with asyncio.timeout(PATIENCE_S):
            await run


async def test_a_killed_child_is_shown_with_its_last_lines_and_started_again(layout: Layout) -> None:
    witness, log = Witness(), layout.log("redis")
    redis = replace(child("redis", SLEEPS), fault=lambda: None if "up" in log.read_text() else "silent")
    async with running(layout, [redis], witness):
        first = read_stack_file(layout).pids["redis"]

        os.kill(first, signal.SIGKILL)
        await witness.until(lambda: witness.seen.count(("redis", "ready")) == 2)

        second = read_stack_file(layout).pids["redis"]
        assert second != first
        assert any("redis was killed by signal 9" in text and "    up" in text for text in witness.heard)
        state = read_state(layout)
        assert state is not None
        assert [(part.state, part.restarts, part.pid) for part in state.parts] == [("ready", 1, second)]


async def test_five_crashes_within_a_minute_stop_the_stack_which_says_why(layout: Layout) -> None:
    witness = Witness()
    hopeless = replace(child("kafka", "import sys; sys.exit('no heap left')"), fault=lambda: "not yet")
    well = child("redis", SLEEPS)
    it = supervisor(layout, [well, hopeless], witness)

    with pytest.raises(CommandFailed, match="kafka crashed 5 times within a minute") as caught:
        async with asyncio.timeout(PATIENCE_S):
            await it.run(owner=None)

    assert "no heap left" in caught.value.message
    assert witness.seen.count(("kafka", "crashed")) == 5
    assert ("redis", "stopped") in witness.seen
    assert not layout.stack_file.exists()
    state = read_state(layout)
    assert state is not None
    assert state.phase == "stopped"
    assert "kafka crashed 5 times" in state.fault


async def test_a_process_that_refuses_its_settings_is_not_started_again(layout: Layout) -> None:
    witness = Witness()
    code = "import sys; print('DAYBOOK_HTTP_PORT: is no number', file=sys.stderr); sys.exit(2)"

    with pytest.raises(CommandFailed, match="query refuses its settings") as caught:
        async with asyncio.timeout(PATIENCE_S):
            await supervisor(layout, [child("query", code, is_ours=True)], witness).run(owner=None)

    assert "DAYBOOK_HTTP_PORT: is no number" in caught.value.message
    assert witness.seen.count(("query", "crashed")) == 1


async def test_a_preparation_that_fails_stops_the_stack_which_says_why(layout: Layout) -> None:
    def fail(report: object) -> None:
        raise CommandFailed("initdb failed: disk full")

    parts = [child("redis", SLEEPS), Part(name="postgres", prepare=fail)]

    with pytest.raises(CommandFailed, match="postgres: initdb failed: disk full"):
        async with asyncio.timeout(PATIENCE_S):
            await supervisor(layout, parts, Witness()).run(owner=None)


async def test_parts_wait_for_what_they_need(layout: Layout) -> None:
    witness = Witness()
    parts = [
        child("command", SLEEPS, needs=("database",)),
        Part(name="database", needs=("postgres",)),
        child("postgres", SLEEPS),
    ]

    async with running(layout, parts, witness):
        order = [seen for seen in witness.seen if seen[1] in {"ready", "done", "starting"}]

    assert order.index(("postgres", "ready")) < order.index(("database", "done"))
    assert order.index(("database", "done")) < order.index(("command", "starting"))


async def test_everything_stops_in_order_processes_first_and_the_log_of_record_last(layout: Layout) -> None:
    ends = layout.root / "ends"
    names = ["postgres", "redis", "kafka", "projector", "command"]
    ups = {name: layout.root / f"{name}.up" for name in names}
    parts = []
    for name in names:
        part = child(name, NOTES_ITS_END, name, str(ends), str(ups[name]))
        # Ready only once its signal handler is in place.
        parts.append(Part(name=name, launch=part.launch, fault=lambda up=ups[name]: None if up.exists() else "not yet"))

    async with running(layout, parts, Witness()):
        pass

    assert ends.read_text().split() == ["command", "projector", "kafka", "redis", "postgres"]
    assert not layout.children_file.exists()


async def test_a_child_that_ignores_its_signal_is_killed_in_the_end(layout: Layout) -> None:
    up = layout.root / "up"
    code = "import pathlib, signal, sys; signal.signal(15, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); signal.pause()"
    stubborn = child("command", code, str(up))
    part = replace(stubborn, fault=lambda: None if up.exists() else "not yet", stop_grace_s=0.2)
    witness = Witness()

    async with running(layout, [part], witness):
        pid = read_stack_file(layout).pids["command"]

    assert any("command did not stop" in text for text in witness.heard)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stopping_while_a_part_is_being_prepared_waits_for_no_readiness(layout: Layout) -> None:
    begun, witness = asyncio.Event(), Witness()
    loop = asyncio.get_running_loop()

    def prepare(report: object) -> None:
        loop.call_soon_threadsafe(begun.set)

    slow = Part(name="kafka", prepare=prepare, fault=lambda: "never ready")
    it = supervisor(layout, [child("redis", SLEEPS), slow], witness)
    run = asyncio.create_task(it.run(owner=None))
    await begun.wait()

    it.stop()

    async with asyncio.timeout(PATIENCE_S):
        await run
    assert not layout.stack_file.exists()
