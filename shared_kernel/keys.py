"""The public keys that tokens are checked with: a JWKS (RFC 7517) from a file or a URL, kept fresh without a restart.

A file is read again when it changes; a URL is fetched in the background. Keys once read stay until others replace
them: a source that fails or holds nonsense never takes the working keys away.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from shared_kernel.errors import Unavailable
from shared_kernel.http_out import open_url
from shared_kernel.settings import HttpSettings, SettingsError

ALGORITHMS = ("RS256", "ES256", "EdDSA", "Ed25519")  # design §9: asymmetric only, so no HMAC and no `none`
FILE_LOOK_SECONDS = 1.0  # chosen: a stat a second costs nothing and rotation is done by hand
FETCH_AGAIN_SECONDS = 300.0  # chosen: providers publish a key well before they sign with it
FETCH_APART_SECONDS = 10.0  # least time between fetches, however many unknown keys are asked for
JWKS_BYTES_MAX = 1024 * 1024

log = structlog.get_logger(__name__)


class Keys(Protocol):
    """A changing set of public keys."""

    def version(self) -> int:
        """Grows whenever the keys change. Called for each request: must be cheap."""
        ...

    def key_set(self, kid: str | None) -> KeySet:
        """All keys; `kid` is the one wanted, for a source that may look for it. Unavailable if there are none yet."""
        ...

    def close(self) -> None:
        """Stops whatever runs in the background."""
        ...


def open_keys(settings: HttpSettings) -> Keys:
    """The source of keys that the settings name; raises SettingsError if it cannot be used."""
    try:
        if settings.jwt_keys_file is not None:
            return FileKeys(Path(settings.jwt_keys_file))
        return UrlKeys(settings.jwt_keys_url or "", timeout_ms=settings.jwt_keys_timeout_ms)
    except (OSError, ValueError) as error:
        name = "DAYBOOK_JWT_KEYS_FILE" if settings.jwt_keys_file is not None else "DAYBOOK_JWT_KEYS_URL"
        raise SettingsError([f"{name}: {error}"]) from None


def parse_key_set(content: bytes) -> KeySet:
    """The signing keys of a JWKS; ValueError where there are none.

    Symmetric keys and keys for encryption are left out. An Ed25519 key serves both names of its algorithm, `EdDSA`
    and `Ed25519` (RFC 9864).
    """
    try:
        entries = msgspec.json.decode(content, type=dict[str, Any])["keys"]
        keys: list[RSAKey | ECKey | OKPKey] = []
        for entry in entries:
            if entry.get("use", "sig") != "sig":
                continue
            public = {name: value for name, value in entry.items() if name not in _PRIVATE_PARTS}
            if entry.get("kty") == "RSA":
                keys.append(RSAKey.import_key(public))
            elif entry.get("kty") == "EC" and entry.get("crv") == "P-256":
                keys.append(ECKey.import_key(public))
            elif entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519":
                public.pop("alg", None)
                keys.append(OKPKey.import_key(public))
    except (JoseError, KeyError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JWKS ({type(error).__name__})") from None
    if not keys:
        raise ValueError("a JWKS without a public RSA, P-256 or Ed25519 key for signatures")
    return KeySet(list(keys))


_PRIVATE_PARTS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "key_ops"))


class FileKeys:
    """Keys from a file. Raises ValueError or OSError if it cannot be used at the start."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._signature = self._look()
        self._keys = parse_key_set(path.read_bytes())
        self._version = 1
        self._look_at = clock() + FILE_LOOK_SECONDS

    def version(self) -> int:
        """Looks at the file at most once a second, and reads it if it has changed."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + FILE_LOOK_SECONDS
            self._reload_if_changed()
        return self._version

    def key_set(self, kid: str | None) -> KeySet:
        """The keys last read."""
        return self._keys

    def close(self) -> None:
        """Nothing runs."""

    def _look(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _reload_if_changed(self) -> None:
        try:
            signature = self._look()
            if signature == self._signature:
                return
            self._keys = parse_key_set(self._path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("jwt_keys_not_read", reason=str(error))
            return
        self._signature = signature  # looked at before reading: a change in between is met at the next look
        self._version += 1
        log.info("jwt_keys_changed", count=len(self._keys.keys))


class UrlKeys:
    """Keys from a URL, fetched by a thread of its own: at the start, every five minutes, and for an unknown `kid`.

    Until the first fetch succeeds, `key_set` raises Unavailable.
    """

    def __init__(self, url: str, *, timeout_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("is neither an http nor an https URL")
        self._url = url
        self._timeout_s = timeout_ms / 1_000
        self._clock = clock
        self._keys: KeySet | None = None
        self._content = b""
        self._version = 0
        self._fetched_at = float("-inf")
        self._condition = threading.Condition()
        self._is_wanted = True
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="jwt-keys", daemon=True)
        self._thread.start()

    def version(self) -> int:
        """How many times the keys have changed."""
        return self._version

    def key_set(self, kid: str | None) -> KeySet:
        """The keys last fetched; a `kid` they lack makes the thread fetch again, at most once in ten seconds."""
        keys = self._keys
        if keys is None:
            raise Unavailable("dependency_unavailable", dependency="jwt_keys")
        if kid is not None and all(key.kid != kid for key in keys.keys):
            with self._condition:
                self._is_wanted = True
                self._condition.notify_all()
        return keys

    def wait(self, version: int, seconds_max: float) -> bool:
        """True as soon as the keys have changed `version` times in all; False if they have not within the time."""
        with self._condition:
            return self._condition.wait_for(lambda: self._version >= version, seconds_max)

    def close(self) -> None:
        """Stops the thread; a fetch under way ends by its own time-out."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        self._thread.join(self._timeout_s + 1)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._is_closed:
                    wait_seconds = self._due_in()
                    if wait_seconds <= 0:
                        break
                    self._condition.wait(wait_seconds)
                if self._is_closed:
                    return
                self._is_wanted = False
                self._fetched_at = self._clock()
            self._fetch()

    def _due_in(self) -> float:
        wanted = self._is_wanted or self._keys is None
        return self._fetched_at + (FETCH_APART_SECONDS if wanted else FETCH_AGAIN_SECONDS) - self._clock()

    def _fetch(self) -> None:
        try:
            headers = {"Accept": "application/json"}
            with open_url(self._url, headers=headers, timeout_s=self._timeout_s) as response:
                content = response.read(JWKS_BYTES_MAX + 1)
            if content == self._content:
                return
            if len(content) > JWKS_BYTES_MAX:
                raise ValueError("the JWKS is too long")
            keys = parse_key_set(content)
        except (OSError, ValueError) as error:
            log.warning("jwt_keys_not_fetched", reason=str(error))
            return
        with self._condition:
            self._keys, self._content = keys, content
            self._version += 1
            self._condition.notify_all()
        log.info("jwt_keys_changed", count=len(keys.keys))
