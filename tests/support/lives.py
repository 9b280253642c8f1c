"""Made-up lives of a ledger: every kind of event, each possible where it stands. Deterministic in its random source."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    Limit,
    LimitsSet,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from shared_kernel.words import format_time

ASSETS = ("USD/2", "JPY", "BTC/8")
# Around the times at which `histories` records, so that some are late, some early and many equal.
_MIDDLE = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
MOMENTS = [
    *(_MIDDLE + timedelta(hours=hours) for hours in range(-72, 72, 7)),
    # Of one hour, one minute, one second.
    *(
        _MIDDLE + timedelta(seconds=seconds, microseconds=m)
        for seconds in (-1, 0, 1, 59, 60, 1800)
        for m in (0, 1, 999_999)
    ),
]
FAR = [datetime(1899, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2031, 2, 28, tzinfo=UTC)]
TEXTS = ("blue", "None", "\\N", "tab\there, back\\slash, line\nfeed, \N{SNOWMAN}", 'a "quoted" \\ text', "")


def books(ledger: str, steps: int, *, seed: int = 1) -> Iterator[Event]:
    """A ledger and what became of it."""
    yield LedgerOpened(ledger=ledger, accounts="explicit", time_zone="Europe/Prague", metadata={"made": "up"})
    yield from Life(ledger, random.Random(f"{seed}/{ledger}")).steps(steps)


class Life:
    """What has become of a ledger so far; `step` is one more event. The ledger itself has been opened by somebody else."""

    def __init__(self, ledger: str, chance: random.Random, *, accounts: int = 6) -> None:
        self.ledger = ledger
        self.chance = chance
        self.addresses = [f"users:{number}:wallet" for number in range(accounts)] + ["bank:cash"]
        self.opened: list[str] = []
        self.held: dict[str, dict[tuple[str, str, str], int]] = {}
        self.partly_posted: set[str] = set()
        self.scheduled: dict[str, TransactionScheduled] = {}
        self.transactions: list[str] = []
        self.made = 0

    def steps(self, count: int) -> Iterator[Event]:
        """So many events."""
        for _ in range(count):
            yield self.step()

    def step(self) -> Event:
        """One event more."""
        steps: list[Callable[[], Event | None]] = [self._post] * 6
        steps += [self._hold, self._hold, self._capture, self._capture, self._end, self._schedule, self._come_due]
        steps += [self._cancel, self._change_account, self._change_account, self._note, self._reverse, self._refuse]
        steps += [self._change_ledger, self._open]
        return self.chance.choice(steps)() or self._post()

    def _post(self) -> Event:
        transaction, entries = self._new(), self._entries()
        return TransactionPosted(
            transaction=transaction,
            entries=entries,
            reference=f"ref {transaction}" if self._is_so() else None,
            description=self._text(),
            effective_at=self._moment(),
            metadata=self._metadata(),
            forced=self._is_so(0.05),
        )

    def _reverse(self) -> Event | None:
        if not self.transactions:
            return None
        original = self.chance.choice(self.transactions)
        return TransactionPosted(
            transaction=self._new(), entries=self._entries(), reverses=original, effective_at=self._moment()
        )

    def _hold(self) -> Event:
        transaction, entries = self._new(), self._entries()
        held = self.held[transaction] = defaultdict(int)
        for entry in entries:
            held[entry.account, entry.direction, entry.asset] += entry.amount
        return TransactionHeld(
            transaction=transaction,
            entries=entries,
            expires_at=self._moment(),
            description=self._text(),
            effective_at=self._moment(),
            metadata=self._metadata(),
        )

    def _capture(self) -> Event | None:
        if not self.held:
            return None
        transaction = self.chance.choice(list(self.held))
        held = self.held[transaction]
        taken = [
            Entry(account=where[0], direction=where[1], amount=part, asset=where[2])  # type: ignore[arg-type]
            for where, amount in held.items()
            if amount and (part := self.chance.choice((amount, amount, self.chance.randint(0, amount))))
        ]
        for entry in taken:
            held[entry.account, entry.direction, entry.asset] -= entry.amount
        if taken:
            self.partly_posted.add(transaction)
        is_final = self._is_so() or not any(held.values())
        released = self._left(transaction) if is_final else []
        if is_final:
            del self.held[transaction]
        return HoldPosted(
            transaction=transaction,
            entries=taken,
            released=released,
            is_final=is_final,
            effective_at=self._moment(),
        )

    def _end(self) -> Event | None:
        if not self.held:
            return None
        transaction = self.chance.choice(list(self.held))
        released = self._left(transaction)
        del self.held[transaction]
        is_partly_posted = transaction in self.partly_posted
        make = HoldVoided if self._is_so() else HoldExpired
        return make(transaction=transaction, released=released, is_partly_posted=is_partly_posted)

    def _schedule(self) -> Event:
        scheduled = TransactionScheduled(
            transaction=self._new(),
            entries=self._entries(),
            effective_at=format_time(self.chance.choice(MOMENTS)),
            metadata=self._metadata(),
        )
        self.scheduled[scheduled.transaction] = scheduled
        return scheduled

    def _come_due(self) -> Event | None:
        if not self.scheduled:
            return None
        transaction, scheduled = self.scheduled.popitem()
        if self._is_so(0.3):
            return ScheduledRefused(
                transaction=transaction, code="insufficient_funds", fields={"missing": 7}, accounts=["bank:cash"]
            )
        return TransactionPosted(
            transaction=transaction,
            entries=scheduled.entries,
            effective_at=scheduled.effective_at,
            metadata=scheduled.metadata,
            scheduled=True,
        )

    def _cancel(self) -> Event | None:
        if not self.scheduled:
            return None
        return ScheduledCancelled(transaction=self.scheduled.popitem()[0])

    def _open(self) -> Event | None:
        left = [address for address in self.addresses if address not in self.opened]
        if not left:
            return None
        self.opened.append(left[0])
        return AccountOpened(
            address=left[0],
            normal_balance="debit" if left[0].startswith("bank") else "credit",
            limits={"USD/2": Limit(minimum=0)} if self._is_so() else {},
            metadata=self._metadata(),
        )

    def _change_account(self) -> Event | None:
        if not self.opened:
            return None
        address = self.chance.choice(self.opened)
        return self.chance.choice(
            (
                LimitsSet(address=address, limits={"JPY": Limit(maximum=self.chance.randint(0, 9))}, breached=["JPY"]),
                AccountFrozen(address=address, scope=self.chance.choice(("all", "debits", "credits"))),
                AccountUnfrozen(address=address),
                AccountClosed(address=address),
                AccountReopened(address=address),
                AccountMetadataChanged(address=address, changes=self._changes()),
            )
        )

    def _change_ledger(self) -> Event:
        changed = LedgerMetadataChanged(ledger=self.ledger, changes=self._changes())
        return self.chance.choice((changed, LedgerArchived(ledger=self.ledger), LedgerReopened(ledger=self.ledger)))

    def _note(self) -> Event | None:
        if not self.transactions:
            return None
        return TransactionMetadataChanged(
            transaction=self.chance.choice(self.transactions[-5:]), changes=self._changes()
        )

    def _refuse(self) -> Event:
        return CommandRefused(
            command="post_transaction",
            code=self.chance.choice(("insufficient_funds", "account_frozen")),
            fields={"account": "bank:cash", "missing": 5, "limit": None},
            asked=msgspec.Raw(b'{"entries":[]}'),
            accounts=["bank:cash"],
            judged_at=self.chance.choice((None, 1)),
        )

    def _new(self) -> str:
        self.made += 1
        self.transactions.append(f"{self.ledger}-{self.made}")
        return self.transactions[-1]

    def _entries(self) -> list[Entry]:
        entries = []
        for asset in self.chance.sample(ASSETS, k=self.chance.choice((1, 1, 1, 2))):
            parts = [self.chance.choice((1, 7, 10**9, 2**127 - 1)) for _ in range(self.chance.choice((1, 1, 2)))]
            payee = self.chance.choice(self.addresses)
            entries.append(Entry(account=payee, direction="debit", amount=sum(parts), asset=asset))
            entries += [
                Entry(account=self.chance.choice(self.addresses), direction="credit", amount=part, asset=asset)
                for part in parts
            ]
        return entries

    def _left(self, transaction: str) -> list[Entry]:
        return [
            Entry(account=account, direction=direction, amount=amount, asset=asset)  # type: ignore[arg-type]
            for (account, direction, asset), amount in self.held[transaction].items()
            if amount
        ]

    def _is_so(self, share: float = 0.5) -> bool:
        return self.chance.random() < share

    def _moment(self) -> str | None:
        if self._is_so(0.6):
            return None
        return format_time(self.chance.choice(FAR if self._is_so(0.1) else MOMENTS))

    def _text(self) -> str | None:
        return self.chance.choice((None, *TEXTS))

    def _metadata(self) -> dict[str, str]:
        return {key: self.chance.choice(TEXTS) for key in ("colour", "None") if self._is_so(0.3)}

    def _changes(self) -> dict[str, str | None]:
        changes: dict[str, str | None] = {}
        for key in ("colour", "shape", "None"):
            if self._is_so():
                changes[key] = self._text()
        return changes or {"colour": None}
