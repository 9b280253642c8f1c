"""Clients that go on reading whatever happens, each with the newest position that it knows: what they saw is kept for the oracle.

An answer must never be older than what was asked for, and it must be what the log says as of the position that it names.
"""

import http.client
import json
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.chaos.load import ACCOUNTS, ANSWER_S_MAX, ASSET, Load

PAUSE_S = 0.1  # a reader asks some ten times a second


class Seen(NamedTuple):
    """One answer: the totals of an account as of a position, no older than `asked` for."""

    ledger: str
    account: str
    asked: int
    position: int
    debited: int
    credited: int


class Readers:
    """A reader for each ledger that the load has when they start, until `stop`."""

    def __init__(self, url: Callable[[], str], token: str, load: Load, rng: random.Random) -> None:
        self.seen: list[Seen] = []
        self.refused: list[str] = []
        self.surprises: list[str] = []
        self._url = url  # a restarted process may be somewhere else
        self._headers = {"Authorization": f"Bearer {token}"}
        self._load = load
        self._rng = rng
        self._stop = threading.Event()
        self._threads: Sequence[threading.Thread] = ()

    def start(self) -> None:
        """They read."""
        seeds = [(ledger, self._rng.random()) for ledger in self._load.ledgers]
        self._threads = [threading.Thread(target=self._read, args=seed, daemon=True) for seed in seeds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nobody reads any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S_MAX)

    def one_more(self) -> tuple[int, bytes]:
        """The answer to one more question."""
        ledger = self._load.ledgers[0]
        return self._get(ledger, "users:0", self._load.newest(ledger))

    def _read(self, ledger: str, seed: float) -> None:
        rng = random.Random(seed)
        known = 0
        while not self._stop.is_set():
            known = max(known, self._load.newest(ledger))
            with suppress(OSError, http.client.HTTPException):  # nobody is there: the next one may be
                known = self._ask(ledger, f"users:{rng.randrange(ACCOUNTS)}", known)
            self._stop.wait(PAUSE_S * rng.random() * 2)

    def _ask(self, ledger: str, account: str, known: int) -> int:
        """Asks once; answers the newest position that the client knows then."""
        status, body = self._get(ledger, account, known)
        if status == 503:
            self.refused.append(json.loads(body)["code"])
            return known
        if status != 200:
            self.surprises.append(f"reading {account} of {ledger} at {known}: {status} {body[:200]!r}")
            return known
        answer = json.loads(body)
        position, totals = answer["as_of"]["position"], answer["balances"].get(ASSET, {})
        debited, credited = totals.get("posted_debits", 0), totals.get("posted_credits", 0)
        self.seen.append(Seen(ledger, account, known, position, debited, credited))
        return max(known, int(position))

    def _get(self, ledger: str, account: str, known: int) -> tuple[int, bytes]:
        place = urlsplit(self._url())
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_S_MAX)
        try:
            path = f"/v1/ledgers/{ledger}/accounts/{account}/balances"
            connection.request("GET", path, headers={**self._headers, "Daybook-Position": str(known)})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
