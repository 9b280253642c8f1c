"""The local stack's own signing key and the tokens made with it.

The key is made at the first start and kept, so that tokens outlive a restart; its public half lies
in a JWKS file that the services read. A production service gets its keys from elsewhere.
"""

import time
from collections.abc import Sequence

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from daybook.stack.layout import Layout, write_whole
from daybook.terminal import CommandFailed, Exit

ISSUER = "daybook-local"
AUDIENCE = "daybook"
ROLES = ("reader", "writer", "operator", "auditor", "admin")
ALL_LEDGERS = ("**",)
TOKEN_SECONDS = 30 * 24 * 3600  # chosen: a month of development; `daybook up` makes new ones


def ensure_signing_key(layout: Layout) -> ECKey:
    """The stack's ES256 key (RFC 7518 §3.4); made and kept, 0600, when there is none yet.

    Its public half is in `layout.jwks_file` afterwards, with the RFC 7638 thumbprint as `kid`.
    """
    if layout.signing_key_file.exists():
        key = _read_key(layout)
    else:
        key = ECKey.generate_key("P-256", parameters={"alg": "ES256", "use": "sig"}, auto_kid=True)
        write_whole(layout.signing_key_file, msgspec.json.encode(key.as_dict(private=True)), mode=0o600)
    public = {"keys": [key.as_dict(private=False)]}
    write_whole(layout.jwks_file, msgspec.json.encode(public) + b"\n")
    return key


def mint_token(key: ECKey, *, role: str, subject: str, ledgers: Sequence[str] = ALL_LEDGERS) -> str:
    """A token for one role on the ledgers whose names match one of `ledgers`, good for 30 days."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "roles": [role],
        "ledgers": list(ledgers),
        "iat": now,
        "exp": now + TOKEN_SECONDS,
    }
    return jwt.encode({"alg": "ES256", "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=["ES256"])


def mint_role_tokens(key: ECKey) -> dict[str, str]:
    """One token by role, for the subjects `local-reader`, `local-writer` and so on."""
    return {role: mint_token(key, role=role, subject=f"local-{role}") for role in ROLES}


def mint_from(layout: Layout, *, role: str, subject: str | None, ledgers: Sequence[str]) -> str:
    """A token made with the key of an existing data folder."""
    if not layout.signing_key_file.exists():
        raise CommandFailed(f"no signing key in {layout.root}: start the stack there first", Exit.UNAVAILABLE)
    return mint_token(_read_key(layout), role=role, subject=subject or f"local-{role}", ledgers=ledgers or ALL_LEDGERS)


def _read_key(layout: Layout) -> ECKey:
    try:
        return ECKey.import_key(
            msgspec.json.decode(layout.signing_key_file.read_bytes(), type=dict[str, str | list[str]])
        )
    except PermissionError as error:
        raise CommandFailed(f"{layout.signing_key_file} is readable only by who started the stack") from error
    except (ValueError, JoseError) as error:  # neither quotes the key
        raise CommandFailed(f"{layout.signing_key_file} is no signing key: remove it for a new one") from error
