"""The lock table's names and values: what is written is read again, and what is not ours is not taken for it."""

import pytest

from shared_kernel import lock_table

INCARNATION = "0b9f6f2e-3c1d-4a57-9a2b-8f6d1c1e7a10"
TAG = "draws:users:42:wallet:USD/2"


def test_keys_share_the_hash_tag_of_their_ledger_and_are_read_again() -> None:
    for name in (lock_table.LEASE, lock_table.WRITERS, lock_table.LOCK + TAG):
        key = lock_table.key(INCARNATION, "acme:main", name)
        assert key.startswith(f"daybook:{{{INCARNATION}:acme:main}}:")
        assert lock_table.read_key(key) == (INCARNATION, "acme:main", name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("held host-7-ab 1764298000123", ("held", "host-7-ab", 1764298000123, None)),
        ("held host-7-ab 1764298000123 other-8-cd", ("held", "host-7-ab", 1764298000123, "other-8-cd")),
        ("free host-7-ab 42", ("free", "host-7-ab", 42, None)),
        ("free host-7-ab 42 other-8-cd", ("free", "host-7-ab", 42, "other-8-cd")),
        ("gone host-7-ab 42", None),
        ("held host-7-ab soon", None),
    ],
)
def test_values_are_read(text: str, expected: object) -> None:
    assert lock_table.read_value(text) == expected


@pytest.mark.parametrize("text", ["daybook:lease", "daybook:{bank}:lease", "other:{a:bank}:lease"])
def test_keys_of_others_are_not_taken_for_ours(text: str) -> None:
    assert lock_table.read_key(text) is None


def test_a_worker_s_name_is_its_own_and_one_word() -> None:
    first, second = lock_table.worker_name(), lock_table.worker_name()
    assert first != second
    assert lock_table.read_value(f"held {first} 1 {second}") == ("held", first, 1, second)
