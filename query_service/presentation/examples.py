"""The descriptions of the routes, each with an exact example. A test reads every example into the shape that the route declares."""

from typing import Final


def _described(text: str, path: str, answer: str) -> str:
    return f"""{text}

```
curl -H "Authorization: Bearer $TOKEN" "$QUERY_URL{path}"
```
```json
{answer}
```"""


_AS_OF: Final = """"as_of": {"position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z"}, "complete": true"""

_LEDGER: Final = f"""{{"ledger": "bank", "accounts": "on-first-use",
  "defaults": [{{"pattern": "users:*:wallet", "normal_balance": "credit", "limits": {{"EUR/2": {{"minimum": 0}}}}}}],
  "records_refusals": true, "metadata": {{}}, "opened_at": "2026-11-24T09:00:00.000000Z",
  {_AS_OF}}}"""

_ACCOUNT: Final = """{"address": "users:42:wallet", "normal_balance": "credit", "status": "open",
  "limits": {"EUR/2": {"minimum": 0, "maximum": 500000}}, "metadata": {}, "on_first_use": false,
  "opened_at": "2026-11-24T09:00:00.000000Z", "position": 2}"""

_BALANCE: Final = """{"posted": 70000, "pending": 70000, "available": 70000,
  "posted_debits": 0, "posted_credits": 70000, "pending_debits": 0, "pending_credits": 0}"""

_TRANSACTION: Final = """{"id": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10", "status": "posted",
  "entries": [{"account": "bank:cash", "direction": "debit", "amount": 70000, "asset": "CZK/2"},
              {"account": "bank:clients:2378", "direction": "credit", "amount": 70000, "asset": "CZK/2"}],
  "reference": "berka-695247", "effective_at": "1993-01-01T12:00:00.000000Z", "description": "cash in", "metadata": {},
  "position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z", "actor": "local-writer", "correlation_id": "4bf92f35"}"""

_EVENT: Final = """{"ledger": "bank", "position": 2, "type": "AccountOpened.v1", "recorded_at": "2026-11-24T09:00:00.000000Z",
  "metadata": {"actor": "local-writer", "correlation_id": "4bf92f35", "key": "open-42", "fingerprint": "01…"},
  "data": {"address": "users:42:wallet", "normal_balance": "credit"}}"""

_ENTRY: Final = f"""{{"position": 17, "entry_index": 1, "transaction": "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10", "direction": "credit",
  "amount": 70000, "asset": "CZK/2", "effective_at": "1993-01-01T12:00:00.000000Z", "recorded_at": "2026-11-24T09:30:00.000000Z",
  "balance": {_BALANCE}}}"""

LEDGERS: Final = _described(
    "The ledgers that the token covers, by name. Each has a position of its own, so the list as a whole is as of none.",
    "/v1/ledgers?limit=1",
    f'{{"data": [{_LEDGER}],\n "next_cursor": "WyI1ZjJ…", "as_of": null, "complete": true}}',
)
LEDGER: Final = _described(
    "What the ledger was opened with, and how far its read model is.",
    "/v1/ledgers/bank",
    f'{{"ledger": {_LEDGER},\n {_AS_OF}}}',
)
ACCOUNTS: Final = _described(
    "Accounts by address, all or those that fit a pattern: `*` stands for one segment, a final `**` for the rest.",
    "/v1/ledgers/bank/accounts?address=users:*:wallet&limit=1",
    f'{{"data": [{_ACCOUNT}],\n "next_cursor": "WyI1ZjJ…", {_AS_OF}}}',
)
ACCOUNT: Final = _described(
    "The account's terms. `on_first_use`: the first transaction that named it opened it.",
    "/v1/ledgers/bank/accounts/users:42:wallet",
    f'{{"account": {_ACCOUNT},\n {_AS_OF}}}',
)
BALANCES: Final = _described(
    "The account's balances by asset, normal side positive, in smallest units. `posted`: posted entries only. `pending`:"
    " posted and held. `available`: posted less what holds may take away. Send the `Daybook-Position` of your last command"
    " and you read your own write.",
    "/v1/ledgers/bank/accounts/bank:clients:2378/balances",
    f'{{"account": "bank:clients:2378", "balances": {{"CZK/2": {_BALANCE}}},\n {_AS_OF}}}',
)
ENTRIES: Final = _described(
    "The account's entries, newest first (or `order=oldest`), each with the balance in its asset just after it. Pages hold"
    " still while others post: they are as of the position of the first one.",
    "/v1/ledgers/bank/accounts/bank:clients:2378/entries?asset=CZK/2&limit=1",
    f'{{"data": [{_ENTRY}],\n "next_cursor": "WyI1ZjJ…", {_AS_OF}}}',
)
TRANSACTIONS: Final = _described(
    "Transactions, newest first (or `order=oldest`): all, those with an entry of an account, the one with a reference.",
    "/v1/ledgers/bank/transactions?account=bank:clients:2378&limit=1",
    f'{{"data": [{_TRANSACTION}],\n "next_cursor": null, {_AS_OF}}}',
)
TRANSACTION: Final = _described(
    "The transaction with this id, Daybook's or the client's own.",
    "/v1/ledgers/bank/transactions/0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10",
    f'{{"transaction": {_TRANSACTION},\n {_AS_OF}}}',
)
TRIAL_BALANCE: Final = _described(
    "All posted debits and credits by asset. `difference` is debits less credits: 0 in every sound ledger.",
    "/v1/ledgers/bank/trial-balance",
    '{"assets": {"CZK/2": {"debits": 70000, "credits": 70000, "difference": 0, "accounts": 2}},\n ' + _AS_OF + "}",
)
EVENTS: Final = _described(
    "The ledger's log, oldest first (or `order=newest`): all events, a range of positions, those that bear a tag, those of a"
    " type. Metadata and data are what was recorded, byte for byte. Role `auditor` or `admin`.",
    "/v1/ledgers/bank/events?tag=account:users:42:wallet&limit=1",
    f'{{"data": [{_EVENT}],\n "next_cursor": "WyI1ZjJ…", {_AS_OF}}}',
)
EVENT: Final = _described(
    "The event at a position. Role `auditor` or `admin`.",
    "/v1/ledgers/bank/events/2",
    f'{{"event": {_EVENT},\n {_AS_OF}}}',
)
