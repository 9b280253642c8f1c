"""Log lines: one event, one line, listed fields only, no secrets."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import structlog

from shared_kernel.errors import Refusal
from shared_kernel.logs import LINES_BUFFERED_MAX, LineWriter, RequestLine, configure, correlation_id, request_logger
from shared_kernel.settings import Secret

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines(restored: None) -> Iterator[Read]:
    with tempfile.TemporaryFile() as file:
        writer = configure("test", level="info", fd=file.fileno())

        def read() -> list[dict[str, Any]]:
            writer.flush()
            file.seek(0)
            return [msgspec.json.decode(line) for line in file.read().splitlines()]

        yield read
        writer.close()


def test_an_event_is_one_line_with_time_process_and_fields(lines: Read) -> None:
    structlog.get_logger().info("batch_done", ledger="bank", commands=3)

    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {"event": "batch_done", "process": "test", "level": "info", "ledger": "bank", "commands": 3}


def test_the_level_filters(lines: Read) -> None:
    structlog.get_logger().debug("hidden")
    logging.getLogger("some.library").debug("hidden")

    assert lines() == []


def test_the_correlation_id_is_in_the_line(lines: Read) -> None:
    token = correlation_id.set("abc")
    try:
        structlog.get_logger().info("request")
    finally:
        correlation_id.reset(token)

    assert lines()[0]["correlation_id"] == "abc"


def test_unlisted_fields_and_secrets_are_withheld(lines: Read) -> None:
    log = structlog.get_logger()
    log.info("x", body="canary", password="canary", url=Secret("canary"), detail="x" * 10_000)
    log.warning("y", url="postgresql://user:canary@host/db", reason="Authorization: Bearer canary")

    first, second = lines()
    assert "canary" not in str(first) + str(second)
    assert first["body"] == "withheld"
    assert len(first["detail"]) < 600
    assert second["url"] == "postgresql://***host/db"


def test_an_exception_shows_class_first_line_and_place_only(lines: Read) -> None:
    try:
        raise ValueError("first\nDETAIL: canary")
    except ValueError:
        structlog.get_logger().exception("failed")
    structlog.get_logger().error("refused", error=Refusal("insufficient_funds", account="canary"))

    first, second = lines()
    assert first["error_class"] == "ValueError"
    assert first["error"] == "first"
    assert "test_logs.py" in first["exception"]
    assert second["error"] == "Refusal"
    assert "canary" not in str(first) + str(second)


def test_standard_loggers_come_the_same_way(lines: Read) -> None:
    logging.getLogger("librdkafka").warning("connection to %s refused", "broker")

    (line,) = lines()
    assert line["event"] == "connection to broker refused"
    assert line["level"] == "warning"


def test_a_request_has_the_same_line_on_its_short_way(lines: Read) -> None:
    said = {"method": "POST", "route": "/v1/ledgers", "status": 201, "ms": 1.5, "subject": "local-writer"}
    token = correlation_id.set("abc")
    try:
        structlog.get_logger().info("request", **said)
        request_logger()(RequestLine(correlation_id="abc", **said))  # type: ignore[arg-type]
    finally:
        correlation_id.reset(token)

    usual, short = lines()
    assert list(usual) == list(short)
    del usual["timestamp"], short["timestamp"]
    assert usual == short


@pytest.mark.parametrize(("level", "format_", "count"), [("info", "console", 1), ("warning", "json", 0)])
def test_the_short_way_keeps_to_level_and_format(restored: None, level: str, format_: str, count: int) -> None:
    with tempfile.TemporaryFile() as file:
        writer = configure("test", level=level, format=format_, fd=file.fileno())  # type: ignore[arg-type]
        request_logger()(RequestLine(correlation_id="a", method="GET", route="/", status=200, ms=1.0, subject=None))
        writer.close()
        file.seek(0)
        assert file.read().count(b"\n") == count


def test_console_lines_are_text(restored: None) -> None:
    with tempfile.TemporaryFile() as file:
        writer = configure("test", format="console", fd=file.fileno())
        structlog.get_logger().info("batch_done", ledger="bank")
        writer.close()
        file.seek(0)
        text = file.read().decode()

    assert "batch_done" in text
    assert "ledger=bank" in text
    assert text.count("\n") == 1


def test_no_line_is_lost_or_out_of_order_past_the_buffer() -> None:
    count = LINES_BUFFERED_MAX * 2 + 7
    with tempfile.TemporaryFile() as file:
        writer = LineWriter(file.fileno())
        for index in range(count):
            writer.write(b"%d" % index)
        writer.close()
        file.seek(0)
        assert file.read() == b"".join(b"%d\n" % index for index in range(count))


def test_a_reader_that_went_away_stops_nothing() -> None:
    reader, writer_fd = os.pipe()
    os.close(reader)
    writer = LineWriter(writer_fd)

    writer.write(b"x")
    writer.close()
    os.close(writer_fd)
