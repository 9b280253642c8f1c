"""Turns a year of the Berka bank data into commands for `daybook load`: NDJSON on standard output.

    python examples/berka/convert.py sample.csv | daybook load - --ledger bank

Reads the published CSV, plain or gzip. The mapping to double entry is told in README.md beside this file. Needs nothing
but Python's standard library, and never makes a float of an amount.
"""

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

ASSET = "CZK/2"
COLUMNS = ["trans_id", "account_id", "date", "type", "operation", "amount", "balance", "k_symbol", "bank", "account"]
INCOMING = {"PRIJEM"}
OUTGOING = {"VYDAJ", "VYBER"}  # the published data have both words for money out
BY_SYMBOL = {
    "UROK": ("bank:interest:paid", "interest credited"),
    "SANKC. UROK": ("bank:interest:penalty", "penalty interest"),
    "SLUZBY": ("bank:fees:statements", "statement fee"),
}
BY_OPERATION = {
    "VKLAD": ("bank:cash", "cash in"),
    "VYBER": ("bank:cash", "cash out"),
    "VYBER KARTOU": ("bank:cash", "card withdrawal"),
    "PREVOD Z UCTU": ("bank:interbank", "transfer from another bank"),
    "PREVOD NA UCET": ("bank:interbank", "transfer to another bank"),
}
PURPOSES = {"SIPO": "household", "DUCHOD": "pension", "POJISTNE": "insurance", "UVER": "loan payment"}
_AMOUNT = re.compile(r"^([0-9]+)\.([0-9]{2})$")
_DATE = re.compile(r"^([0-9]{2})(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$")


class RowFault(ValueError):
    """A row that this mapping cannot read."""


def convert(row: dict[str, str]) -> dict[str, object]:
    """The command for one row: an element of a batch's "commands", with a key and a reference of its own."""
    reference = f"berka-{_digits(row, 'trans_id')}"
    client = f"bank:clients:{_digits(row, 'account_id')}"
    other, description = counterpart(row)
    if row["type"] in INCOMING:
        debit, credit = other, client  # the bank owes its client more: the client's account is credit-normal
    elif row["type"] in OUTGOING:
        debit, credit = client, other
    else:
        raise RowFault(f"type {row['type']!r} is neither money in nor money out")
    amount = units(row["amount"])
    return {
        "type": "post_transaction",
        "key": reference,
        "data": {
            "entries": [
                {"account": debit, "direction": "debit", "amount": amount, "asset": ASSET},
                {"account": credit, "direction": "credit", "amount": amount, "asset": ASSET},
            ],
            "reference": reference,
            "effective_at": noon(row["date"]),
            "description": description,
            "metadata": metadata(row),
        },
    }


def counterpart(row: dict[str, str]) -> tuple[str, str]:
    """The other side's account and a description: by k_symbol where that decides, else by operation."""
    symbol, operation = row["k_symbol"].strip(), row["operation"]
    if symbol in BY_SYMBOL:
        return BY_SYMBOL[symbol]
    if operation not in BY_OPERATION:
        raise RowFault(f"neither k_symbol {symbol!r} nor operation {operation!r} names the other side")
    account, description = BY_OPERATION[operation]
    if account == "bank:interbank":
        account = f"{account}:{row['bank'].strip() or 'unknown'}"
    purpose = PURPOSES.get(symbol)
    return account, f"{description}: {purpose}" if purpose else description


def metadata(row: dict[str, str]) -> dict[str, str]:
    """What the row says beside the money, under the published column names; empty columns are left out."""
    return {name: row[name].strip() for name in ("operation", "k_symbol", "bank", "account") if row[name].strip()}


def units(text: str) -> int:
    """Hellers of an amount written with two decimals: 700.00 is 70000."""
    found = _AMOUNT.match(text)
    if found is None or (amount := int(found[1] + found[2])) == 0:
        raise RowFault(f"amount {text!r} is not a positive number with two decimals")
    return amount


def noon(date: str) -> str:
    """Noon UTC of a YYMMDD date of the 1900s."""
    found = _DATE.match(date)
    if found is None:
        raise RowFault(f"date {date!r} is not YYMMDD")
    return f"19{found[1]}-{found[2]}-{found[3]}T12:00:00Z"


def rows(text: TextIO) -> Iterator[dict[str, str]]:
    """The rows of the CSV in published order. RowFault where the header is another one or a row has other columns."""
    reader = csv.reader(text)
    if (header := next(reader, [])) != COLUMNS:
        raise RowFault(f"line 1: the columns are {','.join(header)}, and should be {','.join(COLUMNS)}")
    for values in reader:
        if len(values) != len(COLUMNS):
            raise RowFault(f"line {reader.line_num}: {len(values)} columns, and should be {len(COLUMNS)}")
        yield dict(zip(COLUMNS, values, strict=True))


def lines(read: Iterable[dict[str, str]]) -> Iterator[str]:
    """One line of JSON a row. RowFault names the transaction it could not read."""
    for row in read:
        try:
            yield json.dumps(convert(row), separators=(",", ":")) + "\n"
        except RowFault as fault:
            raise RowFault(f"trans_id {row['trans_id']}: {fault}") from fault


def open_text(path: Path) -> TextIO:
    """The text of a plain or gzip file; its first bytes decide."""
    content = path.read_bytes()  # a year is some 1.6 MB
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    return io.StringIO(content.decode("ascii"), newline="")


def main(arguments: list[str]) -> int:
    """Exit code 0 done, 1 a fault in the file, 2 called wrongly."""
    if len(arguments) != 1:
        print("usage: python convert.py FILE > commands.ndjson", file=sys.stderr)
        return 2
    try:
        sys.stdout.writelines(lines(rows(open_text(Path(arguments[0])))))
    except BrokenPipeError:
        sys.stderr.close()  # the reader left; nothing more to say
        return 1
    except (RowFault, OSError, EOFError, UnicodeDecodeError) as fault:
        print(f"convert.py: {fault}", file=sys.stderr)
        return 1
    return 0


def _digits(row: dict[str, str], column: str) -> str:
    value = row[column]
    if not (value.isascii() and value.isdecimal()):
        raise RowFault(f"{column} {value!r} is no number")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
