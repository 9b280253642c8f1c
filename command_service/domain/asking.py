"""Who asks, under which key, and whether it is the same question: contexts, canonical JSON and fingerprints (design §4).

Pure. The fingerprint covers exactly what the client sent, however the amounts were written, alone or in a batch.
"""

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from command_service.domain.commands import Command, OpenAccount, OpenLedger, PostTransaction, SetLimits

FINGERPRINT_VERSION = "01"

_ENCODER = msgspec.json.Encoder(order="sorted")


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one request that is not the command itself. Fixed before the first decision, kept over retries.

    `now` is the clock of the edge (UTC), for bounds on times only, never for order; `effective_at_max` the latest effective time
    taken. `transaction_id` is used where a new transaction needs an id and the client gave none. `asked` is the canonical
    JSON of what the client sent. `is_system`: Daybook's own process asks.
    """

    ledger: str
    actor: str
    key: str
    correlation_id: str
    now: datetime
    effective_at_max: datetime
    transaction_id: str
    fingerprint: str
    asked: bytes
    trace: str | None = None
    is_system: bool = False


def canonical(command: Command) -> bytes:
    """What the client sent as canonical JSON: keys sorted, amounts as integers, absent fields absent."""
    if isinstance(command, PostTransaction) and not command.conditions:  # the hot one
        for entry in command.entries:
            if isinstance(entry.amount, str):
                break
        else:
            return _ENCODER.encode(command)
    plain = msgspec.to_builtins(command)
    for entry in plain.get("entries", ()):
        _to_integers(entry, "amount")
    for condition in plain.get("conditions", ()):
        _to_integers(condition, "gte", "lte", "eq")
    if isinstance(command, OpenAccount | SetLimits):
        _limits_to_integers(plain)
    elif isinstance(command, OpenLedger):
        for defaults in plain.get("defaults", ()):
            _limits_to_integers(defaults)
    return _ENCODER.encode(plain)


def fingerprint(ledger: str, command_type: str, asked: bytes) -> str:
    """Version byte and SHA-256 in hexadecimal: equal exactly if the same thing is asked of the same ledger.

    `asked` is `canonical(command)`, which holds the path parameters too where a command has them.
    """
    return FINGERPRINT_VERSION + hashlib.sha256(b"\n".join((ledger.encode(), command_type.encode(), asked))).hexdigest()


def _limits_to_integers(holder: dict[str, Any]) -> None:
    for limit in holder.get("limits", {}).values():
        _to_integers(limit, "minimum", "maximum")


def _to_integers(holder: dict[str, Any], *names: str) -> None:
    for name in names:
        if isinstance(holder.get(name), str):
            holder[name] = int(holder[name])
