"""How postings are written for others: rows of CSV, and the plain-text journals of hledger and beancount. Pure.

Debits are positive in a journal, as its readers expect. Names that a format does not take are spelled so that no two of ours
become one of theirs.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from shared_kernel.events import Entry
from shared_kernel.words import NormalBalance, decimal_text, format_time

CSV_COLUMNS = (
    *("position", "entry_index", "recorded_at", "effective_at", "transaction", "reverses", "reference", "description"),
    *("account", "direction", "asset", "units", "amount"),
)
ROOTS: dict[NormalBalance, str] = {"debit": "Assets", "credit": "Liabilities"}
"""What beancount calls accounts by their normal side: it asks every name to begin with one of five words."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_CLEAN_SEGMENT = re.compile(r"[a-z0-9][a-zA-Z0-9]*").fullmatch
_ESCAPED = {"_": "-5F", "-": "-2D", ".": "-2E"}


class Posting(NamedTuple):
    """Entries that were posted by one event. `effective_at`: the event's own, else its hold's, else the recorded time."""

    position: int
    recorded_at: datetime
    effective_at: datetime
    transaction: str
    entries: Sequence[Entry]
    reference: str | None
    description: str | None
    reverses: str | None


def csv_head() -> str:
    """The line with the names of the columns (RFC 4180)."""
    return ",".join(CSV_COLUMNS) + "\r\n"


def csv_rows(postings: Iterable[Posting]) -> str:
    """A line an entry."""
    text = io.StringIO()
    write = csv.writer(text).writerow
    for posting in postings:
        what = (
            *(format_time(posting.recorded_at), format_time(posting.effective_at), posting.transaction),
            *(posting.reverses or "", posting.reference or "", posting.description or ""),
        )
        for index, entry in enumerate(posting.entries):
            amount = decimal_text(entry.amount, entry.asset)
            write((posting.position, index, *what, entry.account, entry.direction, entry.asset, entry.amount, amount))
    return text.getvalue()


def hledger_posting(posting: Posting, zone: tzinfo) -> str:
    """A transaction of a journal: its code is the position. Assets keep their names, in quotes."""
    lines = [
        f"{_date(posting, zone)} * ({posting.position}) {_plain(posting.description or '').replace(';', ',')}".rstrip()
    ]
    lines += [f"    ; {name}: {_plain(value)}" for name, value in _named(posting)]
    for entry in posting.entries:
        lines.append(f'    {entry.account}  {_signed(entry)} "{entry.asset}"')
    return "\n".join(lines) + "\n\n"


def beancount_posting(posting: Posting, zone: tzinfo, normal_balance: Callable[[str], NormalBalance]) -> str:
    """A transaction of a beancount file."""
    lines = [f"{_date(posting, zone)} * {_quoted(posting.description or '')}", f"  position: {posting.position}"]
    lines += [f"  {name}: {_quoted(value)}" for name, value in _named(posting)]
    for entry in posting.entries:
        account = beancount_account(entry.account, normal_balance(entry.account))
        lines.append(f"  {account}  {_signed(entry)} {beancount_currency(entry.asset)}")
    return "\n".join(lines) + "\n\n"


def beancount_open(address: str, normal_balance: NormalBalance) -> str:
    """Opens the account, long before any day that a transaction may have."""
    return f"0001-01-01 open {beancount_account(address, normal_balance)}\n"


def beancount_account(address: str, normal_balance: NormalBalance) -> str:
    """The account's name there: Liabilities:Users:42:Wallet for users:42:wallet.

    A segment begins with a capital or a digit; what may not stand in one is its hexadecimal code after a hyphen. One that begins
    with neither a small letter nor a digit gets `0-` before it, so that Wallet and wallet stay two.
    """
    return ":".join((ROOTS[normal_balance], *(_segment(segment) for segment in address.split(":"))))


def beancount_currency(asset: str) -> str:
    """The asset's name there: CZK.2 for CZK/2."""
    return asset.replace("/", ".")


def _segment(segment: str) -> str:
    if _CLEAN_SEGMENT(segment):
        return segment[0].upper() + segment[1:]
    escaped = "".join(_ESCAPED.get(character, character) for character in segment)
    return escaped[0].upper() + escaped[1:] if segment[0].islower() or segment[0].isdigit() else f"0-{escaped}"


def _signed(entry: Entry) -> str:
    return decimal_text(entry.amount if entry.direction == "debit" else -entry.amount, entry.asset)


def _date(posting: Posting, zone: tzinfo) -> str:
    """The effective day in the ledger's zone."""
    try:
        return posting.effective_at.astimezone(zone).date().isoformat()
    except OverflowError:  # within a day of the year 1 or 9999
        return posting.effective_at.date().isoformat()


def _named(posting: Posting) -> list[tuple[str, str]]:
    named = (
        ("transaction", posting.transaction),
        ("reference", posting.reference),
        ("reverses", posting.reverses),
        ("recorded_at", format_time(posting.recorded_at)),
    )
    return [(name, value) for name, value in named if value is not None]


def _plain(text: str) -> str:
    """On one line."""
    return _CONTROLS.sub(" ", text).strip()


def _quoted(text: str) -> str:
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
