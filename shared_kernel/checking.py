"""Refolds one ledger's log and says where it breaks a rule of the books (design §7): for imports, tests and proofs.

It shares the vocabulary of events with the command service and no decision: who writes and who checks must not err alike. What
hung on a clock or a setting (expiries, latest effective times) is not judged, for the log does not hold it. Pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared_kernel import events
from shared_kernel.checked_books import Account, Totals, Transaction, amounts, breached, digest_of, less, status_of
from shared_kernel.errors import DaybookError
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Entry, Event, Known, Metadata
from shared_kernel.words import AMOUNT_MAX, Direction, Pattern, is_address

_TURNED: dict[Direction, Direction] = {"debit": "credit", "credit": "debit"}


class Finding(NamedTuple):
    """A rule that the event at `position` breaks, by a stable name, and what it is about."""

    position: int
    rule: str
    about: str


class Checker:
    """Takes a ledger's events in order; every rule that one breaks comes back as a finding, and the fold goes on.

    `may_be_reversed` tells which transactions' amounts must be kept for their reversals: all where nobody knows better.
    """

    def __init__(self, may_be_reversed: Callable[[str], bool] = lambda _: True) -> None:
        self.ledger: str | None = None
        self.position = 0
        self.recorded_at: datetime | None = None
        self.accounts: dict[str, Account] = {}
        self._may_be_reversed = may_be_reversed
        self._opened: events.LedgerOpened | None = None
        self._is_archived = False
        self._transactions: dict[bytes, Transaction | None] = {}  # None: posted, and never asked for again
        self._references: set[bytes] = set()
        self._keys: set[bytes] = set()
        self._found: list[Finding] = []

    def take(self, event: RecordedEvent) -> list[Finding]:
        """What is wrong with the next event; nothing where it may stand there."""
        self._found = []
        self._check_place(event)
        try:
            decoded = events.decode(event.type, event.data)
            metadata = events.decode_metadata(event.metadata)
        except DaybookError as error:
            self._find(error.code, event.type)
        except msgspec.MsgspecError as error:
            self._find("unreadable", str(error))
        else:
            self._check_metadata(metadata)
            self._check(decoded)
        return self._found

    def debits_less_credits(self) -> dict[str, int]:
        """By asset: 0 for each in every sound ledger (rule 1), of posted entries and of held ones."""
        sums: dict[str, int] = {}
        for account in self.accounts.values():
            for asset, totals in account.totals.items():
                posted = totals.posted_debits - totals.posted_credits
                sums[asset] = sums.get(asset, 0) + posted
        return sums

    def _find(self, rule: str, about: str) -> None:
        self._found.append(Finding(self.position, rule, about))

    def _require(self, is_so: bool, rule: str, about: str) -> bool:
        if not is_so:
            self._find(rule, about)
        return is_so

    def _check_place(self, event: RecordedEvent) -> None:
        expected = self.position + 1
        self.position = event.position
        self._require(event.position == expected, "position_gap", f"{event.position} follows {expected - 1}")
        if self.ledger is None:
            self.ledger = event.ledger
        self._require(event.ledger == self.ledger, "other_ledger", event.ledger)
        if self.recorded_at is not None and event.recorded_at < self.recorded_at:
            self._find("time_goes_back", f"{event.recorded_at} follows {self.recorded_at}")
        self.recorded_at = event.recorded_at

    def _check_metadata(self, metadata: Metadata) -> None:
        if metadata.key is not None:
            self._claim(self._keys, "key_twice", str(metadata.system), metadata.actor, metadata.key)

    def _claim(self, known: set[bytes], rule: str, *name: str) -> None:
        digest = digest_of(*name)
        self._require(digest not in known, rule, " ".join(name))
        known.add(digest)

    def _check(self, event: Event) -> None:
        if self._opened is None:
            self._require(isinstance(event, events.LedgerOpened), "not_opened", type(event).__name__)
        if self._is_archived and not isinstance(event, _WHILE_ARCHIVED):
            self._find("ledger_archived", type(event).__name__)
        match event:
            case events.TransactionPosted():
                self._post(event)
            case events.TransactionHeld():
                self._hold(event)
            case events.HoldPosted():
                self._capture(event)
            case events.HoldVoided() | events.HoldExpired():
                self._release(event)
            case events.AccountOpened():
                self._open_account(event)
            case events.CommandRefused():
                judged_at = self.position - 1 if event.judged_at is None else event.judged_at
                self._require(0 <= judged_at < self.position, "judged_later", str(judged_at))
            case _:
                self._check_others(event)

    def _check_others(self, event: Event) -> None:
        match event:
            case events.TransactionScheduled():
                self._check_entries(event.entries)
                born = self._born(event.transaction, event.reference, "scheduled")
                born.scheduled = event
            case events.ScheduledCancelled() | events.ScheduledRefused():
                known = self._known(event.transaction)
                if self._require(status_of(known) == "scheduled", "not_scheduled", event.transaction) and known:
                    known.status, known.scheduled = "ended", None
            case events.TransactionMetadataChanged():
                self._require(digest_of(event.transaction) in self._transactions, "no_transaction", event.transaction)
            case events.LedgerOpened():
                self._require(self._opened is None, "opened_twice", event.ledger)
                self._require(event.ledger == self.ledger, "other_ledger", event.ledger)
                self._opened = event
            case events.LedgerArchived():
                self._is_archived = True
            case events.LedgerReopened():
                self._require(self._is_archived, "ledger_not_archived", event.ledger)
                self._is_archived = False
            case (
                events.LimitsSet()
                | events.AccountFrozen()
                | events.AccountUnfrozen()
                | events.AccountClosed()
                | events.AccountReopened()
                | events.AccountMetadataChanged()
            ):
                self._change_account(event)

    # Transactions ---------------------------------------------------------------------------------------------

    def _post(self, event: events.TransactionPosted) -> None:
        if event.scheduled:
            self._come_due(event)
        elif event.reverses is not None:
            self._check_reversal(event.reverses, event.entries)
        self._check_entries(event.entries)
        self._check_usable(event.entries)
        self._check_marks(event.entries)
        if not event.forced:
            self._check_limits(event.entries, is_net=True)
        else:
            self._require(event.reverses is not None, "forced", event.transaction)
        if event.scheduled:
            known = self._known(event.transaction)
        else:
            known = self._born(event.transaction, event.reference, "posted")
        if known is not None:
            known.status, known.scheduled, known.has_posted = "posted", None, True
            known.posted = amounts(event.entries)
        self._forget(event.transaction)
        for entry in event.entries:
            self._totals(entry).post(entry.direction, entry.amount)
        self._check_known(event.known, event.entries)

    def _come_due(self, event: events.TransactionPosted) -> None:
        known = self._known(event.transaction)
        promised = None if known is None else known.scheduled
        if promised is None:
            self._find("not_scheduled", event.transaction)
        elif (amounts(promised.entries), promised.reference) != (amounts(event.entries), event.reference):
            self._find("not_as_scheduled", event.transaction)

    def _check_reversal(self, original: str, entries: Sequence[Entry]) -> None:
        known = self._known(original)
        if known is None or not known.has_posted:
            self._find("not_posted", original)
            return
        for (account, direction, asset), amount in amounts(entries).items():
            place = (account, _TURNED[direction], asset)
            left = known.posted.get(place, 0) - amount
            self._require(left >= 0, "reversal_exceeds", f"{original}: {account} {asset} by {-left}")
            known.posted[place] = left  # what may still be reversed

    def _hold(self, event: events.TransactionHeld) -> None:
        self._check_entries(event.entries)
        self._check_usable(event.entries)
        self._check_marks(event.entries)
        self._check_limits(event.entries, is_net=False)
        self._born(event.transaction, event.reference, "pending").held = amounts(event.entries)
        for entry in event.entries:
            self._totals(entry).hold(entry.direction, entry.amount)
        self._check_known(event.known, event.entries)

    def _capture(self, event: events.HoldPosted) -> None:
        self._check_entries(event.entries)
        self._check_usable(event.entries)
        hold = self._pending(event.transaction)
        captured, released = amounts(event.entries), amounts(event.released)
        if hold is not None:
            left = less(hold.held, captured)
            for (account, _, asset), amount in left.items():
                self._require(amount > 0, "hold_exceeded", f"{event.transaction}: {account} {asset} by {-amount}")
            self._require(released == (left if event.is_final else {}), "released_differs", event.transaction)
            self._require(event.is_final or bool(left), "nothing_left", event.transaction)
            for place, amount in captured.items():
                hold.posted[place] = hold.posted.get(place, 0) + amount
            hold.has_posted = True
            hold.held = {} if event.is_final else left
            if event.is_final:
                hold.status = "posted"
                self._forget(event.transaction)
        for entry in event.entries:
            totals = self._totals(entry)
            totals.hold(entry.direction, -entry.amount)
            totals.post(entry.direction, entry.amount)
        self._let_go(event.released)
        self._check_known(event.known, event.entries)

    def _release(self, event: events.HoldVoided | events.HoldExpired) -> None:
        hold = self._pending(event.transaction)
        if hold is not None:
            self._require(amounts(event.released) == hold.held, "released_differs", event.transaction)
            self._require(event.is_partly_posted == hold.has_posted, "partly_posted_differs", event.transaction)
            hold.held, hold.status = {}, "ended"
            self._forget(event.transaction)
        self._let_go(event.released)

    def _let_go(self, released: Iterable[Entry]) -> None:
        for entry in released:
            self._totals(entry).hold(entry.direction, -entry.amount)

    def _born(self, transaction: str, reference: str | None, status: str) -> Transaction:
        digest = digest_of(transaction)
        self._require(digest not in self._transactions, "transaction_twice", transaction)
        if reference is not None:
            self._claim(self._references, "reference_twice", reference)
        born = self._transactions[digest] = Transaction(status)
        return born

    def _known(self, transaction: str) -> Transaction | None:
        return self._transactions.get(digest_of(transaction))

    def _forget(self, transaction: str) -> None:
        if not self._may_be_reversed(transaction):
            self._transactions[digest_of(transaction)] = None

    def _pending(self, transaction: str) -> Transaction | None:
        known = self._known(transaction)
        self._require(status_of(known) == "pending", "not_pending", transaction)
        return known

    # Entries --------------------------------------------------------------------------------------------------

    def _check_entries(self, entries: Sequence[Entry]) -> None:
        sums: dict[str, int] = {}
        for entry in entries:
            self._require(0 < entry.amount <= AMOUNT_MAX, "amount", f"{entry.account} {entry.amount}")
            signed = entry.amount if entry.direction == "debit" else -entry.amount
            sums[entry.asset] = sums.get(entry.asset, 0) + signed
        self._require(len(entries) > 1, "too_few_entries", str(len(entries)))
        for asset, difference in sums.items():
            self._require(difference == 0, "unbalanced", f"{asset} by {difference}")

    def _check_usable(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            account = self.accounts.get(entry.account)
            if account is None:
                self._find("account_not_open", entry.account)
                continue
            if account.status != "open":
                self._require(account.status != "closed", "account_closed", entry.account)
                is_frozen = account.scope in ("all", f"{entry.direction}s")
                self._require(not is_frozen, "account_frozen", f"{entry.account} {entry.direction}")

    def _check_marks(self, entries: Iterable[Entry]) -> None:
        """An entry draws exactly where a minimum bounds what it takes from, and fills where a maximum bounds what it adds to."""
        for entry in entries:
            account = self.accounts.get(entry.account)
            if account is None:
                continue
            limit = account.limits.get(entry.asset)
            adds = entry.direction == account.normal_balance
            draws = limit is not None and not adds and limit.minimum is not None
            fills = limit is not None and adds and limit.maximum is not None
            self._require((entry.draws, entry.fills) == (draws, fills), "marks", f"{entry.account} {entry.asset}")

    def _check_limits(self, entries: Iterable[Entry], *, is_net: bool) -> None:
        """Nothing worsens a breach: a posting by its net change of an account and asset, a hold by each of its parts."""
        taken: dict[tuple[str, str], int] = {}
        brought: dict[tuple[str, str], int] = {}
        for entry in entries:
            account = self.accounts.get(entry.account)
            if account is not None and entry.asset in account.limits:
                part = brought if entry.direction == account.normal_balance else taken
                place = (entry.account, entry.asset)
                part[place] = part.get(place, 0) + entry.amount
        for address, asset in {**taken, **brought}:
            account, limit = self.accounts[address], self.accounts[address].limits[asset]
            out, into = taken.get((address, asset), 0), brought.get((address, asset), 0)
            if is_net:
                out, into = max(0, out - into), max(0, into - out)
            if out and limit.minimum is not None:
                left = account.available(asset) - out
                self._require(left >= limit.minimum, "minimum_passed", f"{address} {asset} down to {left}")
            if into and limit.maximum is not None:
                full = account.filled(asset) + into
                self._require(full <= limit.maximum, "maximum_passed", f"{address} {asset} up to {full}")

    def _totals(self, entry: Entry) -> Totals:
        account = self.accounts.get(entry.account)
        if account is None:  # found already
            return Totals()
        totals = account.totals.get(entry.asset)
        if totals is None:
            totals = account.totals[entry.asset] = Totals()
        return totals

    def _check_known(self, known: Mapping[str, Mapping[str, Known]], entries: Sequence[Entry]) -> None:
        """What the event told of balances may miss what others did just before it, never its own part, and invents nothing."""
        own = amounts(entries)
        for address, assets in known.items():
            account = self.accounts.get(address)
            for asset, told in assets.items():
                found = (account.totals.get(asset) if account else None) or Totals()
                debited, credited = own.get((address, "debit", asset), 0), own.get((address, "credit", asset), 0)
                is_so = told.posted_debits <= found.posted_debits and told.posted_credits <= found.posted_credits
                is_so &= told.pending_debits >= max(told.posted_debits, debited)
                is_so &= told.pending_credits >= max(told.posted_credits, credited)
                self._require(is_so, "known_differs", f"{address} {asset}")

    # Accounts -------------------------------------------------------------------------------------------------

    def _open_account(self, event: events.AccountOpened) -> None:
        self._require(event.address not in self.accounts, "account_opened_twice", event.address)
        self._require(is_address(event.address), "no_address", event.address)
        if event.on_first_use and self._opened is not None:
            self._require(self._opened.accounts == "on-first-use", "account_not_open", event.address)
            terms = next((each for each in self._opened.defaults if Pattern(each.pattern).matches(event.address)), None)
            expected = ("credit", {}) if terms is None else (terms.normal_balance, terms.limits)
            self._require((event.normal_balance, event.limits) == expected, "default_terms", event.address)
        self.accounts[event.address] = Account(event.normal_balance, event.limits)

    def _change_account(
        self,
        event: events.LimitsSet
        | events.AccountFrozen
        | events.AccountUnfrozen
        | events.AccountClosed
        | events.AccountReopened
        | events.AccountMetadataChanged,
    ) -> None:
        account = self.accounts.get(event.address)
        if account is None:
            self._find("account_not_open", event.address)
            return
        if isinstance(event, events.LimitsSet | events.AccountFrozen | events.AccountClosed):
            self._require(account.status != "closed", "account_closed", event.address)
        match event:
            case events.LimitsSet():
                account.limits = event.limits
                self._require(event.breached == breached(account), "breached_differs", event.address)
            case events.AccountFrozen():
                account.status, account.scope = "frozen", event.scope
            case events.AccountUnfrozen():
                self._require(account.status == "frozen", "account_not_frozen", event.address)
                account.status, account.scope = "open", None
            case events.AccountClosed():
                for asset, totals in account.totals.items():
                    self._require(account.posted(asset) == 0, "balance_not_zero", f"{event.address} {asset}")
                    is_held = totals.held_debits or totals.held_credits
                    self._require(not is_held, "holds_pending", f"{event.address} {asset}")
                account.status, account.scope = "closed", None
            case events.AccountReopened():
                self._require(account.status == "closed", "account_not_closed", event.address)
                account.status, account.scope = "open", None


_WHILE_ARCHIVED = (
    events.HoldVoided,
    events.HoldExpired,
    events.LedgerReopened,
    events.ScheduledRefused,
    events.CommandRefused,
)
