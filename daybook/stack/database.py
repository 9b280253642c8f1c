"""The database of a stack: Daybook's roles and schema, and the commands that work on them alone.

What the schema is belongs to `shared_kernel.migrations`; here is only who calls it, with which URL.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit, urlunsplit

from cyclopts import Parameter

from daybook.stack.jars import Report
from daybook.stack.layout import Layout, write_whole
from daybook.terminal import CommandFailed, Exit, out, talk

RESTORED_MS_MAX = 60_000  # chosen: it changes one row, and waits for whoever reads it

ROLES = ("migrator", "command", "query", "relay", "projector", "importer", "monitor")


def role_urls(administrator_url: str, password: str) -> dict[str, str]:
    """The URL of each of Daybook's own roles on the administrator's server and database."""
    parts = urlsplit(administrator_url)
    if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname:
        raise CommandFailed("DAYBOOK_POSTGRES_URL must be a postgresql:// URL with a host", Exit.USAGE)
    place = parts.netloc.rpartition("@")[2]
    return {
        role: urlunsplit(parts._replace(netloc=f"daybook_{role}:{quote(password, safe='')}@{place}")) for role in ROLES
    }


def roles_password(layout: Layout) -> str:
    """The password of Daybook's roles in this stack; made once, 0600."""
    path = layout.roles_password_file
    if not path.exists():
        write_whole(path, secrets.token_urlsafe(24).encode(), mode=0o600)
    return path.read_text().strip()


def prepare_database(administrator_url: str, password: str, report: Report) -> None:
    """The database has Daybook's roles and the schema of this version."""
    import psycopg

    from shared_kernel.errors import DaybookError
    from shared_kernel.migrations import runner

    try:
        runner.ensure_roles(administrator_url, password)
        runner.migrate(role_urls(administrator_url, password)["migrator"], report)
    except (psycopg.Error, DaybookError) as error:
        raise CommandFailed(f"the database could not be brought up to date: {error}") from error


def roles_command() -> None:
    """Make Daybook's database roles.

    Reads an administrator's DAYBOOK_POSTGRES_URL and the password that all of the roles get,
    DAYBOOK_ROLES_PASSWORD (each also as a file's name, with _FILE). Safe to repeat.
    """
    import psycopg

    from shared_kernel.migrations import runner

    url, password = required("DAYBOOK_POSTGRES_URL"), required("DAYBOOK_ROLES_PASSWORD")
    try:
        runner.ensure_roles(url, password)
    except psycopg.Error as error:
        raise CommandFailed(f"the roles could not be made: {error}", _exit_code(error)) from error
    talk().print("the roles are there")


def migrate_command() -> None:
    """Bring the database to the schema of this version.

    Reads DAYBOOK_POSTGRES_URL (or DAYBOOK_POSTGRES_URL_FILE), the URL of the role daybook_migrator.
    """
    import psycopg

    from shared_kernel.errors import DaybookError
    from shared_kernel.migrations import runner

    try:
        runner.migrate(required("DAYBOOK_POSTGRES_URL"), talk().print)
    except (psycopg.Error, DaybookError) as error:
        raise CommandFailed(f"the database could not be migrated: {error}", _exit_code(error)) from error
    talk().print("the schema is up to date")


def restored_command(
    *,
    data: Annotated[Path, Parameter(env_var="DAYBOOK_DATA")] = Path(".data"),
    json: bool = False,
) -> None:
    """Say that the database was restored from a backup: the log gets a new incarnation.

    A required step of every restore, before any of Daybook's processes starts again: whatever
    remembers positions of the old log then refuses to go on with them. The database is the one of
    DAYBOOK_POSTGRES_URL (role daybook_migrator), else that of the stack running in the data folder.

    Parameters
    ----------
    data
        The stack's data folder.
    json
        Print the answer as JSON.
    """
    import psycopg

    from shared_kernel.postgres import connect, conninfo

    url = optional("DAYBOOK_POSTGRES_URL")
    if not url:
        from daybook.stack.stack_file import read_stack_file

        url = read_stack_file(Layout.at(data)).postgres_urls["migrator"]
    try:
        with connect(conninfo(url, statement_ms=RESTORED_MS_MAX)) as connection:
            connection.execute("set role daybook_owner")
            row = connection.execute("select daybook.restored()::text").fetchone()
    except psycopg.Error as error:
        raise CommandFailed(f"the incarnation could not be changed: {error}", _exit_code(error)) from error
    incarnation = "" if row is None else str(row[0])
    out().print(f'{{"incarnation":"{incarnation}"}}' if json else incarnation, markup=False)


def optional(name: str, environ: Mapping[str, str] | None = None) -> str:
    """A setting of the environment, or the content of the file that NAME_FILE names, or ''."""
    environ = os.environ if environ is None else environ
    file = environ.get(f"{name}_FILE", "")
    if not file:
        return environ.get(name, "").strip()
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise CommandFailed(f"{name}_FILE names {file}, which cannot be read: {error.strerror}", Exit.USAGE) from error


def required(name: str) -> str:
    value = optional(name)
    if not value:
        raise CommandFailed(f"{name} is not set (nor {name}_FILE)", Exit.USAGE)
    return value


def _exit_code(error: Exception) -> Exit:
    import psycopg

    return Exit.UNAVAILABLE if isinstance(error, psycopg.OperationalError) else Exit.FAULT
