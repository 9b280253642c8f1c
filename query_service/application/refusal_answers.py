"""What the rules turned down, as the API shows it: with the accounts as they were when it was judged. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from query_service.application.answers import (
    AsOf,
    Balance,
    Incomplete,
    IsComplete,
    Limit,
    NextCursor,
    Position,
    Time,
)
from query_service.application.questions import AccountStatus, FrozenScope, JudgedRow, RefusalRow
from query_service.application.shaping import balance
from shared_kernel.words import NormalBalance, format_time

_read_addresses = msgspec.json.Decoder(list[str]).decode
_read_fields = msgspec.json.Decoder(dict[str, str | int | bool | None]).decode
_read_limits = msgspec.json.Decoder(dict[str, Limit]).decode


class JudgedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it was at `judged_at`. Without a status: nobody had opened it."""

    account: str
    normal_balance: NormalBalance | None
    status: AccountStatus | None
    frozen: FrozenScope | None
    limits: dict[str, Limit]
    balances: dict[str, Balance]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A command, or a scheduled transaction that came due, that the rules turned down.

    `fields`: what the problem document says beside its code. `asked`: what the caller sent. `judged_at`: the position whose
    state decided; `state`: the accounts that were looked at, as they were there.
    """

    position: Position
    recorded_at: Time
    code: str
    command: str
    transaction: str | None
    caller: str
    correlation_id: str
    key: str | None
    accounts: list[str]
    fields: dict[str, str | int | bool | None]
    asked: dict[str, Any] | None
    judged_at: int
    state: list[JudgedAccount]


class RefusalList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Refusals by position."""

    data: list[Refusal]
    next_cursor: NextCursor
    as_of: AsOf
    complete: IsComplete
    incomplete: Incomplete | None = None


def looked_at(rows: Iterable[RefusalRow], accounts_max: int) -> list[tuple[str, int]]:
    """Accounts and the positions at which they were judged, each once, in order; of one refusal so many at most."""
    return list(
        dict.fromkeys(
            (address, row.judged_at) for row in rows for address in _read_addresses(row.accounts)[:accounts_max]
        )
    )


def judged(asked: Sequence[tuple[str, int]], rows: Iterable[JudgedRow]) -> Mapping[tuple[str, int], JudgedAccount]:
    """The states that were found, by account and position."""
    found: dict[tuple[str, int], JudgedAccount] = {}
    for row in rows:
        where = asked[row.number - 1]
        if where not in found:
            found[where] = JudgedAccount(
                account=row.address,
                normal_balance=row.normal_balance,
                status=None if row.normal_balance is None else row.status,
                frozen=row.frozen,
                limits={} if row.normal_balance is None else _read_limits(row.limits),
                balances={},
            )
        if row.asset is not None and row.normal_balance is not None:
            found[where].balances[row.asset] = balance(row.normal_balance, row)
    return found


def refusal(row: RefusalRow, states: Mapping[tuple[str, int], JudgedAccount]) -> Refusal:
    """A refusal with the states of its accounts."""
    accounts = _read_addresses(row.accounts)
    return Refusal(
        position=row.position,
        recorded_at=format_time(row.recorded_at),
        code=row.code,
        command=row.command,
        transaction=row.transaction_id,
        caller=row.actor,
        correlation_id=row.correlation_id,
        key=row.key,
        accounts=accounts,
        fields=_read_fields(row.fields),
        asked=None if row.asked is None else msgspec.json.decode(row.asked),
        judged_at=row.judged_at,
        state=[states[address, row.judged_at] for address in accounts if (address, row.judged_at) in states],
    )
