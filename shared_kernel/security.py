"""Who is calling and what they may do: bearer tokens (RFC 7519) checked against a JWKS, roles, ledger patterns.

Used by both HTTP processes. Keys come from `shared_kernel.keys`. A token is never logged, kept in an error or trusted
because it parsed: signature, algorithm, issuer, audience and times are all checked (design §9, RFC 8725).
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from joserfc import jws, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import KeySet
from msgspec import Meta

from shared_kernel.errors import Rejection
from shared_kernel.keys import ALGORITHMS, Keys
from shared_kernel.words import Pattern

Role = Literal["reader", "writer", "operator", "auditor", "admin"]

# What a role brings with it. `writer` does not bring `reader`: a client that only posts gets a token that only posts,
# and one that does both gets both roles. `admin` brings everything.
IMPLIED: dict[Role, frozenset[Role]] = {
    "reader": frozenset(("reader",)),
    "writer": frozenset(("writer",)),
    "operator": frozenset(("operator", "reader")),
    "auditor": frozenset(("auditor", "reader")),
    "admin": frozenset(("admin", "operator", "auditor", "writer", "reader")),
}
TOKEN_BYTES_MAX = 8 * 1024  # chosen: several times what identity providers make
TOKENS_CACHED_MAX = 10_000  # chosen: about 20 MB at worst; a client has one token at a time
SUBJECT_LENGTH_MAX = 256
LEEWAY_SECONDS = 30


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, as a checked token names them. `roles` holds the implied ones too."""

    subject: str
    roles: frozenset[Role]
    ledgers: tuple[Pattern, ...]

    def may(self, role: Role) -> bool:
        """True if the caller has the role, directly or by another one."""
        return role in self.roles

    def may_see(self, ledger: str) -> bool:
        """True if one of the token's patterns fits the ledger."""
        return any(pattern.text == "**" or pattern.matches(ledger) for pattern in self.ledgers)

    def require(self, role: Role) -> None:
        """Nothing happens if the caller has the role; otherwise raises Rejection `forbidden`."""
        if role not in self.roles:
            raise Rejection("forbidden", role=role)

    def require_on(self, role: Role, ledger: str) -> None:
        """As `require`, on a ledger: one the token does not cover is `ledger_not_found`, as if it were absent.

        The ledger is looked at first, so that a caller without the role learns nothing about other tenants' ledgers.
        """
        if not self.may_see(ledger):
            raise Rejection("ledger_not_found", ledger=ledger)
        self.require(role)


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What Daybook reads from a token. Without `roles` or `ledgers` a token may do nothing: absence grants nothing."""

    sub: Annotated[str, Meta(min_length=1, max_length=SUBJECT_LENGTH_MAX)]
    exp: float
    roles: list[str] = msgspec.field(default_factory=list)
    ledgers: list[str] = msgspec.field(default_factory=list)


class TokenVerifier:
    """Turns a bearer token into a `Principal`, or raises Rejection `unauthenticated`.

    A token found good is remembered by its bytes until it expires or the keys change, so that the next request with it
    costs one look-up. `now` gives seconds since 1970.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str,
        audience: str,
        leeway_seconds: int = LEEWAY_SECONDS,
        cached_max: int = TOKENS_CACHED_MAX,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._leeway_seconds = leeway_seconds
        self._cached_max = cached_max
        self._now = now
        self._registry = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=leeway_seconds,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._cache_version = -1

    def verify(self, authorization: bytes | None) -> Principal:
        """Who sent this `Authorization` header; raises Rejection `unauthenticated`, its `detail` says why."""
        if authorization is None:
            raise _unauthenticated("There is no Authorization header")
        version = self._keys.version()  # also looks whether the file has changed
        if self._cache_version != version:
            self._cache.clear()
            self._cache_version = version
        known = self._cache.get(authorization)
        if known is not None:
            expires_at, principal = known
            if self._now() < expires_at:
                self._cache.move_to_end(authorization)
                return principal
            del self._cache[authorization]
        expires_at, principal = self._check(_token(authorization))
        self._cache[authorization] = (expires_at, principal)
        if len(self._cache) > self._cached_max:
            self._cache.popitem(last=False)
        return principal

    def _check(self, token: bytes) -> tuple[float, Principal]:
        try:
            decoded = jwt.decode(token, self._key_set(token), registry=_Registry(algorithms=ALGORITHMS))
            self._registry.validate(decoded.claims)  # `decode` alone takes expired tokens
            claims = msgspec.convert(decoded.claims, Claims)
        except JoseError as error:
            raise _unauthenticated(_REASONS.get(error.error, "The token is not valid")) from None
        except msgspec.ValidationError:
            raise _unauthenticated("A claim of the token has the wrong form") from None
        except (ValueError, TypeError, RecursionError):  # what joserfc lets through from broken base64 and JSON
            raise _unauthenticated("The token cannot be read") from None
        return claims.exp + self._leeway_seconds, _principal(claims)

    def _key_set(self, token: bytes) -> KeySet:
        header = jws.extract_compact(token).headers()
        kid = header.get("kid")
        return self._keys.key_set(kid if isinstance(kid, str) else None)


class _Registry(jws.JWSRegistry):
    """The algorithms taken. joserfc's own look-up warns at each use of the name `EdDSA`, which we take on purpose."""

    def get_alg(self, name: str) -> Any:  # joserfc keeps the model's type private
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_REASONS = {
    "expired_token": "The token has expired",
    "invalid_claim": "A claim of the token is wrong: issuer, audience or times",
    "missing_claim": "The token lacks a claim: iss, aud, sub and exp are needed",
    "bad_signature": "The token's signature is wrong",
    "unsupported_algorithm": "The token's algorithm is not taken",
    "invalid_key_id": "The token's key is not known",
}


def _token(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise _unauthenticated("The Authorization header is not Bearer and a token")
    if len(token) > TOKEN_BYTES_MAX:
        raise _unauthenticated("The token is too long")
    return token


def _principal(claims: Claims) -> Principal:
    roles: frozenset[Role] = frozenset()
    for role, implied in IMPLIED.items():
        if role in claims.roles:  # roles of other systems in the same token are none of ours
            roles |= implied
    try:
        patterns = tuple(Pattern.parse(text) for text in claims.ledgers)
    except ValueError:
        raise _unauthenticated("A pattern in the token's ledgers is malformed") from None
    return Principal(subject=claims.sub, roles=roles, ledgers=patterns)


def _unauthenticated(detail: str) -> Rejection:
    return Rejection("unauthenticated", detail=detail)
