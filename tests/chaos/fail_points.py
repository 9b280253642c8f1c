"""`python -m tests.chaos.fail_points NAME NTH MODULE…`: a process that dies, as by kill -9, the NTH time it comes to one step of its work.

The steps are named here and nowhere else: each is where one function of the product is entered or left, and the product knows nothing
of it. Together they are the way of a command from the queue to its answer, of the group commit as of the transaction under locks; the
way of an event through the relay; and that of a batch into a read model.
"""

import os
import runpy
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from command_service.application.executor import Executor
from command_service.application.line import Line
from command_service.infrastructure.account_locks import AccountLocks
from projections.application.relay import Relay
from projections.infrastructure import kafka_clients
from projections.infrastructure.kafka import KafkaPublisher, KafkaSource
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.postgres_relayed import PostgresRelayed
from shared_kernel.event_log import fast
from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.pipeline import Pipeline

OF_SINGLES = (
    "received",  # nothing was done yet
    "loading",  # the log is asked, and has not answered
    "loaded",
    "locked",  # Redis has given the locks
    "decided",  # nothing is sent yet
    "appending",  # the append has left; nobody knows whether it is committed
    "appended",  # it is committed, and nobody was told
    "answered",  # the answer stands, and has not left
)
OF_ATOMIC_BATCHES = (
    "heads locked",
    "appended under locks",  # of the first ledger; nothing is committed
    "committing",  # COMMIT has left; nobody knows
    "committed",  # and nobody was told
)
OF_COMMANDS = (*OF_SINGLES, *OF_ATOMIC_BATCHES)
OF_RELAYS = (
    "lease taken",  # and nothing was done with it
    "read",  # Kafka knows nothing of it
    "handed over",  # to the producer, which has sent some of it, or nothing
    "published",  # Kafka has it, and nobody remembers
    "remembered",
)
OF_PROJECTORS = (
    "partitions given",  # in the middle of a rebalance
    "rows written",  # nothing is committed
    "rows committed",  # and Kafka was not told
)
POINTS = (*OF_COMMANDS, *OF_RELAYS, *OF_PROJECTORS)


def main() -> None:
    """Runs the module with its points in place."""
    name, nth, module, *arguments = sys.argv[1:]
    point = _Point(name, int(nth))
    arm = _arm_commands if name in OF_COMMANDS else _arm_relay if name in OF_RELAYS else _arm_projector
    arm(point)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class _Point:
    def __init__(self, name: str, nth: int) -> None:
        assert name in POINTS, name
        self._name = name
        self._left = nth
        self.is_live = name not in OF_COMMANDS
        """Of a command process once a command has come: what it asks at its start is not the write path."""

    def reach(self, name: str) -> None:
        """The process is here; it ends if this is the point, and the time has come."""
        if self.is_live and name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _arm_commands(point: _Point) -> None:
    enqueue, submit_atomic = Executor.enqueue, Executor.submit_atomic
    answer, take = Line.answer, AccountLocks.take
    execute, load, append, transaction = (
        Pipeline.execute,
        LogConnection.load,
        LogConnection.append,
        LogConnection.transaction,
    )

    def enqueued(self: Executor, *arguments: Any) -> Any:
        point.is_live = True
        point.reach("received")
        return enqueue(self, *arguments)

    def submitted(self: Executor, *arguments: Any) -> Any:
        point.is_live = True
        return submit_atomic(self, *arguments)

    def answered(self: Line, *arguments: Any) -> None:
        answer(self, *arguments)
        point.reach("answered")

    async def taken(self: AccountLocks, *arguments: Any) -> Any:
        grip = await take(self, *arguments)
        point.reach("locked")
        return grip

    def executed(self: Pipeline, *statements: tuple[bytes, Any], is_write: bool) -> Any:
        asked = {name for name, _ in statements}
        if fast._APPEND in asked and is_write:
            point.reach("decided")
        future = execute(self, *statements, is_write=is_write)
        for statement, name in ((fast._LOAD, "loading"), (fast._COMMIT, "committing")):
            if statement in asked:
                point.reach(name)
        if fast._APPEND in asked and is_write:
            point.reach("appending")
        return future

    def then(of: Callable[..., Awaitable[Any]], free: str, locked: str) -> Callable[..., Awaitable[Any]]:
        async def done(self: LogConnection, *arguments: Any, **named: Any) -> Any:
            found = await of(self, *arguments, **named)
            point.reach(locked if self._in_transaction else free)
            return found

        return done

    @asynccontextmanager
    async def committed(self: LogConnection, ledgers: Sequence[str]) -> AsyncIterator[None]:
        async with transaction(self, ledgers):
            yield
        point.reach("committed")

    patched: dict[object, dict[str, Any]] = {
        Executor: {"enqueue": enqueued, "submit_atomic": submitted},
        Line: {"answer": answered},
        AccountLocks: {"take": taken},
        Pipeline: {"execute": executed},
        LogConnection: {
            "load": then(load, "loaded", "heads locked"),
            "append": then(append, "appended", "appended under locks"),
            "transaction": committed,
        },
    }
    _patch(patched)


def _arm_relay(point: _Point) -> None:
    acquire, publish, stored = PostgresRelayed.acquire, Relay._publish, KafkaPublisher.publish

    def acquired(self: PostgresRelayed, *arguments: Any) -> int | None:
        epoch = acquire(self, *arguments)
        if epoch is not None:
            point.reach("lease taken")
        return epoch

    def published(self: Relay, *arguments: Any) -> None:
        point.reach("read")
        publish(self, *arguments)
        point.reach("remembered")

    def handed_over(self: KafkaPublisher, *arguments: Any, **named: Any) -> None:
        stored(self, *arguments, **named)
        point.reach("published")

    class HandedOver(kafka_clients.Producer):
        def flush(self, *arguments: Any) -> int:
            point.reach("handed over")
            return super().flush(*arguments)

    _patch(
        {
            PostgresRelayed: {"acquire": acquired},
            Relay: {"_publish": published},
            KafkaPublisher: {"publish": handed_over},
            kafka_clients: {"Producer": HandedOver},
        }
    )


def _arm_projector(point: _Point) -> None:
    assigned, move, write = KafkaSource._on_assign, PostgresReadModel._move, PostgresReadModel.write

    def given(self: KafkaSource, consumer: Any, partitions: Sequence[Any]) -> None:
        assigned(self, consumer, list(partitions))
        if partitions:
            point.reach("partitions given")

    def moved(self: PostgresReadModel, *arguments: Any) -> bool:
        is_moved = move(self, *arguments)
        if is_moved:
            point.reach("rows written")
        return is_moved

    def written(self: PostgresReadModel, *arguments: Any) -> bool:
        is_written = write(self, *arguments)
        if is_written:
            point.reach("rows committed")
        return is_written

    _patch({KafkaSource: {"_on_assign": given}, PostgresReadModel: {"_move": moved, "write": written}})


def _patch(patched: Mapping[object, Mapping[str, Any]]) -> None:
    for owner, functions in patched.items():
        for name, function in functions.items():
            setattr(owner, name, function)


if __name__ == "__main__":
    main()
