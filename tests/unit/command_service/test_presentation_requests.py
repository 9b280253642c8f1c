"""From bytes to commands: what is malformed is told with a stable code and the JSON path, and nothing else gets through."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_service.domain.asking import canonical
from command_service.domain.commands import OpenAccount, PostTransaction
from command_service.presentation.requests import (
    Asked,
    Caller,
    context,
    new_id,
    read_batch,
    read_key,
    read_open_account,
    read_open_ledger,
    read_post_transaction,
)
from shared_kernel.errors import Rejection
from shared_kernel.words import AMOUNT_MAX

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
CALLER = Caller(actor="teller", correlation_id="c-1", trace=None, now=NOW, effective_at_max=NOW)


def entry(**changes: Any) -> dict[str, Any]:
    return {"account": "a", "direction": "debit", "amount": 5, "asset": "CZK/2"} | changes


def transaction(**changes: Any) -> dict[str, Any]:
    return {"entries": [entry(), entry(account="b", direction="credit")]} | changes


def element(key: str | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "post_transaction", "data": transaction()} | changes
    return made if key is None else made | {"key": key}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def rejected(read: Any, content: bytes, *more: Any) -> tuple[str, object]:
    with pytest.raises(Rejection) as caught:
        read(content, *more)
    return caught.value.code, caught.value.fields["path"]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"null", "$"),
        (b"[]", "$"),
        (b"\xff", "$"),
        (body(transaction()) + b" {}", "$"),
        (b'{"entries":' + b"[" * 100_000, "$"),
        (body(transaction())[:-1] + b',"entries":[]}', "$"),
        (body(transaction(memo="x")), "$.memo"),
        (body({}), "$.entries"),
        (body(transaction(entries=[entry()])), "$.entries"),
        (body(transaction(entries=[entry()] * 501)), "$.entries"),
        (body(transaction(entries=[entry(), entry(amount=5.0)])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount=0)])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount=-5)])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount="5.0")])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount="5\n")])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount=True)])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount=AMOUNT_MAX + 1)])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(), entry(amount=str(AMOUNT_MAX + 1))])), "$.entries[1].amount"),
        (body(transaction(entries=[entry(asset="usd"), entry()])), "$.entries[0].asset"),
        (body(transaction(entries=[entry(asset="USD/0"), entry()])), "$.entries[0].asset"),
        (body(transaction(entries=[entry(asset="USD/39"), entry()])), "$.entries[0].asset"),
        (body(transaction(entries=[entry(account="a::b"), entry()])), "$.entries[0].account"),
        (body(transaction(entries=[entry(account="a\n"), entry()])), "$.entries[0].account"),
        (body(transaction(entries=[entry(account="x" * 65), entry()])), "$.entries[0].account"),
        (body(transaction(entries=[entry(account=":".join(["x"] * 129)), entry()])), "$.entries[0].account"),
        (body(transaction(entries=[entry(direction="up"), entry()])), "$.entries[0].direction"),
        (body(transaction(entries=[entry(note="x"), entry()])), "$.entries[0].note"),
        (body(transaction(effective_at="1993-01-01T12:00:00")), "$.effective_at"),
        (body(transaction(effective_at="yesterday")), "$.effective_at"),
        (body(transaction(effective_at="0001-01-01T00:00:00+01:00")), "$.effective_at"),
        (body(transaction(reference="")), "$.reference"),
        (body(transaction(reference="x" * 201)), "$.reference"),
        (body(transaction(id="a b")), "$.id"),
        (body(transaction(metadata={"n": 5})), "$.metadata[...]"),
        (body(transaction(metadata={str(n): "" for n in range(51)})), "$.metadata"),
        (body(transaction(description="a\x00b")), "$"),
    ],
)
def test_a_malformed_transaction_is_told_where(content: bytes, path: str) -> None:
    assert rejected(read_post_transaction, content) == ("invalid_request", path)


def test_unbalanced_entries_have_a_code_of_their_own() -> None:
    content = body(transaction(entries=[entry(), entry(account="b", direction="credit", amount=6)]))
    assert rejected(read_post_transaction, content) == ("unbalanced", "$.entries")


def test_a_malformed_ledger_or_account_is_told_where() -> None:
    assert rejected(read_open_ledger, body({"ledger": "no way"})) == ("invalid_request", "$.ledger")
    limits = {"pattern": "a:**", "limits": {"X": {"minimum": 2, "maximum": 1}}}
    assert rejected(read_open_ledger, body({"ledger": "bank", "defaults": [limits]})) == (
        "invalid_request",
        "$.defaults[0].limits.X",
    )
    assert rejected(read_open_account, body({"address": "a", "normal_balance": "left"}))[1] == "$.normal_balance"
    assert rejected(read_open_account, body({"address": "a", "limits": {"X": {"minimum": 0.5}}}))[1] == (
        "$.limits[...].minimum"
    )


def test_what_is_well_formed_comes_through() -> None:
    command = read_post_transaction(body(transaction(id="mine", reference="r", effective_at="1993-01-01T12:00:00Z")))
    assert (command.id, command.reference, command.effective_at) == ("mine", "r", datetime(1993, 1, 1, 12, tzinfo=UTC))
    assert [e.amount for e in command.entries] == [5, 5]


# --- batches


def test_elements_have_their_own_keys_or_number_the_request_s() -> None:
    asked = read_batch(body({"commands": [element("own"), element()]}), "load")
    assert [one.key for one in asked if isinstance(one, Asked)] == ["own", "load/1"]


def test_a_batch_without_any_key_is_refused_whole() -> None:
    content = body({"commands": [element("own"), element()]})
    assert rejected(read_batch, content, None) == ("key_missing", "$.commands[1].key")


def test_a_malformed_element_leaves_the_others_alone() -> None:
    bad = element("b", data=transaction(entries=[entry(), entry(amount=1.5)]))
    unbalanced = element("c", data=transaction(entries=[entry(), entry()]))
    account = {"type": "open_account", "key": "d", "data": {"address": "a"}}
    unknown = {"type": "close_account", "key": "e", "data": {}}
    asked = read_batch(body({"atomic": False, "commands": [element("a"), bad, unbalanced, account, unknown, 7]}), None)
    assert [type(one) for one in asked] == [Asked, Rejection, Rejection, Asked, Rejection, Rejection]
    rejections = [one for one in asked if isinstance(one, Rejection)]
    assert [(one.code, one.fields["path"]) for one in rejections] == [
        ("invalid_request", "$.commands[1].data.entries[1].amount"),
        ("unbalanced", "$.commands[2].data.entries"),
        ("invalid_request", "$.commands[4].type"),
        ("invalid_request", "$.commands[5]"),
    ]
    assert [type(one.command) for one in asked if isinstance(one, Asked)] == [PostTransaction, OpenAccount]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"", "$"),
        (b"[]", "$"),
        (body({"commands": []}), "$.commands"),
        (body({"commands": [element("k")] * 1001}), "$.commands"),
        (body({"commands": [element("k")], "atomic": True}), "$.atomic"),
        (body({"commands": [element("k")], "atomic": "no"}), "$.atomic"),
        (body({"commands": [element("k")], "more": 1}), "$.more"),
        (body({"commands": [element("k")]})[:-3], "$"),
    ],
)
def test_a_malformed_frame_is_refused_whole(content: bytes, path: str) -> None:
    assert rejected(read_batch, content, "k") == ("invalid_request", path)


def test_a_key_that_would_be_too_long_with_its_number_is_refused() -> None:
    content = body({"commands": [element()] * 1000})
    assert all(len(one.key) <= 200 for one in read_batch(content, "k" * 196) if isinstance(one, Asked))
    assert rejected(read_batch, content, "k" * 197) == ("invalid_request", "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "a b", "a\n", "ä", "x" * 201])
def test_a_malformed_key_is_told(key: str) -> None:
    assert rejected(lambda _: read_key(key), b"") == ("invalid_request", "Idempotency-Key")


def test_a_request_need_not_have_a_key() -> None:
    assert read_key(None) is None
    assert read_key("a/0:~") == "a/0:~"


# --- contexts


def test_a_context_holds_what_was_asked_and_who_asked() -> None:
    command = read_post_transaction(body(transaction()))
    made = context(command, ledger="bank", key="k", caller=CALLER)
    assert (made.actor, made.key, made.correlation_id, made.now) == ("teller", "k", "c-1", NOW)
    assert made.asked == canonical(command)
    assert made.fingerprint == context(command, ledger="bank", key="other", caller=CALLER).fingerprint
    assert made.fingerprint != context(command, ledger="bank2", key="k", caller=CALLER).fingerprint


def test_a_command_is_the_same_alone_and_in_a_batch() -> None:
    alone = read_post_transaction(body(transaction(reference="r")))
    (one,) = read_batch(body({"commands": [element("k", data=transaction(reference="r"))]}), None)
    assert isinstance(one, Asked)
    assert (
        context(one.command, ledger="bank", key="k", caller=CALLER).fingerprint
        == context(alone, ledger="bank", key="k", caller=CALLER).fingerprint
    )


def test_a_key_is_made_where_the_client_sent_none() -> None:
    command = read_post_transaction(body(transaction()))
    first, second = (context(command, ledger="bank", key=None, caller=CALLER) for _ in range(2))
    assert UUID(first.key) != UUID(second.key)


@given(st.floats(min_value=0, max_value=7e9))
def test_ids_are_uuids_of_version_7_with_their_time(seconds: float) -> None:
    now = datetime.fromtimestamp(seconds, UTC)
    made = UUID(new_id(now))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert abs((made.int >> 80) - now.timestamp() * 1000) <= 1


def test_ids_differ() -> None:
    assert len({new_id(NOW) for _ in range(10_000)}) == 10_000


@given(st.binary(max_size=200))
def test_no_bytes_whatever_are_a_fault_of_ours(content: bytes) -> None:
    for read in (read_post_transaction, read_open_account, read_open_ledger, lambda b: read_batch(b, "k")):
        with pytest.raises(Rejection):
            read(content)


TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=5
)  # NUL is the body's affair
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("data", "key", "x")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(JSON, min_size=1, max_size=4))
def test_no_element_whatever_is_a_fault_of_ours(elements: list[object]) -> None:
    asked = read_batch(msgspec.json.encode({"commands": elements}), "k")
    assert len(asked) == len(elements)
    assert all(str(one.fields["path"]).startswith("$.commands[") for one in asked if isinstance(one, Rejection))
