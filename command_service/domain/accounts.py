"""Decisions about accounts, and the terms an account gets when its first use opens it."""

from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import OpenAccount
from command_service.domain.ledgers import limits_of
from command_service.domain.state import Terms
from shared_kernel.errors import Rejection
from shared_kernel.events import AccountOpened, Event
from shared_kernel.words import Pattern


def open_account(books: Books, command: OpenAccount, context: Context) -> list[Event]:
    """The account is open under these terms.

    Rejection ledger_not_found (404); account_exists (409) if it is open, by a command or by first use.
    """
    if books.terms() is None:
        raise Rejection("ledger_not_found", ledger=context.ledger)
    if books.account(command.address).is_open:
        raise Rejection("account_exists", account=command.address)
    return [
        AccountOpened(
            address=command.address,
            normal_balance=command.normal_balance or "credit",
            limits=limits_of(command.limits or {}),
            metadata=command.metadata or {},
        )
    ]


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
