"""Reads JSON that strangers sent: strictly, cheaply, and with the JSON path of what is wrong.

msgspec decodes; this module adds what msgspec lets pass or cannot survive: duplicate keys (it keeps the last), deep
nesting, NUL characters (Postgres text cannot hold them) and the faults' paths. Both HTTP processes use it.
"""

import json
import re
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from shared_kernel.errors import Rejection

DEPTH_MAX = 32  # chosen: our deepest request has 6 levels; interpreters overflow their stack at about 1,000

T = TypeVar("T")


def decode(body: bytes, decoder: "msgspec.json.Decoder[T]", *, is_shape_whole: bool = False) -> T:
    """The value in `body`. Raises Rejection `invalid_request` with `path` and `detail` where it is not one.

    `is_shape_whole`: the decoder's type says what every part of the body is (no `Raw`, no `Any`), takes no unknown field, and
    leaves UNSET what is absent. Then, without escapes, as many keys in the body as in the value written anew means that no key
    was there twice: a third of what looking at each key costs.
    """
    if is_shape_whole and b"\\" not in body and body.isascii():
        try:
            value = decoder.decode(body)
        except (msgspec.DecodeError, RecursionError):
            pass  # below, with a reason
        else:
            if body.count(b'":') == _write(value).count(b'":'):
                return value
    is_readable = _check(body)
    try:
        value = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise rejection_of(error) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid("$", f"{str(error).removesuffix('.')}.") from None
    if not is_readable:  # msgspec took what the standard library did not: nobody has looked for duplicate keys
        raise invalid("$", "JSON is malformed.")
    return value


def invalid(path: str, detail: str) -> Rejection:
    """The error for a malformed request: `path` is a JSON path, or the name of a parameter or header."""
    return Rejection("invalid_request", path=path, detail=detail)


def rejection_of(error: msgspec.ValidationError, root: str = "$") -> Rejection:
    """msgspec's fault as `invalid_request`, its path down to the missing or unknown field itself."""
    reason, _, rest = str(error).partition(" - at `")
    path = rest.removeprefix("key` in `").removesuffix("`") or "$"  # a key outside the grammar: the object's path
    field = _FIELD.match(reason)
    if field is not None:
        path += "." + field.group(1)
    return invalid(root + path.removeprefix("$"), reason)


_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`$")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes(1 if byte in b"[{" else 255 for byte in range(256))  # 255 is -1 in an array of signed bytes


class _DuplicateKeyError(Exception):
    pass


class _Twice(str):
    """Stands for an object in which this key is there twice."""

    __slots__ = ()


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise _DuplicateKeyError
    return keys


def _mark_duplicates(pairs: list[tuple[str, Any]]) -> "dict[str, Any] | _Twice":
    names = [name for name, _ in pairs]
    return next((_Twice(name) for name in names if names.count(name) > 1), dict(pairs))


def _path_of_duplicate(value: Any, path: str = "$") -> str | None:
    """The path of the first key that is there twice, in a value read with marks."""
    if isinstance(value, _Twice):
        return f"{path}.{value}"
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{name}", each) for name, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    return next((found for name, each in inner if (found := _path_of_duplicate(each, name))), None)


_write = msgspec.json.Encoder().encode
_read = json.JSONDecoder(object_pairs_hook=_refuse_duplicates).decode


def _check(body: bytes) -> bool:
    """False if the standard library cannot read it; raises Rejection for what must not reach msgspec."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise invalid("$", f"The body is not UTF-8 text (byte {error.start}).") from None
    # No more brackets than levels is the common case, and needs no look at the strings.
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and depth(body) > DEPTH_MAX:
        raise invalid("$", f"The body is nested deeper than {DEPTH_MAX} levels.")
    try:
        value = _read(text)
    except _DuplicateKeyError:  # where, is looked for only now
        path = _path_of_duplicate(json.loads(text, object_pairs_hook=_mark_duplicates))
        raise invalid(path or "$", "The key is there twice in one object.") from None
    except (ValueError, RecursionError):
        return False
    if b"\\u0000" in body and _holds_nul(value):
        raise invalid("$", "A text holds the character NUL, which cannot be stored.")
    return True


def depth(body: bytes) -> int:
    """How deep arrays and objects are nested, brackets in strings not counted. Right for valid JSON, bounded for any."""
    outside = _STRING.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    steps = array("b", outside.translate(None, _NOT_BRACKETS).translate(_STEPS))
    return max(accumulate(steps), default=0)


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_holds_nul(inner) for inner in value)
