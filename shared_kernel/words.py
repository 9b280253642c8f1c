"""The grammar of what people write: addresses, ledger names, patterns, assets, amounts, times.

One spelling of each, used by requests, events, token claims and queries alike. Pure; knows no rule of the books.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, Self
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta

SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"  # never begins with a dot, so it is safe in a URL path
ADDRESS_LENGTH_MAX = 256
LEDGER_LENGTH_MAX = 64
AMOUNT_MAX = 2**127 - 1  # design §2: fits a signed 128-bit integer, the common bound of ledgers and clients
AMOUNT_DIGITS_MAX = len(str(AMOUNT_MAX))

END = r"$(?!\n)"  # the end of the text: Python's $ alone also fits before a final line feed, JSON Schema's does not
_ADDRESS = rf"^{SEGMENT}(:{SEGMENT})*{END}"
ASSET = rf"^[A-Z][A-Z0-9]{{0,15}}(/([1-9]|[12][0-9]|3[0-8]))?{END}"
_PATTERN = rf"^({SEGMENT}|\*)(:({SEGMENT}|\*))*(:\*\*)?{END}|^\*\*{END}"

Address = Annotated[
    str,
    Meta(pattern=_ADDRESS, max_length=ADDRESS_LENGTH_MAX, description="An account, such as users:42:wallet"),
]
LedgerName = Annotated[
    str,
    Meta(pattern=_ADDRESS, max_length=LEDGER_LENGTH_MAX, description="A ledger, such as bank or acme:main"),
]
PatternText = Annotated[
    str,
    Meta(
        pattern=_PATTERN,
        max_length=ADDRESS_LENGTH_MAX,
        description="Segments; * stands for one, a final ** for the rest (one or more): users:*:wallet",
    ),
]
Asset = Annotated[
    str,
    Meta(
        pattern=ASSET,
        description="A code and its number of decimals: USD/2, BTC/8, JPY",
    ),
]
Direction = Literal["debit", "credit"]
NormalBalance = Literal["debit", "credit"]
Amount = (
    Annotated[int, Meta(ge=1, description="Smallest units of the asset, 1 to 2^127-1")]
    | Annotated[
        str,
        Meta(pattern=rf"^[1-9][0-9]{{0,{AMOUNT_DIGITS_MAX - 1}}}{END}", description="The same as decimal digits"),
    ]
)

_encode = msgspec.json.Encoder().encode
_ADDRESS_RE = re.compile(_ADDRESS)


class Pattern(msgspec.Struct, frozen=True):
    """An address pattern: `*` stands for one segment, a final `**` for the rest (one segment or more)."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Takes the text of a pattern; raises ValueError where it is outside the grammar."""
        if len(text) > ADDRESS_LENGTH_MAX or not re.match(_PATTERN, text):
            raise ValueError("not a pattern of segments, * and a final **")
        return cls(text)

    def matches(self, address: str) -> bool:
        """True if the whole address fits."""
        return _compiled(self.text).fullmatch(address) is not None

    def prefix(self) -> str:
        """The longest text that every fitting address begins with, for index ranges."""
        return self.text.split("*", 1)[0]

    def regex(self) -> str:
        """The same as an anchored POSIX regular expression, understood by Python and Postgres alike."""
        return "^" + ":".join(_segment_regex(segment) for segment in self.text.split(":")) + "$"


EVERY_ADDRESS: Final = Pattern("**")
"""The pattern that they all fit."""


def is_address(text: str) -> bool:
    """True if the text is an account address in the grammar."""
    return len(text) <= ADDRESS_LENGTH_MAX and _ADDRESS_RE.match(text) is not None


def is_ledger_name(text: str) -> bool:
    """True if the text is a ledger name in the grammar."""
    return len(text) <= LEDGER_LENGTH_MAX and _is_in_grammar(text)


def is_time_zone(name: str) -> bool:
    """True if this machine knows the rules of the IANA time zone."""
    return name == "UTC" or name in _time_zones()


def decimals_of(asset: str) -> int:
    """The number of decimals that the asset's name states: 2 for CZK/2, 0 for JPY."""
    digits = asset.partition("/")[2]
    return int(digits) if digits.isdecimal() else 0


def decimal_text(units: int, asset: str) -> str:
    """So many smallest units with all the asset's decimals: 70000 of CZK/2 is 700.00. By digits alone, never through a float."""
    decimals = decimals_of(asset)
    digits = str(abs(units)).rjust(decimals + 1, "0")
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return f"-{text}" if units < 0 else text


def parse_time(text: str) -> datetime:
    """Reads an RFC 3339 time with a zone; gives it in UTC, to the microsecond. ValueError where it is not one."""
    if "T" not in text.upper():
        raise ValueError("not an RFC 3339 time")
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time outside the years 1 to 9999 of UTC") from None


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds, always 27 characters: 2026-11-24T09:30:00.000000Z."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    if time.microsecond:  # five times as fast, but whole seconds come without their zeros
        return _encode(time)[1:-1].decode()
    # strftime would write the year 993 with three digits.
    return time.isoformat(timespec="microseconds")[:26] + "Z"


@lru_cache(maxsize=4096)  # the same ledgers, again and again
def _is_in_grammar(text: str) -> bool:
    return _ADDRESS_RE.match(text) is not None


@lru_cache(maxsize=1)
def _time_zones() -> set[str]:
    return available_timezones()


@lru_cache(maxsize=4096)
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(":".join(_segment_regex(segment) for segment in text.split(":")))


def _segment_regex(segment: str) -> str:
    if segment == "**":
        return ".+"
    return "[^:]+" if segment == "*" else re.escape(segment)
