"""The bank's year as rows, what its books must say, and a steady load to kill processes under.

Sums are made here from the published columns alone, so that a fault of the converter cannot agree with itself.
"""

import csv
import gzip
import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from daybook.client import Client, Target, ledger_path
from daybook.terminal import CommandFailed
from shared_kernel.errors import DaybookError

ROOT = Path(__file__).parents[2]
YEAR = ROOT.parent / "shared" / "data" / "berka-1993.csv.gz"
SAMPLE = ROOT / "examples" / "berka" / "sample.csv"
PAGE_ROWS = 1_000
ACKNOWLEDGED_SECONDS_MAX = 120  # longer than any process may take to come back
ASSET = "CZK/2"


class Row(msgspec.Struct, frozen=True):
    """A row's number, its account, and its amount in hellers, positive for money in."""

    reference: str
    account: str
    amount: int


class _Balance(msgspec.Struct):
    posted: int


class _Balances(msgspec.Struct):
    balances: dict[str, _Balance]
    complete: bool


class _TrialTotal(msgspec.Struct):
    debits: int
    credits: int
    difference: int


class _Trial(msgspec.Struct):
    assets: dict[str, _TrialTotal]
    complete: bool


class _Transaction(msgspec.Struct):
    reference: str | None


class _Metadata(msgspec.Struct):
    key: str | None = None


class _Event(msgspec.Struct):
    position: int
    type: str
    metadata: _Metadata


class _Transactions(msgspec.Struct):
    data: list[_Transaction]
    next_cursor: str | None


class _Events(msgspec.Struct):
    data: list[_Event]
    next_cursor: str | None


class Books:
    """What the query service says of one ledger, never older than `position`."""

    def __init__(self, target: Target, ledger: str, position: int | None = None) -> None:
        self._client = Client(target.query_url, target.token("auditor"))
        self._ledger = ledger
        self._position = position

    def close(self) -> None:
        self._client.close()

    def posted(self, account: str) -> int:
        path = ledger_path(self._ledger, "accounts", account, "balances")
        read = self._client.get(path, position=self._position).read(_Balances)
        assert read.complete
        return read.balances[ASSET].posted

    def trial_balance(self) -> _TrialTotal:
        read = self._client.get(ledger_path(self._ledger, "trial-balance"), position=self._position).read(_Trial)
        assert read.complete
        assert list(read.assets) == [ASSET]
        return read.assets[ASSET]

    def references(self) -> Iterator[str | None]:
        cursor: str | None = None
        while True:
            page = self._client.get(
                ledger_path(self._ledger, "transactions"), position=self._position, limit=PAGE_ROWS, cursor=cursor
            ).read(_Transactions)
            yield from (transaction.reference for transaction in page.data)
            if (cursor := page.next_cursor) is None:
                return

    def events(self) -> Iterator[_Event]:
        cursor: str | None = None
        while True:
            page = self._client.get(
                ledger_path(self._ledger, "events"), order="oldest", limit=PAGE_ROWS, cursor=cursor
            ).read(_Events)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return


def source() -> Path:
    """The bank's real year where it lies beside the clone, else the sample that the project ships."""
    return YEAR if YEAR.exists() else SAMPLE


def read_rows(path: Path) -> list[Row]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return [
        Row(
            reference=f"berka-{row['trans_id']}",
            account=f"bank:clients:{row['account_id']}",
            amount=int(row["amount"].replace(".", "")) * (1 if row["type"] == "PRIJEM" else -1),
        )
        for row in csv.DictReader(io.StringIO(content.decode()))
    ]


def sums(rows: list[Row]) -> dict[str, int]:
    """What each account's balance must be."""
    found: Counter[str] = Counter()
    for row in rows:
        found[row.account] += row.amount
    return dict(found)


def check_books(books: Books, rows: list[Row]) -> int:
    """Every balance is the plain sum of its rows, debits equal credits, each row is there once, positions have no
    gaps. Returns the head."""
    expected = sums(rows)
    assert {account: books.posted(account) for account in expected} == expected
    trial = books.trial_balance()
    assert trial.difference == 0
    assert trial.debits == trial.credits == sum(abs(row.amount) for row in rows)
    references = Counter(books.references())
    assert references == Counter(row.reference for row in rows)
    return check_positions(books)


def check_positions(books: Books) -> int:
    """Positions are 1, 2, 3 … up to the head, which is returned."""
    head = 0
    for event in books.events():
        head += 1
        assert event.position == head
    return head


class SteadyLoad:
    """Threads that post to a ledger one transaction after another until stopped, each repeated under its key until it
    is acknowledged. Users' accounts have a minimum of 0 and every draw is covered by an acknowledged credit, so a lost
    one shows as a refusal."""

    def __init__(self, target: Target, ledger: str, threads: int = 4) -> None:
        self._target = target
        self._ledger = ledger
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.acknowledged: list[str] = []
        self.expected: Counter[str] = Counter()
        self.position = 0
        self.longest_seconds = 0.0
        self.faults: list[str] = []

    def open(self) -> None:
        opener = Client(self._target.command_url, self._target.token("writer"))
        defaults = [{"pattern": "users:*", "limits": {ASSET: {"minimum": 0}}}]
        body = msgspec.json.encode({"ledger": self._ledger, "accounts": "on-first-use", "defaults": defaults})
        opener.post("/v1/ledgers", body, key=f"open:{self._ledger}")
        opener.close()

    def __enter__(self) -> "SteadyLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int, within_seconds: float) -> None:
        """So many more commands are acknowledged from now on."""
        wanted = len(self.acknowledged) + count
        wait_until(
            lambda: bool(self.faults) or len(self.acknowledged) >= wanted,
            within_seconds,
            f"the load did not go on: {len(self.acknowledged)} of {wanted} acknowledged",
        )
        assert self.faults == []

    def _run(self, thread: int) -> None:
        client = Client(self._target.command_url, self._target.token("writer"))
        number = 0
        while not self._stop.is_set() and not self.faults:
            number += 1
            account, amount = f"users:{thread}", 100 if number % 2 else -40
            debit, credit = ("world", account) if amount > 0 else (account, "world")
            sides = (("debit", debit), ("credit", credit))
            entries = [
                {"account": name, "direction": side, "amount": abs(amount), "asset": ASSET} for side, name in sides
            ]
            key = f"load-{thread}-{number}"
            body = msgspec.json.encode({"entries": entries, "reference": key})
            position = self._post(client, key, body)
            if position is None:
                break
            with self._lock:
                self.acknowledged.append(key)
                self.expected[account] += amount
                self.position = max(self.position, position)
        client.close()

    def _post(self, client: Client, key: str, body: bytes) -> int | None:
        began = time.monotonic()
        position: int | None = None
        while position is None:
            try:
                position = client.post(ledger_path(self._ledger, "transactions"), body, key=key).position
            except (DaybookError, CommandFailed) as error:
                if getattr(error, "status", 503) < 500 or time.monotonic() - began > ACKNOWLEDGED_SECONDS_MAX:
                    self.faults.append(f"{key}: {error}")
                    return None
        with self._lock:
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
        return position


def wait_until(is_so: Callable[[], bool], within_seconds: float, complaint: str) -> None:
    """Polls; fails with the complaint when the time is over."""
    deadline = time.monotonic() + within_seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{complaint} within {within_seconds:.0f} s"
        time.sleep(0.05)
