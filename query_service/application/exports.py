"""What was posted in a ledger, read from its log piece by piece: the source of every export. Memory is bounded by a piece.

An event of a hold's posting does not repeat what the hold said; that is looked up for the holds of each piece at once.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from query_service.application.journals import Posting
from query_service.application.log_questions import BIRTHS
from query_service.application.log_reader import LogFilter, LogReader
from query_service.application.query_handler import Asked, QueryHandler, Stamp
from shared_kernel import events, tags
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import AccountOpened, Event, HoldPosted, LedgerOpened, TransactionHeld, TransactionPosted
from shared_kernel.words import NormalBalance, parse_time

POSTED = ("TransactionPosted.v1", "HoldPosted.v1")
OPENED = ("AccountOpened.v1",)
ACCOUNTS_KEPT_MAX = 50_000  # chosen: about 10 MB; others are looked up again


class Exported(NamedTuple):
    """A piece of an export: accounts that were opened in it, then what was posted. `stamp`: what the whole is as of."""

    stamp: Stamp
    opened: Sequence[AccountOpened]
    postings: Sequence[Posting]


class Exports:
    """Reads one ledger's postings for one client after another."""

    def __init__(self, handler: QueryHandler, log: LogReader) -> None:
        self._handler = handler
        self._log = log

    async def zone(self, asked: Asked) -> tzinfo:
        """What counts as a day in the ledger."""
        first = await self._log.page(Asked(ledger=asked.ledger), LogFilter(to_position=1), after=0, events_max=1)
        opened = _decode(first.events[0])
        name = opened.time_zone if isinstance(opened, LedgerOpened) else None
        return UTC if name is None else ZoneInfo(name)

    async def pieces(self, asked: Asked, *, with_accounts: bool = False) -> AsyncGenerator[Exported, None]:
        """All that was posted up to the position asked for, else up to the head, in order."""
        types = (*OPENED, *POSTED) if with_accounts else POSTED
        async with aclosing(self._log.pieces(asked, LogFilter(types=types))) as pieces:
            stamp: Stamp | None = None
            async for piece in pieces:
                stamp = stamp or piece.stamp
                decoded = [(event, _decode(event)) for event in piece.events]
                holds = await self._holds(
                    asked, [said.transaction for _, said in decoded if isinstance(said, HoldPosted)]
                )
                yield Exported(
                    stamp,
                    [said for _, said in decoded if isinstance(said, AccountOpened)],
                    [
                        _posting(event, said, holds)
                        for event, said in decoded
                        if isinstance(said, TransactionPosted | HoldPosted)
                    ],
                )

    async def normal_balances(self, asked: Asked, addresses: Sequence[str]) -> dict[str, NormalBalance]:
        """The normal side of each of these accounts."""
        found = await self._births(asked, [tags.terms_tag(address) for address in addresses])
        return {said.address: said.normal_balance for said in found if isinstance(said, AccountOpened)}

    async def _holds(self, asked: Asked, transactions: Sequence[str]) -> dict[str, TransactionHeld]:
        found = await self._births(asked, [tags.transaction_tag(name) for name in dict.fromkeys(transactions)])
        return {said.transaction: said for said in found if isinstance(said, TransactionHeld)}

    async def _births(self, asked: Asked, of_tags: list[str]) -> list[Event]:
        """The first event that bears each tag."""
        if not of_tags:
            return []
        snapshot = await self._handler.ask(BIRTHS, Asked(ledger=asked.ledger), tags=of_tags)
        return [events.decode(row.type, row.data) for row in snapshot.rows]


class Sides:
    """The normal sides of accounts, a bounded number of them kept."""

    def __init__(self, exports: Exports, asked: Asked) -> None:
        self._exports = exports
        self._asked = asked
        self._known: dict[str, NormalBalance] = {}

    async def learn(self, exported: Exported) -> None:
        """The sides of all accounts of this piece are known until the next one."""
        if len(self._known) > ACCOUNTS_KEPT_MAX:
            self._known.clear()
        self._known.update((opened.address, opened.normal_balance) for opened in exported.opened)
        named = dict.fromkeys(entry.account for posting in exported.postings for entry in posting.entries)
        missing = [address for address in named if address not in self._known]
        self._known |= await self._exports.normal_balances(self._asked, missing)

    def of(self, address: str) -> NormalBalance:
        """The account's normal side."""
        return self._known[address]


def _decode(event: RecordedEvent) -> Event:
    return events.decode(event.type, event.data)


def _posting(event: RecordedEvent, said: TransactionPosted | HoldPosted, holds: dict[str, TransactionHeld]) -> Posting:
    about: TransactionPosted | TransactionHeld
    about = said if isinstance(said, TransactionPosted) else holds[said.transaction]
    effective_at = said.effective_at or about.effective_at
    return Posting(
        position=event.position,
        recorded_at=event.recorded_at,
        effective_at=event.recorded_at if effective_at is None else parse_time(effective_at),
        transaction=said.transaction,
        entries=said.entries,
        reference=about.reference,
        description=about.description,
        reverses=said.reverses if isinstance(said, TransactionPosted) else None,
    )
