"""The local stack's key and its tokens."""

import stat
import time
from pathlib import Path

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from daybook.stack.layout import Layout
from daybook.stack.tokens import ROLES, TOKEN_SECONDS, ensure_signing_key, mint_from, mint_role_tokens
from daybook.terminal import CommandFailed, Exit


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.at(tmp_path)
    layout.make()
    return layout


def claims_of(token: str, layout: Layout) -> dict[str, object]:
    """What a service finds that knows only the published keys."""
    keys = KeySet.import_key_set(msgspec.json.decode(layout.jwks_file.read_bytes()))
    return jwt.decode(token, keys, algorithms=["ES256"]).claims


def test_a_token_of_every_role_can_be_checked_with_the_published_keys(layout: Layout) -> None:
    tokens = mint_role_tokens(ensure_signing_key(layout))

    assert tuple(tokens) == ROLES
    for role, token in tokens.items():
        claims = claims_of(token, layout)
        assert claims["sub"] == f"local-{role}"
        assert claims["roles"] == [role]
        assert claims["ledgers"] == ["**"]
        assert (claims["iss"], claims["aud"]) == ("daybook-local", "daybook")
        issued_at = claims["iat"]
        assert isinstance(issued_at, int)
        assert abs(issued_at - time.time()) < 60
        assert claims["exp"] == issued_at + TOKEN_SECONDS


def test_tokens_stay_good_when_the_stack_is_started_again(layout: Layout) -> None:
    before = mint_role_tokens(ensure_signing_key(layout))["writer"]

    ensure_signing_key(layout)

    assert claims_of(before, layout)["sub"] == "local-writer"


def test_the_private_key_is_for_its_owner_only_and_not_published(layout: Layout) -> None:
    ensure_signing_key(layout)

    assert stat.S_IMODE(layout.signing_key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.signing_key_file.parent.stat().st_mode) == 0o700
    (published,) = msgspec.json.decode(layout.jwks_file.read_bytes())["keys"]
    assert "d" not in published
    assert published["kid"]
    assert published["alg"] == "ES256"


def test_a_token_may_be_for_some_ledgers_and_another_subject(layout: Layout) -> None:
    ensure_signing_key(layout)

    token = mint_from(layout, role="reader", subject="alice", ledgers=["acme:*", "bank"])

    claims = claims_of(token, layout)
    assert claims["sub"] == "alice"
    assert claims["ledgers"] == ["acme:*", "bank"]


def test_a_folder_without_a_key_makes_no_token(layout: Layout) -> None:
    with pytest.raises(CommandFailed, match="start the stack there first") as caught:
        mint_from(layout, role="reader", subject=None, ledgers=())
    assert caught.value.exit_code is Exit.UNAVAILABLE


def test_a_damaged_key_is_named_and_not_quoted(layout: Layout) -> None:
    layout.signing_key_file.write_text('{"kty": "EC", "d": "canary"}')

    with pytest.raises(CommandFailed, match=r"signing-key.json is no signing key") as caught:
        mint_from(layout, role="reader", subject=None, ledgers=())
    assert "canary" not in str(caught.value)
