"""The tags of events: how the log finds them, and what a decision's conditions are made of (design §4).

A pure function of type, data and metadata, so that an import or a refold can check them. Parts that clients choose are
percent-encoded: no two meanings share a tag.
"""

import re
from functools import lru_cache
from urllib.parse import quote

from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    LimitsSet,
    Metadata,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
)

LEDGER_TERMS = "ledger-terms"
"""What the ledger as a whole allows: opened, archived, reopened."""
LEDGER_METADATA = "ledger-metadata"

_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch  # RFC 3986


def of(event: Event, metadata: Metadata) -> list[str]:
    """The tags an event bears, without repeats, in a fixed order."""
    found: list[str] = []
    match event:
        case TransactionPosted():
            # Lists, not generators: this runs for every posted transaction.
            found += dict.fromkeys([f"account:{entry.account}" for entry in event.entries])
            found += dict.fromkeys([f"draws:{e.account}:{e.asset}" for e in event.entries if e.draws])
            found += dict.fromkeys([f"fills:{e.account}:{e.asset}" for e in event.entries if e.fills])
            found.append(transaction_tag(event.transaction))
            if event.reverses is not None:
                found.append(transaction_tag(event.reverses))
            if event.reference is not None:
                found.append(reference_tag(event.reference))
        case CommandRefused():
            found += dict.fromkeys(refused_tag(address) for address in event.accounts)
        case AccountOpened():
            found += (f"account:{event.address}", terms_tag(event.address))
        case LedgerOpened() | LedgerArchived() | LedgerReopened():
            found.append(LEDGER_TERMS)
        case _:
            found += _other_tags(event)
    if metadata.key is not None:
        found.append(key_tag(metadata.actor, metadata.key, system=metadata.system))
    return found


def _other_tags(event: Event) -> list[str]:  # noqa: PLR0911 a flat ladder, one event a line
    match event:
        case TransactionHeld():
            found = list(dict.fromkeys(f"account:{entry.account}" for entry in event.entries))
            found += dict.fromkeys(f"draws:{e.account}:{e.asset}" for e in event.entries if e.draws)
            found += dict.fromkeys(f"fills:{e.account}:{e.asset}" for e in event.entries if e.fills)
            found.append(transaction_tag(event.transaction))
            if event.reference is not None:
                found.append(reference_tag(event.reference))
            return found
        case HoldPosted():
            touched = [*event.entries, *event.released]
            return [*dict.fromkeys(f"account:{e.account}" for e in touched), transaction_tag(event.transaction)]
        case HoldVoided() | HoldExpired():
            return [*dict.fromkeys(f"account:{e.account}" for e in event.released), transaction_tag(event.transaction)]
        case TransactionScheduled():
            reference = [] if event.reference is None else [reference_tag(event.reference)]
            return [transaction_tag(event.transaction), *reference]
        case ScheduledRefused():
            refused = dict.fromkeys(refused_tag(address) for address in event.accounts)
            return [*refused, transaction_tag(event.transaction)]
        case ScheduledCancelled() | TransactionMetadataChanged():
            return [transaction_tag(event.transaction)]
        case LimitsSet() | AccountFrozen() | AccountUnfrozen() | AccountClosed() | AccountReopened():
            return [f"account:{event.address}", terms_tag(event.address)]
        case AccountMetadataChanged():
            return [f"account:{event.address}", metadata_tag(event.address)]
        case LedgerMetadataChanged():
            return [LEDGER_METADATA]
    return []


def account_tag(address: str) -> str:
    """Everything about an account."""
    return f"account:{address}"


def terms_tag(address: str) -> str:
    """What an account may do: opened, limits and the like."""
    return f"terms:{address}"


def metadata_tag(address: str) -> str:
    """What clients noted on an account since it was opened."""
    return f"metadata:{address}"


def refused_tag(address: str) -> str:
    """What was refused after a look at an account."""
    return f"refused:{address}"


def draws_tag(address: str, asset: str) -> str:
    """What takes from an account's limited balance."""
    return f"draws:{address}:{asset}"


def fills_tag(address: str, asset: str) -> str:
    """What adds to an account's limited balance."""
    return f"fills:{address}:{asset}"


def transaction_tag(transaction: str) -> str:
    """A transaction's birth and everything that later becomes of it."""
    return f"transaction:{_escaped(transaction)}"


def reference_tag(reference: str) -> str:
    """The transaction that took a reference."""
    return f"reference:{_escaped(reference)}"


def key_tag(subject: str, key: str, *, system: bool = False) -> str:
    """The event that answered a caller's command. Percent-encoded parts, so that no two pairs share a tag."""
    return f"{'system-key' if system else 'key'}:{_escaped(subject)}:{_escaped(key)}"


@lru_cache(maxsize=1_024)  # a transaction's id and its key are asked for two or three times while it is decided
def _escaped(text: str) -> str:
    """Percent-encoded but for unreserved characters. Most ids need nothing, and finding that out is seven times cheaper."""
    return text if _UNRESERVED(text) else quote(text, safe="")
