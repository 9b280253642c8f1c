"""Clients that go on posting whatever happens: seeded, each command with a key, repeated under it until it is answered.

What was answered is kept for the oracle: a command that was acknowledged must be in the log, once, where the answer said.
"""

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ASSET = "EUR/2"
ACCOUNTS = 12
FUNDS = 1_000  # so little that some transfers are refused
PAUSE_S = 0.04  # a writer sends some twenty commands a second: load, not a measurement
ANSWER_S_MAX = 20.0
BATCH = 1_000  # commands of one request, at most (design §8)
GIVE_UP_S = 120.0  # longer than any outage of an experiment


class Acknowledged(NamedTuple):
    """A command and its answer. `began`, `ended`: of the attempt that was answered; `first`: of the first one (monotonic)."""

    ledger: str
    key: str
    status: int
    position: int
    body: bytes
    attempts: int
    first: float
    began: float
    ended: float


class Load:
    """Some writers over some ledgers of their own, from `start` to `stop`; before that nothing is read.

    A 409 `conflict` is what several processes that write to the same accounts may answer, and one alone only if `may_conflict`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str,
        rng: random.Random,
        ledgers: int = 2,
        writers: int = 6,
        may_conflict: bool = False,
    ) -> None:
        self.writers = writers
        self._may_conflict = may_conflict
        self._places = [_place(url)]
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.ledgers = [f"chaos:{name}:{number}" for number in range(ledgers)]
        self.acknowledged: list[Acknowledged] = []
        self.unanswered: list[str] = []
        self.surprises: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._name = name
        self._bodies: dict[str, str] = {}
        self._newest: dict[str, int] = {}
        rng.shuffle(self.ledgers)
        seeds = [rng.random() for _ in range(writers)]
        self._threads = [
            threading.Thread(target=self._write, args=(number, seed), daemon=True) for number, seed in enumerate(seeds)
        ]

    def start(self) -> None:
        """The ledgers are open, their accounts have funds, and clients post."""
        self._prepare(self.ledgers)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nothing more is begun; what was begun is answered, or given up."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(GIVE_UP_S + ANSWER_S_MAX)

    def count(self) -> int:
        """Commands acknowledged so far."""
        return len(self.acknowledged)

    def newest(self, ledger: str) -> int:
        """The greatest position of the ledger that was acknowledged so far; 0: none."""
        return self._newest.get(ledger, 0)

    def send_also_to(self, url: str) -> None:
        """From now on some attempts go to this command process."""
        self._places.append(_place(url))

    def send_no_more_to(self, url: str) -> None:
        """From now on no attempt goes to this process."""
        self._places.remove(_place(url))

    def post(self, path: str, body: object, key: str) -> tuple[int, bytes]:
        """The answer to another command, asked until it is there: of a process that has gone, or will not say, again."""
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            connection = http.client.HTTPConnection(*self._places[0], timeout=ANSWER_S_MAX)
            try:
                status, text, _ = self._send(connection, path, json.dumps(body), key)
                if status not in (429, 503):
                    return status, text
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.1)
        raise AssertionError(f"{key} was never answered")

    def try_at(self, url: str, path: str, body: object, key: str) -> tuple[int, bytes] | None:
        """The answer to one attempt at this process; None where it gives none."""
        connection = http.client.HTTPConnection(*_place(url), timeout=ANSWER_S_MAX)
        try:
            return self._send(connection, path, json.dumps(body), key)[:2]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def one_more_at(self, url: str) -> tuple[int, bytes] | None:
        """The answer of this process to one attempt at a command that is always possible; None where it gives none."""
        entries = [_entry("world", "debit", 1), _entry("bank", "credit", 1)]
        path = f"/v1/ledgers/{self.ledgers[0]}/transactions"
        return self.try_at(url, path, {"entries": entries}, f"more-{self._name}-{time.monotonic_ns()}")

    def is_taken_at(self, url: str, token: str) -> bool:
        """Whether a command process takes this token; it is asked for a ledger without a name, so that nothing comes of it."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": "token"}
        connection = http.client.HTTPConnection(*_place(url), timeout=ANSWER_S_MAX)
        try:
            connection.request("POST", "/v1/ledgers", "{}", headers)
            status = connection.getresponse().status
        finally:
            connection.close()
        assert status in (400, 401), f"a ledger without a name was answered {status}"
        return status == 400

    def again(self, known: Acknowledged, body: str) -> tuple[int, bytes]:
        """The answer to the same command under the same key."""
        connection = http.client.HTTPConnection(*self._places[0], timeout=ANSWER_S_MAX)
        try:
            return self._send(connection, f"/v1/ledgers/{known.ledger}/transactions", body, known.key)[:2]
        finally:
            connection.close()

    def body_of(self, known: Acknowledged) -> str:
        """What was sent under the key."""
        return self._bodies[known.key]

    def open_more(self, count: int) -> list[str]:
        """So many more ledgers, which the oracle looks at too; nobody writes to them but to give their accounts funds."""
        more = [f"chaos:{self._name}:more-{len(self.ledgers) + number}" for number in range(count)]
        self._prepare(more)
        self.ledgers += more
        return more

    def fill(self, events: int, *, ledgers: Sequence[str] | None = None) -> None:
        """About so many more events are in these ledgers, or in all, by batches."""
        ledgers = ledgers or self.ledgers
        entries = [_entry("world", "debit", 1), _entry("bank", "credit", 1)]
        for number in range(0, events, BATCH):
            commands = [{"type": "post_transaction", "data": {"entries": entries}}] * min(BATCH, events - number)
            ledger = ledgers[number // BATCH % len(ledgers)]
            status, text = self.post(
                f"/v1/ledgers/{ledger}/batches", {"commands": commands}, f"fill-{self._name}-{number}"
            )
            assert status == 200, text

    def _prepare(self, ledgers: Sequence[str]) -> None:
        connection = http.client.HTTPConnection(*self._places[0], timeout=ANSWER_S_MAX)
        limits = {"pattern": "users:*", "normal_balance": "credit", "limits": {ASSET: {"minimum": 0}}}
        for ledger in ledgers:
            opened = {"ledger": ledger, "accounts": "on-first-use", "defaults": [limits]}
            status, text, _ = self._send(connection, "/v1/ledgers", json.dumps(opened), f"open-{ledger}")
            assert status == 201, text
            entries = [_entry(f"users:{number}", "credit", FUNDS) for number in range(ACCOUNTS)]
            funded = json.dumps({"entries": [*entries, _entry("world", "debit", FUNDS * ACCOUNTS)]})
            self._acknowledge(random.Random(ledger), {self._places[0]: connection}, ledger, funded, f"fund-{ledger}")
        connection.close()

    def _write(self, number: int, seed: float) -> None:
        rng = random.Random(seed)
        connections: Connections = {}
        # Its own: a ledger that stands still holds up no writer of another.
        ledger = self.ledgers[number % len(self.ledgers)]
        sent = 0
        while not self._stop.is_set():
            sent += 1
            payer, payee = rng.sample(range(ACCOUNTS), 2)
            amount = rng.randint(1, FUNDS)
            entries = [_entry(f"users:{payer}", "debit", amount), _entry(f"users:{payee}", "credit", amount)]
            body = json.dumps({"entries": entries})
            self._acknowledge(rng, connections, ledger, body, f"{self._name}-{number}-{sent}")
            self._stop.wait(PAUSE_S * rng.random() * 2)
        for connection in connections.values():
            connection.close()

    def _acknowledge(self, rng: random.Random, connections: "Connections", ledger: str, body: str, key: str) -> None:
        self._bodies[key] = body
        first, attempts = time.monotonic(), 0
        while time.monotonic() < first + GIVE_UP_S:
            attempts += 1
            began = time.monotonic()
            place = rng.choice(self._places)
            connection = connections.get(place)
            if connection is None:
                connection = connections[place] = http.client.HTTPConnection(*place, timeout=ANSWER_S_MAX)
            try:
                status, text, position = self._send(connection, f"/v1/ledgers/{ledger}/transactions", body, key)
            except (OSError, http.client.HTTPException):
                connection.close()
                status, text, position = 0, b"", 0
            if status in (201, 422):
                self.acknowledged.append(
                    Acknowledged(ledger, key, status, position, text, attempts, first, began, time.monotonic())
                )
                with self._lock:
                    self._newest[ledger] = max(position, self._newest.get(ledger, 0))
                return
            is_conflict = status == 409 and b'"conflict"' in text
            may_conflict = self._may_conflict or len(self._places) > 1
            if status not in (0, 429, 503) and not (is_conflict and may_conflict):
                self.surprises.append(f"{key}: {status} {text[:200]!r}")
                return
            time.sleep(min(0.5, 0.05 * attempts))
        self.unanswered.append(key)

    def _send(self, connection: http.client.HTTPConnection, path: str, body: str, key: str) -> tuple[int, bytes, int]:
        connection.request("POST", path, body, {**self._headers, "Idempotency-Key": key})
        response = connection.getresponse()
        text = response.read()
        return response.status, text, int(response.headers.get("Daybook-Position") or 0)


Connections = dict[tuple[str, int], http.client.HTTPConnection]


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def _entry(account: str, direction: str, amount: int) -> dict[str, Any]:
    return {"account": account, "direction": direction, "amount": amount, "asset": ASSET}
