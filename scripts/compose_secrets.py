"""Makes what docker-compose.yml mounts: passwords, one URL for each process, the signing key and its public half.

It is a data folder like that of `daybook up`, so `daybook token --data` makes tokens for it. What is there already stays:
a database knows its passwords from its first start.
"""

import argparse
import secrets
from pathlib import Path
from urllib.parse import quote

from daybook.stack.database import role_urls, roles_password
from daybook.stack.layout import Layout, write_whole
from daybook.stack.tokens import ensure_signing_key

SERVER = "postgres:5432/daybook"  # as docker-compose.yml names them


def main() -> None:
    """The folder holds every file that docker-compose.yml names; nothing in it was replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".data/compose"))
    layout = Layout.at(parser.parse_args().data)
    layout.make()
    ensure_signing_key(layout)
    folder = layout.signing_key_file.parent
    password = _kept(folder / "postgres_password", secrets.token_urlsafe(24))
    administrator_url = f"postgresql://daybook:{quote(password, safe='')}@{SERVER}"
    _kept(folder / "postgres_url_administrator", administrator_url)
    for role, url in role_urls(administrator_url, roles_password(layout)).items():
        _kept(folder / f"postgres_url_{role}", url)
    # Compose mounts each file as it is, and the processes in the containers are another user's: they may read the file,
    # while on this machine only its owner passes through the folder (0700). The signing key is mounted nowhere.
    for path in (layout.roles_password_file, *folder.glob("postgres_*")):
        path.chmod(0o444)
    print(f"{layout.root}: ready for docker compose")


def _kept(path: Path, text: str) -> str:
    """What the file holds; `text`, if there was none."""
    if not path.exists():
        write_whole(path, text.encode(), mode=0o444)
    return path.read_text()


if __name__ == "__main__":
    main()
