"""Decisions about transactions: posted at once, held, or scheduled for later. Their ends are in `holds.py`, `reversals.py`.

Guards run in a fixed order, so one input on one state always gives the same answer: ledger, times, the original transaction,
accounts in the order of the entries, conditions, held or reversible amounts, limits in the order of the entries. Uniqueness of
id, reference and key is left to the log's fences.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from command_service.domain.accounts import accounts_to_use
from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import (
    CancelScheduled,
    PatchTransactionMetadata,
    PostScheduled,
    PostTransaction,
)
from command_service.domain.conditions import judge
from command_service.domain.entries import plain_entries
from command_service.domain.ledgers import check_metadata, ledger_terms, terms_to_use
from command_service.domain.limits import check_limits, with_marks
from command_service.domain.state import NO_TOTALS, Account, Transaction, evolve_accounts
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import (
    Event,
    HoldPosted,
    Known,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)
from shared_kernel.words import format_time, parse_time

Moved = TypeVar("Moved", bound=TransactionPosted | TransactionHeld | HoldPosted)


def post_transaction(books: Books, command: PostTransaction, context: Context) -> list[Event]:
    """The transaction is posted, held or scheduled, after the openings of accounts that it is the first to use.

    Rejection ledger_not_found (404). Refusals, in this order: ledger_archived; effective_at_too_late, expires_at_passed,
    scheduled_in_the_past; account_not_open, account_closed, account_frozen; condition_failed; insufficient_funds,
    limit_exceeded. A scheduled one meets only the first four. Source: design §2 (limits), §7 rules 1 to 3.
    """
    terms = terms_to_use(books, context)
    effective_at = checked_effective_at(command.effective_at, context)
    transaction = command.id or context.transaction_id
    if command.status == "pending":
        expires_at = None if not command.expires_at else format_time(command.expires_at)
        if command.expires_at and command.expires_at <= context.now:
            raise Refusal("expires_at_passed", expires_at=expires_at)
    else:
        expires_at = None
        if command.status == "scheduled":
            return [_schedule(books, command, context, effective_at or "")]

    accounts, openings = accounts_to_use(books, terms, command.entries)
    if command.conditions is not UNSET:
        judge(books, command.conditions)
    entries = with_marks(accounts, command.entries)
    is_held = command.status == "pending"
    check_limits(books, accounts, entries, "gross" if is_held else "net")
    claim(books, transaction, command.reference or None)
    event: TransactionPosted | TransactionHeld
    if is_held:
        event = TransactionHeld(
            transaction=transaction,
            entries=entries,
            expires_at=expires_at,
            reference=command.reference or None,
            description=command.description or None,
            effective_at=effective_at,
            metadata=command.metadata or {},
        )
    else:
        event = TransactionPosted(
            transaction=transaction,
            entries=entries,
            reference=command.reference or None,
            description=command.description or None,
            effective_at=effective_at,
            metadata=command.metadata or {},
        )
    if command.balances is not UNSET:
        event = with_known(books, accounts, event)
    return [*openings, event]


def post_scheduled(books: Books, command: PostScheduled, context: Context) -> list[Event]:
    """The scheduled transaction is posted as any other would be at this moment, or its refusal ends it.

    Rejections: ledger_not_found, transaction_not_found (404), transaction_not_scheduled, not_due (409). They come before the
    refusals here, ledger_archived among them, because those are the transaction's end.
    """
    terms = ledger_terms(books, context)
    known = _scheduled(books, command.transaction)
    if known.effective_at is None or context.now < parse_time(known.effective_at):
        raise Rejection("not_due", transaction=command.transaction, effective_at=known.effective_at)
    books.expect(entry.account for entry in known.entries)
    try:
        if terms.is_archived:
            raise Refusal("ledger_archived", ledger=context.ledger)
        accounts, openings = accounts_to_use(books, terms, known.entries)
        entries = with_marks(accounts, known.entries)
        check_limits(books, accounts, entries, "net")
    except Refusal as refusal:
        books.confirm_refusal()
        return [
            ScheduledRefused(
                transaction=command.transaction,
                code=refusal.code,
                fields=plain_fields(refusal),
                accounts=accounts_named(refusal),
            )
        ]
    posted = TransactionPosted(
        transaction=command.transaction,
        entries=entries,
        reference=known.reference,
        description=known.description,
        effective_at=known.effective_at,
        metadata=dict(known.metadata),
        scheduled=True,
    )
    return [*openings, posted]


def cancel_scheduled(books: Books, command: CancelScheduled, context: Context) -> list[Event]:
    """The scheduled transaction will not be posted.

    Rejections: ledger_not_found, transaction_not_found (404), transaction_not_scheduled (409). Refusal: ledger_archived.
    """
    terms_to_use(books, context)
    _scheduled(books, command.transaction)
    return [ScheduledCancelled(transaction=command.transaction)]


def patch_transaction_metadata(books: Books, command: PatchTransactionMetadata, context: Context) -> list[Event]:
    """The transaction's metadata is changed, whatever its status. Refusals: ledger_archived, metadata_too_large."""
    terms_to_use(books, context)
    keys = frozenset(existing(books, command.transaction).metadata)
    check_metadata(keys, command.metadata, transaction=command.transaction)
    return [TransactionMetadataChanged(transaction=command.transaction, changes=command.metadata)]


def existing(books: Books, transaction: str) -> Transaction:
    """The transaction's state. Rejection transaction_not_found (404)."""
    known = books.transaction(transaction)
    if known.status == "absent":
        raise Rejection("transaction_not_found", transaction=transaction)
    return known


def checked_effective_at(effective_at: datetime | UnsetType | None, context: Context) -> str | None:
    """The effective time as an event states it. Refusal effective_at_too_late."""
    if not effective_at:
        return None
    if effective_at > context.effective_at_max:
        raise Refusal(
            "effective_at_too_late",
            effective_at=format_time(effective_at),
            latest=format_time(context.effective_at_max),
        )
    return format_time(effective_at)


def claim(books: Books, transaction: str, reference: str | None) -> None:
    """Id and reference are this transaction's own, or the log's fences will say whose they were before."""
    books.claim_transaction(transaction)
    if reference is not None:
        books.claim_reference(reference)


def with_known(books: Books, accounts: Mapping[str, Account], event: Moved) -> Moved:
    """The event with the totals after it, of the accounts and assets of its entries, as far as they are tracked anyway."""
    after = evolve_accounts(accounts.get, event, 0)
    known: dict[str, dict[str, Known]] = {}
    for entry in event.entries:
        account = after[entry.account]
        if account.totals is None:
            continue
        books.watch_balance(entry.account, entry.asset)
        known.setdefault(entry.account, {})[entry.asset] = known_totals(account, entry.asset)
    return msgspec.structs.replace(event, known=known)


def known_totals(account: Account, asset: str) -> Known:
    """The totals of an account that has them, as answers tell them."""
    totals = (account.totals or {}).get(asset, NO_TOTALS)
    return Known(
        normal_balance=account.normal_balance,
        posted_debits=totals.posted_debits,
        posted_credits=totals.posted_credits,
        pending_debits=totals.posted_debits + totals.held_debits,
        pending_credits=totals.posted_credits + totals.held_credits,
    )


def plain_fields(refusal: Refusal) -> dict[str, str | int | bool | None]:
    """What the refusal says, as an event records it."""
    return {name: value for name, value in refusal.fields.items() if not isinstance(value, list | dict)}


def accounts_named(refusal: Refusal) -> list[str]:
    """The accounts that the refusal is about."""
    account = refusal.fields.get("account")
    return [account] if isinstance(account, str) else []


def _schedule(books: Books, command: PostTransaction, context: Context, effective_at: str) -> Event:
    """Nothing is decided about accounts and limits before it comes due; its id and reference are taken at once."""
    if not command.effective_at or command.effective_at <= context.now:
        raise Refusal("scheduled_in_the_past", effective_at=effective_at)
    transaction = command.id or context.transaction_id
    claim(books, transaction, command.reference or None)
    return TransactionScheduled(
        transaction=transaction,
        entries=plain_entries(command.entries),
        effective_at=effective_at,
        reference=command.reference or None,
        description=command.description or None,
        metadata=command.metadata or {},
    )


def _scheduled(books: Books, transaction: str) -> Transaction:
    known = existing(books, transaction)
    if known.status != "scheduled":
        raise Rejection("transaction_not_scheduled", transaction=transaction, transaction_status=known.status)
    return known
