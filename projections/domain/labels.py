"""Metadata of ledgers, accounts and transactions: the object as it stands, and the rows by which it is searched."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from projections.domain.projection import Row
from shared_kernel.event_log.types import RecordedEvent

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


class LabelRow(NamedTuple):
    """A key has a value from a position on. `created_position` is the transaction's; an account has its address there."""

    ledger: str
    key: str
    value: str
    created_position: int
    position: int


def patched(metadata: str, changes: Mapping[str, str | None]) -> tuple[str, dict[str, str]]:
    """The JSON object after the changes (null removes), and what it has now that it had not."""
    noted = _decode(metadata)
    added: dict[str, str] = {}
    for key, value in changes.items():
        if value is None:
            noted.pop(key, None)
        elif noted.get(key) != value:
            noted[key] = added[key] = value
    return _encode(noted).decode(), added


def labels_of(recorded: RecordedEvent, subject: str | int, metadata: Mapping[str, str]) -> list[Row]:
    """A row for each key. `subject`: an account's address or a transaction's first position."""
    return [(recorded.ledger, key, value, subject, recorded.position) for key, value in metadata.items()]
