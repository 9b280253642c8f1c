"""The rule book of double entry once more, in plain Python: what the write side must say to each command, and do.

Written from design §2, §4 and §7 and the rules in docs/api.md; it shares no code with `command_service` and knows no HTTP
status, fence, cache or batch. Slow and simple on purpose: one ledger, dictionaries, integers, guards in the order of the book.
`oracle_http.py` puts keys, batches and dry runs over it, `oracle_log.py` judges a log with it.
"""

from collections.abc import Iterable
from typing import Any

from tests.support.oracle_books import (
    OTHER_SIDE,
    Account,
    Asked,
    Books,
    Json,
    Place,
    Refused,
    Rejected,
    Transaction,
    check_conditions,
    check_limits,
    entries_of,
    fits,
    moment,
    patched,
    place_of,
    stated,
    sums,
)
from tests.support.oracle_terms import TERMS_RULES


def decide(books: Books, kind: str, command: Json, asked: Asked) -> Json:
    """The command is done, and what its answer must hold is given. Raises Refused or Rejected, and then nothing was done.

    `command` is the body, with `address` or `transaction` from the path among its fields.
    """
    if books.is_archived and kind not in ("void_hold", "expire_hold", "reopen_ledger"):
        raise Refused("ledger_archived")
    result: Json = _RULES[kind](books, command, asked)
    return result


def open_books(command: Json) -> Books:
    """A new ledger after its first event."""
    return Books(
        name=command["ledger"],
        accounts_mode=command.get("accounts", "on-first-use"),
        defaults=command.get("defaults", []),
        records_refusals=command.get("records_refusals", True),
        metadata=dict(command.get("metadata", {})),
        head=1,
    )


# Transactions -----------------------------------------------------------------------------------------------


def post_transaction(books: Books, command: Json, asked: Asked) -> Json:
    """Posted, held or scheduled."""
    status = command.get("status", "posted")
    _not_too_late(command.get("effective_at"), asked)
    if command.get("expires_at") and moment(command["expires_at"]) <= asked.now:
        raise Refused("expires_at_passed")
    if status == "scheduled":
        return _schedule(books, command, asked)
    new = _new_transaction(command, asked, status=status)
    _post(books, new, conditions=command.get("conditions", []))
    return _made(new) | _balances(books, new.entries)


def post_hold(books: Books, command: Json, asked: Asked) -> Json:
    """Part or all of what is held is posted."""
    _not_too_late(command.get("effective_at"), asked)
    hold = _pending(books, command["transaction"])
    entries = [entry | {"amount": int(entry["amount"])} for entry in command.get("entries") or entries_of(hold.held)]
    for entry in entries:
        _may_be_used(books, entry, books.accounts.get(entry["account"]))
    check_conditions(books, command.get("conditions", []))
    _within(sums(entries), hold.held, "hold_exceeded", "held", entries)
    for place, amount in sums(entries).items():
        _move(books, place, "held", -amount)
        _move(books, place, "posted", amount)
        hold.held[place] -= amount
        hold.posted[place] = hold.posted.get(place, 0) + amount
    left = {place: amount for place, amount in hold.held.items() if amount}
    is_final = not (left and command.get("keep_remainder", False))
    released = {} if not is_final else left
    _release(books, hold, released)
    if is_final:
        hold.status = "posted"
    hold.effective_at = command.get("effective_at") or hold.effective_at
    books.record(*{entry["account"] for entry in entries}, *{place[0] for place in released})
    said = {"id": hold.id, "status": hold.status, "posted": entries, "released": entries_of(released)}
    return {"transaction": said} | _balances(books, [*entries, *entries_of(released)])


def void_hold(books: Books, command: Json, asked: Asked) -> Json:
    """What is still held is released, whatever state accounts and ledger are in."""
    hold = _pending(books, command["transaction"])
    released = entries_of(hold.held)
    _release(books, hold, dict(hold.held))
    hold.status = "posted" if hold.posted else "voided"
    books.record(*{entry["account"] for entry in released})
    said = {"id": hold.id, "status": hold.status, "released": released}
    return {"transaction": said} | _balances(books, released)


def expire_hold(books: Books, command: Json, asked: Asked) -> Json:
    """As a void, once its time is over."""
    hold = _pending(books, command["transaction"])
    if hold.expires_at is None or asked.now < moment(hold.expires_at):
        raise Rejected("not_due")
    void_hold(books, command, asked)
    hold.status = "posted" if hold.posted else "expired"
    return {"transaction": {"id": hold.id, "status": hold.status}}


def reverse_transaction(books: Books, command: Json, asked: Asked) -> Json:
    """A new transaction with the original's entries, or some of their amounts, turned round."""
    if command.get("effective_at") != "original":
        _not_too_late(command.get("effective_at"), asked)
    original = _existing(books, command["transaction"])
    left = {place: amount - original.reversed.get(place, 0) for place, amount in original.posted.items()}
    if not original.posted:
        raise Rejected("transaction_not_posted", transaction_status=original.status)
    if not any(left.values()):
        raise Rejected("already_reversed")
    named = command.get("entries") or entries_of(left)
    turned = [entry | {"direction": OTHER_SIDE[entry["direction"]]} for entry in named]
    new = _new_transaction(command | {"entries": turned}, asked, status="posted")
    new.reverses = original.id
    if new.effective_at == "original":
        new.effective_at = original.effective_at
    _post(
        books,
        new,
        conditions=command.get("conditions", []),
        before_limits=lambda: _within(sums(named), left, "reversal_exceeds", "reversible", named),
        is_forced=command.get("force", False),
        opens=False,
    )
    for place, amount in sums(named).items():
        original.reversed[place] = original.reversed.get(place, 0) + amount
    return _made(new) | _balances(books, new.entries)


def post_scheduled(books: Books, command: Json, asked: Asked) -> Json:
    """The scheduled transaction is posted at its time, or refused: its end either way (the caller records a refusal so)."""
    waiting = _scheduled(books, command["transaction"])
    if asked.now < moment(str(waiting.effective_at)):
        raise Rejected("not_due")
    waiting.status = "posted"
    try:
        _post(books, waiting, conditions=[], is_new=False)
    except Refused:
        waiting.status = "scheduled"
        raise
    return _made(waiting)


def cancel_scheduled(books: Books, command: Json, asked: Asked) -> Json:
    """It will not be posted."""
    waiting = _scheduled(books, command["transaction"])
    waiting.status = "cancelled"
    books.record()
    return {"transaction": {"id": waiting.id, "status": "cancelled"}}


def patch_transaction_metadata(books: Books, command: Json, asked: Asked) -> Json:
    """Notes on a transaction."""
    transaction = _existing(books, command["transaction"])
    transaction.metadata = patched(transaction.metadata, command["metadata"])
    books.record()
    return {}


def _schedule(books: Books, command: Json, asked: Asked) -> Json:
    if moment(command["effective_at"]) <= asked.now:
        raise Refused("scheduled_in_the_past")
    new = _new_transaction(command, asked, status="scheduled")
    _claim(books, new)
    books.record()
    return _made(new)


def _new_transaction(command: Json, asked: Asked, *, status: str) -> Transaction:
    return Transaction(
        id=command.get("id") or asked.new_id,
        status=status,
        entries=[entry | {"amount": int(entry["amount"])} for entry in command["entries"]],
        effective_at=command.get("effective_at"),
        expires_at=command.get("expires_at"),
        reference=command.get("reference"),
        description=command.get("description"),
        metadata=dict(command.get("metadata", {})),
        was_held=status == "pending",
    )


def _post(
    books: Books,
    new: Transaction,
    *,
    conditions: list[Json],
    before_limits: Any = None,
    is_forced: bool = False,
    is_new: bool = True,
    opens: bool = True,
) -> None:
    """The common part of whatever puts entries on accounts: guards in order, then the effect."""
    opened: dict[str, Account] = {}
    for entry in new.entries:
        account = books.accounts.get(entry["account"]) or opened.get(entry["account"])
        if account is None and opens and books.accounts_mode == "on-first-use":
            account = opened[entry["account"]] = _by_default(books, entry["account"])
        _may_be_used(books, entry, account)
    check_conditions(books, conditions)
    if before_limits is not None:
        before_limits()
    if not is_forced:
        check_limits(books.accounts | opened, new)
    if is_new:
        _claim(books, new)
    for address, account in opened.items():
        books.accounts[address] = account
        books.record(address)
    into = "held" if new.status == "pending" else "posted"
    for place, amount in sums(new.entries).items():
        _move(books, place, into, amount)
        kept = new.held if new.status == "pending" else new.posted
        kept[place] = amount
    books.record(*{entry["account"] for entry in new.entries})


def _claim(books: Books, new: Transaction) -> None:
    if new.id in books.transactions:
        raise Rejected("transaction_exists")
    if new.reference is not None and new.reference in books.references:
        raise Rejected("reference_taken")
    books.transactions[new.id] = new
    if new.reference is not None:
        books.references[new.reference] = new.id


def _may_be_used(books: Books, entry: Json, account: Account | None) -> None:
    address = entry["account"]
    if account is None:
        raise Refused("account_not_open", account=address)
    if account.status == "closed":
        raise Refused("account_closed", account=address)
    if account.status == "frozen" and account.scope in ("all", f"{entry['direction']}s"):
        raise Refused("account_frozen", account=address, scope=account.scope)


def _within(asked: dict[Place, int], left: dict[Place, int], code: str, name: str, entries: list[Json]) -> None:
    for entry in entries:
        place = place_of(entry)
        if asked[place] > left.get(place, 0):
            fields = {name: left.get(place, 0), "asked": asked[place], "missing": asked[place] - left.get(place, 0)}
            raise Refused(code, account=place[0], asset=place[2], **fields)


def _existing(books: Books, transaction: str) -> Transaction:
    if transaction not in books.transactions:
        raise Rejected("transaction_not_found")
    return books.transactions[transaction]


def _pending(books: Books, transaction: str) -> Transaction:
    found = _existing(books, transaction)
    if not found.was_held:
        raise Rejected("transaction_not_pending")
    if found.status != "pending":
        raise Rejected("already_settled", transaction_status=found.status)
    return found


def _scheduled(books: Books, transaction: str) -> Transaction:
    found = _existing(books, transaction)
    if found.status != "scheduled":
        raise Rejected("transaction_not_scheduled", transaction_status=found.status)
    return found


def _not_too_late(effective_at: str | None, asked: Asked) -> None:
    if effective_at is not None and moment(effective_at) > asked.now + asked.ahead:
        raise Refused("effective_at_too_late")


def _move(books: Books, place: Place, kind: str, amount: int) -> None:
    books.accounts[place[0]].add(kind, place[1], place[2], amount)


def _release(books: Books, hold: Transaction, what: dict[Place, int]) -> None:
    for place, amount in what.items():
        _move(books, place, "held", -amount)
        hold.held[place] -= amount


def _made(new: Transaction) -> Json:
    """What the answer about a new transaction says of it."""
    said = {"id": new.id, "status": new.status, "entries": new.entries, "reference": new.reference}
    said |= {"description": new.description, "metadata": new.metadata}
    said |= {"effective_at": new.effective_at} if new.effective_at else {}  # else it is the recorded time
    said |= {"reverses": new.reverses} if new.reverses else {}
    return {"transaction": said}


def _balances(books: Books, moved: Iterable[Json]) -> Json:
    """What the accounts and assets of these entries have now."""
    found: Json = {}
    for address, asset in sorted({(entry["account"], entry["asset"]) for entry in moved}):
        found.setdefault(address, {})[asset] = books.accounts[address].balances(asset)
    return {"balances": found}


def _by_default(books: Books, address: str) -> Account:
    for defaults in books.defaults:
        if fits(defaults["pattern"], address):
            return Account(defaults.get("normal_balance", "credit"), stated(defaults.get("limits", {})))
    return Account("credit")


_RULES = TERMS_RULES | {
    rule.__name__: rule
    for rule in (
        post_transaction,
        post_hold,
        void_hold,
        expire_hold,
        reverse_transaction,
        post_scheduled,
        cancel_scheduled,
        patch_transaction_metadata,
    )
}
