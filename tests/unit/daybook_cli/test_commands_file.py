"""Files of commands: lines, keys, compression, batches."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.cli.commands_file import (
    LINE_BYTES_MAX,
    Command,
    MalformedLine,
    batches,
    open_plain,
    read_commands,
    survey,
)

ONE = b'{"type":"post_transaction","key":"k-1","data":{"entries":[]}}\n'
KEYLESS = b'{"type":"post_transaction","data":{"amount":170141183460469231731687303715884105727}}\n'


def read(path: Path) -> list[Command | MalformedLine]:
    with open_plain(path) as plain:
        return list(read_commands(plain, survey(path).sha256))


@pytest.mark.parametrize("is_gzip", [False, True])
def test_plain_and_gzip_files_hold_the_same_commands(tmp_path: Path, is_gzip: bool) -> None:
    content = ONE + KEYLESS
    path = tmp_path / "misleading.txt"
    path.write_bytes(gzip.compress(content) if is_gzip else content)
    first, second = read(path)
    assert isinstance(first, Command)
    assert isinstance(second, Command)
    assert json.loads(first.element)["key"] == "k-1"
    digest = hashlib.sha256(content).hexdigest()
    assert json.loads(second.element)["key"] == f"load:{digest}:2"
    assert b"170141183460469231731687303715884105727" in second.element


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b'{"type":"post_transaction"}',
        b'{"data":{}}',
        b'{"type":"post_transaction","data":{},"colour":"red"}',
        b'{"type":"post_transaction","data":{}',
        b'{"type":"post_transaction","data":{},"key":7}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_line_is_told_with_its_number_and_the_others_stand(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "commands.ndjson"
    path.write_bytes(ONE + line + b"\n" + ONE)
    first, fault, last = read(path)
    assert isinstance(fault, MalformedLine)
    assert fault.line == 2
    assert fault.detail
    assert isinstance(first, Command)
    assert isinstance(last, Command)
    assert (first.line, last.line) == (1, 3)


def test_blank_lines_count_as_lines_and_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "commands.ndjson"
    path.write_bytes(b"\n" + ONE + b"  \r\n" + ONE.rstrip())
    assert [line.line for line in read(path)] == [2, 4]
    assert survey(path).lines == 4


def test_an_empty_file_holds_no_commands(tmp_path: Path) -> None:
    path = tmp_path / "commands.ndjson"
    path.write_bytes(b"")
    assert survey(path).lines == 0
    assert read(path) == []


def test_an_endless_line_is_one_fault_and_what_follows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "commands.ndjson"
    path.write_bytes(b"x" * (3 * LINE_BYTES_MAX) + b"\n" + ONE)
    fault, command = read(path)
    assert isinstance(fault, MalformedLine)
    assert isinstance(command, Command)
    assert (fault.line, command.line) == (1, 2)


@given(
    sizes=st.lists(st.integers(min_value=1, max_value=60)),
    count_max=st.integers(min_value=1, max_value=7),
    bytes_max=st.integers(min_value=1, max_value=100),
)
def test_batches_keep_order_and_bounds(sizes: list[int], count_max: int, bytes_max: int) -> None:
    commands = [Command(line, b"x" * size) for line, size in enumerate(sizes, start=1)]
    made = list(batches(commands, count_max=count_max, bytes_max=bytes_max))
    assert [command for batch in made for command in batch] == commands
    for batch in made:
        assert 1 <= len(batch) <= count_max
        assert len(batch) == 1 or sum(len(command.element) for command in batch) <= bytes_max
