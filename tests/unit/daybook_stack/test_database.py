"""URLs of roles and settings from files."""

from pathlib import Path

import pytest

from daybook.stack.database import optional, role_urls
from daybook.terminal import CommandFailed, Exit


@pytest.mark.parametrize(
    ("administrator", "expected"),
    [
        ("postgresql://daybook@127.0.0.1:8090/daybook", "postgresql://daybook_query:p%40ss@127.0.0.1:8090/daybook"),
        ("postgresql://a:b@db/x?sslmode=require", "postgresql://daybook_query:p%40ss@db/x?sslmode=require"),
        ("postgres://db", "postgres://daybook_query:p%40ss@db"),
        ("postgresql://a@[::1]:5432/x", "postgresql://daybook_query:p%40ss@[::1]:5432/x"),
    ],
)
def test_a_role_has_the_administrators_url_with_its_own_name(administrator: str, expected: str) -> None:
    assert role_urls(administrator, "p@ss")["query"] == expected


@pytest.mark.parametrize("wrong", ["", "host=db user=x", "mysql://db/x", "postgresql:///x"])
def test_what_is_no_url_of_a_postgres_is_a_usage_error_that_shows_no_secret(wrong: str) -> None:
    with pytest.raises(CommandFailed, match="DAYBOOK_POSTGRES_URL must be") as caught:
        role_urls(wrong, "canary")
    assert caught.value.exit_code is Exit.USAGE
    assert "canary" not in caught.value.message


def test_a_setting_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://x@db/y\n")

    environ = {"DAYBOOK_POSTGRES_URL_FILE": str(tmp_path / "url"), "DAYBOOK_POSTGRES_URL": "another"}

    assert optional("DAYBOOK_POSTGRES_URL", environ) == "postgresql://x@db/y"


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="DAYBOOK_POSTGRES_URL_FILE names") as caught:
        optional("DAYBOOK_POSTGRES_URL", {"DAYBOOK_POSTGRES_URL_FILE": str(tmp_path / "none")})
    assert caught.value.exit_code is Exit.USAGE
