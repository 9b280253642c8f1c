"""Tokens that tests sign themselves, and the file by which a process knows their key."""

import json
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

KEY = ECKey.generate_key("P-256", {"kid": "k"})
NEVER = 4_000_000_000  # seconds since 1970
ISSUER, AUDIENCE = "i", "a"


def token(role: str, *ledgers: str) -> str:
    """A token of one role that does not expire; its subject is the role's name."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": role,
        "exp": NEVER,
        "roles": [role],
        "ledgers": list(ledgers or ["**"]),
    }
    return jwt.encode({"alg": "ES256", "kid": "k"}, claims, KEY, algorithms=["ES256"])


def keys_file(folder: Path) -> Path:
    """The JWKS file, written into the folder."""
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    return path
