"""Decisions about a ledger as a whole, and what every other decision asks of it first."""

from collections.abc import Mapping

from msgspec import UNSET

from command_service.domain.asking import Context
from command_service.domain.books import Books
from command_service.domain.commands import METADATA_MAX, ArchiveLedger, OpenLedger, PatchLedgerMetadata, ReopenLedger
from command_service.domain.limits import limits_of
from command_service.domain.state import Terms, patched
from shared_kernel.errors import Refusal, Rejection
from shared_kernel.events import (
    AccountDefaults,
    Event,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
)


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
            time_zone=command.time_zone or None,
        )
    ]


def archive_ledger(books: Books, command: ArchiveLedger, context: Context) -> list[Event]:
    """The ledger takes nothing but the end of holds and its reopening. Refusal ledger_archived if it was so already."""
    terms_to_use(books, context)
    return [LedgerArchived(ledger=context.ledger)]


def reopen_ledger(books: Books, command: ReopenLedger, context: Context) -> list[Event]:
    """The ledger takes commands again. Refusal ledger_not_archived if it did."""
    if not ledger_terms(books, context).is_archived:
        raise Refusal("ledger_not_archived", ledger=context.ledger)
    return [LedgerReopened(ledger=context.ledger)]


def patch_ledger_metadata(books: Books, command: PatchLedgerMetadata, context: Context) -> list[Event]:
    """The ledger's metadata is changed. Refusal metadata_too_large if there were too many keys then."""
    terms = terms_to_use(books, context)
    books.watch_ledger_metadata()
    check_metadata(terms.metadata_keys, command.metadata, ledger=context.ledger)
    return [LedgerMetadataChanged(ledger=context.ledger, changes=command.metadata)]


def ledger_terms(books: Books, context: Context) -> Terms:
    """The ledger's terms. Rejection ledger_not_found (404)."""
    terms = books.terms()
    if terms is None:
        raise Rejection("ledger_not_found", ledger=context.ledger)
    return terms


def terms_to_use(books: Books, context: Context) -> Terms:
    """The terms of a ledger that takes commands: the first guards of almost every decision. Refusal ledger_archived."""
    terms = ledger_terms(books, context)
    if terms.is_archived:
        raise Refusal("ledger_archived", ledger=context.ledger)
    return terms


def check_metadata(keys: frozenset[str], changes: Mapping[str, str | None], **of: str) -> None:
    """Refusal metadata_too_large if there were more keys after the patch than may be. `of`: whose they are, by name."""
    after = len(patched(keys, changes))
    if after > METADATA_MAX:
        raise Refusal("metadata_too_large", **of, keys=after, limit=METADATA_MAX)
