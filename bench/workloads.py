"""What is posted: ledgers made ready for measuring, and the requests of executor workloads W1 and W4.

W1: transfers between accounts chosen at random among 10,000, every one with a minimum of 0 and funded; one transaction a
request. W4: the same in batches of 100. Bodies carry two entries, a description and metadata; every command has its key.
"""

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import TypeVar

import msgspec

from bench.generator import UnexpectedAnswer, Workload
from daybook.client import Client, ledger_path

ACCOUNTS = 10_000
ASSET = "EUR/2"
FUNDS = 1_000_000_00  # chosen: no run comes near to spending it, so nothing is refused
OPENED_A_BATCH = 500
FUNDED_A_TRANSACTION = 499  # with the one debit, the most entries a transaction may have
BATCH_COMMANDS = 100
SEED = 20261124  # the same accounts in the same order each run
TRANSFERS = 20_000  # chosen: made before anything is measured, and sent again and again; every command has its own key
PartT = TypeVar("PartT")
_SETTLED = b'{"status":201,'


class _Result(msgspec.Struct):
    status: int


class _Results(msgspec.Struct):
    results: list[_Result]


def address(number: int) -> str:
    """An account's address; all have the same length, so that all requests have."""
    return f"users:{number:05d}:wallet"


def open_ledger(client: Client, ledger: str, *, accounts: int = ACCOUNTS) -> int:
    """A new ledger with so many accounts open, limited and funded; gives the number of transactions that took."""
    client.post("/v1/ledgers", msgspec.json.encode({"ledger": ledger, "accounts": "explicit"}), key=f"open:{ledger}")
    limits = {ASSET: {"minimum": 0}}
    opened: list[dict[str, object]] = [{"address": "world", "normal_balance": "debit"}]
    opened += ({"address": address(number), "limits": limits} for number in range(accounts))
    for part in _parts(opened, OPENED_A_BATCH):
        _post_all(client, ledger, "open_account", part)
    funded: list[dict[str, object]] = []
    for numbers in _parts(list(range(accounts)), FUNDED_A_TRANSACTION):
        credited = [
            {"account": address(number), "direction": "credit", "amount": FUNDS, "asset": ASSET} for number in numbers
        ]
        world = {"account": "world", "direction": "debit", "amount": FUNDS * len(credited), "asset": ASSET}
        funded.append({"entries": [world, *credited]})
    for part in _parts(funded, 5):
        _post_all(client, ledger, "post_transaction", part)
    return len(funded)


def singles(
    url_host: str, token: str, ledger: str, run: str, *, accounts: int = ACCOUNTS, seed: int = SEED
) -> Workload:
    """W1: one transaction a request; among ten accounts it is W3. `run` makes the keys unique."""
    bodies = _transfers(accounts, seed)
    body_length = len(next(bodies))
    head = _head(url_host, token, f"{ledger_path(ledger, 'transactions')}", body_length) + b"idempotency-key: "
    keys = (f"{run}-{number:09d}\r\n\r\n".encode() for number in itertools.count())

    def make() -> bytes:
        return b"".join((head, next(keys), next(bodies)))

    def count(answer: bytes) -> int:
        if answer.startswith(b"HTTP/1.1 201 "):
            return 1
        raise UnexpectedAnswer(answer[-1000:].decode("utf-8", "replace"))

    return Workload(make=make, count=count)


def batches(url_host: str, token: str, ledger: str, run: str) -> Workload:
    """W4: 100 transactions a request."""
    bodies = _transfers()
    numbers = itertools.count()

    def element() -> bytes:
        return b'{"type":"post_transaction","key":"%s-%09d","data":%s}' % (run.encode(), next(numbers), next(bodies))

    def body() -> bytes:
        return b'{"commands":[' + b",".join(element() for _ in range(BATCH_COMMANDS)) + b"]}"

    head = _head(url_host, token, f"{ledger_path(ledger, 'batches')}", len(body())) + b"\r\n"

    def make() -> bytes:
        return head + body()

    def count(answer: bytes) -> int:
        if answer.startswith(b"HTTP/1.1 200 ") and answer.count(_SETTLED) == BATCH_COMMANDS:
            return BATCH_COMMANDS
        raise UnexpectedAnswer(answer[:2000].decode("utf-8", "replace"))

    return Workload(make=make, count=count)


def _head(host: str, token: str, path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n"
    ).encode()


def _transfers(accounts: int = ACCOUNTS, seed: int = SEED) -> Iterator[bytes]:
    """Endless bodies of one length, of transfers between two accounts chosen at random."""
    return itertools.cycle(_made_transfers(accounts, seed))


@cache
def _made_transfers(accounts: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    names = [address(number) for number in range(accounts)]
    made = []
    for _ in range(TRANSFERS):
        first, second = chance.sample(names, 2)
        amount = chance.randrange(100, 1000)
        body = (
            f'{{"entries":[{{"account":"{first}","direction":"debit","amount":{amount},"asset":"{ASSET}"}},'
            f'{{"account":"{second}","direction":"credit","amount":{amount},"asset":"{ASSET}"}}],'
            f'"description":"transfer","metadata":{{"channel":"app","order":"{chance.getrandbits(48):012x}"}}}}'
        )
        made.append(body.encode())
    return made


def _post_all(client: Client, ledger: str, kind: str, commands: list[dict[str, object]]) -> None:
    elements = [{"type": kind, "data": data} for data in commands]
    answer = client.post(
        ledger_path(ledger, "batches"),
        msgspec.json.encode({"commands": elements}),
        key=f"ready-{random.getrandbits(64):x}",
    )
    statuses = {result.status for result in answer.read(_Results).results}
    if statuses != {201}:
        raise UnexpectedAnswer(f"making the ledger ready: {statuses}")


def _parts(whole: list[PartT], size: int) -> Iterator[list[PartT]]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
