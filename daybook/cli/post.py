"""`daybook post`: one transaction, from options or as JSON."""

import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.table import Table

from daybook.cli.connection import HERE, Connection, FileOrPipe, commands, faults_end_the_command
from daybook.cli.decimals import to_units
from daybook.client import Answer, ledger_path
from daybook.terminal import CommandFailed, Exit, out, talk
from shared_kernel.words import decimal_text


class Entry(msgspec.Struct, frozen=True):
    """One debit or credit, as the service shows it."""

    account: str
    direction: str
    amount: int | str
    asset: str


class _Transaction(msgspec.Struct):
    id: str
    entries: list[Entry]


class _Posted(msgspec.Struct):
    transaction: _Transaction
    position: int


def post(
    ledger: str,
    file: FileOrPipe | None = None,
    /,
    *,
    connection: Connection = HERE,
    debit: str | None = None,
    credit: str | None = None,
    amount: str | None = None,
    asset: str | None = None,
    reference: str | None = None,
    description: str | None = None,
    effective_at: str | None = None,
    key: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Post a transaction.

    Either name the two accounts, the amount and the asset, or give the request's body as a JSON file (`-` reads
    standard input).

    Parameters
    ----------
    ledger
        The ledger to post to.
    file
        The transaction as JSON, as the API takes it.
    debit
        The account that is debited.
    credit
        The account that is credited.
    amount
        Decimals of the asset, such as 700.00.
    asset
        The asset, such as CZK/2.
    reference
        Your own name for the transaction, unique in the ledger.
    description
        A text for people.
    effective_at
        When it counts for the business, such as 2026-11-24T12:00:00Z; now where it is left out.
    key
        The idempotency key: posting again with the same key changes nothing. One is made where it is left out.
    as_json
        Print the service's answer.
    """
    entries = {"debit": debit, "credit": credit, "amount": amount, "asset": asset}
    others = {"reference": reference, "description": description, "effective_at": effective_at}
    if file is None:
        body = from_options(entries, others)
    elif any(value is not None for value in (entries | others).values()):
        raise CommandFailed("give a file or options, not both: the file holds the whole transaction", Exit.USAGE)
    else:
        body = _read_body(file)
    key = key or str(uuid.uuid4())
    hint = f"to ask again without posting twice, add --key {key}"
    with faults_end_the_command(hint), closing(commands(connection.target())) as client:
        answer = client.post(ledger_path(ledger, "transactions"), body, key=key)
    _tell(ledger, answer, as_json)
    return Exit.DONE


def from_options(entries: dict[str, str | None], others: dict[str, str | None]) -> bytes:
    """The request's body for one debit and one credit. CommandFailed names every option that is missing."""
    given = {name: value for name, value in entries.items() if value is not None}
    if missing := [f"--{name}" for name in entries if name not in given]:
        raise CommandFailed(f"{', '.join(missing)} missing (or give the transaction as a JSON file)", Exit.USAGE)
    try:
        units = to_units(given["amount"], given["asset"])
    except ValueError as fault:
        raise CommandFailed(f"--amount: {fault}", Exit.USAGE) from None
    if units <= 0:
        raise CommandFailed("--amount must be above zero: turn debit and credit round instead", Exit.USAGE)
    sides = [Entry(given[direction], direction, units, given["asset"]) for direction in ("debit", "credit")]
    return msgspec.json.encode(
        {"entries": sides} | {name: value for name, value in others.items() if value is not None}
    )


def _read_body(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as fault:
        raise CommandFailed(f"{file} cannot be read: {fault.strerror}", Exit.USAGE) from fault


def _tell(ledger: str, answer: Answer, as_json: bool) -> None:
    if as_json:
        out().out(answer.body.decode(), highlight=False)
        return
    read = answer.read(_Posted)
    out().print(entry_table(read.transaction.entries))
    found = "was there already" if answer.is_replay else "posted"
    talk().print(f"{found}: transaction {read.transaction.id}, position {read.position} of {ledger}", markup=False)


def entry_table(entries: list[Entry]) -> Table:
    """A row an entry, debits left of credits."""
    table = Table("account")
    table.add_column("debit", justify="right")
    table.add_column("credit", justify="right")
    table.add_column("asset")
    for entry in entries:
        text = decimal_text(int(entry.amount), entry.asset)
        debit, credit = (text, "") if entry.direction == "debit" else ("", text)
        table.add_row(entry.account, debit, credit, entry.asset)
    return table
