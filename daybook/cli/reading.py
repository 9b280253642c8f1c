"""`daybook balance`, `ledgers` and `accounts`: one query each, a table for people, the service's own JSON for programs."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from daybook.cli.connection import HERE, Connection, faults_end_the_command, queries
from daybook.client import ledger_path
from daybook.terminal import Exit, out, talk
from shared_kernel.words import decimal_text

AsJson = Annotated[bool, Parameter(name="--json", negative="")]
PAGE_ROWS = 100


class Balance(msgspec.Struct):
    """The figures of one asset that the table shows; by effective time nothing is pending."""

    posted: int
    posted_debits: int
    posted_credits: int
    pending: int | None = None
    available: int | None = None


@Parameter(name="*")
@dataclass(frozen=True)  # cyclopts flattens dataclasses, not msgspec structs
class AsOf:
    """As of what the books are read; of several the smaller prefix of the log counts."""

    as_of_position: PositiveInt | None = None
    "As the books were just after this event."
    as_of: str | None = None
    "As they were known at this time: RFC 3339 with a zone."
    effective_at: str | None = None
    "Only what is effective at or before this time counts."

    def parameters(self) -> dict[str, str | int | None]:
        """The query's own names for them."""
        return {"as_of_position": self.as_of_position, "as_of": self.as_of, "effective_at": self.effective_at}


NEWEST = AsOf()


class Stamp(msgspec.Struct):
    """What an answer is as of."""

    position: int
    recorded_at: str


class _Balances(msgspec.Struct):
    balances: dict[str, Balance]
    as_of: Stamp
    complete: bool


class _Ledger(msgspec.Struct):
    ledger: str
    accounts: str
    opened_at: str
    as_of: Stamp
    complete: bool


class _Ledgers(msgspec.Struct):
    data: list[_Ledger]
    next_cursor: str | None
    complete: bool


class _Account(msgspec.Struct):
    address: str
    normal_balance: str
    status: str
    opened_at: str


class _Accounts(msgspec.Struct):
    data: list[_Account]
    next_cursor: str | None
    as_of: Stamp
    complete: bool


def balance(
    ledger: str,
    address: str,
    /,
    *,
    connection: Connection = HERE,
    moment: AsOf = NEWEST,
    position: PositiveInt | None = None,
    as_json: AsJson = False,
) -> int:
    """Show the balances of an account, now or as of a position, a time, an effective time.

    Parameters
    ----------
    ledger
        The ledger.
    address
        The account, such as bank:clients:2378.
    position
        Wait until the books have reached this position, as `daybook post` and `daybook load` tell it.
    as_json
        Print the service's answer.
    """
    with faults_end_the_command(), closing(queries(connection.target())) as client:
        path = ledger_path(ledger, "accounts", address, "balances")
        answer = client.get(path, position=position, **moment.parameters())
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Balances)
    if read.balances:
        out().print(balance_table(read.balances))
    else:
        talk().print(f"{address} has no entries yet", markup=False)
    talk().print(f"as of position {read.as_of.position}, {read.as_of.recorded_at}", style="dim")
    return tell_complete(read.complete)


def ledgers(
    *,
    connection: Connection = HERE,
    limit: PositiveInt = PAGE_ROWS,
    cursor: str | None = None,
    as_json: AsJson = False,
) -> int:
    """List the ledgers that the token may see.

    Parameters
    ----------
    limit
        Ledgers a page.
    cursor
        Where the page before ended.
    as_json
        Print the service's answer.
    """
    with faults_end_the_command(), closing(queries(connection.target())) as client:
        answer = client.get("/v1/ledgers", limit=limit, cursor=cursor)
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Ledgers)
    if not read.data:
        talk().print("no ledgers yet: `daybook load` and POST /v1/ledgers open one")
        return Exit.DONE
    table = Table("ledger", "accounts", "position", "last recorded", "opened")
    table.columns[2].justify = "right"
    for row in read.data:
        position = str(row.as_of.position) + ("" if row.complete else " (stands still)")
        table.add_row(row.ledger, row.accounts, position, row.as_of.recorded_at, row.opened_at)
    out().print(table)
    _tell_more(read.next_cursor)
    return tell_complete(read.complete)


def accounts(
    ledger: str,
    /,
    *,
    connection: Connection = HERE,
    address: str | None = None,
    limit: PositiveInt = PAGE_ROWS,
    cursor: str | None = None,
    as_json: AsJson = False,
) -> int:
    """List the accounts of a ledger.

    Parameters
    ----------
    ledger
        The ledger.
    address
        Only addresses that fit this pattern, such as users:*:wallet or bank:**.
    limit
        Accounts a page.
    cursor
        Where the page before ended.
    as_json
        Print the service's answer.
    """
    with faults_end_the_command(), closing(queries(connection.target())) as client:
        answer = client.get(ledger_path(ledger, "accounts"), address=address, limit=limit, cursor=cursor)
    if as_json:
        return print_json(answer.body)
    read = answer.read(_Accounts)
    if not read.data:
        talk().print("no account fits" if address else "no accounts yet", markup=False)
        return Exit.DONE
    table = Table("account", "normal balance", "status", "opened")
    for row in read.data:
        table.add_row(row.address, row.normal_balance, row.status, row.opened_at)
    out().print(table)
    _tell_more(read.next_cursor)
    return tell_complete(read.complete)


def balance_table(balances: Mapping[str, Balance]) -> Table:
    """A row an asset, amounts as decimals with the point in line."""
    table = Table("asset")
    for heading in ("posted", "pending", "available", "debits", "credits"):
        table.add_column(heading, justify="right")
    for asset, figures in sorted(balances.items()):
        shown = (figures.posted, figures.pending, figures.available, figures.posted_debits, figures.posted_credits)
        table.add_row(asset, *("" if units is None else decimal_text(units, asset) for units in shown))
    return table


def print_json(body: bytes) -> int:
    """The service's own answer, for programs."""
    out().out(body.decode(), highlight=False)
    return Exit.DONE


def _tell_more(next_cursor: str | None) -> None:
    if next_cursor is not None:
        talk().print(f"there is more: --cursor {next_cursor}", markup=False)


def tell_complete(is_complete: bool) -> int:
    """A word where the read model stands still; not a fault of the command."""
    if not is_complete:
        talk().print(
            "not complete: the read model stands still before an event; --json says since when", style="yellow"
        )
    return Exit.DONE
