"""Conditions that a client attaches to a command: on balances, on an account's last position, on the ledger's head.

Judged in their order, after the accounts' status and before held amounts and limits, on the books just before the command.
"""

from msgspec import UNSET, UnsetType

from command_service.domain.books import Books
from command_service.domain.commands import Conditions, ConditionSpec
from shared_kernel.errors import Refusal


def judge(books: Books, conditions: Conditions | UnsetType) -> None:
    """Refusal condition_failed for the first that does not hold.

    It names the condition by its index, what it looked at, what was `found`, and what was asked for under the name it was asked
    by (gte, lte, eq, last_position, head).
    """
    for index, condition in enumerate(conditions or ()):
        if condition.head is not UNSET:
            head = books.head()
            if head != condition.head:
                raise Refusal("condition_failed", condition=index, found=head, head=condition.head)
        elif condition.last_position is not UNSET:
            address = condition.account or ""
            last = books.last_position(address)
            if last != condition.last_position:
                raise Refusal(
                    "condition_failed",
                    condition=index,
                    account=address,
                    found=last,
                    last_position=condition.last_position,
                )
        else:
            _judge_balance(books, index, condition)


def _judge_balance(books: Books, index: int, condition: ConditionSpec) -> None:
    address, asset, balance = condition.account or "", condition.asset or "", condition.balance or "posted"
    account = books.balances_of(address, asset)
    if balance == "posted":
        found = account.posted(asset)
    else:
        found = account.pending(asset) if balance == "pending" else account.available(asset)
    for name, bound in condition.bounds.items():
        if (name != "lte" and found < bound) or (name != "gte" and found > bound):
            raise Refusal(
                "condition_failed",
                condition=index,
                account=address,
                asset=asset,
                balance=balance,
                found=found,
                **{name: bound},
            )
