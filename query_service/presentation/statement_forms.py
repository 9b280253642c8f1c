"""Statements as CSV and as a page to print: made line by line, amounts as decimals of the asset's own precision.

Whatever a client wrote is escaped: in HTML by its rules; in CSV a text that a spreadsheet would take for a formula begins with
an apostrophe (OWASP, CSV injection).
"""

import csv
import io
from collections.abc import AsyncGenerator, Iterable
from html import escape
from typing import Final

from query_service.application.account_statements import Page, Period
from query_service.application.report_answers import StatementEntry, statement_entries
from shared_kernel.words import format_time

DESCRIPTIONS: Final = {
    "text/csv": "The whole statement: a heading, the opening balance, a line an entry, the closing balance",
    "text/html": "The whole statement, to be read or printed",
}
COLUMNS: Final = (
    *("line", "effective_at", "recorded_at", "position", "transaction", "reference", "description"),
    *("debit", "credit", "balance", "asset"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_STYLE: Final = """
body { font: 11pt/1.4 sans-serif; margin: 2em auto; max-width: 60em; color: #111 }
h1 { font-size: 1.4em; margin: 0 0 .2em } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1em }
dd { margin: 0 } table { border-collapse: collapse; width: 100% } thead { display: table-header-group }
th, td { text-align: left; padding: .2em .6em; border-bottom: 1px solid #ccc; vertical-align: top }
tr { break-inside: avoid } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.total td { font-weight: bold; border-top: 1px solid #111 } small { color: #555 }
@page { margin: 15mm } @media print { body { margin: 0; max-width: none; font-size: 9pt } }
"""


async def csv_pieces(
    period: Period, ledger: str, first: Page, more: AsyncGenerator[Page, None]
) -> AsyncGenerator[bytes, None]:
    """A heading, an opening line, the entries, a closing line: without the last the file is not whole."""
    asset = period.asset
    opening, closing = decimal(first.opening(), asset), decimal(first.closing(), asset)
    yield _csv(
        [
            COLUMNS,
            ("opening", *_ends(period.begins_at), "", "", f"{ledger} {period.address}", "", "", "", opening, asset),
        ]
    )
    page: Page | None = first
    while page is not None:
        yield _csv(_csv_line(entry, asset) for entry in statement_entries(page.rows, is_counted=period.is_counted))
        page = await anext(more, None)
    debits, credits_ = decimal(first.debits(), asset), decimal(first.credits(), asset)
    as_of = "" if first.stamp.recorded_at is None else format_time(first.stamp.recorded_at)
    yield _csv(
        [
            (
                "closing",
                "",
                as_of,
                first.stamp.position,
                "",
                "",
                f"{ledger} {period.address}",
                debits,
                credits_,
                closing,
                asset,
            )
        ]
    )


async def html_pieces(
    period: Period, ledger: str, first: Page, more: AsyncGenerator[Page, None]
) -> AsyncGenerator[bytes, None]:
    """One page that loads nothing from anywhere."""
    asset = period.asset
    stamp = first.stamp
    title = f"Statement of {period.address}"
    axis = "recorded" if period.axis == "recorded" else "effective"
    begin = "the beginning" if period.begins_at is None else format_time(period.begins_at)
    end = "now" if period.ends_at is None else f"before {format_time(period.ends_at)}"
    as_of = "" if stamp.recorded_at is None else f", recorded {format_time(stamp.recorded_at)}"
    facts = {
        "Ledger": ledger,
        "Account": f"{period.address} ({first.normal_balance}-normal)",
        "Asset": asset,
        "Period": f"{axis} from {begin} to {end}",
        "As of": f"position {stamp.position}{as_of}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    opening, closing = decimal(first.opening(), asset), decimal(first.closing(), asset)
    heading = "".join(f"<th{' class=n' if name in _NUMBERS else ''}>{name}</th>" for name in _HEADINGS)
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1><dl>{listed}</dl>\n"
        f"<table><thead><tr>{heading}</tr></thead>\n<tbody>\n"
        f'<tr class="total"><td colspan="5">Opening balance</td><td class="n">{opening}</td></tr>\n'
    ).encode()
    page: Page | None = first
    while page is not None:
        yield "".join(
            _html_line(entry, asset) for entry in statement_entries(page.rows, is_counted=period.is_counted)
        ).encode()
        page = await anext(more, None)
    yield (
        f'<tr class="total"><td colspan="3">Closing balance</td><td class="n">{decimal(first.debits(), asset)}</td>'
        f'<td class="n">{decimal(first.credits(), asset)}</td><td class="n">{closing}</td></tr>\n'
        "</tbody></table></body></html>\n"
    ).encode()


_HEADINGS: Final = ("Effective", "Transaction", "Text", "Debit", "Credit", "Balance")
_NUMBERS: Final = ("Debit", "Credit", "Balance")


def decimal(units: int, asset: str) -> str:
    """An amount of smallest units as a decimal number of the asset: 70000 of USD/2 is 700.00."""
    precision = int(asset.partition("/")[2] or 0)
    digits = str(abs(units)).rjust(precision + 1, "0")
    whole, part = digits[: len(digits) - precision], digits[len(digits) - precision :]
    return ("-" if units < 0 else "") + whole + (f".{part}" if part else "")


def _csv(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)  # RFC 4180
    return text.getvalue().encode()


def _csv_line(entry: StatementEntry, asset: str) -> tuple[object, ...]:
    amount = decimal(entry.amount, asset)
    return (
        *("entry", entry.effective_at, entry.recorded_at, entry.position, _harmless(entry.transaction)),
        *(_harmless(entry.reference or ""), _harmless(entry.description or "")),
        *((amount, "") if entry.direction == "debit" else ("", amount)),
        *(decimal(entry.balance, asset), asset),
    )


def _ends(time: object) -> tuple[object, str]:
    return ("" if time is None else format_time(time), "")  # type: ignore[arg-type]


def _html_line(entry: StatementEntry, asset: str) -> str:
    amount = decimal(entry.amount, asset)
    debit, credit = (amount, "") if entry.direction == "debit" else ("", amount)
    texts = "<br>".join(escape(text) for text in (entry.description, entry.reference) if text)
    return (
        f"<tr><td>{entry.effective_at}<br><small>recorded {entry.recorded_at}</small></td>"
        f"<td>{escape(entry.transaction)}<br><small>position {entry.position}</small></td><td>{texts}</td>"
        f'<td class="n">{debit}</td><td class="n">{credit}</td><td class="n">{decimal(entry.balance, asset)}</td></tr>\n'
    )


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
