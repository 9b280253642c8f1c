"""Decisions about transactions.

Guards run in a fixed order, so one input on one state always gives the same answer: ledger, effective time, accounts in the
order of the entries, then limits in the order of the entries. Uniqueness of id, reference and key is left to the log's fences.
"""

from command_service.domain.accounts import opened_by_first_use
from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import PostTransaction
from command_service.domain.state import Account, evolve_account
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import Entry, Event, TransactionPosted
from shared_kernel.words import format_time


def post_transaction(books: Books, command: PostTransaction, context: Context) -> list[Event]:
    """The transaction is posted, after the openings of accounts that it is the first to use.

    Rejection ledger_not_found (404). Refusals: effective_at_too_late; account_not_open (with the account); insufficient_funds and
    limit_exceeded (with account, asset, what was available, the limit and what was missing, smallest units).
    Source: design §2 (limits), §7 rules 1 to 3.
    """
    terms = books.terms()
    if terms is None:
        raise Rejection("ledger_not_found", ledger=context.ledger)
    effective_at = command.effective_at or None
    if effective_at is not None and effective_at > context.effective_at_max:
        raise Refusal(
            "effective_at_too_late",
            effective_at=format_time(effective_at),
            latest=format_time(context.effective_at_max),
        )

    accounts: dict[str, Account] = {}
    openings: list[Event] = []
    for spec in command.entries:
        if spec.account in accounts:
            continue
        account = books.account(spec.account)
        if not account.is_open:
            if terms.opened.accounts == "explicit":
                raise Refusal("account_not_open", account=spec.account)
            opening = opened_by_first_use(terms, spec.account)
            account = evolve_account(account, opening)
            openings.append(opening)
        accounts[spec.account] = account

    entries = [_entry(accounts[spec.account], spec.direction, int(spec.amount), spec.asset) for spec in command.entries]
    _check_limits(books, accounts, entries)

    transaction = command.id or context.transaction_id
    books.claim_transaction(transaction)
    if command.reference:
        books.claim_reference(command.reference)
    posted = TransactionPosted(
        transaction=transaction,
        entries=entries,
        reference=command.reference or None,
        description=command.description or None,
        effective_at=None if effective_at is None else format_time(effective_at),
        metadata=command.metadata or {},
    )
    return [*openings, posted]


def _entry(account: Account, direction: str, amount: int, asset: str) -> Entry:
    """The entry with its marks: it draws if a minimum bounds what it takes from, it fills if a maximum bounds what it adds to."""
    limit = account.limit(asset)
    adds = direction == account.normal_balance
    return Entry(
        account=account.address,
        direction="debit" if direction == "debit" else "credit",
        amount=amount,
        asset=asset,
        draws=not adds and limit.minimum is not None,
        fills=adds and limit.maximum is not None,
    )


def _check_limits(books: Books, accounts: dict[str, Account], entries: list[Entry]) -> None:
    """Refuses what would worsen a breach. Judged on the net change, fenced on every entry that draws or fills."""
    marked = [entry for entry in entries if entry.draws or entry.fills]
    if not marked:
        return
    change: dict[tuple[str, str], int] = {}
    for entry in entries:
        adds = entry.direction == accounts[entry.account].normal_balance
        place = (entry.account, entry.asset)
        change[place] = change.get(place, 0) + (entry.amount if adds else -entry.amount)
    for entry in marked:
        account, net = accounts[entry.account], change[entry.account, entry.asset]
        limit = account.limit(entry.asset)
        if entry.draws and limit.minimum is not None:
            balance = books.balance_to_draw(entry.account, entry.asset)
            if net < 0 and balance + net < limit.minimum:
                raise Refusal(
                    "insufficient_funds",
                    account=entry.account,
                    asset=entry.asset,
                    available=balance,
                    limit=limit.minimum,
                    missing=limit.minimum - balance - net,
                )
        if entry.fills and limit.maximum is not None:
            balance = books.balance_to_fill(entry.account, entry.asset)
            if net > 0 and balance + net > limit.maximum:
                raise Refusal(
                    "limit_exceeded",
                    account=entry.account,
                    asset=entry.asset,
                    balance=balance,
                    limit=limit.maximum,
                    missing=balance + net - limit.maximum,
                )
