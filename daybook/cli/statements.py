"""`daybook statement` and `trial-balance`: what an account did in a period, and whether a ledger's debits equal its credits."""

from contextlib import closing
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter
from rich.table import Column, Table

from daybook.cli.connection import HERE, Connection, faults_end_the_command, queries
from daybook.cli.reading import NEWEST, AsJson, AsOf, Stamp, print_json, tell_complete
from daybook.client import Client, ledger_path
from daybook.terminal import Exit, out, talk
from shared_kernel.words import decimal_text

PAGE_ROWS = 1_000
Time = str | None


class _Line(msgspec.Struct):
    effective_at: str
    recorded_at: str
    transaction: str
    direction: Literal["debit", "credit"]
    amount: int
    balance: int
    description: str | None = None


class _Statement(msgspec.Struct):
    opening: int
    closing: int
    debits: int
    credits: int
    data: list[_Line]
    next_cursor: str | None
    as_of: Stamp
    complete: bool


class _Total(msgspec.Struct):
    debits: int
    credits: int
    difference: int
    accounts: int


class _TrialBalance(msgspec.Struct):
    assets: dict[str, _Total]
    as_of: Stamp
    complete: bool


def statement(
    ledger: str,
    address: str,
    asset: str,
    /,
    *,
    connection: Connection = HERE,
    moment: AsOf = NEWEST,
    axis: Literal["recorded", "effective"] = "recorded",
    begin: Annotated[Time, Parameter(name="--from")] = None,
    end: Annotated[Time, Parameter(name="--until")] = None,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="")] = False,
) -> int:
    """Show what was posted to an account in an asset, with opening, running and closing balance.

    Parameters
    ----------
    ledger
        The ledger.
    address
        The account, such as bank:clients:2378.
    asset
        The asset, such as CZK/2.
    axis
        By the time of the record, or by effective time.
    begin
        Where the period begins, included: RFC 3339 with a zone.
    end
        Where the period ends, not included.
    as_csv
        Print the service's CSV.
    """
    path = ledger_path(ledger, "accounts", address, "statement")
    asked: dict[str, str | int | None] = {
        "asset": asset,
        "axis": axis,
        "from": begin,
        "until": end,
        **moment.parameters(),
    }
    with faults_end_the_command(), closing(queries(connection.target())) as client:
        if as_csv:
            return print_json(client.get(path, position=None, format="csv", **asked).body)
        first = _page(client, path, asked, None)
        table = Table("effective", "recorded", "transaction", "text", *_numbers("debit", "credit", "balance"))
        table.add_row("", "", "opening", "", "", "", decimal_text(first.opening, asset))
        page = first
        while True:
            for line in page.data:
                sides = (line.amount, None) if line.direction == "debit" else (None, line.amount)
                shown = ("" if units is None else decimal_text(units, asset) for units in sides)
                texts = (line.effective_at, line.recorded_at, line.transaction, line.description or "")
                table.add_row(*texts, *shown, decimal_text(line.balance, asset))
            if page.next_cursor is None:
                break
            page = _page(client, path, asked, page.next_cursor)
    ends = (first.debits, first.credits, first.closing)
    table.add_row("", "", "closing", "", *(decimal_text(units, asset) for units in ends), style="bold")
    out().print(table)
    return _tell(first.as_of, first.complete)


def trial_balance(
    ledger: str, /, *, connection: Connection = HERE, moment: AsOf = NEWEST, as_json: AsJson = False
) -> int:
    """Show all posted debits and credits of a ledger by asset.

    Parameters
    ----------
    ledger
        The ledger.
    as_json
        Print the service's answer.
    """
    with faults_end_the_command(), closing(queries(connection.target())) as client:
        answer = client.get(ledger_path(ledger, "trial-balance"), position=None, **moment.parameters())
    if as_json:
        return print_json(answer.body)
    read = answer.read(_TrialBalance)
    table = Table("asset", *_numbers("debits", "credits", "difference", "accounts"))
    for asset, total in sorted(read.assets.items()):
        sums = (decimal_text(units, asset) for units in (total.debits, total.credits, total.difference))
        table.add_row(asset, *sums, str(total.accounts))
    out().print(table)
    return _tell(read.as_of, read.complete)


def _page(client: Client, path: str, asked: dict[str, str | int | None], cursor: str | None) -> _Statement:
    return client.get(path, position=None, limit=PAGE_ROWS, cursor=cursor, **asked).read(_Statement)


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, justify="right") for heading in headings]


def _tell(as_of: Stamp, is_complete: bool) -> int:
    talk().print(f"as of position {as_of.position}, {as_of.recorded_at}", style="dim")
    tell_complete(is_complete)
    return Exit.DONE
