"""The real log and the log in memory answer alike, whatever is appended in whatever order.

So the unit tests of the command service, which run on the log in memory, speak of the real one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_kernel.event_log.fast import LogConnection
from shared_kernel.event_log.types import Appended, Decision, Fence, Loaded, NewEvent, RecordedEvent, Tail
from tests.services import Database
from tests.support.memory_log import MemoryLog

TAGS = ("a", "b", "key:k", "terms:ž")
NUMBERS = count()

tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=3)
# Postgres holds any text but NUL; surrogates are no text.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
events = st.builds(NewEvent, type=st.sampled_from(["E.v1", "F.v1"]), data=texts, metadata=texts, tags=tags)
fences = st.builds(Fence, tag=st.sampled_from((*TAGS, "never")), after=st.integers(0, 12))
decisions = st.builds(
    Decision,
    group=st.integers(0, 2),
    events=st.lists(events, max_size=3),
    fences=st.lists(fences, max_size=3),
)
# How far behind the head the caller's state is; None: it asks for no tail.
steps = st.lists(
    st.tuples(st.lists(decisions, max_size=4), st.none() | st.integers(0, 6), st.integers(0, 8)), max_size=8
)


@pytest.fixture(scope="module")
def session(database: Database) -> Iterator[SimpleNamespace]:
    """One event loop and one connection for all examples."""
    with asyncio.Runner() as runner:

        async def open_connection() -> LogConnection:
            return await LogConnection.connect(database.urls["command"], incarnation=None)

        connection = runner.run(open_connection())
        yield SimpleNamespace(run=runner.run, connection=connection)

        async def close() -> None:
            connection.close()

        runner.run(close())


@settings(max_examples=30, deadline=None)
@given(steps)
def test_the_real_log_answers_as_the_log_in_memory(
    session: SimpleNamespace, steps: Sequence[tuple[Sequence[Decision], int | None, int]]
) -> None:
    session.run(compare(session.connection, f"model:{next(NUMBERS)}", steps))


async def compare(
    real: LogConnection, ledger: str, steps: Sequence[tuple[Sequence[Decision], int | None, int]]
) -> None:
    """Does the same to both and compares every answer, and at the end everything that is there."""
    model = MemoryLog()
    opening = Decision(group=0, events=[NewEvent(type="LedgerOpened.v1", data="", metadata="", tags=())], fences=())
    head = 0
    for batch, lag, events_max in (([opening], None, 0), *steps):
        how = {
            "seen": None if lag is None else max(head - lag, 0),
            "decisions": batch,
            "tail": Tail(events_max=events_max),
        }
        answer = await real.append(ledger, **how)  # type: ignore[arg-type]
        assert essence(answer) == essence(await model.append(ledger, **how))  # type: ignore[arg-type]
        head = answer.head
    for seen in (None, 0, head):
        asked = {"seen": seen, "tags": (*TAGS, "never"), "tail": Tail()}
        loaded = await real.load(ledger, **asked)  # type: ignore[arg-type]
        assert look(loaded) == look(await model.load(ledger, **asked))  # type: ignore[arg-type]


def essence(answer: Appended) -> object:
    """What an append said, but when."""
    return (answer.is_behind, answer.base, answer.head, list(answer.failed), [plain(event) for event in answer.tail])


def look(loaded: Loaded) -> object:
    """What a load found, but when."""
    found = {tag: [plain(event) for event in events] for tag, events in loaded.events.items()}
    return (loaded.is_behind, loaded.head, [plain(event) for event in loaded.tail], found)


def plain(event: RecordedEvent) -> tuple[str, int, str, str, str]:
    """An event without its time."""
    return (event.ledger, event.position, event.type, event.data, event.metadata)
