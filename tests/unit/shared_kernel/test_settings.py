"""Settings: what the environment gives, and every fault named at once."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from shared_kernel.settings import HttpSettings, Secret, SettingsError, describe, load, load_or_exit


class Example(msgspec.Struct, frozen=True, kw_only=True):
    postgres_url: Annotated[Secret, Meta(description="Where the log is")]
    http_port: Annotated[int, Meta(ge=1, le=65535)]
    locks: Literal["adaptive", "off"] = "adaptive"
    redis_url: Secret = Secret("")
    is_fast: bool = False
    wait_seconds: float = 0.5
    swagger_dir: str | None = None


GOOD = {"DAYBOOK_POSTGRES_URL": "postgresql://u:canary@h/db", "DAYBOOK_HTTP_PORT": "8080", "PATH": "/bin"}


def test_fields_come_from_their_variables() -> None:
    settings = load(
        Example,
        GOOD | {"DAYBOOK_IS_FAST": "true", "DAYBOOK_WAIT_SECONDS": "2", "DAYBOOK_SWAGGER_DIR": "5"},
    )

    assert settings.http_port == 8080
    assert settings.is_fast
    assert settings.wait_seconds == 2.0
    assert settings.swagger_dir == "5"
    assert settings.postgres_url == "postgresql://u:canary@h/db"
    assert isinstance(settings.postgres_url, Secret)


def test_all_faults_are_reported_together_by_name() -> None:
    environ = {
        "DAYBOOK_HTTP_PORT": "99999",
        "DAYBOOK_LOCKS": "canary",
        "DAYBOOK_IS_FAST": "canary",
        "DAYBOOK_HTP_PORT": "1",
    }

    with pytest.raises(SettingsError) as caught:
        load(Example, environ)

    names = [fault.split(":")[0] for fault in caught.value.faults]
    assert names == [
        "DAYBOOK_POSTGRES_URL",
        "DAYBOOK_HTTP_PORT",
        "DAYBOOK_LOCKS",
        "DAYBOOK_IS_FAST",
        "DAYBOOK_HTP_PORT",
    ]
    assert "canary" not in str(caught.value)


def test_empty_text_counts_as_absent() -> None:
    assert load(Example, GOOD | {"DAYBOOK_REDIS_URL": "", "DAYBOOK_LOCKS": ""}).locks == "adaptive"
    with pytest.raises(SettingsError, match="DAYBOOK_HTTP_PORT: is not set"):
        load(Example, GOOD | {"DAYBOOK_HTTP_PORT": ""})


def test_names_of_the_stack_are_let_through() -> None:
    assert load(Example, GOOD | {"DAYBOOK_DATA": "/x", "DAYBOOK_SERVICES": "embedded"}).http_port == 8080


def test_a_secret_never_shows_itself() -> None:
    settings = load(Example, GOOD)

    assert "canary" not in repr(settings)
    assert "canary" not in f"{settings.postgres_url}"
    assert "canary" not in str([settings.postgres_url])


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://from-file\n")
    environ = {"DAYBOOK_POSTGRES_URL_FILE": str(file), "DAYBOOK_HTTP_PORT": "1"}

    assert load(Example, environ).postgres_url == "postgresql://from-file"
    with pytest.raises(SettingsError, match="DAYBOOK_POSTGRES_URL: is given twice"):
        load(Example, environ | {"DAYBOOK_POSTGRES_URL": "x"})
    with pytest.raises(SettingsError, match=r"DAYBOOK_POSTGRES_URL: the file .* cannot be read"):
        load(Example, environ | {"DAYBOOK_POSTGRES_URL_FILE": str(tmp_path / "none")})


def test_only_secrets_have_a_file_form() -> None:
    with pytest.raises(SettingsError, match="DAYBOOK_HTTP_PORT_FILE: is not a setting"):
        load(Example, GOOD | {"DAYBOOK_HTTP_PORT_FILE": "/x"})


def test_wrong_settings_end_the_process_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_or_exit(Example, {})

    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "DAYBOOK_POSTGRES_URL" in err
    assert "DAYBOOK_HTTP_PORT" in err


def test_http_settings_need_exactly_one_source_of_keys() -> None:
    environ = GOOD | {"DAYBOOK_JWT_ISSUER": "i", "DAYBOOK_JWT_AUDIENCE": "a"}
    one = environ | {"DAYBOOK_JWT_KEYS_FILE": "/keys"}

    assert load(HttpSettings, one).jwt_keys_file == "/keys"
    for wrong in (environ, one | {"DAYBOOK_JWT_KEYS_URL": "http://x"}):
        with pytest.raises(SettingsError, match="exactly one"):
            load(HttpSettings, wrong)


def test_the_reference_lists_every_setting() -> None:
    rows = {row.name: row for row in describe(Example)}

    assert rows["DAYBOOK_POSTGRES_URL"] == ("DAYBOOK_POSTGRES_URL", "secret", None, "Where the log is")
    assert rows["DAYBOOK_LOCKS"].type == "adaptive | off"
    assert rows["DAYBOOK_IS_FAST"].default == "false"
    assert rows["DAYBOOK_WAIT_SECONDS"].type == "float"
    assert rows["DAYBOOK_SWAGGER_DIR"] == ("DAYBOOK_SWAGGER_DIR", "str", "", "")
