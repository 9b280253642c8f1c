"""Filters as SQL: a tree of conditions becomes a text over the columns of one list, every value a parameter.

Each condition is true or false, never null: `application/filters.py` says what that means for clients.
"""

from collections.abc import Callable, Mapping
from typing import Final

from query_service.application.filters import All, Condition, Either, Literals, Not, Tree
from shared_kernel.words import Pattern

Values = dict[str, object]

# One entry of a transaction, and what it debits in each asset (its credits are the same): text in, true or false out.
_ENTRY: Final = "exists (select from jsonb_array_elements(version.entries::jsonb) entry (said) where {holds})"
_AMOUNT: Final = (
    "exists (select from jsonb_array_elements(version.entries::jsonb) entry (said)"
    " where said ->> 'direction' = 'debit'{of} group by said ->> 'asset'"
    " having sum((said ->> 'amount')::numeric) {operator} {value}::numeric)"
)

COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "transactions": {
        "id": "version.transaction_id",
        "status": "version.status",
        "reference": "version.reference",
        "description": "version.description",
        "reverses": "version.reverses",
        "forced": "version.is_forced",
        "actor": "version.actor",
        "correlation_id": "version.correlation_id",
        "effective_at": "version.effective_at",
        "recorded_at": "version.created_at",
        "expires_at": "version.expires_at",
    },
    "accounts": {
        "address": "version.address",
        "status": "version.status",
        "normal_balance": "version.normal_balance",
        "frozen": "version.frozen",
        "on_first_use": "version.on_first_use",
        "opened_at": "version.opened_at",
    },
    "refusals": {
        "code": "refusal.code",
        "command": "refusal.command",
        "caller": "refusal.actor",
        "correlation_id": "refusal.correlation_id",
        "key": "refusal.key",
        "transaction": "refusal.transaction_id",
        "recorded_at": "refusal.recorded_at",
    },
}
"""The column of each field by list; the fields that are not there are made of JSON below."""


def compiled(tree: Tree, fields: str) -> tuple[str, Values]:
    """The condition on the rows of a list, and its parameters: `f0`, `f1` …"""
    values: Values = {}

    def place(value: object) -> str:
        name = f"f{len(values)}"
        values[name] = value
        return f"%({name})s"

    return _text(tree, COLUMNS.get(fields, {}), place), values


Place = Callable[[object], str]


def _text(tree: Tree, columns: Mapping[str, str], place: Place) -> str:
    match tree:
        case Condition():
            return _condition(tree, columns, place)
        case All(parts):
            return "(" + " and ".join(_text(part, columns, place) for part in parts) + ")" if parts else "true"
        case Either(parts):
            return "(" + " or ".join(_text(part, columns, place) for part in parts) + ")"
        case Not(part):
            return f"(not {_text(part, columns, place)})"


def _condition(condition: Condition, columns: Mapping[str, str], place: Place) -> str:
    if condition.operator == "!=":
        return f"(not {_condition(condition._replace(operator='='), columns, place)})"
    if condition.operator == "in":
        equals = (condition._replace(operator="=", values=(value,)) for value in condition.values)
        return "(" + " or ".join(_condition(each, columns, place) for each in equals) + ")"
    return f"coalesce({_comparison(condition, condition.values[0], columns, place)}, false)"


def _comparison(  # noqa: PLR0911 a flat ladder, one kind a line
    condition: Condition, value: Literals, columns: Mapping[str, str], place: Place
) -> str:
    match condition.kind:
        case "metadata":
            subject = "version.metadata::jsonb ->> " + place(condition.key) + "::text"
            return f"{subject} = {place(value)}::text"
        case "pattern":
            column = columns.get(condition.field)
            if column is not None:
                return _fits(column, str(value), place)
            if condition.field == "account" and "code" in columns:  # of a refusal: the accounts that it looked at
                holds = _fits("looked.at", str(value), place)
                return (
                    f"exists (select from jsonb_array_elements_text(refusal.accounts::jsonb) looked (at) where {holds})"
                )
            return _ENTRY.format(holds=_fits("said ->> 'account'", str(value), place))
        case "amount":
            of = "" if condition.key is None else f" and said ->> 'asset' = {place(condition.key)}::text"
            return _AMOUNT.format(of=of, operator=condition.operator, value=place(str(value)))
        case "flag":
            return f"{columns[condition.field]} = {place(value)}::boolean"
        case "time":
            return f"{columns[condition.field]} {condition.operator} {place(value)}::timestamptz"
        case "text" | "choice" if condition.field == "asset":
            return _ENTRY.format(holds=f"said ->> 'asset' = {place(value)}::text")
        case _:
            return f"{columns[condition.field]} = {place(value)}::text"


def _fits(subject: str, pattern: str, place: Place) -> str:
    """An address without stars is compared, others go by their expression."""
    if "*" in pattern:
        return f"{subject} ~ {place(Pattern.parse(pattern).regex())}::text"
    return f"{subject} = {place(pattern)}::text"
