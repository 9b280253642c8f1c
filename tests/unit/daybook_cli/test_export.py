"""`daybook export` against a socket that answers as it is told: whole answers, broken ones, problems."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daybook.__main__ import build_app
from daybook.terminal import CommandFailed, Exit

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDaybook-Position: 17\r\nContent-Type: text/csv\r\n\r\n"
WHOLE = HEAD + b"5\r\nlines\r\n4\r\n and\r\n0\r\n\r\n"
PROBLEM = b'{"code": "ledger_not_found", "status": 404, "title": "There is no such ledger"}'


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that gives one connection this answer, and the requests it read."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65536))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def export(url: str, *arguments: str) -> int:
    tokens = ["export", "bank", *arguments, "--command-url", url, "--query-url", url, "--token", "t"]
    code = build_app()(tokens, exit_on_error=False, result_action="return_value")
    assert isinstance(code, int)
    return code


def test_a_whole_export_is_in_the_file_and_its_position_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bank.csv"
    with answering(WHOLE) as (url, asked):
        assert export(url, "--as", "csv", "--to", str(file), "--as-of-position", "17") == Exit.DONE
    assert asked[0].startswith(b"GET /v1/ledgers/bank/exports/entries.csv?as_of_position=17 HTTP/1.1\r\n")
    assert file.read_bytes() == b"lines and"
    assert [path.name for path in tmp_path.iterdir()] == ["bank.csv"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "as of position 17" in said.err


def test_without_a_file_it_goes_to_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with answering(WHOLE) as (url, asked):
        assert export(url) == Exit.DONE
    assert asked[0].startswith(b"GET /v1/ledgers/bank/events HTTP/1.1\r\n")
    assert b"Accept: application/x-ndjson" in asked[0]
    assert capsysbinary.readouterr().out == b"lines and"


@pytest.mark.parametrize("cut", [len(HEAD) + 4, len(HEAD) + 10, len(WHOLE) - 7])
def test_an_export_that_breaks_off_leaves_no_file(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "bank.csv"
    file.write_bytes(b"of yesterday")
    with answering(WHOLE[:cut]) as (url, _), pytest.raises(CommandFailed, match="incomplete") as failed:
        export(url, "--as", "csv", "--to", str(file))
    assert failed.value.exit_code is Exit.UNAVAILABLE
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"bank.csv": b"of yesterday"}


def test_a_problem_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    head = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(PROBLEM)}\r\n\r\n".encode()
    with answering(head + PROBLEM) as (url, _), pytest.raises(CommandFailed, match="no such ledger"):
        export(url, "--to", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
