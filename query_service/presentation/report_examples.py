"""The descriptions of the report routes, each with an exact example, as in examples.py."""

from typing import Final

from query_service.presentation.examples import AS_OF, BALANCE, described

_STATEMENT_CSV: Final = """\
line,effective_at,recorded_at,position,transaction,reference,description,debit,credit,balance,asset,ledger,account,axis,from,until
opening,,,,,,,,,0.00,CZK/2,bank,bank:clients:2378,effective,1993-01-01T00:00:00.000000Z,
entry,1993-01-01T12:00:00.000000Z,2026-11-24T09:30:00.000000Z,17,0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10,berka-695247,cash in,,700.00,\
700.00,CZK/2,bank,bank:clients:2378,effective,1993-01-01T00:00:00.000000Z,
closing,,2026-11-24T09:30:00.000000Z,17,,,,0.00,700.00,700.00,CZK/2,bank,bank:clients:2378,effective,1993-01-01T00:00:00.000000Z,"""

_STATEMENT_HTML: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Statement of bank:clients:2378</title>…
<tr class="total"><td colspan="4">Opening balance</td><td class="n">0.00</td></tr>
…
<tr class="total"><td colspan="2">Closing balance</td><td class="n">0.00</td><td class="n">700.00</td><td class="n">700.00</td></tr>
…"""

_SUM: Final = """{"group": "bank:clients", "asset": "CZK/2", "normal_balance": "credit", "accounts": 2,
  "posted": 120000, "pending": 120000, "available": 110000,
  "posted_debits": 30000, "posted_credits": 150000, "pending_debits": 40000, "pending_credits": 150000}"""

_TRIAL: Final = '{"CZK/2": {"debits": 70000, "credits": 70000, "difference": 0, "accounts": 2}}'

SUMS: Final = described(
    "What the accounts that fit `address` have together, by asset, grouped by their `segments` leading segments. Accounts of the"
    " two normal sides are summed apart, so that signs mean what they mean for an account. With `effective_at`: posted only.",
    "/v1/ledgers/bank/balances?address=bank:**&segments=2",
    f'{{"data": [{_SUM}],\n {AS_OF}}}',
)
TRIAL_BALANCE: Final = described(
    "All posted debits and credits by asset. `difference` is debits less credits: 0 in every sound ledger, at every position and"
    " at every effective time. With `address` of the accounts that fit the pattern only: these need not balance, so there is no"
    " `difference`. With `segments` also by that many leading segments, in `groups`.",
    "/v1/ledgers/bank/trial-balance?effective_at=2026-03-31T23:59:59.999999Z&as_of=2026-04-05T12:00:00Z",
    f'{{"address": "**", "assets": {_TRIAL},\n {AS_OF}}}',
)
CHANGES: Final = described(
    "The accounts whose posted balance differs between two positions of the log, and the entries that did it. With"
    " `effective_until`, what was changed about a period after it was closed: only what is effective before that time counts on"
    " both sides. `opening` is the balance at `from_position`, `closing` that at `to_position`. A page looks at a bounded number"
    " of accounts, so it may be short, or empty, and still have a `next_cursor`. Each account and asset has its first 100 entries; where"
    " `entries_complete` is false, ask again with its `address`: for one account the pages go on within its entries, `limit` a page.",
    "/v1/ledgers/bank/balances/diff?from_position=12&to_position=17&effective_until=2026-04-01T00:00:00Z",
    '{"data": [{"account": "bank:clients:2378", "asset": "CZK/2", "normal_balance": "credit", "opening": 0, "closing": 70000,\n'
    '  "change": 70000, "debits": 0, "credits": 70000,\n'
    '  "entries": [{"position": 17, "transaction": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10", "direction": "credit",\n'
    '    "amount": 70000, "effective_at": "2026-03-31T12:00:00.000000Z", "recorded_at": "2026-11-24T09:30:00.000000Z"}],\n'
    '  "entries_complete": true}],\n'
    ' "next_cursor": null, "from_position": 12, "to_position": 17, "effective_until": "2026-04-01T00:00:00.000000Z",\n'
    f" {AS_OF}}}",
)
SUMS_ACROSS: Final = described(
    "The same of several ledgers, each as of a position of its own, and all of them together. A ledger that the token does not"
    " cover is 404.",
    "/v1/balances?ledgers=bank,shop&address=bank:**&segments=2",
    f'{{"ledgers": [{{"ledger": "bank", "data": [{_SUM}],\n {AS_OF}}}], "together": [{_SUM}], "complete": true}}',
)
TRIAL_BALANCE_ACROSS: Final = described(
    "The trial balances of several ledgers, each as of a position of its own, and all of them together; `address` and `segments` as"
    " for one ledger.",
    "/v1/trial-balance?ledgers=bank,shop",
    f'{{"address": "**", "ledgers": [{{"ledger": "bank", "assets": {_TRIAL},\n {AS_OF}}}], "together": {_TRIAL}, "complete": true}}',
)
_STATEMENT: Final = described(
    "What was posted to the account in one asset, from a time until before another, with opening, running and closing balance, oldest"
    " first. By `axis=recorded` in the order of the log, by `axis=effective` in the order of effective time, as far as the books"
    " know it; with `effective_at` nothing that is effective later counts. A period by recorded time that begins in the future is"
    " 400; one that ends there goes as far as the position that the statement is as of. `Accept: text/csv` and `text/html` (or `format=csv`,"
    " `format=html`) give the whole statement at once, the second to be printed.",
    "/v1/ledgers/bank/accounts/bank:clients:2378/statement?asset=CZK/2&axis=effective&from=1993-01-01T00:00:00Z&limit=1",
    '{"account": "bank:clients:2378", "asset": "CZK/2", "normal_balance": "credit", "axis": "effective",\n'
    ' "from": "1993-01-01T00:00:00.000000Z", "until": null, "opening": 0, "closing": 70000, "debits": 0, "credits": 70000,\n'
    ' "data": [{"position": 17, "entry_index": 1, "transaction": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10",\n'
    '   "reference": "berka-695247", "description": "cash in", "direction": "credit", "amount": 70000,\n'
    '   "effective_at": "1993-01-01T12:00:00.000000Z", "recorded_at": "2026-11-24T09:30:00.000000Z", "balance": 70000}],\n'
    f' "next_cursor": null, {AS_OF}}}',
)
STATEMENT: Final = f"""{_STATEMENT}

As CSV:

```csv
{_STATEMENT_CSV}
```

To be printed, in parts:

```html
{_STATEMENT_HTML}
```"""
EXPLANATION: Final = described(
    "The balance of the account in one asset as the list of events that made it, oldest first, each read from the log itself, with"
    " what it changed and the balance after it. With `effective_at`: the events that posted and are effective by then, in the order of"
    " effective time. `checked`: what these events add up to is what the read model says, at every step and in total.",
    "/v1/ledgers/bank/accounts/bank:clients:2378/explanation?asset=CZK/2&limit=1",
    f'{{"account": "bank:clients:2378", "asset": "CZK/2", "balance": {BALANCE},\n'
    ' "opening": {"posted": 0, "pending": 0, "available": 0, "posted_debits": 0, "posted_credits": 0, "pending_debits": 0,\n'
    '   "pending_credits": 0},\n'
    ' "data": [{"position": 17, "type": "TransactionPosted.v1", "transaction": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10",\n'
    '   "recorded_at": "2026-11-24T09:30:00.000000Z", "effective_at": "1993-01-01T12:00:00.000000Z", "actor": "local-writer",\n'
    '   "changes": {"posted_debits": 0, "posted_credits": 70000, "pending_debits": 0, "pending_credits": 70000},\n'
    f'   "balance": {BALANCE}}}],\n'
    f' "checked": true, "next_cursor": null, {AS_OF}}}',
)
REFUSALS: Final = described(
    "What the rules turned down, newest first (or `order=oldest`), by code, caller, account and time, with the state that it was"
    " judged on: the accounts that were looked at, as they were at `judged_at`. Role `auditor`; a `reader` sees its own.",
    "/v1/ledgers/bank/refusals?code=insufficient_funds&limit=1",
    '{"data": [{"position": 18, "recorded_at": "2026-11-24T09:31:00.000000Z", "code": "insufficient_funds",\n'
    '  "command": "post_transaction", "transaction": null, "caller": "local-writer", "correlation_id": "4bf92f35", "key": "pay-7",\n'
    '  "accounts": ["bank:clients:2378"],\n'
    '  "fields": {"account": "bank:clients:2378", "asset": "CZK/2", "available": 70000, "limit": 0, "missing": 1},\n'
    '  "asked": {"entries": []}, "judged_at": 17,\n'
    '  "state": [{"account": "bank:clients:2378", "normal_balance": "credit", "status": "open", "frozen": null,\n'
    f'    "limits": {{"CZK/2": {{"minimum": 0}}}}, "balances": {{"CZK/2": {BALANCE}}}}}]}}],\n'
    f' "next_cursor": null, {AS_OF}}}',
)
