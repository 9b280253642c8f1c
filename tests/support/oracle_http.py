"""The write side's answers as the oracle expects them: keys and their repetitions, batches, dry runs, HTTP status.

A `Told` holds the part of an answer that the rules fix. `contains` compares it with what the service said.
"""

import copy
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tests.support.oracle import decide, open_books
from tests.support.oracle_books import Asked, Books, Json, Refused, Rejected

ACTOR = "teller"
NOT_FOUND = ("ledger_not_found", "transaction_not_found", "account_not_found")
MAKES = ("open_ledger", "open_account", "post_transaction", "reverse_transaction")  # answered 201


class Command(NamedTuple):
    """One command to one ledger. `body` holds the `address` or `transaction` of the path too."""

    ledger: str
    kind: str
    body: Json

    @property
    def path(self) -> tuple[str, str]:
        """Method and path of its route."""
        method, path = ROUTES[self.kind]
        return method, path.format(ledger=self.ledger, **{name: self.body.get(name, "") for name in IN_PATH})

    @property
    def sent(self) -> Json:
        """What the request's body holds."""
        in_path = [name for name in IN_PATH if f"{{{name}}}" in ROUTES[self.kind][1]]
        return {name: value for name, value in self.body.items() if name not in in_path}

    @property
    def question(self) -> str:
        """Equal exactly for those that ask the same thing, however amounts were written."""
        return json.dumps([self.ledger, self.kind, _plain(self.body)], sort_keys=True)


class Element(NamedTuple):
    """A command of a batch. `new_id`: what the service called the transaction that it makes."""

    command: Command
    key: str
    new_id: str = ""


IN_PATH = ("address", "transaction")
_LEDGER = "/v1/ledgers/{ledger}"
_ACCOUNT = _LEDGER + "/accounts/{address}"
_TRANSACTION = _LEDGER + "/transactions/{transaction}"
ROUTES = {
    "open_ledger": ("POST", "/v1/ledgers"),
    "archive_ledger": ("POST", _LEDGER + "/archive"),
    "reopen_ledger": ("POST", _LEDGER + "/reopen"),
    "patch_ledger_metadata": ("PATCH", _LEDGER + "/metadata"),
    "open_account": ("POST", _LEDGER + "/accounts"),
    "set_limits": ("PUT", _ACCOUNT + "/limits"),
    "freeze_account": ("POST", _ACCOUNT + "/freeze"),
    "unfreeze_account": ("POST", _ACCOUNT + "/unfreeze"),
    "close_account": ("POST", _ACCOUNT + "/close"),
    "reopen_account": ("POST", _ACCOUNT + "/reopen"),
    "patch_account_metadata": ("PATCH", _ACCOUNT + "/metadata"),
    "post_transaction": ("POST", _LEDGER + "/transactions"),
    "post_hold": ("POST", _TRANSACTION + "/post"),
    "void_hold": ("POST", _TRANSACTION + "/void"),
    "cancel_scheduled": ("POST", _TRANSACTION + "/cancel"),
    "reverse_transaction": ("POST", _TRANSACTION + "/reverse"),
    "patch_transaction_metadata": ("PATCH", _TRANSACTION + "/metadata"),
}


@dataclass
class Told:
    """What an answer must hold. `balances` are shown only to those who asked."""

    status: int
    body: Json = field(default_factory=dict)
    balances: Json = field(default_factory=dict)
    is_replay: bool = False

    @property
    def is_kept(self) -> bool:
        """Put on record under its key."""
        return "position" in self.body

    @property
    def rehearsed(self) -> "Told":
        """The same of a dry run, which nothing has a position after."""
        body = {name: value for name, value in self.body.items() if name != "position"} | {"dry_run": True}
        return Told(self.status if self.status >= 400 else 200, body, self.balances)

    def as_of(self, index: int) -> "Told":
        """The same as the problem of an atomic batch, from its element `index`."""
        return Told(self.status, self.body | {"command": index}, is_replay=self.is_replay)


class Oracle:
    """Everything a caller can learn of the write side. `keys`: by ledger, who and key, what was asked and told."""

    def __init__(self) -> None:
        self.books: dict[str, Books] = {}
        self.keys: dict[tuple[str, str, str], tuple[str, Told]] = {}

    def send(
        self,
        command: Command,
        key: str,
        now: datetime,
        *,
        actor: str = "teller",
        new_id: str = "",
        dry_run: bool = False,
    ) -> Told:
        """What the service must answer, and does with its books."""
        known = self.keys.get((command.ledger, actor, key))
        if known is not None:
            return _again(known, command)
        if dry_run:
            return copy.deepcopy(self)._decided(command, Asked(now, new_id)).rehearsed
        told = self._decided(command, Asked(now, new_id))
        if told.is_kept:
            self.keys[command.ledger, ACTOR, key] = (command.question, told)
        return told

    def send_atomic(self, elements: list[Element], now: datetime, *, dry_run: bool = False) -> list[Told] | Told:
        """The results, or the one problem that turned the whole batch down."""
        known = [self.keys.get((each.command.ledger, ACTOR, each.key)) for each in elements]
        again = [_again(found, each.command) for found, each in zip(known, elements, strict=True) if found]
        if again:
            return self._known_together(known, again)
        trial = copy.deepcopy(self)
        results = []
        for index, each in enumerate(elements):
            told = trial.send(each.command, each.key, now, new_id=each.new_id)
            if told.status == 422 and not dry_run:
                problem = {name: value for name, value in told.body.items() if name != "position"}
                told = self._refuse(each.command, problem)
                if told.is_kept:
                    self.keys[each.command.ledger, ACTOR, each.key] = (each.command.question, told)
            if told.status >= 400:
                return (told.rehearsed if dry_run else told).as_of(index)
            results.append(told)
        if dry_run:
            return [told.rehearsed for told in results]
        self.books, self.keys = trial.books, trial.keys
        return results

    def rehearse_batch(self, elements: list[Element], now: datetime) -> list[Told]:
        """What the commands would come to one after the other, each standing or falling alone."""
        trial = copy.deepcopy(self)
        results: list[Told] = []
        joined: dict[tuple[str, str], Told] = {}  # a repetition joins the first, whatever becomes of that
        for each in elements:
            same = (each.key, each.command.question)
            was_known = (each.command.ledger, ACTOR, each.key) in self.keys
            told = joined.get(same) or trial.send(each.command, each.key, now, new_id=each.new_id)
            joined[same] = told
            results.append(told if was_known else told.rehearsed)
        return results

    def _known_together(self, known: "list[tuple[str, Told] | None]", again: list[Told]) -> list[Told] | Told:
        """The first answer of an atomic batch of which some keys are known."""
        indexes = [index for index, found in enumerate(known) if found]
        for index, told in zip(indexes, again, strict=True):
            if told.status == 409:
                return told.as_of(index)
        refused = [index for index, told in zip(indexes, again, strict=True) if told.status == 422]
        if refused and len(refused) == len(again):
            return again[0].as_of(refused[0])
        return Told(409, {"code": "batch_partly_known"}) if refused or len(again) < len(known) else again

    def _decided(self, command: Command, asked: Asked) -> Told:
        books = self.books.get(command.ledger)
        if command.kind == "open_ledger":
            if books is not None:
                return Told(409, {"code": "ledger_exists"})
            self.books[command.ledger] = open_books(command.body)
            return Told(201, {"ledger": {"ledger": command.ledger}, "position": 1})
        if books is None:
            return Told(404, {"code": "ledger_not_found"})
        try:
            body = decide(books, command.kind, command.body, asked)
        except Rejected as rejected:
            return Told(_status(rejected), {"code": rejected.code} | rejected.fields)
        except Refused as refused:
            return self._refuse(command, {"code": refused.code} | refused.fields)
        balances = body.pop("balances", {})
        return Told(201 if command.kind in MAKES else 200, body | {"position": books.head}, balances)

    def _refuse(self, command: Command, problem: Json) -> Told:
        """422, on record where the ledger keeps refusals."""
        books = self.books[command.ledger]
        return Told(422, problem | ({"position": books.record()} if books.records_refusals else {}))


def contains(expected: Any, found: Any) -> bool:
    """True if `found` says all that `expected` does; objects may say more, amounts may be text."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and contains(value, found[name]) for name, value in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(contains, expected, found))
    if isinstance(expected, int) and not isinstance(expected, bool) and isinstance(found, str):
        return str(expected) == found
    return bool(expected == found) and isinstance(expected, bool) == isinstance(found, bool)


def _again(known: tuple[str, Told], command: Command) -> Told:
    question, told = known
    if question != command.question:
        return Told(409, {"code": "idempotency_key_reused"})
    return Told(told.status, told.body, told.balances, is_replay=True)


def _status(rejected: Rejected) -> int:
    return 404 if rejected.code in NOT_FOUND else 409


def _plain(value: Any, name: str = "") -> Any:
    """With amounts as integers."""
    if isinstance(value, dict):
        return {inner: _plain(each, inner) for inner, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, name) for each in value]
    return int(value) if name in ("amount", "minimum", "maximum", "gte", "lte", "eq") and value is not None else value
