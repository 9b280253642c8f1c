"""Events: the bytes of every released version, tags, and the canonical line.

tests/golden/events holds one file a version, never changed once released: a fold of old history depends on it.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_kernel import events, tags
from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import (
    TYPES,
    AccountClosed,
    AccountDefaults,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountReopened,
    AccountUnfrozen,
    CommandRefused,
    Entry,
    Event,
    HoldExpired,
    HoldPosted,
    HoldVoided,
    Known,
    LedgerArchived,
    LedgerMetadataChanged,
    LedgerOpened,
    LedgerReopened,
    Limit,
    LimitsSet,
    Metadata,
    ScheduledCancelled,
    ScheduledRefused,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionScheduled,
    UnknownEventType,
    canonical_line,
    decode,
    decode_metadata,
    encode,
    parse_line,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "events"
METADATA = Metadata(
    actor="local-writer",
    correlation_id="0af7651916cd43dd8448eb211c80319c",
    causation_id="key:local-writer:berka-1",
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    key="berka-1",
    fingerprint="01" + "ab" * 32,
)
T1 = "0192d5e0-0000-7000-8000-000000000001"
IN_AND_OUT = [
    Entry(account="bank:cash", direction="debit", amount=2**127 - 1, asset="CZK/2"),
    Entry(account="users:42:wallet", direction="credit", amount=2**127 - 1, asset="CZK/2"),
]
KNOWN = {
    "bank:cash": {
        "CZK/2": Known(
            normal_balance="debit", posted_debits=2**127, posted_credits=1, pending_debits=2**127 + 5, pending_credits=2
        )
    },
    "users:42:wallet": {"CZK/2": Known()},
}
CHANGES: dict[str, str | None] = {"kyc": "done", "note": None}
FULL: dict[str, Event] = {
    "LedgerArchived.v1": LedgerArchived(ledger="acme:main"),
    "LedgerReopened.v1": LedgerReopened(ledger="acme:main"),
    "LedgerMetadataChanged.v1": LedgerMetadataChanged(ledger="acme:main", changes=CHANGES),
    "LimitsSet.v1": LimitsSet(
        address="users:42:wallet", limits={"EUR/2": Limit(minimum=-5, maximum=10)}, breached=["EUR/2"]
    ),
    "AccountFrozen.v1": AccountFrozen(address="users:42:wallet", scope="debits"),
    "AccountUnfrozen.v1": AccountUnfrozen(address="users:42:wallet"),
    "AccountClosed.v1": AccountClosed(address="users:42:wallet"),
    "AccountReopened.v1": AccountReopened(address="users:42:wallet"),
    "AccountMetadataChanged.v1": AccountMetadataChanged(address="users:42:wallet", changes=CHANGES),
    "TransactionHeld.v1": TransactionHeld(
        transaction=T1,
        entries=[
            Entry(account="bank:cash", direction="debit", amount=5, asset="CZK/2", fills=True),
            Entry(account="users:42:wallet", direction="credit", amount=5, asset="CZK/2", draws=True),
        ],
        expires_at="2026-12-01T00:00:00.000000Z",
        reference="berka-1",
        description="a deposit",
        effective_at="1993-01-01T12:00:00.000000Z",
        metadata={"k_symbol": "UROK"},
        known=KNOWN,
    ),
    "HoldPosted.v1": HoldPosted(
        transaction=T1,
        entries=IN_AND_OUT,
        released=[
            Entry(account="bank:float", direction="debit", amount=1, asset="CZK/2"),
            Entry(account="users:7:wallet", direction="credit", amount=1, asset="CZK/2"),
        ],
        is_final=False,
        effective_at="1993-01-01T12:00:00.000000Z",
        known=KNOWN,
    ),
    "HoldVoided.v1": HoldVoided(transaction=T1, released=IN_AND_OUT, is_partly_posted=True),
    "HoldExpired.v1": HoldExpired(transaction=T1, released=IN_AND_OUT, is_partly_posted=True),
    "TransactionScheduled.v1": TransactionScheduled(
        transaction=T1,
        entries=IN_AND_OUT,
        effective_at="2027-01-01T00:00:00.000000Z",
        reference="rent 1/27",
        description="rent",
        metadata={"k_symbol": "UROK"},
    ),
    "ScheduledCancelled.v1": ScheduledCancelled(transaction=T1),
    "ScheduledRefused.v1": ScheduledRefused(
        transaction=T1,
        code="insufficient_funds",
        fields={"account": "users:42:wallet", "asset": "EUR/2", "available": 1, "limit": 0, "missing": 2**100},
        accounts=["users:42:wallet"],
    ),
    "TransactionMetadataChanged.v1": TransactionMetadataChanged(transaction=T1, changes=CHANGES),
    "LedgerOpened.v1": LedgerOpened(
        ledger="acme:main",
        accounts="explicit",
        defaults=[
            AccountDefaults(
                pattern="users:*:wallet", normal_balance="debit", limits={"EUR/2": Limit(minimum=-5, maximum=10)}
            )
        ],
        records_refusals=False,
        metadata={"owner": "Zürich ✓"},
    ),
    "AccountOpened.v1": AccountOpened(
        address="users:42:wallet",
        normal_balance="credit",
        limits={"EUR/2": Limit(minimum=0), "JPY": Limit(maximum=2**127 - 1)},
        metadata={"kyc": "done"},
        on_first_use=True,
    ),
    "TransactionPosted.v1": TransactionPosted(
        transaction="0192d5e0-0000-7000-8000-000000000001",
        entries=[
            Entry(account="bank:cash", direction="debit", amount=2**127 - 1, asset="CZK/2", draws=True),
            Entry(account="users:42:wallet", direction="credit", amount=1, asset="JPY", fills=True),
        ],
        reference="berka-1",
        description='a "quoted" \\ line\n',
        effective_at="1993-01-01T12:00:00.000000Z",
        metadata={"k_symbol": "UROK"},
    ),
    "CommandRefused.v1": CommandRefused(
        command="post_transaction",
        code="insufficient_funds",
        fields={"account": "users:42:wallet", "asset": "EUR/2", "available": 1, "limit": 0, "missing": 2**100},
        asked=msgspec.Raw(b'{"entries":[]}'),
        accounts=["users:42:wallet"],
        judged_at=7,
    ),
}
SPARE: dict[str, Event] = {
    "LedgerArchived.v1": LedgerArchived(ledger="bank"),
    "LedgerReopened.v1": LedgerReopened(ledger="bank"),
    "LedgerMetadataChanged.v1": LedgerMetadataChanged(ledger="bank", changes={"k": None}),
    "LimitsSet.v1": LimitsSet(address="a", limits={}),
    "AccountFrozen.v1": AccountFrozen(address="a", scope="all"),
    "AccountUnfrozen.v1": AccountUnfrozen(address="a"),
    "AccountClosed.v1": AccountClosed(address="a"),
    "AccountReopened.v1": AccountReopened(address="a"),
    "AccountMetadataChanged.v1": AccountMetadataChanged(address="a", changes={"k": "v"}),
    "TransactionHeld.v1": TransactionHeld(transaction="t", entries=IN_AND_OUT),
    "HoldPosted.v1": HoldPosted(transaction="t", entries=IN_AND_OUT),
    "HoldVoided.v1": HoldVoided(transaction="t", released=IN_AND_OUT),
    "HoldExpired.v1": HoldExpired(transaction="t", released=IN_AND_OUT),
    "TransactionScheduled.v1": TransactionScheduled(
        transaction="t", entries=IN_AND_OUT, effective_at="2027-01-01T00:00:00.000000Z"
    ),
    "ScheduledCancelled.v1": ScheduledCancelled(transaction="t"),
    "ScheduledRefused.v1": ScheduledRefused(transaction="t", code="ledger_archived", fields={}),
    "TransactionMetadataChanged.v1": TransactionMetadataChanged(transaction="t", changes={"k": "v"}),
    "LedgerOpened.v1": LedgerOpened(ledger="bank", accounts="on-first-use"),
    "AccountOpened.v1": AccountOpened(address="a", normal_balance="debit"),
    "TransactionPosted.v1": TransactionPosted(
        transaction="t",
        entries=[
            Entry(account="a", direction="debit", amount=1, asset="EUR/2"),
            Entry(account="b", direction="credit", amount=1, asset="EUR/2"),
        ],
    ),
    "CommandRefused.v1": CommandRefused(command="c", code="e", fields={}, asked=msgspec.Raw(b"{}")),
}
# Optional fields that came later: an old event reads as before, so its version is the same.
LATER: dict[str, Event] = {
    "LedgerOpened.v1": LedgerOpened(ledger="bank", accounts="explicit", time_zone="Europe/Prague"),
    "TransactionPosted.v1": TransactionPosted(
        transaction="t2", entries=IN_AND_OUT, reverses=T1, forced=True, scheduled=True, known=KNOWN
    ),
    "CommandRefused.v1": CommandRefused(
        command="c", code="e", fields={}, asked=msgspec.Raw(b"{}"), accounts=["a", "b"], after_commands=3
    ),
}


def line(name: str, event: Event, metadata: Metadata) -> str:
    """The canonical line and the tags, as the golden files keep them."""
    recorded = RecordedEvent(
        ledger="bank",
        position=17,
        type=name,
        data=encode(event),
        metadata=encode(metadata),
        recorded_at=datetime(2026, 11, 24, 9, 30, 0, 5, tzinfo=UTC),
    )
    return canonical_line(recorded) + "\n" + "\n".join(tags.of(event, metadata)) + "\n"


@pytest.mark.parametrize("name", sorted(TYPES))
def test_released_bytes_and_tags_never_change(name: str) -> None:
    made = line(name, FULL[name], METADATA) + line(name, SPARE[name], Metadata(actor="a", correlation_id="c"))
    if name in LATER:
        clock = Metadata(actor="clock", correlation_id="c", key="due:t2", fingerprint="01" + "ab" * 32, system=True)
        made += line(name, LATER[name], clock)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(made)
    assert made == golden.read_text()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_released_bytes_are_still_understood(name: str) -> None:
    recorded = parse_line((GOLDEN / f"{name}.txt").read_text().splitlines()[0])
    assert encode(decode(recorded.type, recorded.data)) == encode(FULL[name]) == recorded.data
    assert encode(decode_metadata(recorded.metadata)) == recorded.metadata


def test_every_event_version_has_its_golden_file() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {*TYPES, *events.UPCASTERS}


def test_a_canonical_line_gives_back_every_byte() -> None:
    recorded = RecordedEvent(
        ledger="bank",
        position=3,
        type="TransactionPosted.v1",
        data='{"b": 1,  "a":"\\u00e9"}',  # not our spacing: kept all the same
        metadata='{ "actor":"x" }',
        recorded_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert parse_line(canonical_line(recorded)) == recorded


def test_an_event_from_the_future_is_named_not_guessed() -> None:
    with pytest.raises(UnknownEventType, match="unknown_event_type"):
        decode("TransactionPosted.v9", "{}")


anything = st.text(min_size=1, max_size=20)


@given(anything, anything, anything, anything)
def test_no_two_callers_keys_share_a_tag(subject: str, key: str, other_subject: str, other_key: str) -> None:
    if (subject, key) != (other_subject, other_key):
        assert tags.key_tag(subject, key) != tags.key_tag(other_subject, other_key)


@given(st.text(alphabet="a:%2.3A", min_size=1, max_size=8), st.text(alphabet="a:%2.3A", min_size=1, max_size=8))
def test_escapes_cannot_be_forged(first: str, second: str) -> None:
    if first != second:
        assert tags.reference_tag(first) != tags.reference_tag(second)
        assert tags.transaction_tag(first) != tags.transaction_tag(second)
        assert tags.key_tag(first, "k") != tags.key_tag(second, "k")
    assert tags.key_tag(first, second).count(":") == 2


@given(anything)
def test_tags_of_different_kinds_never_meet(text: str) -> None:
    assert len({tags.reference_tag(text), tags.transaction_tag(text), tags.key_tag(text, text)}) == 3
