"""The descriptions of the log's routes, as examples.py has those of the books."""

from typing import Final

_AS_OF: Final = """"as_of": {"position": 17, "recorded_at": "2026-11-24T09:30:00.000000Z"}, "complete": true"""
_EVENT: Final = """{"ledger": "bank", "position": 2, "type": "AccountOpened.v1", "recorded_at": "2026-11-24T09:00:00.000000Z",
  "metadata": {"actor": "local-writer", "correlation_id": "4bf92f35", "key": "open-42", "fingerprint": "01…"},
  "data": {"address": "users:42:wallet", "normal_balance": "credit"}}"""

EVENTS: Final = f"""The ledger's log, oldest first (or `order=newest`): all events or a range of positions, those that bear a \
tag, those about an account, those of some types, those of a caller or of one request. All filters count together. Metadata and \
data are what was recorded, byte for byte. Role `auditor` or `admin`.

A filter looks through 10,000 events a page: a page may hold fewer than `limit`, or none, while `next_cursor` is not null.

```
curl -H "Authorization: Bearer $TOKEN" "$QUERY_URL/v1/ledgers/bank/events?account=users:42:wallet&limit=1"
```
```json
{{"data": [{_EVENT}],
 "next_cursor": "WyI1ZjJ…", {_AS_OF}}}
```

`Accept: application/x-ndjson` gives all that fits in one go, an event a line, as of the position in `Daybook-Position`.
`Accept: text/event-stream` gives it as server-sent events and goes on with what is appended: `id` names the event (send it as
`Last-Event-ID` and the stream goes on after it), `event` its type, `data` its line. A comment comes every 15 seconds of silence;
after 15 minutes the stream ends, and a browser connects again by itself. A reader that takes nothing for a minute is cut off.

```
curl -N -H "Authorization: Bearer $TOKEN" -H "Accept: text/event-stream" "$QUERY_URL/v1/ledgers/bank/events?from_position=17"
```"""

EVENT: Final = f"""The event at a position. Role `auditor` or `admin`.

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
