"""What hledger and beancount say of a journal: their own balance reports, as amounts in smallest units."""

import csv
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from query_service.application.journals import beancount_account, beancount_currency
from shared_kernel.words import NormalBalance

Sums = dict[tuple[str, str], int]
"""Debits less credits by account and asset, those that are not zero."""

_AMOUNT = re.compile(r'(-?[0-9.]+) (?:"([^"]+)"|([A-Z]+))')


def hledger_sums(journal: Path) -> Sums:
    """Every account's own balance; the test is skipped where there is no hledger."""
    program = shutil.which("hledger")
    if program is None:
        pytest.skip("no hledger on this machine: CI installs Debian's")
    argv = [program, "-f", str(journal), "balance", "--flat", "--no-total", "-O", "csv"]
    told = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout
    sums: Sums = {}
    for row in csv.DictReader(told.splitlines()):
        for number, quoted, plain in _AMOUNT.findall(row["balance"]):
            sums[row["account"], quoted or plain] = _units(Decimal(number), quoted or plain)
    return sums


def beancount_sums(journal: Path, sides: dict[str, NormalBalance], assets: set[str]) -> Sums:
    """Every account's own balance, under our names again."""
    from beancount import loader
    from beancount.core import realization

    entries, errors, _ = loader.load_file(str(journal))
    assert errors == []
    accounts = {beancount_account(address, side): address for address, side in sides.items()}
    currencies = {beancount_currency(asset): asset for asset in assets}
    sums: Sums = {}
    for account in realization.iter_children(realization.realize(entries)):
        for position in account.balance:
            asset = currencies[position.units.currency]
            sums[accounts[account.account], asset] = _units(position.units.number, asset)
    return sums


def _units(number: Decimal, asset: str) -> int:
    decimals = int(asset.partition("/")[2] or 0)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    assert decimals + exponent >= 0
    units = int("".join(map(str, digits))) * 10 ** (decimals + exponent)
    return -units if sign else units
