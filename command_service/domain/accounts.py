"""Decisions about accounts, the terms an account gets when its first use opens it, and who may be posted to."""

from collections.abc import Sequence

from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import (
    CloseAccount,
    EntrySpec,
    FreezeAccount,
    OpenAccount,
    PatchAccountMetadata,
    ReopenAccount,
    SetLimits,
    UnfreezeAccount,
)
from command_service.domain.conditions import judge
from command_service.domain.ledgers import check_metadata, terms_to_use
from command_service.domain.limits import breached, limits_of
from command_service.domain.state import Account, Terms, evolve_account
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    Entry,
    Event,
    LimitsSet,
)
from shared_kernel.words import Direction, Pattern


def open_account(books: Books, command: OpenAccount, context: Context) -> list[Event]:
    """The account is open under these terms. Rejection account_exists (409) if it was opened, by a command or by first use."""
    terms_to_use(books, context)
    if books.account(command.address).status != "absent":
        raise Rejection("account_exists", account=command.address)
    return [
        AccountOpened(
            address=command.address,
            normal_balance=command.normal_balance or "credit",
            limits=limits_of(command.limits or {}),
            metadata=command.metadata or {},
        )
    ]


def set_limits(books: Books, command: SetLimits, context: Context) -> list[Event]:
    """These are the account's limits. Balances beyond them already stay as they are, and the event says which.

    Refusals: account_not_open, account_closed, condition_failed. Judged on the account in full: draws on an account without
    limits bear no tag of their own that a fence could watch.
    """
    terms_to_use(books, context)
    _opened(books, command.address, but_closed=True)
    judge(books, command.conditions)
    limits = limits_of(command.limits)
    account = books.account_in_full(command.address)
    return [LimitsSet(address=command.address, limits=limits, breached=breached(account, limits))]


def freeze_account(books: Books, command: FreezeAccount, context: Context) -> list[Event]:
    """The account takes nothing of this scope; the scope of a frozen one is replaced. Refusals: account_not_open, account_closed."""
    terms_to_use(books, context)
    _opened(books, command.address, but_closed=True)
    return [AccountFrozen(address=command.address, scope=command.scope or "all")]


def unfreeze_account(books: Books, command: UnfreezeAccount, context: Context) -> list[Event]:
    """The account takes debits and credits again. Refusals: account_not_open, account_not_frozen."""
    terms_to_use(books, context)
    if _opened(books, command.address).status != "frozen":
        raise Refusal("account_not_frozen", account=command.address)
    return [AccountUnfrozen(address=command.address)]


def close_account(books: Books, command: CloseAccount, context: Context) -> list[Event]:
    """The account is closed, frozen or not before.

    Refusals: account_not_open, account_closed, condition_failed; balance_not_zero and holds_pending for the first asset by name.
    """
    terms_to_use(books, context)
    _opened(books, command.address, but_closed=True)
    judge(books, command.conditions)
    account = books.account_in_full(command.address)
    totals = sorted((account.totals or {}).items())
    for asset, _ in totals:
        if balance := account.posted(asset):
            raise Refusal("balance_not_zero", account=command.address, asset=asset, balance=balance)
    for asset, held in totals:
        if held.held_debits or held.held_credits:
            raise Refusal("holds_pending", account=command.address, asset=asset)
    return [AccountClosed(address=command.address)]


def reopen_account(books: Books, command: ReopenAccount, context: Context) -> list[Event]:
    """The closed account is open, under the limits it had, and not frozen. Refusals: account_not_open, account_not_closed."""
    terms_to_use(books, context)
    if _opened(books, command.address).status != "closed":
        raise Refusal("account_not_closed", account=command.address)
    return [AccountReopened(address=command.address)]


def patch_account_metadata(books: Books, command: PatchAccountMetadata, context: Context) -> list[Event]:
    """The account's metadata is changed; a closed account's too. Refusals: account_not_open, metadata_too_large."""
    terms_to_use(books, context)
    _opened(books, command.address)
    check_metadata(books.account_metadata_keys(command.address), command.metadata, account=command.address)
    return [AccountMetadataChanged(address=command.address, changes=command.metadata)]


def accounts_to_use(
    books: Books, terms: Terms, entries: Sequence[EntrySpec | Entry], *, opens: bool = True
) -> tuple[dict[str, Account], list[Event]]:
    """The accounts of the entries, all of them fit to be posted to, and the openings that this takes, in order of the entries.

    `opens`: accounts may be opened by this use, if the ledger allows it. Refusals, for the first entry that meets one:
    account_not_open, account_closed, account_frozen (with the scope).
    """
    accounts: dict[str, Account] = {}
    openings: list[Event] = []
    for entry in entries:
        address = entry.account
        account = accounts.get(address)
        if account is None:
            account = books.account(address)
            if account.status == "absent":
                if not opens or terms.opened.accounts == "explicit":
                    raise Refusal("account_not_open", account=address)
                opening = opened_by_first_use(terms, address)
                account = evolve_account(account, opening, 0)
                openings.append(opening)
            accounts[address] = account
        if account.status != "open":
            _check_usable(account, entry.direction)
    return accounts, openings


def opened_by_first_use(terms: Terms, address: str) -> AccountOpened:
    """The opening of an account nobody opened: the first fitting default pattern, else credit-normal and unlimited."""
    for defaults in terms.opened.defaults:
        if Pattern(defaults.pattern).matches(address):
            return AccountOpened(
                address=address,
                normal_balance=defaults.normal_balance,
                limits=defaults.limits,
                on_first_use=True,
            )
    return AccountOpened(address=address, normal_balance="credit", on_first_use=True)


def _check_usable(account: Account, direction: Direction) -> None:
    if account.status == "closed":
        raise Refusal("account_closed", account=account.address)
    if account.forbids(direction):
        raise Refusal("account_frozen", account=account.address, scope=account.scope)


def _opened(books: Books, address: str, *, but_closed: bool = False) -> Account:
    account = books.account(address)
    if account.status == "absent":
        raise Refusal("account_not_open", account=address)
    if but_closed and account.status == "closed":
        raise Refusal("account_closed", account=address)
    return account
