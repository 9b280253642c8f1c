"""Amounts as people write them: 700.00 of CZK/2 is 70000 of its smallest units.

By digits alone, never through a float. Programs are given the integers as the services answer them.
"""

import re

from shared_kernel.words import decimals_of

_DECIMAL = re.compile(r"^(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]+))?$")


def to_units(text: str, asset: str) -> int:
    """The smallest units that a decimal text stands for. ValueError where it is no decimal, or has too many digits
    after the point (but for zeros, which say nothing)."""
    found = _DECIMAL.match(text)
    if found is None:
        raise ValueError(f"{text} is no amount: write digits with a point, such as 700.00")
    decimals = decimals_of(asset)
    part = (found["part"] or "").rstrip("0")
    if len(part) > decimals:
        raise ValueError(f"{text} has more decimals than {asset}, which has {decimals}")
    units = int(found["whole"] + part.ljust(decimals, "0"))
    return -units if found["sign"] else units
