"""From bytes to commands: what is malformed is told with a stable code and the JSON path, and nothing else gets through."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_service.domain import commands as kinds
from command_service.domain.asking import canonical
from command_service.domain.commands import COMMAND_TYPES, SYSTEM_COMMANDS, Command, OpenAccount, PostTransaction
from command_service.presentation.batches import Asked, Batch, BatchAcross, read_batch, read_batch_across
from command_service.presentation.requests import (
    BODIES,
    PATH_FIELDS,
    Caller,
    context,
    new_id,
    read_change,
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
        (body(transaction())[:-1] + b',"entries":[]}', "$.entries"),
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
    asked = read_batch(body({"commands": [element("own"), element()]}), "load").commands
    assert [one.key for one in asked if isinstance(one, Asked)] == ["own", "load/1"]


def test_a_batch_without_any_key_is_refused_whole() -> None:
    content = body({"commands": [element("own"), element()]})
    assert rejected(read_batch, content, None) == ("key_missing", "$.commands[1].key")


def test_a_malformed_element_leaves_the_others_alone() -> None:
    bad = element("b", data=transaction(entries=[entry(), entry(amount=1.5)]))
    unbalanced = element("c", data=transaction(entries=[entry(), entry()]))
    account = {"type": "open_account", "key": "d", "data": {"address": "a"}}
    unknown = {"type": "do_magic", "key": "e", "data": {}}
    sent = [element("a"), bad, unbalanced, account, unknown, 7]
    asked, is_atomic = read_batch(body({"atomic": False, "commands": sent}), None)
    assert not is_atomic
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
        (body({"commands": [element("k")], "atomic": "no"}), "$.atomic"),
        (body({"commands": [element("k")], "more": 1}), "$.more"),
        (body({"commands": [element("k")]})[:-3], "$"),
    ],
)
def test_a_malformed_frame_is_refused_whole(content: bytes, path: str) -> None:
    assert rejected(read_batch, content, "k") == ("invalid_request", path)


def test_a_key_that_would_be_too_long_with_its_number_is_refused() -> None:
    content = body({"commands": [element()] * 1000})
    assert all(len(one.key) <= 200 for one in read_batch(content, "k" * 196).commands if isinstance(one, Asked))
    assert rejected(read_batch, content, "k" * 197) == ("invalid_request", "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "a b", "a\n", "ä", "x" * 201])
def test_a_malformed_key_is_told(key: str) -> None:
    assert rejected(lambda _: read_key(key), b"") == ("invalid_request", "Idempotency-Key")


def test_a_request_need_not_have_a_key() -> None:
    assert read_key(None) is None
    assert read_key("a/0:~") == "a/0:~"


CHANGES: dict[str, tuple[type[Command], dict[str, Any]]] = {
    "archive_ledger": (kinds.ArchiveLedger, {}),
    "reopen_ledger": (kinds.ReopenLedger, {}),
    "patch_ledger_metadata": (kinds.PatchLedgerMetadata, {"metadata": {"a": "b", "c": None}}),
    "set_limits": (kinds.SetLimits, {"limits": {"CZK/2": {"minimum": "-5", "maximum": None}}}),
    "freeze_account": (kinds.FreezeAccount, {"scope": "debits"}),
    "unfreeze_account": (kinds.UnfreezeAccount, {}),
    "close_account": (kinds.CloseAccount, {"conditions": [{"head": 7}]}),
    "reopen_account": (kinds.ReopenAccount, {}),
    "patch_account_metadata": (kinds.PatchAccountMetadata, {"metadata": {"a": None}}),
    "post_hold": (kinds.PostHold, {**transaction(), "keep_remainder": True}),
    "void_hold": (kinds.VoidHold, {}),
    "cancel_scheduled": (kinds.CancelScheduled, {}),
    "reverse_transaction": (kinds.ReverseTransaction, {"effective_at": "original", "force": True}),
    "patch_transaction_metadata": (kinds.PatchTransactionMetadata, {"metadata": {"a": "b"}}),
}
"""Commands to something that stands in the path, with a body."""


def of_path(kind: type[Command]) -> dict[str, str]:
    """The path parameter as a batch's element has it."""
    subjects = {"address": "users:42", "transaction": "t1"}
    return {PATH_FIELDS[kind]: subjects[PATH_FIELDS[kind]]} if kind in PATH_FIELDS else {}


def test_these_are_all_commands_to_something() -> None:
    alone = {kinds.OpenLedger, kinds.OpenAccount, kinds.PostTransaction}
    assert {kind for kind, _ in CHANGES.values()} == set(kinds.COMMAND_TYPES.values()) - alone - SYSTEM_COMMANDS


@pytest.mark.parametrize("name", CHANGES)
def test_a_command_to_something_is_the_same_alone_and_in_a_batch(name: str) -> None:
    kind, given = CHANGES[name]
    place = of_path(kind)
    alone = read_change(kind, body(given), next(iter(place.values()), None))
    element = {"type": name, "key": "k", "data": given | place}
    (one,) = read_batch(body({"commands": [element]}), None).commands
    (across,) = read_batch_across(body({"commands": [element | {"ledger": "bank"}]}), None)
    assert isinstance(one, Asked)
    assert alone == one.command == across.command
    made = {context(each, ledger="bank", key="k", caller=CALLER).fingerprint for each in (alone, one.command)}
    assert len(made) == 1


@pytest.mark.parametrize("name", [name for name, (kind, _) in CHANGES.items() if kind in PATH_FIELDS])
def test_a_path_parameter_is_not_repeated_in_the_body_and_is_read_strictly(name: str) -> None:
    kind, given = CHANGES[name]
    ((field, subject),) = of_path(kind).items()
    content = body(given | {field: subject})
    assert rejected(lambda sent: read_change(kind, sent, subject), content) == ("invalid_request", f"$.{field}")
    for bad in ("", "a b", "a\n", "x" * 300, "."):
        assert rejected(lambda sent, s=bad: read_change(kind, sent, s), body(given)) == ("invalid_request", field)


@pytest.mark.parametrize("name", [name for name, (_, given) in CHANGES.items() if not given])
def test_what_has_nothing_more_to_say_needs_no_body(name: str) -> None:
    kind, _ = CHANGES[name]
    subject = next(iter(of_path(kind).values()), None)
    assert read_change(kind, b"", subject) == read_change(kind, b"{}", subject)


@pytest.mark.parametrize(
    ("name", "content", "path"),
    [
        ("set_limits", {}, "$.limits"),
        ("set_limits", {"limits": {"czk": {}}}, "$.limits"),
        ("set_limits", {"limits": {"CZK/2": {"minimum": 0.5}}}, "$.limits[...].minimum"),
        ("set_limits", {"limits": {"CZK/2": {"minimum": AMOUNT_MAX + 1}}}, "$.limits.CZK/2.minimum"),
        ("set_limits", {"limits": {"CZK/2": {"least": 1}}}, "$.limits[...].least"),
        ("set_limits", {"limits": {f"A{n}": {} for n in range(101)}}, "$.limits"),
        ("freeze_account", {"scope": "some"}, "$.scope"),
        ("close_account", {"conditions": [{}]}, "$.conditions[0]"),
        ("void_hold", {"reason": "x"}, "$.reason"),
        ("post_hold", {"entries": []}, "$.entries"),
        ("post_hold", {"keep_remainder": "yes"}, "$.keep_remainder"),
        ("post_hold", {"effective_at": "1993-01-01T12:00:00"}, "$.effective_at"),
        ("post_hold", {"balances": "all"}, "$.balances"),
        ("reverse_transaction", {"effective_at": "yesterday"}, "$.effective_at"),
        ("reverse_transaction", {"effective_at": "1993-01-01T12:00:00"}, "$.effective_at"),
        ("reverse_transaction", {"effective_at": "0001-01-01T00:00:00+01:00"}, "$.effective_at"),
        ("reverse_transaction", {"force": 1}, "$.force"),
        ("reverse_transaction", {"id": "a/b"}, "$.id"),
        ("reverse_transaction", {"entries": [entry(), entry()]}, "$.entries"),
        ("patch_account_metadata", {"metadata": {}}, "$.metadata"),
        ("patch_account_metadata", {"metadata": {"a": 5}}, "$.metadata[...]"),
        ("patch_ledger_metadata", {"metadata": {"": "x"}}, "$.metadata"),
        ("patch_transaction_metadata", {"metadata": {"k" * 65: "x"}}, "$.metadata"),
        ("patch_transaction_metadata", {"metadata": {"k": "x" * 501}}, "$.metadata[...]"),
    ],
)
def test_a_malformed_command_is_told_where_alone_and_in_a_batch(name: str, content: dict[str, Any], path: str) -> None:
    kind, _ = CHANGES[name]
    place = of_path(kind)
    with pytest.raises(Rejection) as caught:
        read_change(kind, body(content), next(iter(place.values()), None))
    assert (caught.value.fields["path"], caught.value.code) == (
        path,
        "unbalanced" if content == {"entries": [entry(), entry()]} else "invalid_request",
    )
    sent = {"commands": [{"type": name, "key": "k", "data": content | place}]}
    (one,) = read_batch(body(sent), None).commands
    assert isinstance(one, Rejection)
    assert one.fields["path"] == f"$.commands[0].data{path[1:]}"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"status": "done"}, "$.status"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "$.expires_at"),
        ({"status": "pending", "expires_at": "2030-01-01T00:00:00"}, "$.expires_at"),
        ({"status": "scheduled"}, "$.effective_at"),
        ({"status": "scheduled", "effective_at": "2030-01-01T00:00:00Z", "balances": "known"}, "$.balances"),
        (
            {"status": "scheduled", "effective_at": "2030-01-01T00:00:00Z", "conditions": [{"head": 1}]},
            "$.conditions",
        ),
        ({"conditions": []}, "$.conditions"),
        ({"conditions": [{"head": 0}]}, "$.conditions[0].head"),
        ({"conditions": [{"head": 2**63}]}, "$.conditions[0].head"),
        ({"conditions": [{"head": 1, "account": "a"}]}, "$.conditions[0]"),
        ({"conditions": [{"account": "a", "last_position": -1}]}, "$.conditions[0].last_position"),
        ({"conditions": [{"account": "a", "asset": "X", "balance": "posted"}]}, "$.conditions[0]"),
        ({"conditions": [{"account": "a", "asset": "X", "balance": "total", "eq": 1}]}, "$.conditions[0].balance"),
        ({"conditions": [{"account": "a", "asset": "X", "balance": "posted", "eq": 1.5}]}, "$.conditions[0].eq"),
        ({"conditions": [{"account": "a", "asset": "X", "balance": "posted", "lte": 10**39}]}, "$.conditions[0].lte"),
        ({"conditions": [{"head": 1}] * 101}, "$.conditions"),
    ],
)
def test_a_transaction_s_state_and_conditions_are_read_strictly(changes: dict[str, Any], path: str) -> None:
    assert rejected(read_post_transaction, body(transaction(**changes))) == ("invalid_request", path)


def test_what_only_the_clock_asks_for_is_not_offered_nor_opening_a_ledger_in_a_batch() -> None:
    for name in ("expire_hold", "post_scheduled", "open_ledger"):
        data = {"ledger": "bank"} if name == "open_ledger" else {"transaction": "t1"}
        (one,) = read_batch(body({"commands": [{"type": name, "key": "k", "data": data}]}), None).commands
        assert isinstance(one, Rejection)
        assert one.fields["path"] == "$.commands[0].type"


# --- atomic batches


def test_all_of_an_atomic_batch_is_well_formed_or_nothing_of_it() -> None:
    sent = [element("a"), element("b")]
    asked, is_atomic = read_batch(body({"atomic": True, "commands": sent}), None)
    assert is_atomic
    assert [type(one) for one in asked] == [Asked, Asked]
    for bad, path in (
        (element("c", data=transaction(entries=[entry(), entry(amount=0)])), "$.commands[2].data.entries[1].amount"),
        (element("c", more=1), "$.commands[2].more"),
        (7, "$.commands[2]"),
    ):
        content = body({"atomic": True, "commands": [*sent, bad]})
        assert rejected(read_batch, content, None) == ("invalid_request", path)
    content = body({"atomic": True, "commands": [*sent, element("c", data=transaction(entries=[entry(), entry()]))]})
    assert rejected(read_batch, content, None) == ("unbalanced", "$.commands[2].data.entries")


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"commands": [element("k")]}, "$.commands[0].ledger"),
        ({"commands": [element("k", ledger="no way")]}, "$.commands[0].ledger"),
        ({"commands": [element("k", ledger="bank")], "atomic": False}, "$.atomic"),
        ({"commands": []}, "$.commands"),
        ({"commands": [element("k", ledger="bank")] * 1001}, "$.commands"),
        ({"commands": [element("k", ledger="bank", data={})]}, "$.commands[0].data.entries"),
    ],
)
def test_a_malformed_batch_across_ledgers_is_refused_whole(content: dict[str, Any], path: str) -> None:
    assert rejected(read_batch_across, body(content), "k") == ("invalid_request", path)


def test_elements_across_ledgers_have_their_ledger_and_key() -> None:
    sent = [element("own", ledger="bank"), element(ledger="acme:main")]
    asked = read_batch_across(body({"commands": sent}), "b")
    assert [(one.ledger, one.key) for one in asked] == [("bank", "own"), ("acme:main", "b/1")]
    assert rejected(read_batch_across, body({"commands": sent}), None) == ("key_missing", "$.commands[1].key")


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
    (one,) = read_batch(body({"commands": [element("k", data=transaction(reference="r"))]}), None).commands
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
    changes = [lambda b, k=kind: read_change(k, b, "x") for kind, given in CHANGES.values() if given.get("metadata")]
    batches = (lambda b: read_batch(b, "k"), lambda b: read_batch_across(b, "k"))
    for read in (read_post_transaction, read_open_account, read_open_ledger, *batches, *changes):
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
    asked = read_batch(msgspec.json.encode({"commands": elements}), "k").commands
    assert len(asked) == len(elements)
    assert all(str(one.fields["path"]).startswith("$.commands[") for one in asked if isinstance(one, Rejection))


def _structs_within(kind: Any, seen: set[type]) -> set[type]:
    """Every struct that a value of this type may hold."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in seen:
            seen.add(kind)
            for field in msgspec.structs.fields(kind):
                _structs_within(field.type, seen)
        return seen
    for argument in getattr(kind, "__args__", ()) or ():
        _structs_within(argument, seen)
    return seen


@pytest.mark.parametrize("kind", [*COMMAND_TYPES.values(), *BODIES.values(), Batch, BatchAcross])
def test_no_request_invents_a_key_that_was_not_sent(kind: type[msgspec.Struct]) -> None:
    # Whether a key was there twice is told by counting (json_text.decode): what is absent has to stay absent.
    for struct in _structs_within(kind, set()):
        for field in msgspec.structs.fields(struct):
            assert field.default in (msgspec.NODEFAULT, msgspec.UNSET), (struct, field.name)
            assert field.default_factory is msgspec.NODEFAULT, (struct, field.name)
            assert field.type is not Any
            assert field.type is not msgspec.Raw
