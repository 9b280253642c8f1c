"""A server's program, begun as the local stack begins it, but under no supervisor: a test does what is to be done to it."""

import os
import subprocess
from collections.abc import Sequence

from daybook.stack.users import server_environment, server_user


def start_as_server(argv: Sequence[str], *, log: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """It runs as the servers' own user and writes to the descriptor `log`."""
    user = server_user(os.environ)
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env=dict(server_environment()),
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
        start_new_session=True,
    )
