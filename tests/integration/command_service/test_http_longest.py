"""The longest names that the grammar lets in fit into the log: tags are percent-encoded there, and an index row has an end."""

import random
from typing import Any

import pytest

from tests.integration.command_service.conftest import Caller, token

LEDGER = ("x" * 31 + ":" + "y" * 32)[:64]
ADDRESS = ":".join(["a" * 63] * 4)
EMOJI = "\U0001f600"
_CHANCE = random.Random(1)


def rare(length: int) -> str:
    """Characters of four bytes, so twelve in a tag, which do not compress."""
    return "".join(chr(_CHANCE.randrange(0x10000, 0x110000)) for _ in range(length))


def transaction(**more: Any) -> dict[str, Any]:
    return {
        "entries": [
            {"account": ADDRESS, "direction": "debit", "amount": 1, "asset": "ABCDEFGHIJKLMNOP/38"},
            {"account": "b", "direction": "credit", "amount": 1, "asset": "ABCDEFGHIJKLMNOP/38"},
        ],
        **more,
    }


@pytest.mark.parametrize(
    "subject", ["s" * 256, "/" * 256, "é" * 256, rare(256)], ids=["plain", "quoted", "two", "four"]
)
async def test_the_longest_of_everything_is_taken_and_found_again(caller: Caller, subject: str) -> None:
    bearer = f"Bearer {token('writer', subject=subject)}"
    await caller.post("", {"ledger": LEDGER})
    said = {
        "reference": rare(200),
        "description": EMOJI * 1000,
        "metadata": {EMOJI * 64: EMOJI * 500},
    }
    first = await caller.post(f"/{LEDGER}/transactions", transaction(**said), key="%" * 200, authorization=bearer)
    assert first.status_code == 201, first.text
    assert first.json()["transaction"]["reference"] == said["reference"]
    again = await caller.post(f"/{LEDGER}/transactions", transaction(**said), key="%" * 200, authorization=bearer)
    assert again.headers["idempotent-replay"] == "true"
