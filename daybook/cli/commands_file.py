"""Reads a file of commands: NDJSON, plain or gzip, one element of a batch's "commands" a line (design §8).

Every line becomes a command or a fault with its line number; nothing is posted from here. Lines that are blank count
as lines and hold no command.
"""

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

import msgspec

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952 §2.3.1
LINE_BYTES_MAX = 1024 * 1024  # chosen: the longest transaction the service takes is far below
CHUNK_BYTES = 1024 * 1024


class Survey(msgspec.Struct, frozen=True):
    """What one pass over the file found. `sha256` is of the uncompressed bytes."""

    lines: int
    sha256: str


class Command(msgspec.Struct, frozen=True):
    """One line: its number from 1, and the element of a batch with its key, as JSON."""

    line: int
    element: bytes


class MalformedLine(msgspec.Struct, frozen=True):
    """A line that holds no command, and why."""

    line: int
    detail: str


class _Element(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    data: msgspec.Raw
    key: str | None = None


_decode = msgspec.json.Decoder(_Element).decode
_encode = msgspec.json.Encoder().encode


def open_plain(path: Path) -> BufferedReader | gzip.GzipFile:
    """The uncompressed bytes of a file; what it holds decides, not its name."""
    file = path.open("rb")
    if file.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] != GZIP_MAGIC:
        return file
    file.close()
    return gzip.open(path)


def survey(path: Path) -> Survey:
    """Lines and SHA-256 of the uncompressed file; a last line needs no line end."""
    digest = hashlib.sha256()
    lines, last = 0, b"\n"
    with open_plain(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return Survey(lines=lines + (last != b"\n"), sha256=digest.hexdigest())


def read_commands(file: BufferedReader | gzip.GzipFile, sha256: str) -> Iterator[Command | MalformedLine]:
    """The file's commands in order. A line without a key gets load:<sha256>:<line number>, so that a second load of
    the same bytes repeats the first."""
    number = 0
    while text := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(text) > LINE_BYTES_MAX:
            while text and not text.endswith(b"\n"):
                text = file.readline(LINE_BYTES_MAX)
            yield MalformedLine(number, f"longer than {LINE_BYTES_MAX} bytes")
        elif text.strip():
            yield _read_line(number, text, sha256)


def batches(commands: Iterable[Command], *, count_max: int, bytes_max: int) -> Iterator[list[Command]]:
    """The commands in order, in lists within both bounds; a command longer than `bytes_max` goes alone."""
    batch: list[Command] = []
    size = 0
    for command in commands:
        if batch and (len(batch) == count_max or size + len(command.element) > bytes_max):
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += len(command.element) + 1
    if batch:
        yield batch


def _read_line(number: int, text: bytes, sha256: str) -> Command | MalformedLine:
    try:
        element = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        return MalformedLine(number, str(fault))
    key = element.key if element.key is not None else f"load:{sha256}:{number}"
    return Command(number, _encode({"type": element.type, "key": key, "data": element.data}))
