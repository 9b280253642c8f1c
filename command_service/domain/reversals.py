"""The decision that turns a posted transaction round: a new transaction, linked to its original."""

from command_service.domain.accounts import accounts_to_use
from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import ReverseTransaction
from command_service.domain.conditions import judge
from command_service.domain.entries import as_entries, plain_entries, turned
from command_service.domain.holds import check_within
from command_service.domain.ledgers import terms_to_use
from command_service.domain.limits import check_limits, with_marks
from command_service.domain.state import Transaction
from command_service.domain.transactions import checked_effective_at, claim, existing, with_known
from shared_kernel.errors import Rejection
from shared_kernel.events import Event, TransactionPosted
from shared_kernel.words import format_time


def reverse_transaction(books: Books, command: ReverseTransaction, context: Context) -> list[Event]:
    """What was posted and not reversed yet, or the part of it that the command names, is posted the other way round.

    Rejections: ledger_not_found, transaction_not_found (404), transaction_not_posted, already_reversed (409). Refusals:
    ledger_archived, effective_at_too_late, account_not_open, account_closed, account_frozen, condition_failed, reversal_exceeds;
    insufficient_funds and limit_exceeded unless forced, which the event then says.
    """
    terms = terms_to_use(books, context)
    effective_at = checked_effective_at(command.moment, context)
    original = existing(books, command.transaction)
    if not original.posted:
        raise Rejection("transaction_not_posted", transaction=command.transaction, transaction_status=original.status)
    left = {
        place: rest for place, posted in original.posted.items() if (rest := posted - original.reversed.get(place, 0))
    }
    if not left:
        raise Rejection("already_reversed", transaction=command.transaction)
    if command.is_at_original:
        effective_at = _effective_time(books, original)
    named = plain_entries(command.entries) if command.entries else as_entries(left)
    entries = turned(named)
    books.expect(dict.fromkeys(entry.account for entry in entries))
    accounts, _ = accounts_to_use(books, terms, entries, opens=False)
    judge(books, command.conditions)
    check_within(named, left, code="reversal_exceeds", name="reversible")
    entries = with_marks(accounts, entries)
    is_forced = bool(command.force)
    if not is_forced:
        check_limits(books, accounts, entries, "net")
    transaction = command.id or context.transaction_id
    claim(books, transaction, command.reference or None)
    event = TransactionPosted(
        transaction=transaction,
        entries=entries,
        reference=command.reference or None,
        description=command.description or None,
        effective_at=effective_at,
        metadata=command.metadata or {},
        reverses=command.transaction,
        forced=is_forced,
    )
    return [with_known(books, accounts, event) if command.balances else event]


def _effective_time(books: Books, original: Transaction) -> str | None:
    """When the original counts: what its (last) posting said, else when that was recorded.

    None where that is recorded together with the reversal: one append has one recorded time.
    """
    if original.effective_at is not None:
        return original.effective_at
    recorded_at = books.recorded_at(original)
    return None if recorded_at is None else format_time(recorded_at)
