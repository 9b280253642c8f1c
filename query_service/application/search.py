"""Which index a filtered list walks: the one that leaves the fewest rows to look at. Pure.

Whatever is chosen, the whole filter is judged on every row, so that the choice decides how long a page takes, never what is on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from query_service.application import questions
from query_service.application.filters import Condition, Field, Fields, Tree, alternatives, conjuncts
from query_service.application.pages import BEGINNING, Key
from query_service.application.query_handler import Question, Value
from query_service.application.questions import ListedAccountRow, Order, RefusalRow, TransactionRow
from query_service.application.reports import AFTER_ASCII
from shared_kernel import tags
from shared_kernel.words import Pattern

Sort = Literal["position", "effective_at"]

WALK_MAX: Final = 10_000  # chosen: subjects that one page looks at; about 0.1 s where each has to be read
_MICROSECOND: Final = timedelta(microseconds=1)

STATUSES: Final = ("posted", "pending", "voided", "expired", "scheduled", "refused", "cancelled")
TRANSACTION_FIELDS: Final[Fields] = {
    "id": Field("text"),
    "status": Field("choice", STATUSES),
    "reference": Field("text"),
    "description": Field("text"),
    "account": Field("pattern"),
    "asset": Field("text"),
    "amount": Field("amount"),
    "metadata": Field("metadata"),
    "effective_at": Field("time"),
    "recorded_at": Field("time"),
    "expires_at": Field("time"),
    "reverses": Field("text"),
    "forced": Field("flag"),
    "actor": Field("text"),
    "correlation_id": Field("text"),
}
ACCOUNT_FIELDS: Final[Fields] = {
    "address": Field("pattern"),
    "status": Field("choice", ("open", "frozen", "closed")),
    "normal_balance": Field("choice", ("debit", "credit")),
    "frozen": Field("choice", ("all", "debits", "credits")),
    "metadata": Field("metadata"),
    "on_first_use": Field("flag"),
    "opened_at": Field("time"),
}
REFUSAL_FIELDS: Final[Fields] = {
    "code": Field("text"),
    "command": Field("text"),
    "caller": Field("text"),
    "account": Field("pattern"),
    "transaction": Field("text"),
    "key": Field("text"),
    "correlation_id": Field("text"),
    "recorded_at": Field("time"),
}


class Walk(NamedTuple):
    """An index, by the word that its statements have in their names, and what is looked up in it."""

    along: str
    looked_up: Mapping[str, Value] = {}


class Range(NamedTuple):
    """From a time to another, both included; None: no bound."""

    begin: datetime | None
    end: datetime | None


def transactions(
    tree: Tree, *, sort: Sort, order: Order, after: Key, is_live: bool
) -> tuple[Question[TransactionRow], dict[str, Value]]:
    """The question that finds the transactions of a filter after one of them, and its parameters but for what is not of births.

    By effective time an index leads to a transaction whatever was shown before, since its births are in another order.
    `is_live`: the answer is as of the newest position, so that what is unsettled now is what is unsettled in it.
    """
    conditions = list(conjuncts(tree))
    recorded, effective = _within(conditions, "recorded_at"), _within(conditions, "effective_at")
    walk = _transaction_walk(tree, is_live=is_live)
    along = f"effective_{walk.along}" if sort == "effective_at" else walk.along
    question = questions.TRANSACTIONS[along][order]._replace(filter=tree, fields="transactions")
    bounds: dict[str, Value] = {
        "after_birth": (BEGINNING[order] if sort == "effective_at" else after).position,
        "recorded_from": recorded.begin,
        "recorded_until": recorded.end,
        "effective_from": effective.begin,
        "effective_until": effective.end,
    }
    return question, {**bounds, **walk.looked_up, "walk_max": WALK_MAX}


def _transaction_walk(  # noqa: PLR0911 a flat ladder, one index a line
    tree: Tree, *, is_live: bool
) -> Walk:
    """The most telling first: what is unique, then labels and amounts, then several of them, then what is not settled, an account."""
    found = {condition.field: condition for condition in conjuncts(tree) if _is_equality(condition)}
    by_field = {field: str(condition.values[0]) for field, condition in found.items()}
    if "id" in found:
        return Walk("identified_", {"indexed": by_field["id"]})
    if "reference" in found:
        return Walk("referenced_", {"indexed": by_field["reference"]})
    if "metadata" in found:
        return Walk("labelled_", {"key": found["metadata"].key, "indexed": by_field["metadata"]})
    if "amount" in found and found["amount"].key is not None:
        return Walk("amount_", {"asset": found["amount"].key, "indexed": by_field["amount"]})
    if several := _several(tree, ("id", "reference", "metadata")):
        kinds, keys, values = zip(*several, strict=True)
        return Walk("either_", {"kinds": list(kinds), "keys": list(keys), "indexed": list(values)})
    if is_live and by_field.get("status") in ("pending", "scheduled"):
        return Walk("unsettled_", {"indexed": by_field["status"]})
    if "account" in found and "*" not in by_field["account"]:
        return Walk("account_", {"address": by_field["account"]})
    if by_field.get("status", "posted") != "posted":
        return Walk("status_", {"indexed": by_field["status"]})
    return Walk("")


def _several(tree: Tree, fields: Sequence[str]) -> list[tuple[str, str, str]]:
    """Field, key and value of lookups that lead together to all that fits; empty: these fields have none."""
    return next(filter(None, (_lookups(parts, fields) for parts in alternatives(tree))), [])


def _lookups(parts: Iterable[Tree], fields: Sequence[str]) -> list[tuple[str, str, str]]:
    """Those for each of these parts, together all that fits any; empty: some part has none."""
    lookups: list[tuple[str, str, str]] = []
    for part in parts:
        found = {condition.field: condition for condition in conjuncts(part) if condition.operator in ("=", "in")}
        telling = next((found[field] for field in fields if field in found), None)
        if telling is None:
            return []
        lookups += ((telling.field, telling.key or "", str(value)) for value in telling.values)
    return lookups


def accounts(tree: Tree) -> tuple[Question[ListedAccountRow], dict[str, Value]]:
    """The question that finds the accounts of a filter, and its parameters but for the page."""
    found = {condition.field: condition for condition in conjuncts(tree) if _is_equality(condition)}
    patterns = [each.values[0] for each in conjuncts(tree) if each.field == "address" and _is_equality(each)]
    prefix = max((Pattern(str(pattern)).prefix() for pattern in patterns), key=len, default="")
    question, looked_up = questions.ACCOUNTS, dict[str, Value]()
    if "metadata" in found:
        label = found["metadata"]
        question, looked_up = questions.LABELLED_ACCOUNTS, {"key": label.key, "indexed": str(label.values[0])}
    elif several := _several(tree, ("metadata",)):
        _, keys, values = zip(*several, strict=True)
        question, looked_up = questions.EITHER_ACCOUNTS, {"keys": list(keys), "indexed": list(values)}
    elif "status" in found and found["status"].values[0] != "open":
        question, looked_up = questions.STATUS_ACCOUNTS, {"indexed": str(found["status"].values[0])}
    bounds: dict[str, Value] = {"low": prefix, "high": prefix + AFTER_ASCII}
    return question._replace(filter=tree, fields="accounts"), {**bounds, **looked_up, "walk_max": WALK_MAX}


def refusals(tree: Tree, *, order: Order) -> tuple[Question[RefusalRow], dict[str, Value]]:
    """The question that finds the refusals of a filter, and its parameters but for the page."""
    conditions = list(conjuncts(tree))
    by_field = {condition.field: str(condition.values[0]) for condition in conditions if _is_equality(condition)}
    recorded = _within(conditions, "recorded_at")
    walk = Walk("")
    if "account" in by_field and "*" not in by_field["account"]:
        walk = Walk("by_account_", {"indexed": tags.refused_tag(by_field["account"])})
    elif "caller" in by_field:
        walk = Walk("by_caller_", {"indexed": by_field["caller"]})
    elif "code" in by_field:
        walk = Walk("by_code_", {"indexed": by_field["code"]})
    question = questions.REFUSALS[walk.along][order]._replace(filter=tree, fields="refusals")
    bounds: dict[str, Value] = {"recorded_from": recorded.begin, "recorded_until": recorded.end}
    return question, {**bounds, **walk.looked_up, "walk_max": WALK_MAX}


def _is_equality(condition: Condition) -> bool:
    return condition.operator in ("=", "in") and len(condition.values) == 1


def _within(conditions: Iterable[Condition], field: str) -> Range:
    """The narrowest range that the conditions on a time leave."""
    begin: datetime | None = None
    end: datetime | None = None
    for condition in conditions:
        time = condition.values[0]
        if condition.field != field or not isinstance(time, datetime):
            continue
        match condition.operator:
            case ">" | ">=":
                low = moved(time, 1) if condition.operator == ">" else time
                begin = low if begin is None else max(begin, low)
            case "<" | "<=":
                high = moved(time, -1) if condition.operator == "<" else time
                end = high if end is None else min(end, high)
    return Range(begin, end)


def moved(time: datetime, microseconds: int) -> datetime:
    """A little later, or earlier. Times end at the years 1 and 9999; nothing is recorded or effective beyond."""
    try:
        return time + microseconds * _MICROSECOND
    except OverflowError:
        return time
