"""Tokens, roles and ledger patterns: what is let in, and everything that is not."""

import base64
import hmac
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from shared_kernel.errors import Rejection
from shared_kernel.keys import FileKeys, parse_key_set
from shared_kernel.security import Principal, Role, TokenVerifier
from shared_kernel.words import Pattern

NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {
    "iss": "issuer",
    "aud": "daybook",
    "sub": "alice",
    "exp": NOW + 600,
    "iat": NOW - 10,
    "roles": ["writer"],
    "ledgers": ["acme:*"],
}
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec", "alg": "ES256", "use": "sig"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
SIGNERS = {"RS256": RSA, "ES256": EC, "EdDSA": ED, "Ed25519": ED}


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def jwks(*keys: Any) -> str:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    named = ED.as_dict(private=False) | {"alg": "EdDSA"}
    path.write_text(json.dumps({"keys": [*json.loads(jwks(RSA, EC))["keys"], named]}))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def verifier(keys_file: Path, clock: Clock) -> TokenVerifier:
    return TokenVerifier(
        FileKeys(keys_file, clock=lambda: clock.now), issuer="issuer", audience="daybook", now=clock, cached_max=3
    )


def bearer(algorithm: str = "ES256", header: dict[str, Any] | None = None, **claims: Any) -> bytes:
    key = SIGNERS[algorithm]
    merged = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    full = {"alg": algorithm, "kid": key.kid} | (header or {})
    full = {name: value for name, value in full.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # the name EdDSA is deprecated by RFC 9864, and still common
        return b"Bearer " + jwt.encode(full, merged, key, algorithms=[algorithm]).encode()


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    return b"Bearer " + b".".join([*parts, b""])


def refused(verifier: TokenVerifier, authorization: bytes | None) -> str:
    with pytest.raises(Rejection) as caught:
        verifier.verify(authorization)
    assert caught.value.code == "unauthenticated"
    detail = caught.value.fields["detail"]
    assert isinstance(detail, str)
    return detail


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_good_token_names_its_caller(verifier: TokenVerifier, algorithm: str) -> None:
    principal = verifier.verify(bearer(algorithm))

    assert principal.subject == "alice"
    assert principal.roles == {"writer"}
    assert principal.may_see("acme:main")
    assert not principal.may_see("other:main")
    assert verifier.verify(bearer(algorithm, aud=["other", "daybook"])) == principal


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": None}, "lacks a claim"),
        ({"exp": "soon"}, "claim"),
        ({"exp": True}, "claim"),
        ({"nbf": NOW + 60}, "claim"),
        ({"iat": NOW + 60}, "claim"),
        ({"iss": "somebody"}, "claim"),
        ({"iss": None}, "lacks a claim"),
        ({"aud": "another"}, "claim"),
        ({"aud": None}, "lacks a claim"),
        ({"aud": []}, "claim"),
        ({"sub": None}, "lacks a claim"),
        ({"sub": ""}, "claim"),
        ({"sub": 7}, "claim"),
        ({"roles": "writer"}, "wrong form"),
        ({"ledgers": "**"}, "wrong form"),
        ({"ledgers": ["a:**:b"]}, "malformed"),
        ({"ledgers": ["**", ""]}, "malformed"),
    ],
)
def test_a_wrong_claim_is_refused(verifier: TokenVerifier, claims: dict[str, Any], reason: str) -> None:
    assert reason in refused(verifier, bearer(**claims))


def test_times_are_forgiven_half_a_minute(verifier: TokenVerifier) -> None:
    assert verifier.verify(bearer(exp=NOW - 20)).subject == "alice"
    assert verifier.verify(bearer(nbf=NOW + 20, iat=NOW + 20)).subject == "alice"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        b"Bearer x",
        b"Bearer a.b.c",
        b"Bearer \xff.\xff.\xff",
        b"Bearer " + b"a" * 9000,
        b"Bearer e30.e30.e30",
        b"Bearer bnVsbA.bnVsbA.bnVsbA",
        b"Bearer ..",
        b"Bearer e30.W10.",
    ],
)
def test_what_is_no_token_is_refused(verifier: TokenVerifier, authorization: bytes | None) -> None:
    refused(verifier, authorization)


def test_none_is_refused(verifier: TokenVerifier) -> None:
    for name in ("none", "None", "NONE", ""):
        refused(verifier, unsigned({"alg": name, "kid": "ec"}, CLAIMS))
    refused(verifier, unsigned({"kid": "ec"}, CLAIMS))


def test_hmac_with_the_public_key_as_secret_is_refused(verifier: TokenVerifier) -> None:
    for secret in (RSA.as_pem(private=False), json.dumps(RSA.as_dict(private=False)).encode(), b"s" * 32):
        signed = unsigned({"alg": "HS256", "kid": "rsa"}, CLAIMS)[:-1]
        digest = hmac.digest(secret, signed.removeprefix(b"Bearer "), "sha256")
        token = signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
        assert "algorithm" in refused(verifier, token)


def test_a_symmetric_key_in_the_jwks_is_never_used(keys_file: Path, clock: Clock) -> None:
    secret = OctKey.generate_key(256, {"kid": "oct"})
    keys_file.write_text(json.dumps({"keys": [secret.as_dict(private=True), EC.as_dict(private=False)]}))

    assert [key.kid for key in parse_key_set(keys_file.read_bytes()).keys] == ["ec"]
    with pytest.raises(ValueError, match="without a public"):
        parse_key_set(json.dumps({"keys": [secret.as_dict(private=True)]}).encode())


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1]}', b'{"keys": [{"kty": "RSA"}]}']
)
def test_what_is_no_jwks_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        parse_key_set(content)


def test_the_key_must_be_named_and_known_where_there_are_several(verifier: TokenVerifier) -> None:
    refused(verifier, bearer(header={"kid": None}))
    refused(verifier, bearer(header={"kid": "gone"}))
    refused(verifier, bearer(header={"kid": "rsa"}))  # another key than the one that signed


def test_a_single_key_need_not_be_named(keys_file: Path, clock: Clock) -> None:
    keys_file.write_text(jwks(EC))
    verifier = TokenVerifier(FileKeys(keys_file), issuer="issuer", audience="daybook", now=clock)

    assert verifier.verify(bearer(header={"kid": None})).subject == "alice"


def test_a_changed_byte_is_refused(verifier: TokenVerifier) -> None:
    good = bearer()
    head, payload, signature = good.split(b".")
    other = bearer(sub="bob").split(b".")[1]

    assert "signature" in refused(verifier, b".".join([head, other, signature]))
    refused(verifier, b".".join([head, payload, signature[:-4] + b"AAAA"]))


def test_a_remembered_token_ends_when_it_expires(verifier: TokenVerifier, clock: Clock) -> None:
    token = bearer()
    assert verifier.verify(token) is verifier.verify(token)

    clock.now = NOW + 629
    assert verifier.verify(token).subject == "alice"
    clock.now = NOW + 630
    assert "expired" in refused(verifier, token)


def test_more_tokens_than_are_remembered_still_work(verifier: TokenVerifier) -> None:
    tokens = [bearer(sub=f"s{index}") for index in range(5)]

    for _ in range(2):
        assert [verifier.verify(token).subject for token in tokens] == ["s0", "s1", "s2", "s3", "s4"]


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_changed_file_ends_remembered_tokens_of_a_removed_key(
    verifier: TokenVerifier, keys_file: Path, clock: Clock
) -> None:
    token = bearer()
    verifier.verify(token)

    replace(keys_file, jwks(RSA))
    clock.now += 2

    refused(verifier, token)
    assert verifier.verify(bearer("RS256")).subject == "alice"


@pytest.mark.parametrize("broken", ["", "not json", '{"keys": []}'])
def test_a_broken_file_leaves_the_keys_as_they_were(
    verifier: TokenVerifier, keys_file: Path, clock: Clock, broken: str
) -> None:
    replace(keys_file, broken)
    clock.now += 2
    assert verifier.verify(bearer()).subject == "alice"

    keys_file.unlink()
    clock.now += 2
    assert verifier.verify(bearer(sub="bob")).subject == "bob"


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ([], set()),
        (["reader"], {"reader"}),
        (["writer"], {"writer"}),
        (["writer", "reader"], {"writer", "reader"}),
        (["operator"], {"operator", "reader"}),
        (["auditor"], {"auditor", "reader"}),
        (["admin"], {"reader", "writer", "operator", "auditor", "admin"}),
        (["root", "Admin"], set()),
    ],
)
def test_roles_bring_what_they_imply(verifier: TokenVerifier, given: list[str], allowed: set[str]) -> None:
    principal = verifier.verify(bearer(roles=given))

    roles: tuple[Role, ...] = ("reader", "writer", "operator", "auditor", "admin")
    assert {role for role in roles if principal.may(role)} == allowed


def test_without_roles_or_ledgers_a_token_may_do_nothing(verifier: TokenVerifier) -> None:
    principal = verifier.verify(bearer(roles=None, ledgers=None))

    assert not principal.roles
    assert not principal.may_see("acme:main")


@pytest.mark.parametrize(
    ("patterns", "ledger", "is_seen"),
    [
        (["**"], "bank", True),
        (["**"], "acme:main", True),
        (["acme:*"], "acme:main", True),
        (["acme:*"], "acme", False),
        (["acme:*"], "acme:main:deep", False),
        (["acme:**"], "acme:main:deep", True),
        (["acme"], "acme", True),
        (["acme"], "acme2", False),
        (["other", "acme"], "acme", True),
        ([], "acme", False),
    ],
)
def test_another_tenants_ledger_looks_absent(patterns: list[str], ledger: str, is_seen: bool) -> None:
    principal = Principal(
        subject="s", roles=frozenset(("reader",)), ledgers=tuple(Pattern.parse(text) for text in patterns)
    )

    assert principal.may_see(ledger) == is_seen
    if is_seen:
        principal.require_on("reader", ledger)
        with pytest.raises(Rejection, match="forbidden"):
            principal.require_on("writer", ledger)
    else:
        with pytest.raises(Rejection, match="ledger_not_found"):
            principal.require_on("writer", ledger)
