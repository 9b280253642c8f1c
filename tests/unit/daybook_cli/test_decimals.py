"""Amounts between decimals and smallest units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.cli.decimals import to_units
from shared_kernel.words import AMOUNT_MAX, decimal_text

ASSETS = st.sampled_from(["JPY", "CZK/2", "BTC/8", "XYZ/38"])


@pytest.mark.parametrize(
    ("text", "asset", "units"),
    [
        ("700.00", "CZK/2", 70000),
        ("700", "CZK/2", 70000),
        ("700.5", "CZK/2", 70050),
        ("0.01", "CZK/2", 1),
        ("7.000", "CZK/2", 700),
        ("12", "JPY", 12),
        ("12.0", "JPY", 12),
        ("0.00000001", "BTC/8", 1),
        ("-3.20", "CZK/2", -320),
    ],
)
def test_a_decimal_is_read_in_the_assets_smallest_units(text: str, asset: str, units: int) -> None:
    assert to_units(text, asset) == units


@pytest.mark.parametrize(
    ("text", "asset"),
    [
        ("0.001", "CZK/2"),
        ("1.5", "JPY"),
        ("1,00", "CZK/2"),
        ("1e3", "CZK/2"),
        ("", "CZK/2"),
        (".5", "CZK/2"),
        ("١", "JPY"),
    ],
)
def test_what_is_no_decimal_of_the_asset_is_refused(text: str, asset: str) -> None:
    with pytest.raises(ValueError, match=r"amount|decimals"):
        to_units(text, asset)


@given(units=st.integers(min_value=-(2**127), max_value=2**127), asset=ASSETS)
def test_every_amount_survives_being_written_and_read(units: int, asset: str) -> None:
    assert to_units(decimal_text(units, asset), asset) == units


@pytest.mark.parametrize(
    ("units", "asset", "text"),
    [
        (70000, "CZK/2", "700.00"),
        (-5, "CZK/2", "-0.05"),
        (5, "JPY", "5"),
        (0, "BTC/8", "0.00000000"),
        (AMOUNT_MAX, "BTC/8", "1701411834604692317316873037158.84105727"),
        (1, "A/38", "0." + "0" * 37 + "1"),
    ],
)
def test_an_amount_has_the_decimals_of_its_asset(units: int, asset: str, text: str) -> None:
    assert decimal_text(units, asset) == text
