"""The descriptions of the log's routes, as examples.py has those of the books."""

from typing import Final

import msgspec

_AS_OF: Final = """"as_of": {"position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z"}, "complete": true"""
_EVENT: Final = """{"ledger": "bank", "position": 2, "type": "AccountOpened.v1", "recorded_at": "2026-11-24T09:00:00.000000Z",
  "metadata": {"actor": "local-writer", "correlation_id": "4bf92f35", "key": "open-42", "fingerprint": "01…"},
  "data": {"address": "users:42:wallet", "normal_balance": "credit"}}"""

_LINE: Final = msgspec.json.encode(msgspec.json.decode(_EVENT)).decode()

EVENTS: Final = f"""The ledger's log, oldest first (or `order=newest`): all events or a range of positions, those that bear a \
tag, those about an account, those of some types, those of a caller or of one request. All filters count together. Metadata and \
data are what was recorded, byte for byte. Role `auditor` or `admin`.

`from_position` may be one beyond the head: what comes next is nothing yet. A range that begins or ends further on is 409 \
`position_beyond_head`. With `to_position` the answer is as of that position.

A filter looks through 10,000 events a page: a page may hold fewer than `limit`, or none, while `next_cursor` is not null.

```
curl -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/events?account=users:42:wallet&limit=1"
```
```json
{{"data": [{_EVENT}],
 "next_cursor": "WyI1ZjJ…", {_AS_OF}}}
```

`Accept: application/x-ndjson` gives all that fits in one go, an event a line, as of the position in `Daybook-Position`.

```ndjson
{_LINE}
```

`Accept: text/event-stream` gives it as server-sent events and goes on with what is appended: `id` names the event (send it as
`Last-Event-ID` and the stream goes on after it), `event` its type, `data` its line. It ends at `to_position`, which may lie
ahead. A comment comes every 15 seconds of silence; after 15 minutes the stream ends, and a browser connects again by
itself. A reader that takes nothing for a minute is cut off.

```
curl -N -H "Authorization: Bearer $TOKEN" -H "Accept: text/event-stream" "$QUERY_URL/v1/ledgers/bank/events?from_position=2"
```
```eventstream
retry: 1000

id: 2-0199d5a2-0f3c-7b1d-9a54-2c8e6d7f1a03
event: AccountOpened.v1
data: {_LINE}
```"""

EVENT: Final = f"""The event at a position. Where the log has none, be it that it has not come so far, this is 404 `event_not_found`.
Role `auditor` or `admin`.

```
curl -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/events/2"
```
```json
{{"event": {_EVENT},
 {_AS_OF}}}
```"""

STREAMED: Final = {
    "application/x-ndjson": "One event a line: its canonical line, byte for byte",
    "text/event-stream": "Server-sent events: `id`, `event` (the type) and `data` (the canonical line)",
}

_EXPORT: Final = """Streamed, as of the position in `Daybook-Position` (`as_of_position` and `as_of` choose another). A
connection that breaks before the end shows that it is not whole. Role `reader`."""

CSV: Final = f"""Every posted entry, a line each, in the order of the log; a hold's when it was posted. `units` are smallest units, `amount` is
the same with the asset's decimals. {_EXPORT}

```
curl -OJ -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/exports/entries.csv"
```
```csv
position,entry_index,recorded_at,effective_at,transaction,reverses,reference,description,account,direction,asset,units,amount
17,0,2026-11-24T09:30:00.000000Z,1993-01-01T12:00:00.000000Z,0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10,,berka-695247,cash in,bank:cash,debit,CZK/2,70000,700.00
```"""

HLEDGER: Final = f"""What was posted, for hledger 1.25 and later: a transaction on its effective day, its code the position, debits positive,
assets under their own names. {_EXPORT}

```
curl -OJ -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/exports/hledger.journal"
hledger -f bank-17.journal balance --flat
```
```text
1993-01-01 * (17) cash in
    ; transaction: 0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10
    ; reference: berka-695247
    ; recorded_at: 2026-11-24T09:30:00.000000Z
    bank:cash  700.00 "CZK/2"
    bank:clients:2378  -700.00 "CZK/2"
```"""

BEANCOUNT: Final = f"""What was posted, for beancount 3. `bank:clients:2378` is `Assets:Bank:Clients:2378` where the account is debit-normal, else
`Liabilities:Bank:Clients:2378`; `_`, `-` and `.` are `-5F`, `-2D` and `-2E`, and a segment that begins with a capital gets `0-`
before it. `CZK/2` is `CZK.2`. Beancount counts with 28 digits: amounts beyond them lose their last ones there. {_EXPORT}

```
curl -OJ -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/exports/ledger.beancount"
```
```text
0001-01-01 open Assets:Bank:Cash
0001-01-01 open Liabilities:Bank:Clients:2378
1993-01-01 * "cash in"
  position: 17
  transaction: "0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10"
  reference: "berka-695247"
  recorded_at: "2026-11-24T09:30:00.000000Z"
  Assets:Bank:Cash  700.00 CZK.2
  Liabilities:Bank:Clients:2378  -700.00 CZK.2
```"""
