"""Runs one stack: starts its parts in order, keeps them running, stops them in order.

All children are forked on the main thread, which runs the event loop; what blocks (initdb, downloads,
probes) runs in threads. It knows parts only as `parts.Part` and tells what happens to a `View`.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar, cast

import msgspec

from daybook.stack.children import record_children, start_child, start_time
from daybook.stack.cores import cores_of, interrupts_nobody
from daybook.stack.layout import Layout, read_tail
from daybook.stack.parts import EXIT_SETTINGS_WRONG, Part
from daybook.stack.restarts import CRASHES_MAX, CrashHistory
from daybook.stack.stack_file import PartState, PartStatus, Phase, StackFile, StackState, write_stack_file, write_state
from daybook.terminal import CommandFailed

PROBE_EVERY_S = 0.05
OWNER_EVERY_S = 0.5
READY_WITHIN_S = 90.0  # measured: Kafka takes 10 s on a machine loaded fourteenfold
TAIL_LINES = 15
PREPARATION_GRACE_S = 3.0  # an initdb in flight ends within this, a download is left behind

# Daybook's processes first, so that none of them meets a missing server; the log of record last.
STOP_ORDER = (("command", "query", "clock", "monitor"), ("relay", "projector"), ("kafka",), ("redis",), ("postgres",))


Result = TypeVar("Result")


class View(Protocol):
    """Shows what happens to a person."""

    def changed(self, status: PartStatus) -> None: ...
    def said(self, text: str) -> None: ...
    def all_ready(self, stack: StackFile) -> None: ...


class PartFailed(Exception):
    """A part cannot be had, and so the stack stops; the text says why."""


class Supervisor:
    """One run of one stack. Made and used on the main thread, inside a running event loop."""

    def __init__(self, layout: Layout, parts: Sequence[Part], stack_file: StackFile, view: View, *, pid: int) -> None:
        self._layout = layout
        self._parts = {part.name: part for part in parts}
        self._stack_file = stack_file
        self._view = view
        self._pid = pid
        self._phase: Phase = "starting"
        self._fault = ""
        self._begun_at = time.monotonic()
        self._statuses = {part.name: PartStatus(name=part.name, address=part.address) for part in parts}
        self._ready = {part.name: asyncio.Event() for part in parts}
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._preparing: set[asyncio.Future[None]] = set()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Asks to stop in order; asked again, the children are killed."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self, *, owner: int | None) -> None:
        """Returns when the stack was asked to stop and has; raises `CommandFailed` when it had to."""
        keepers = [asyncio.create_task(self._keep(part)) for part in self._parts.values()]
        watchers = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._announce())]
        if owner is not None:
            watchers.append(asyncio.create_task(self._watch(owner)))
        try:
            self._publish()
            await self._until_stop(keepers)
        finally:
            for task in (*keepers, *watchers):
                task.cancel()
            await asyncio.gather(*keepers, *watchers, return_exceptions=True)
            await self._stop_all()
        if self._fault:
            raise CommandFailed(self._fault)

    async def _until_stop(self, keepers: list["asyncio.Task[None]"]) -> None:
        stop = asyncio.create_task(self._stop.wait())
        running: set[asyncio.Task[object]] = {stop, *keepers}
        while not stop.done():
            finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                failure = task.exception()
                if isinstance(failure, PartFailed | CommandFailed):
                    self._fault = str(failure)
                    return
                if failure is not None:
                    raise failure

    async def _keep(self, part: Part) -> None:
        """One part, from waiting for its needs to the end of the stack."""
        for need in part.needs:
            await self._ready[need].wait()
        self._mark(part, "preparing")
        begun_at = time.monotonic()
        await self._prepare(part)
        if part.launch is None:
            await self._until_ready(part)
            self._mark(part, "ready" if part.address else "done", ready_after_s=time.monotonic() - begun_at)
            self._ready[part.name].set()
            return
        history = CrashHistory()
        while True:
            code, last_lines = await self._live_once(part, begun_at)
            delay_s = history.next_delay_s(time.monotonic())
            self._report_crash(part, code, last_lines)
            if code == EXIT_SETTINGS_WRONG and part.is_ours:
                raise PartFailed(f"{part.name} refuses its settings; its log says why:\n{_indented(last_lines)}")
            if delay_s is None:
                why = f"{part.name} crashed {CRASHES_MAX} times within a minute; the last lines of its log:"
                raise PartFailed(f"{why}\n{_indented(last_lines)}")
            await asyncio.sleep(delay_s)
            begun_at = time.monotonic()

    async def _live_once(self, part: Part, begun_at: float) -> tuple[int, list[str]]:
        """One life of a child: its exit code and the last lines it wrote."""
        assert part.launch is not None  # noqa: S101 - for the type checker; `_keep` asked
        path = self._layout.log(part.name)
        log = self._layout.open_log(part.name)
        offset = path.stat().st_size
        try:
            cores, is_batch = cores_of(part.name, self._parts), interrupts_nobody(part.name)
            child = await start_child(part, part.launch(), log=log, cores=cores, is_batch=is_batch)
        except OSError as error:
            raise PartFailed(f"{part.name} could not be started: {error}") from error
        finally:
            os.close(log)
        self._children[part.name] = child
        self._mark(part, "starting", pid=child.pid, detail="")
        exited = asyncio.create_task(child.wait())
        ready = asyncio.create_task(self._until_ready(part))
        try:
            await asyncio.wait({exited, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not exited.done():
                ready.result()  # never ready, or a broken probe: no restart heals either
                self._mark(part, "ready", detail="", ready_after_s=time.monotonic() - begun_at)
                self._ready[part.name].set()
            code = await exited
        finally:
            ready.cancel()
            exited.cancel()
        del self._children[part.name]
        return code, read_tail(path, offset=offset, lines=TAIL_LINES)

    async def _prepare(self, part: Part) -> None:
        loop = asyncio.get_running_loop()

        def report(text: str) -> None:
            loop.call_soon_threadsafe(self._mark, part, "preparing", text)

        work = in_thread(lambda: part.prepare(report))
        self._preparing.add(work)
        try:
            await asyncio.shield(work)
        except CommandFailed as failure:
            raise PartFailed(f"{part.name}: {failure.message}") from failure
        finally:
            if work.done():
                self._preparing.discard(work)

    async def _until_ready(self, part: Part) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            fault = await in_thread(part.fault)
            if fault is None:
                return
            # Once it has been ready, only a crash matters: it may be waiting for a neighbour's return.
            if time.monotonic() > deadline and not self._ready[part.name].is_set():
                last_lines = read_tail(self._layout.log(part.name), offset=0, lines=TAIL_LINES)
                why = f"{part.name} was not ready within {READY_WITHIN_S:.0f} s: {fault}"
                raise PartFailed(f"{why}\n{_indented(last_lines)}")
            status = self._statuses[part.name]
            if fault != status.detail:
                self._mark(part, status.state, fault)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _announce(self) -> None:
        for event in self._ready.values():
            await event.wait()
        self._phase = "ready"
        self._publish()
        self._view.all_ready(self._with_pids())

    async def _watch(self, owner: int) -> None:
        started = start_time(owner)
        while started is not None and start_time(owner) == started:
            await asyncio.sleep(OWNER_EVERY_S)
        self._view.said(f"the owner of this stack (pid {owner}) has ended")
        self.stop()

    async def _stop_all(self) -> None:
        self._phase = "stopping"
        self._layout.stack_file.unlink(missing_ok=True)
        if self._preparing:
            ended, _ = await asyncio.wait(self._preparing, timeout=PREPARATION_GRACE_S)
            for work in ended:
                work.exception()  # seen: what fails while we stop is no news
        for stage in STOP_ORDER:
            await asyncio.gather(*(self._stop_child(self._parts[name]) for name in stage if name in self._children))
        self._phase = "stopped"
        write_state(self._layout, StackState(self._phase, self._pid, list(self._statuses.values()), self._fault))
        self._layout.children_file.unlink(missing_ok=True)

    async def _stop_child(self, part: Part) -> None:
        child = self._children[part.name]
        self._mark(part, "stopping")
        exited = asyncio.create_task(child.wait())
        hurry = asyncio.create_task(self._hurry.wait())
        if child.returncode is None:
            child.send_signal(part.stop_signal)
        await asyncio.wait({exited, hurry}, timeout=part.stop_grace_s, return_when=asyncio.FIRST_COMPLETED)
        if not exited.done():
            self._view.said(f"{part.name} did not stop within {part.stop_grace_s:.0f} s or was not waited for: killed")
            child.kill()
        await exited
        hurry.cancel()
        del self._children[part.name]
        self._mark(part, "stopped", detail="")

    def _report_crash(self, part: Part, code: int, last_lines: list[str]) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._statuses[part.name].restarts += 1
        self._mark(part, "crashed", detail=how)
        lines = f"; its last lines:\n{_indented(last_lines)}" if last_lines else ""
        self._view.said(f"{part.name} {how} and is started again{lines}")

    def _mark(
        self, part: Part, state: PartState, detail: str | None = None, *, pid: int | None = None,
        ready_after_s: float | None = None,
    ) -> None:  # fmt: skip
        status = self._statuses[part.name]
        status.state = state
        status.pid = pid if pid is not None else (status.pid if state in {"ready", "starting", "stopping"} else None)
        if detail is not None:
            status.detail = detail
        if ready_after_s is not None:
            status.ready_after_s = ready_after_s
        self._publish()
        self._view.changed(status)

    def _publish(self) -> None:
        """The files of the data folder say what is so now."""
        children = {name: (child.pid, self._parts[name].stop_signal) for name, child in self._children.items()}
        record_children(self._layout, children)
        if (
            self._phase == "ready"
        ):  # its readers take its presence for that, and whoever waits for that state then reads it
            write_stack_file(self._layout, self._with_pids())
        write_state(self._layout, StackState(self._phase, self._pid, list(self._statuses.values())))

    def _with_pids(self) -> StackFile:
        pids = {"supervisor": self._pid} | {name: child.pid for name, child in self._children.items()}
        return msgspec.structs.replace(self._stack_file, pids=pids)


def in_thread(work: Callable[[], Result]) -> "asyncio.Future[Result]":
    """The outcome of `work`, done in a daemon thread: one still running does not hold our exit up."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, failure: BaseException | None) -> None:
        if outcome.done():  # cancelled, and nobody waits any more
            return
        if failure is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(cast("Result", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop has closed: the stack is gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
