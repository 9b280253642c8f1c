"""Decisions that end holds: posted (wholly, in part, in several parts), voided, expired. Placing one is `post_transaction`.

A hold ends when its end is in the log, whatever the clock says. Its amounts were judged and reserved when it was placed, so
posting looks at no limit, and a void or an expiry can never be refused.
"""

from collections.abc import Mapping, Sequence

from command_service.domain.accounts import accounts_to_use
from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import ExpireHold, PostHold, VoidHold
from command_service.domain.conditions import judge
from command_service.domain.entries import Place, amounts, as_entries, plain_entries
from command_service.domain.ledgers import ledger_terms, terms_to_use
from command_service.domain.state import Transaction
from command_service.domain.transactions import checked_effective_at, existing, with_known
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import Entry, Event, HoldExpired, HoldPosted, HoldVoided
from shared_kernel.words import parse_time


def post_hold(books: Books, command: PostHold, context: Context) -> list[Event]:
    """Part or all of what is held is posted; the rest is released, or stays held (`keep_remainder`).

    Rejections: ledger_not_found, transaction_not_found (404), transaction_not_pending, already_settled (409). Refusals:
    ledger_archived, effective_at_too_late, account_not_open, account_closed, account_frozen, condition_failed, hold_exceeded.
    """
    terms = terms_to_use(books, context)
    effective_at = checked_effective_at(command.effective_at, context)
    hold = _pending(books, command.transaction)
    entries = plain_entries(command.entries) if command.entries else as_entries(hold.held)
    books.expect(dict.fromkeys(entry.account for entry in entries))
    accounts, _ = accounts_to_use(books, terms, entries, opens=False)
    judge(books, command.conditions)
    check_within(entries, hold.held, code="hold_exceeded", name="held")
    captured = amounts(entries)
    left = {place: rest for place, held in hold.held.items() if (rest := held - captured.get(place, 0))}
    is_kept = bool(left and command.keep_remainder)
    event = HoldPosted(
        transaction=command.transaction,
        entries=entries,
        released=[] if is_kept else as_entries(left),
        is_final=not is_kept,
        effective_at=effective_at,
    )
    return [with_known(books, accounts, event) if command.balances else event]


def void_hold(books: Books, command: VoidHold, context: Context) -> list[Event]:
    """What is still held is released, whatever the state of its accounts and of the ledger.

    Rejections: ledger_not_found, transaction_not_found (404), transaction_not_pending, already_settled (409).
    """
    ledger_terms(books, context)
    hold = _pending(books, command.transaction)
    return [
        HoldVoided(transaction=command.transaction, released=as_entries(hold.held), is_partly_posted=bool(hold.posted))
    ]


def expire_hold(books: Books, command: ExpireHold, context: Context) -> list[Event]:
    """As a void, once its time is over. Rejection not_due (409) before that, and where the hold never expires."""
    ledger_terms(books, context)
    hold = _pending(books, command.transaction)
    if hold.expires_at is None or context.now < parse_time(hold.expires_at):
        raise Rejection("not_due", transaction=command.transaction, expires_at=hold.expires_at)
    return [
        HoldExpired(transaction=command.transaction, released=as_entries(hold.held), is_partly_posted=bool(hold.posted))
    ]


def check_within(entries: Sequence[Entry], left: Mapping[Place, int], *, code: str, name: str) -> None:
    """Refuses, under this code, the first entry whose place has less left than all entries of that place ask for."""
    asked = amounts(entries)
    for place, amount in asked.items():
        there = left.get(place, 0)
        if amount > there:
            account, _, asset = place
            raise Refusal(code, account=account, asset=asset, **{name: there}, asked=amount, missing=amount - there)


def _pending(books: Books, transaction: str) -> Transaction:
    known = existing(books, transaction)
    if not known.was_held:
        raise Rejection("transaction_not_pending", transaction=transaction, transaction_status=known.status)
    if known.status != "pending":
        raise Rejection("already_settled", transaction=transaction, transaction_status=known.status)
    return known
