"""Statements as CSV and as a page to print: made line by line, amounts as decimals of the asset's own precision.

Whatever a client wrote is escaped: in HTML by its rules; in CSV a text that a spreadsheet would take for a formula begins with
an apostrophe (OWASP, CSV injection).
"""

import csv
import io
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import datetime, time
from html import escape
from typing import Final

from query_service.application.account_statements import Page, Period
from query_service.application.report_answers import StatementEntry, statement_entries
from query_service.application.search import moved
from shared_kernel.words import decimal_text, format_time

DESCRIPTIONS: Final = {
    "text/csv": "The whole statement: a heading, the opening balance, a line an entry, the closing balance. `effective_at`,"
    " `recorded_at` and `position` of the closing line are what the statement is as of",
    "text/html": "The whole statement, to be read or printed",
}
COLUMNS: Final = (
    *("line", "effective_at", "recorded_at", "position", "transaction", "reference", "description"),
    *("debit", "credit", "balance", "asset", "ledger", "account", "axis", "from", "until"),
)
_GROUP: Final = "\N{NARROW NO-BREAK SPACE}"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_STYLE: Final = """
:root { color: #1a2433; font: 10.5pt/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
body { margin: 0 auto; max-width: 52rem; padding: 3rem 2.5rem }
header { align-items: end; border-bottom: 3px solid #1d3557; display: flex; justify-content: space-between; padding-bottom: .8rem }
header p { color: #5a6675; margin: 0 0 .15rem } h1 { font-size: 1.7rem; font-weight: 600; line-height: 1.2; margin: 0 }
header div:last-child { text-align: right } header b { font-size: 1.05rem; overflow-wrap: anywhere }
dl { background: #f2f5f9; display: grid; gap: 0 1rem; grid-template-columns: repeat(4, 1fr); margin: 1.4rem 0; padding: .9rem 1.1rem }
dt { color: #5a6675; font-size: .8rem; grid-row: 1 } dd { font-size: 1.1rem; grid-row: 2; margin: 0; white-space: nowrap }
dl :last-of-type { font-weight: 600 } dd, .n { font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% } thead { display: table-header-group }
th { border-bottom: 1.5px solid #1d3557; color: #1d3557; font-size: .8rem; font-weight: 600; text-align: left }
th, td { padding: .5rem .6rem; vertical-align: top } tbody tr { border-bottom: 1px solid #dde3ea; break-inside: avoid }
th:first-child, td:first-child { padding-left: 0; white-space: nowrap } th:last-child, td:last-child { padding-right: 0 }
.n { text-align: right; white-space: nowrap } .total td { font-weight: 600 } tbody .total:last-child { border-bottom: 3px solid #1d3557 }
small { color: #5a6675; display: block; font-size: .76rem; overflow-wrap: anywhere } footer { color: #5a6675; font-size: .8rem; margin-top: 1.2rem }
@page { margin: 18mm 16mm; size: A4; @bottom-right { color: #5a6675; content: counter(page) " / " counter(pages); font: 8pt sans-serif } }
@media print { :root { font-size: 9pt } body { max-width: none; padding: 0 } dl { print-color-adjust: exact } }
"""


async def csv_pieces(
    period: Period, ledger: str, first: Page, more: AsyncGenerator[Page, None]
) -> AsyncGenerator[bytes, None]:
    """A heading, an opening line, the entries, a closing line: without the last the file is not whole."""
    asset = period.asset
    # On every line, so that a table can be put together of several statements.
    of = (asset, ledger, period.address, period.axis, _time(period.begins_at), _time(period.ends_at))
    opening = {"line": "opening", "balance": decimal_text(first.opening(), asset)}
    yield _csv([COLUMNS, _csv_end(opening, of)])
    page: Page | None = first
    while page is not None:
        entries = statement_entries(page.rows, is_counted=period.is_counted)
        yield _csv((*_csv_entry(entry, asset), *of) for entry in entries)
        page = await anext(more, None)
    closing = {
        "line": "closing",
        "effective_at": _time(period.effective_at),
        "recorded_at": _time(first.stamp.recorded_at),
        "position": first.stamp.position,
        "debit": decimal_text(first.debits(), asset),
        "credit": decimal_text(first.credits(), asset),
        "balance": decimal_text(first.closing(), asset),
    }
    yield _csv([_csv_end(closing, of)])


async def html_pieces(
    period: Period, ledger: str, first: Page, more: AsyncGenerator[Page, None]
) -> AsyncGenerator[bytes, None]:
    """One page that loads nothing from anywhere."""
    asset = period.asset
    opening, closing = _printed(first.opening(), asset), _printed(first.closing(), asset)
    debits, credits_ = _printed(first.debits(), asset), _printed(first.credits(), asset)
    code = escape(asset.partition("/")[0])
    sums = {"Opening balance": opening, "Debits": debits, "Credits": credits_, "Closing balance": closing}
    summed = "".join(f"<dt>{name}</dt><dd>{amount}</dd>" for name, amount in sums.items())
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Statement of {escape(period.address)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><header><div><p>{escape(ledger)}</p><h1>Account statement</h1></div>"
        f"<div><p>{_between(period)}</p><b>{escape(period.address)}</b></div></header>\n<dl>{summed}</dl>\n"
        f'<table><thead><tr><th>{period.axis.capitalize()}</th><th>Transaction</th><th class="n">Debit</th><th class="n">Credit</th>'
        f'<th class="n">Balance, {code}</th></tr></thead>\n<tbody>\n'
        f'<tr class="total"><td colspan="4">Opening balance</td><td class="n">{opening}</td></tr>\n'
    ).encode()
    page: Page | None = first
    while page is not None:
        entries = statement_entries(page.rows, is_counted=period.is_counted)
        yield "".join(_html_line(entry, period) for entry in entries).encode()
        page = await anext(more, None)
    yield (
        f'<tr class="total"><td colspan="2">Closing balance</td><td class="n">{debits}</td><td class="n">{credits_}</td>'
        f'<td class="n">{closing}</td></tr>\n</tbody></table>\n<footer>{_basis(period, first)}</footer></body></html>\n'
    ).encode()


def _between(period: Period) -> str:
    """The period, its end included where it ends with a day."""
    begin = "the beginning" if period.begins_at is None else _moment(period.begins_at)
    if period.ends_at is None:
        return f"From {begin}"
    if period.ends_at.time() == time.min:
        return f"{begin} to {moved(period.ends_at, -1).date()}"
    return f"{begin} to before {_moment(period.ends_at)}"


def _basis(period: Period, first: Page) -> str:
    """What the figures rest on."""
    stamp = first.stamp
    recorded = "" if stamp.recorded_at is None else f", recorded {format_time(stamp.recorded_at)}"
    dated = "" if period.effective_at is None else f" Only what was effective by {format_time(period.effective_at)}."
    return (
        f"As of position {stamp.position} of the log{recorded}. By {period.axis} time, in UTC.{dated} "
        f"A {first.normal_balance}-normal account: {first.normal_balance}s add to its balance. Amounts in {escape(period.asset)}."
    )


def _moment(moment: datetime) -> str:
    """A day where it is the beginning of one."""
    return str(moment.date()) if moment.time() == time.min else f"{moment.date()} {moment:%H:%M:%S}"


def _printed(units: int, asset: str) -> str:
    """As decimal text, in groups of three, with a true minus sign (ISO 80000-1)."""
    whole, point, part = decimal_text(abs(units), asset).partition(".")
    return ("\N{MINUS SIGN}" if units < 0 else "") + f"{int(whole):,}".replace(",", _GROUP) + point + part


def _csv(lines: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)  # RFC 4180
    return text.getvalue().encode()


def _csv_entry(entry: StatementEntry, asset: str) -> tuple[object, ...]:
    """Up to the balance."""
    amount = decimal_text(entry.amount, asset)
    return (
        *("entry", entry.effective_at, entry.recorded_at, entry.position, _harmless(entry.transaction)),
        *(_harmless(entry.reference or ""), _harmless(entry.description or "")),
        *((amount, "") if entry.direction == "debit" else ("", amount)),
        decimal_text(entry.balance, asset),
    )


def _csv_end(values: Mapping[str, object], of: tuple[str, ...]) -> tuple[object, ...]:
    """A line with these values under their columns, and nothing under the others up to the balance."""
    return (*(values.get(name, "") for name in COLUMNS[: -len(of)]), *of)


def _time(moment: datetime | None) -> str:
    return "" if moment is None else format_time(moment)


def _html_line(entry: StatementEntry, period: Period) -> str:
    amount = _printed(entry.amount, period.asset)
    debit, credit = (amount, "") if entry.direction == "debit" else ("", amount)
    own, other, label = entry.recorded_at, entry.effective_at, "effective"
    if period.axis == "effective":
        own, other, label = other, own, "recorded"
    text = escape(entry.description or entry.reference or entry.transaction)
    marks = (entry.reference, entry.transaction, f"position {entry.position}", f"{label} {other[:10]}")
    beside = " · ".join(escape(mark) for mark in marks if mark)
    return (
        f"<tr><td>{own[:10]}<small>{own[11:19]}</small></td><td>{text}<small>{beside}</small></td>"
        f'<td class="n">{debit}</td><td class="n">{credit}</td><td class="n">{_printed(entry.balance, period.asset)}</td></tr>\n'
    )


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
