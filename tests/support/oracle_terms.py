"""The oracle's rules about accounts and the ledger as a whole: terms, freezing, closing, archiving, notes."""

from tests.support.oracle_books import (
    Account,
    Asked,
    Books,
    Json,
    Refused,
    Rejected,
    check_conditions,
    patched,
    stated,
)


def open_account(books: Books, command: Json, asked: Asked) -> Json:
    """An account of its own terms."""
    address = command["address"]
    if address in books.accounts:
        raise Rejected("account_exists")
    normal, limits = command.get("normal_balance", "credit"), command.get("limits", {})
    books.accounts[address] = Account(normal, stated(limits), dict(command.get("metadata", {})))
    books.record(address)
    return {"account": {"address": address, "normal_balance": normal, "status": "open", "limits": stated(limits)}}


def set_limits(books: Books, command: Json, asked: Asked) -> Json:
    """All its limits, anew; those that are passed already are named."""
    account = _not_closed(books, command["address"])
    check_conditions(books, command.get("conditions", []))
    account.limits = stated(command["limits"])
    books.record(command["address"])
    breached = []
    for asset in account.limits:
        minimum, maximum = account.bound(asset, "minimum"), account.bound(asset, "maximum")
        is_low = minimum is not None and account.available(asset) < minimum
        if is_low or (maximum is not None and account.filled(asset) > maximum):
            breached.append(asset)
    return {"account": {"address": command["address"], "limits": account.limits, "breached": sorted(breached)}}


def freeze_account(books: Books, command: Json, asked: Asked) -> Json:
    """Nothing of the scope any more; the scope of a frozen one is replaced."""
    account = _not_closed(books, command["address"])
    account.status, account.scope = "frozen", command.get("scope", "all")
    books.record(command["address"])
    return {"account": {"address": command["address"], "status": "frozen", "frozen": account.scope}}


def unfreeze_account(books: Books, command: Json, asked: Asked) -> Json:
    """Both directions again."""
    account = _open(books, command["address"])
    if account.status != "frozen":
        raise Refused("account_not_frozen", account=command["address"])
    account.status, account.scope = "open", None
    books.record(command["address"])
    return {"account": {"address": command["address"], "status": "open"}}


def close_account(books: Books, command: Json, asked: Asked) -> Json:
    """Only with zero balances and without holds."""
    address = command["address"]
    account = _not_closed(books, address)
    check_conditions(books, command.get("conditions", []))
    for asset in sorted(account.totals):
        if account.posted(asset):
            raise Refused("balance_not_zero", account=address, asset=asset, balance=account.posted(asset))
    for asset in sorted(account.totals):
        if account.total("held", "debit", asset) or account.total("held", "credit", asset):
            raise Refused("holds_pending", account=address, asset=asset)
    account.status, account.scope = "closed", None
    books.record(address)
    return {"account": {"address": address, "status": "closed"}}


def reopen_account(books: Books, command: Json, asked: Asked) -> Json:
    """Open again."""
    account = _open(books, command["address"])
    if account.status != "closed":
        raise Refused("account_not_closed", account=command["address"])
    account.status = "open"
    books.record(command["address"])
    return {"account": {"address": command["address"], "status": "open"}}


def patch_account_metadata(books: Books, command: Json, asked: Asked) -> Json:
    """Notes on an account."""
    account = _open(books, command["address"])
    account.metadata = patched(account.metadata, command["metadata"])
    books.record(command["address"])
    return {}


def archive_ledger(books: Books, command: Json, asked: Asked) -> Json:
    """Read-only."""
    books.is_archived = True
    books.record()
    return {}


def reopen_ledger(books: Books, command: Json, asked: Asked) -> Json:
    """Open for commands again."""
    if not books.is_archived:
        raise Refused("ledger_not_archived")
    books.is_archived = False
    books.record()
    return {}


def patch_ledger_metadata(books: Books, command: Json, asked: Asked) -> Json:
    """Notes on the ledger."""
    books.metadata = patched(books.metadata, command["metadata"])
    books.record()
    return {}


def _open(books: Books, address: str) -> Account:
    if address not in books.accounts:
        raise Refused("account_not_open", account=address)
    return books.accounts[address]


def _not_closed(books: Books, address: str) -> Account:
    account = _open(books, address)
    if account.status == "closed":
        raise Refused("account_closed", account=address)
    return account


TERMS_RULES = {
    rule.__name__: rule
    for rule in (
        open_account,
        set_limits,
        freeze_account,
        unfreeze_account,
        close_account,
        reopen_account,
        patch_account_metadata,
        archive_ledger,
        reopen_ledger,
        patch_ledger_metadata,
    )
}
