"""The checker that replays a log beside the second rule book (tests/support/oracle_log.py) finds what is wrong, where it is wrong."""

from datetime import UTC, datetime

import msgspec
import pytest

from shared_kernel.events import (
    TYPE_NAMES,
    AccountFrozen,
    AccountOpened,
    CommandRefused,
    Entry,
    Event,
    HoldPosted,
    LedgerOpened,
    Limit,
    TransactionHeld,
    TransactionPosted,
    encode,
)
from tests.support.oracle_log import LogOracle, Row

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def pair(source: str, target: str, amount: int, *, draws: bool = False, received: int | None = None) -> list[Entry]:
    return [
        Entry(account=source, direction="debit", amount=amount, asset="X", draws=draws),
        Entry(account=target, direction="credit", amount=amount if received is None else received, asset="X"),
    ]


def refused(code: str, **fields: str | int | bool | None) -> CommandRefused:
    """A transaction of 4 from the user to the shop that was turned down."""
    asked = {"entries": msgspec.to_builtins(pair("user", "shop", 4))}
    return CommandRefused(
        command="post_transaction", code=code, fields=fields, asked=msgspec.Raw(msgspec.json.encode(asked))
    )


SOUND: list[Event] = [
    LedgerOpened(ledger="bank", accounts="explicit"),
    AccountOpened(address="world", normal_balance="credit"),
    AccountOpened(address="shop", normal_balance="credit"),
    AccountOpened(address="user", normal_balance="credit", limits={"X": Limit(minimum=0)}),
    TransactionPosted(transaction="t1", entries=pair("world", "user", 10)),
    TransactionHeld(transaction="h1", entries=pair("user", "shop", 7, draws=True)),
    refused("insufficient_funds", account="user", asset="X", available=3, limit=0, missing=1),
]
WRONG: dict[str, Event] = {
    "a minimum passed": TransactionPosted(transaction="x", entries=pair("user", "shop", 4, draws=True)),
    "unbalanced": TransactionPosted(transaction="x", entries=pair("world", "shop", 4, received=5)),
    "a mark left out": TransactionPosted(transaction="x", entries=pair("user", "shop", 1)),
    "an id that is taken": TransactionPosted(transaction="t1", entries=pair("world", "shop", 1)),
    "more than is held": HoldPosted(transaction="h1", entries=pair("user", "shop", 8)),
    "an account that nobody opened": AccountFrozen(address="nobody", scope="all"),
    "another code": refused("account_frozen", account="user", scope="all"),
    "another amount": refused("insufficient_funds", account="user", asset="X", available=4, limit=0, missing=0),
}


def test_a_sound_log_has_no_findings() -> None:
    assert LogOracle().replay(rows(SOUND)).findings == []


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found_at_its_position(what: str) -> None:
    findings = LogOracle().replay(rows([*SOUND, WRONG[what]])).findings
    assert findings
    assert {finding.partition(":")[0] for finding in findings} == {"8"}


def test_a_position_left_out_is_found() -> None:
    log = rows(SOUND)
    assert LogOracle().replay([*log[:5], *log[6:]]).findings


def rows(events: list[Event]) -> list[Row]:
    """As they stand in the table."""
    return [
        (position, TYPE_NAMES[type(event)], encode(event), '{"actor": "teller"}', AT)
        for position, event in enumerate(events, 1)
    ]
