"""The descriptions of the routes, each with an exact example of every media type that it answers in.

OpenAPI's `examples` are read from these texts (openapi.py). A test reads every one into the shape that the route declares.
"""

import re
from typing import Any, Final

import msgspec

FENCES: Final = {
    "application/json": "json",
    "text/csv": "csv",
    "text/html": "html",
    "text/plain": "text",
    "application/x-ndjson": "ndjson",
    "text/event-stream": "eventstream",
}
_FENCED: Final = re.compile(r"^```(\w+)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def described(text: str, path: str, answer: str) -> str:
    """A route's description: what it does, how it is asked, what it answers."""
    return f"""{text}

```
curl -H "Authorization: Bearer $TOKEN" "$QUERY_URL{path}"
```
```json
{answer}
```"""


def shown_in(description: str) -> dict[str, Any]:
    """The examples in a description by media type: JSON as values, all else as text."""
    fenced = dict(_FENCED.findall(description))
    found: dict[str, Any] = {kind: fenced[fence] for kind, fence in FENCES.items() if fence in fenced}
    if "application/json" in found:
        found["application/json"] = msgspec.json.decode(found["application/json"])
    return found


AS_OF: Final = """"as_of": {"position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z"}, "complete": true"""

_LEDGER: Final = f"""{{"ledger": "bank", "status": "open", "accounts": "on-first-use",
  "defaults": [{{"pattern": "users:*:wallet", "normal_balance": "credit", "limits": {{"EUR/2": {{"minimum": 0}}}}}}],
  "records_refusals": true, "time_zone": "UTC", "metadata": {{}}, "opened_at": "2026-11-24T09:00:00.000000Z",
  {AS_OF}}}"""

_ACCOUNT: Final = """{"address": "users:42:wallet", "normal_balance": "credit", "status": "open",
  "limits": {"EUR/2": {"minimum": 0, "maximum": 500000}}, "metadata": {}, "on_first_use": false,
  "opened_at": "2026-11-24T09:00:00.000000Z", "position": 2}"""

BALANCE: Final = """{"posted": 70000, "pending": 70000, "available": 70000,
  "posted_debits": 0, "posted_credits": 70000, "pending_debits": 0, "pending_credits": 0}"""

_TRANSACTION: Final = """{"id": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10", "status": "posted",
  "entries": [{"account": "bank:cash", "direction": "debit", "amount": 70000, "asset": "CZK/2"},
              {"account": "bank:clients:2378", "direction": "credit", "amount": 70000, "asset": "CZK/2"}],
  "reference": "berka-695247", "effective_at": "1993-01-01T12:00:00.000000Z", "description": "cash in", "metadata": {},
  "position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z",
  "changed_position": 17, "changed_at": "2026-11-24T09:30:00.000000Z", "actor": "local-writer", "correlation_id": "4bf92f35"}"""

_ENTRY: Final = f"""{{"position": 17, "entry_index": 1, "kind": "posted",
  "transaction": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10", "direction": "credit", "amount": 70000, "asset": "CZK/2", "effective_at": "1993-01-01T12:00:00.000000Z", "recorded_at": "2026-11-24T09:30:00.000000Z",
  "balance": {BALANCE}}}"""

LEDGERS: Final = described(
    "The ledgers that the token covers, by name. Each has a position of its own, so the list as a whole is as of none.",
    "/v1/ledgers?limit=1",
    f'{{"data": [{_LEDGER}],\n "next_cursor": "WyI1ZjJ…", "as_of": null, "complete": true}}',
)
LEDGER: Final = described(
    "What the ledger was opened with, and how far its read model is.",
    "/v1/ledgers/bank",
    f'{{"ledger": {_LEDGER},\n {AS_OF}}}',
)
ACCOUNTS: Final = described(
    "Accounts by address, all or those that fit a pattern (`*` stands for one segment, a final `**` for the rest), a status, a"
    " filter: `address`, `status`, `normal_balance`, `frozen`, `metadata.<key>`, `on_first_use`, `opened_at`. With `balances=true`"
    " each with its balances, and then also as effective at a time. A page looks at a bounded number of accounts: it may be short,"
    " or empty, and still have a `next_cursor`.",
    "/v1/ledgers/bank/accounts?address=users:*:wallet&limit=1",
    f'{{"data": [{_ACCOUNT}],\n "next_cursor": "WyI1ZjJ…", {AS_OF}}}',
)
ACCOUNT: Final = described(
    "The account's terms. `on_first_use`: the first transaction that named it opened it. `frozen`: which entries it takes no more.",
    "/v1/ledgers/bank/accounts/users:42:wallet",
    f'{{"account": {_ACCOUNT},\n {AS_OF}}}',
)
BALANCES: Final = described(
    "The account's balances by asset, normal side positive, in smallest units. `posted`: posted entries only. `pending`:"
    " posted and held. `available`: posted less what holds may take away. Send the `Daybook-Position` of your last command"
    " and you read your own write. With `as_of_position` or `as_of` as the books were then, with `effective_at` what counted then"
    " for the business (posted only).",
    "/v1/ledgers/bank/accounts/bank:clients:2378/balances",
    f'{{"account": "bank:clients:2378", "balances": {{"CZK/2": {BALANCE}}},\n {AS_OF}}}',
)
ENTRIES: Final = described(
    "What moved on the account, newest first (or `order=oldest`), each with the balance in its asset just after it: posted entries,"
    " held ones, and what became of these. Pages hold still while others post: they are as of the position of the first one. With"
    " `effective_at`, what was posted and is effective by then, in the order of effective time.",
    "/v1/ledgers/bank/accounts/bank:clients:2378/entries?asset=CZK/2&limit=1",
    f'{{"data": [{_ENTRY}],\n "next_cursor": "WyI1ZjJ…", {AS_OF}}}',
)
TRANSACTIONS: Final = described(
    "Transactions, newest first (or `order=oldest`), by the position of their birth or (`sort=effective_at`) by effective time: all,"
    " or those that fit `account` (an address or a pattern), `reference`, `status` and the filter: `id`, `status`, `reference`,"
    " `description`, `account`, `asset`, `amount` (what it moves in any asset; in one: `amount.EUR/2`), `metadata.<key>`,"
    " `effective_at`, `recorded_at`, `expires_at`, `reverses`, `forced`, `actor`, `correlation_id`. A page looks at a bounded number"
    " of transactions: it may be short, or empty, and still have a `next_cursor`.",
    "/v1/ledgers/bank/transactions?account=bank:clients:2378&limit=1",
    f'{{"data": [{_TRANSACTION}],\n "next_cursor": null, {AS_OF}}}',
)
TRANSACTION: Final = described(
    "The transaction with this id, Daybook's or the client's own: its status, what of a hold is posted and what still held, and the"
    " reversals it is linked with.",
    "/v1/ledgers/bank/transactions/0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10",
    f'{{"transaction": {_TRANSACTION},\n {AS_OF}}}',
)
GRAPH_ASKED: Final = """{"query": "query Balances($account: String!) { ledger(name: \\"bank\\") { asOf { position } complete account(address: $account) { status balances { asset posted } } } }",
 "operationName": "Balances", "variables": {"account": "bank:clients:2378"}}"""
GRAPH: Final = f"""Ledgers, accounts, balances, entries and transactions as a graph; its own schema, which introspection tells, describes it.
Faults stand in `errors` of a 200, with the code and the fields of their problem documents as `extensions`. Role `reader`.

```
curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" "$QUERY_URL/v1/graphql" -d '
{GRAPH_ASKED}'
```
```json
{{"data": {{"ledger": {{"asOf": {{"position": 17}}, "complete": true,
  "account": {{"status": "open", "balances": [{{"asset": "CZK/2", "posted": "70000"}}]}}}}}}}}
```"""
