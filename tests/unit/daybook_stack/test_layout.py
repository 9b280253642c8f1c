"""Files written whole, and the ends of logs."""

import os
import stat
from pathlib import Path

from daybook.stack.layout import LOG_BYTES_MAX, Layout, read_tail, write_whole


def test_a_file_is_replaced_whole_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text("old")
    before = path.stat().st_ino

    write_whole(path, b"new", mode=0o600)

    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["stack.json"]


def test_the_tail_of_a_log_begins_after_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("old\n")
    offset = log.stat().st_size
    with log.open("a") as more:
        more.write("".join(f"line {number}\n" for number in range(100)))

    assert read_tail(log, offset=offset, lines=2) == ["line 98", "line 99"]
    assert read_tail(log, offset=offset, lines=1000)[0] == "line 0"
    assert read_tail(tmp_path / "none.log", offset=0, lines=5) == []


def test_a_long_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    layout.make()
    layout.log("kafka").write_bytes(b"x" * (LOG_BYTES_MAX + 1))

    os.close(layout.open_log("kafka"))

    assert layout.log("kafka").stat().st_size == 0
    assert layout.log("kafka").with_suffix(".log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_a_data_folder_is_the_same_from_wherever_it_is_named(tmp_path: Path) -> None:
    assert Layout.at(tmp_path / "a" / ".." / "b") == Layout.at(tmp_path / "b")
