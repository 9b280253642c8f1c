"""Amounts as decimal strings, for clients whose numbers lose digits above 2^53 (JavaScript): asked for by
`?amounts=string` or `Prefer: amounts=string`.

The edge of both HTTP processes (`http_edge.py`) rewrites a JSON answer on its way out, so that no route and no shape knows of
it, and nobody else pays for it. What counts as an amount is said by its field's name: AMOUNT_FIELDS, BESIDE_ASSET.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from shared_kernel.json_text import invalid

PARAMETER = "amounts"
AMOUNT_FIELDS = frozenset(
    (
        "amount",
        *("posted", "pending", "available", "posted_debits", "posted_credits", "pending_debits", "pending_credits"),
        *("debits", "credits", "difference", "opening", "closing", "change", "minimum", "maximum"),
    )
)
BESIDE_ASSET = AMOUNT_FIELDS | {
    "balance",
    "limit",
    "missing",
    "held",
    "reversible",
    "asked",
    "found",
    "gte",
    "lte",
    "eq",
}
"""Amounts in what a refusal says: only where it names their asset. Elsewhere a limit is one of keys, and what is found a position."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def are_texts_asked(preferences: Iterable[bytes], query: bytes) -> bool:
    """True if the request wants amounts as strings: by its query string, else by its Prefer headers (RFC 7240).

    Rejection `invalid_request` for another value of the parameter; another value of the preference is passed over (§2 there).
    """
    if b"amounts" in query:
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name == PARAMETER:
                if value not in ("string", "integer"):
                    raise invalid(PARAMETER, "Amounts come as string or as integer")
                return value == "string"
    for header in preferences:
        for preference in header.decode("latin-1").split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == PARAMETER:
                return value.strip().strip('"').lower() == "string"
    return False


def with_texts(body: bytes) -> bytes:
    """The JSON text with all amounts in it as decimal strings."""
    return _encode(_texts(_decode(body)))


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        fields = BESIDE_ASSET if "asset" in value else AMOUNT_FIELDS
        return {
            name: str(inner) if name in fields and type(inner) is int else _texts(inner)
            for name, inner in value.items()
        }
    return [_texts(inner) for inner in value] if isinstance(value, list) else value
