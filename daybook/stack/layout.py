"""Where everything of one local stack lies below its data folder, and the files written whole.

Other modules ask here for a path and never build one themselves. Secrets lie in one folder that
only the user who started the stack may enter; the servers' folders belong to the servers' user.
"""

import os
from pathlib import Path

import msgspec

LOG_BYTES_MAX = 10 * 1024 * 1024  # chosen: a log this long is put aside at the next start


class Layout(msgspec.Struct, frozen=True):
    """The paths of one data folder; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> "Layout":
        return cls(root=Path(os.path.abspath(folder.expanduser())))

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def state_file(self) -> Path:
        return self.root / "run" / "state.json"

    @property
    def children_file(self) -> Path:
        return self.root / "run" / "children.json"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def jwks_file(self) -> Path:
        return self.root / "jwks.json"

    @property
    def signing_key_file(self) -> Path:
        return self.root / "secrets" / "signing-key.json"

    @property
    def roles_password_file(self) -> Path:
        return self.root / "secrets" / "roles.password"

    @property
    def swagger(self) -> Path:
        return self.root / "swagger"

    def server(self, name: str) -> Path:
        """The folder of one server (`postgres`, `redis`, `kafka`)."""
        return self.root / name

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def make(self) -> None:
        """The folders exist; others may pass through the root but not look into the secrets."""
        self.root.mkdir(parents=True, exist_ok=True)
        for name, mode in (("logs", 0o755), ("run", 0o755), ("secrets", 0o700)):
            folder = self.root / name
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)

    def open_log(self, name: str) -> int:
        """A descriptor that appends to the log of `name`; the caller closes it."""
        path = self.log(name)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """The file holds `content`; a reader sees the old bytes or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask may have taken bits away
        file.write(content)
    draft.replace(path)


def read_tail(path: Path, *, offset: int, lines: int) -> list[str]:
    """The last `lines` lines written to `path` after `offset` bytes; none when there is no file."""
    try:
        with path.open("rb") as log:
            length = log.seek(0, os.SEEK_END)
            start = offset if offset <= length else 0  # the log was put aside in between
            log.seek(max(start, length - 64 * 1024))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]
