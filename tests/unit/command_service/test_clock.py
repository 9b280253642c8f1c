"""The clock on a log in memory, with a list of what is due in the place of the read model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from command_service.application.clock import READ_MODEL_MISSING, Clock, Due, Pace
from command_service.application.decisions import DECISIONS
from command_service.domain.commands import ExpireHold, PostScheduled, VoidHold
from shared_kernel.errors import Unavailable
from shared_kernel.event_log.errors import IncarnationChanged
from shared_kernel.events import (
    HoldExpired,
    HoldVoided,
    ScheduledRefused,
    TransactionPosted,
    decode,
    decode_metadata,
)
from shared_kernel.words import format_time
from tests.support.commands import Client, transfer, wallet
from tests.support.workers import Bank, open_bank

START = datetime(2026, 11, 24, tzinfo=UTC)  # when the commands of the tests are sent
LATER = START + timedelta(hours=1)


class Listed:
    """A read model that knows what it is told and forgets it when told to."""

    def __init__(self, page_max: int = 2) -> None:
        self.due: list[Due] = []
        self.faults: list[Exception] = []
        self.pages = 0
        self._page_max = page_max

    def add(self, transaction: str, status: str, due_at: datetime = LATER, ledger: str = "bank") -> None:
        self.due.append(Due(due_at, ledger, transaction, "pending" if status == "pending" else "scheduled"))

    async def page(self, *, now: datetime, after: Due | None) -> Sequence[Due]:
        self.pages += 1
        if self.faults:
            raise self.faults.pop()
        rest = sorted(one for one in self.due if one.due_at <= now and (after is None or one > after))
        return rest[: self._page_max]


class Seen:
    """Metrics that only count."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.due: list[int] = []
        self.late_s = 0.0
        self.failures = 0

    def ended(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    def looked(self, *, due: int, late_s: float) -> None:
        self.due.append(due)
        self.late_s = late_s

    def failed(self) -> None:
        self.failures += 1


class Hall:
    """A bank, and clocks on it whose time is set by hand."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.client = bank.worker()
        self.listed = Listed()
        self.seen = Seen()
        self.now = LATER + timedelta(seconds=5)
        self.stop = asyncio.Event()

    def clock(self) -> Clock:
        return Clock(
            due=self.listed,
            executor=self.bank.worker().executor,
            decisions=DECISIONS,
            metrics=self.seen,
            pace=Pace(poll_ms=1, retry_max_ms=1),
            now=lambda: self.now,
            stop=self.stop,
        )

    async def opened(self, balance: int = 100) -> Client:
        await self.client.open()
        await self.client.send(wallet("x", minimum=0))
        await self.client.send(transfer("world", "x", balance))
        return self.client

    async def hold(self, name: str, amount: int = 1, expires_at: datetime = LATER) -> None:
        """Places a hold and lists it."""
        more = {"status": "pending", "id": name, "expires_at": format_time(expires_at)}
        await self.client.send(transfer("x", "world", amount, **more))
        self.listed.add(name, "pending", expires_at)

    async def schedule(self, name: str, amount: int = 1) -> None:
        """Schedules a transaction and lists it."""
        more = {"status": "scheduled", "id": name, "effective_at": format_time(LATER)}
        await self.client.send(transfer("x", "world", amount, **more))
        self.listed.add(name, "scheduled")

    def ends(self) -> list[object]:
        """The events after the commands of the test's own client."""
        events = [(decode(e.type, e.data), decode_metadata(e.metadata)) for e in self.bank.log.events["bank"]]
        return [event for event, metadata in events if metadata.system]


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    async with open_bank() as bank:
        yield Hall(bank)


async def test_holds_expire_and_scheduled_transactions_are_posted_when_their_time_has_come(hall: Hall) -> None:
    await hall.opened()
    for name in ("a", "b", "c"):
        await hall.hold(name)
    await hall.schedule("s")
    await hall.clock().round()
    assert hall.listed.pages == 3  # two, two, and the end of the list
    assert sorted(hall.seen.outcomes) == ["expired"] * 3 + ["posted"]
    assert [type(event) for event in hall.ends()].count(HoldExpired) == 3
    (posted,) = [event for event in hall.ends() if isinstance(event, TransactionPosted)]
    assert (posted.transaction, posted.scheduled) == ("s", True)
    assert hall.seen.due == [0]


async def test_commands_of_the_clock_bear_its_name_and_keys_of_its_own(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a")
    await hall.clock().round()
    metadata = decode_metadata(hall.bank.log.events["bank"][-1].metadata)
    assert (metadata.actor, metadata.key, metadata.system) == ("clock", "expire:a", True)
    assert "system-key:clock:expire%3Aa" in hall.bank.log.tags["bank"]
    # A caller who bears the clock's name and uses its key is somebody else.
    stranger = Client(hall.client.executor, actor="clock")
    await stranger.send(transfer("x", "world", 1), key="expire:a")


async def test_a_scheduled_transaction_that_the_rules_turn_down_is_refused_on_record(hall: Hall) -> None:
    await hall.opened(balance=10)
    await hall.schedule("s", amount=11)
    await hall.clock().round()
    assert hall.seen.outcomes == ["refused"]
    (refused,) = hall.ends()
    assert isinstance(refused, ScheduledRefused)
    assert refused.code == "insufficient_funds"


async def test_what_the_read_model_still_lists_is_not_sent_again(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a")
    clock = hall.clock()
    await clock.round()
    appends = len(hall.bank.log.appends)
    await clock.round()
    assert len(hall.bank.log.appends) == appends
    hall.listed.due.clear()
    await clock.round()
    assert clock._ended == set()


async def test_two_clocks_end_each_transaction_once(hall: Hall) -> None:
    await hall.opened()
    for number in range(10):
        await hall.hold(f"h{number}")
        await hall.schedule(f"s{number}")
    await asyncio.gather(*(hall.clock().round() for _ in range(2)))
    assert len(hall.ends()) == 20
    assert len(hall.seen.outcomes) == 40
    assert hall.seen.due == [0, 0]


async def test_what_others_ended_before_is_off_the_list(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a")
    await hall.client.send(VoidHold(transaction="a"))
    hall.listed.add("never was", "pending")
    hall.listed.add("a", "scheduled")
    await hall.clock().round()
    assert hall.seen.outcomes == ["settled_before"] * 3
    assert hall.ends() == []


async def test_an_expiry_that_races_a_void_leaves_one_end(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a", amount=100)

    async def void() -> None:
        await hall.client.send(VoidHold(transaction="a"))

    hall.bank.log.before_append = void
    await hall.clock().round()
    assert hall.seen.outcomes == ["settled_before"]
    ends = [decode(e.type, e.data) for e in hall.bank.log.events["bank"][-1:]]
    assert isinstance(ends[0], HoldVoided)


async def test_what_is_not_due_for_the_log_stays_on_the_list(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a", expires_at=LATER + timedelta(hours=1))
    hall.listed.due = [one._replace(due_at=LATER) for one in hall.listed.due]  # a list that is wrong
    clock = hall.clock()
    await clock.round()
    assert hall.seen.outcomes == []
    assert (hall.seen.due, hall.seen.late_s) == ([1], 5.0)
    hall.now += timedelta(hours=1)
    await clock.round()
    assert hall.seen.outcomes == ["expired"]


async def test_a_lost_command_is_sent_again_in_the_next_round(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a")
    hall.bank.log.is_down = True
    hall.bank.worker = lambda *_: type(hall.bank).worker(hall.bank, deadline_s=0.0)  # type: ignore[method-assign]
    clock = hall.clock()
    await clock.round()
    assert (hall.seen.outcomes, hall.seen.failures, hall.seen.due) == ([], 1, [1])
    hall.bank.log.is_down = False
    clock._executor._deadline_s = 60
    await clock.round()
    assert hall.seen.outcomes == ["expired"]


async def test_the_clock_runs_until_told_to_stop_whatever_the_read_model_says(hall: Hall) -> None:
    await hall.opened()
    await hall.hold("a")
    hall.listed.faults = [Unavailable(READ_MODEL_MISSING), Unavailable("event_log_unavailable")]
    clock = hall.clock()
    troubles: list[str | None] = [clock.trouble]
    looked = hall.listed.page

    async def page(*, now: datetime, after: Due | None) -> Sequence[Due]:
        troubles.append(clock.trouble)
        return await looked(now=now, after=after)

    hall.listed.page = page  # type: ignore[method-assign]
    running = asyncio.create_task(clock.run())
    while clock.trouble is not None or not hall.seen.outcomes:
        await asyncio.sleep(0)
    hall.stop.set()
    await running
    assert troubles[:4] == ["starting", "starting", "event_log_unavailable", None]  # idle without a model is no trouble
    assert hall.seen.failures == 2
    assert hall.seen.outcomes == ["expired"]


async def test_another_incarnation_ends_the_clock(hall: Hall) -> None:
    hall.listed.faults = [IncarnationChanged()]
    with pytest.raises(IncarnationChanged):
        await hall.clock().run()


def test_the_clock_asks_for_nothing_that_a_client_may_ask_for() -> None:
    from command_service.domain.commands import SYSTEM_COMMANDS

    assert {ExpireHold, PostScheduled} == SYSTEM_COMMANDS
