"""Decisions about a ledger as a whole."""

from msgspec import UNSET

from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import Limits, LimitSpec, OpenLedger, bound
from shared_kernel.errors import Rejection
from shared_kernel.events import AccountDefaults, Event, LedgerOpened, Limit


def open_ledger(books: Books, command: OpenLedger, context: Context) -> list[Event]:
    """The ledger is open under these terms. Rejection ledger_exists (409) if it was open already."""
    if books.terms() is not None:
        raise Rejection("ledger_exists", ledger=context.ledger)
    return [
        LedgerOpened(
            ledger=command.ledger,
            accounts=command.accounts or "on-first-use",
            defaults=[
                AccountDefaults(
                    pattern=defaults.pattern,
                    normal_balance=defaults.normal_balance or "credit",
                    limits=limits_of(defaults.limits or {}),
                )
                for defaults in command.defaults or ()
            ],
            records_refusals=True if command.records_refusals is UNSET else command.records_refusals,
            metadata=command.metadata or {},
        )
    ]


def limits_of(limits: Limits) -> dict[str, Limit]:
    """The limits a client asked for, as an event states them; an asset without any bound is left out."""
    stated = {asset: _limit(spec) for asset, spec in limits.items()}
    return {asset: limit for asset, limit in stated.items() if limit != Limit()}


def _limit(spec: LimitSpec) -> Limit:
    return Limit(minimum=bound(spec.minimum), maximum=bound(spec.maximum))
