"""The mapping of examples/berka/README.md, row by row, and the made-up sample against it."""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BERKA = Path(__file__).parents[3] / "examples" / "berka"


@pytest.fixture(scope="module")
def berka() -> ModuleType:
    spec = importlib.util.spec_from_file_location("berka_convert", BERKA / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changes: str) -> dict[str, str]:
    return {
        "trans_id": "7",
        "account_id": "42",
        "date": "930101",
        "type": "PRIJEM",
        "operation": "VKLAD",
        "amount": "700.00",
        "balance": "700.00",
        "k_symbol": "",
        "bank": "",
        "account": "",
    } | changes


def test_cash_paid_in_debits_cash_and_credits_the_client(berka: ModuleType) -> None:
    assert berka.convert(row()) == {
        "type": "post_transaction",
        "key": "berka-7",
        "data": {
            "entries": [
                {"account": "bank:cash", "direction": "debit", "amount": 70000, "asset": "CZK/2"},
                {"account": "bank:clients:42", "direction": "credit", "amount": 70000, "asset": "CZK/2"},
            ],
            "reference": "berka-7",
            "effective_at": "1993-01-01T12:00:00Z",
            "description": "cash in",
            "metadata": {"operation": "VKLAD"},
        },
    }


@pytest.mark.parametrize("outgoing", ["VYDAJ", "VYBER"])
def test_money_out_debits_the_client(berka: ModuleType, outgoing: str) -> None:
    entries = berka.convert(row(type=outgoing, operation="VYBER"))["data"]["entries"]
    assert [(entry["account"], entry["direction"]) for entry in entries] == [
        ("bank:clients:42", "debit"),
        ("bank:cash", "credit"),
    ]


@pytest.mark.parametrize(
    ("changes", "account"),
    [
        ({"k_symbol": "UROK", "operation": ""}, "bank:interest:paid"),
        ({"k_symbol": "SANKC. UROK", "operation": "VYBER"}, "bank:interest:penalty"),
        ({"k_symbol": "SLUZBY", "operation": "VYBER"}, "bank:fees:statements"),
        ({"k_symbol": "SIPO", "operation": "VYBER"}, "bank:cash"),
        ({"k_symbol": " ", "operation": "VYBER KARTOU"}, "bank:cash"),
        ({"operation": "PREVOD Z UCTU", "bank": "AB"}, "bank:interbank:AB"),
        ({"operation": "PREVOD NA UCET", "bank": ""}, "bank:interbank:unknown"),
    ],
)
def test_k_symbol_comes_before_operation_for_the_other_side(
    berka: ModuleType, changes: dict[str, str], account: str
) -> None:
    assert berka.counterpart(row(**changes))[0] == account


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "700"},
        {"amount": "700.005"},
        {"amount": "-1.00"},
        {"amount": "0.00"},
        {"amount": "7e2"},
        {"date": "931301"},
        {"type": "OTHER"},
        {"operation": "", "k_symbol": ""},
        {"account_id": "4 2"},
    ],
)
def test_a_row_outside_the_mapping_stops_the_conversion_with_its_number(
    berka: ModuleType, changes: dict[str, str]
) -> None:
    with pytest.raises(berka.RowFault, match="trans_id 7"):
        list(berka.lines([row(**changes)]))


def test_large_amounts_keep_every_digit(berka: ModuleType) -> None:
    assert berka.units("90071992547409931.23") == 9007199254740993123


def test_the_sample_uses_every_type_operation_and_symbol(berka: ModuleType) -> None:
    rows: Iterator[dict[str, str]] = berka.rows(berka.open_text(BERKA / "sample.csv"))
    seen: dict[str, Counter[str]] = {"type": Counter(), "operation": Counter(), "k_symbol": Counter()}
    for read in rows:
        for column, counter in seen.items():
            counter[read[column].strip()] += 1
    assert set(seen["type"]) == berka.INCOMING | berka.OUTGOING
    assert set(seen["operation"]) == {*berka.BY_OPERATION, ""}
    assert set(seen["k_symbol"]) == {*berka.BY_SYMBOL, *berka.PURPOSES, ""}


def test_the_sample_converts_to_balanced_commands_with_keys_of_their_own(berka: ModuleType) -> None:
    commands = [json.loads(line) for line in berka.lines(berka.rows(berka.open_text(BERKA / "sample.csv")))]
    assert len({command["key"] for command in commands}) == len(commands) > 150
    for command in commands:
        debit, credit = command["data"]["entries"]
        assert (debit["direction"], credit["direction"]) == ("debit", "credit")
        assert debit["amount"] == credit["amount"] > 0
