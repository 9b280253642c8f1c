"""What is wrong in a look: one finding for each thing that lasts longer than it may. Pure; the bounds come as arguments."""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from daybook.monitor.domain.looks import Lock, Look

Kind = Literal[
    "long_transaction",
    "blocked_chain",
    "deadlock",
    "overdue_lease",
    "relay_lag",
    "projection_lag",
    "parked_ledgers",
    "breaker_open",
    "database_unreachable",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
# Happens at one moment: there is nothing to wait for before it is told.
AT_ONCE = frozenset(("deadlock",))
LEDGERS_NAMED_MAX = 5
RELAY = "relay"

Detail = Mapping[str, str | int]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be, in milliseconds."""

    transaction_ms_max: int
    blocked_ms_max: int
    lock_ms_max: int
    lag_ms_max: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. Kind and subject are the same as long as it is the same thing."""

    kind: Kind
    subject: str
    detail: Detail


def find(look: Look, before: Look | None, limits: Limits) -> list[Finding]:
    """Everything that is wrong in the look; `before`, the last one, is for what is only counted up."""
    return [
        *_transactions(look, limits),
        *_chains(look, limits),
        *_deadlocks(look, before),
        *_leases(look, limits),
        *_writers(look),
        *_lags(look, limits),
        *_parked(look),
        *_breakers(look),
    ]


def was_looked_at(look: Look, kind: Kind, subject: str) -> bool:
    """True if the look would have found it: nobody may conclude from a silent Redis or process that something is over."""
    if kind == "overdue_lease":
        return subject == RELAY or "redis" not in look.skipped
    if kind == "breaker_open":
        url = subject.rpartition(" ")[0]
        silent = {process.url for process in look.processes if process.fault}
        answered = {process.url for process in look.processes} - silent
        # One that is not among them at all is gone, unless a name could not be resolved.
        return "processes" not in look.skipped and (url in answered or not silent)
    return True


def _transactions(look: Look, limits: Limits) -> Iterator[Finding]:
    for session in look.sessions:
        if session.is_client and session.transaction_ms > limits.transaction_ms_max:
            detail: dict[str, str | int] = {
                "pid": session.pid,
                "user": session.user,
                "application": session.application,
                "database": session.database,
                "state": session.state,
                "transaction_ms": session.transaction_ms,
                "query": session.query,
            }
            yield Finding(kind="long_transaction", subject=session.name, detail=detail)


def _chains(look: Look, limits: Limits) -> Iterator[Finding]:
    for chain in look.chains:
        if chain.blocking_ms > limits.blocked_ms_max:
            detail: dict[str, str | int] = {
                "pid": chain.root.pid,
                "user": chain.root.user,
                "application": chain.root.application,
                "database": chain.root.database,
                "state": chain.root.state,
                "transaction_ms": chain.root.transaction_ms,
                "query": chain.root.query,
                "blocking_ms": chain.blocking_ms,
                "waiters": len(chain.waiters),
                "waiting_ms": chain.waiting_ms,
                "waiting_application": chain.waiters[0].application,
            }
            yield Finding(kind="blocked_chain", subject=chain.root.name, detail=detail)


def _deadlocks(look: Look, before: Look | None) -> Iterator[Finding]:
    if before is None:
        return
    for database, count in look.deadlocks.items():
        more = count - before.deadlocks.get(database, count)  # a new database, or counters that began anew: no news
        if more > 0:
            yield Finding(kind="deadlock", subject=database, detail={"database": database, "deadlocks": more})


def _leases(look: Look, limits: Limits) -> Iterator[Finding]:
    for lock in look.locks:
        if (reason := _overdue(lock, limits)) is not None:
            detail: dict[str, str | int] = {
                "key": lock.key,
                "ledger": lock.ledger,
                "holder": lock.holder,
                "reason": reason,
            }
            if lock.held_ms is not None:
                detail["held_ms"] = lock.held_ms
            yield Finding(kind="overdue_lease", subject=lock.key, detail=detail)


def _overdue(lock: Lock, limits: Limits) -> str | None:
    if lock.left_ms is None:
        return "it would never end by itself"
    if lock.kind == RELAY:
        return "it has ended and no relay has taken it" if lock.left_ms <= 0 else None
    is_long = lock.kind not in ("lease", "writers") and lock.held_ms is not None and lock.held_ms > limits.lock_ms_max
    return "it is held for longer than any command lasts" if is_long else None


def _writers(look: Look) -> Iterator[Finding]:
    """One for each worker: one that is killed or stands still does so in all its ledgers."""
    ended: dict[str, list[Lock]] = {}
    for lock in look.locks:
        if lock.kind == "writers":
            ended.setdefault(lock.holder, []).append(lock)
    for holder, locks in ended.items():
        detail: dict[str, str | int] = {
            "holder": holder,
            "ledgers": len(locks),
            "first": ", ".join(sorted(lock.ledger for lock in locks)[:LEDGERS_NAMED_MAX]),
            "ended_ms": max(-(lock.left_ms or 0) for lock in locks),
            "reason": "it ran out, and its holder did not give it back",
        }
        yield Finding(kind="overdue_lease", subject=holder, detail=detail)


def _lags(look: Look, limits: Limits) -> Iterator[Finding]:
    for lag in look.lags:
        if lag.is_live and lag.lag_ms > limits.lag_ms_max:
            detail: dict[str, str | int] = {
                "events": lag.events,
                "ledgers": lag.ledgers,
                "ledger": lag.ledger,
                "lag_ms": lag.lag_ms,
            }
            kind: Kind = "relay_lag" if lag.reader == RELAY else "projection_lag"
            yield Finding(kind=kind, subject=lag.reader, detail=detail)


def _parked(look: Look) -> Iterator[Finding]:
    """One for each projection: a fault that parks a thousand ledgers is one fault."""
    parked: dict[str, list[str]] = {}
    for standing in look.standing:
        if standing.state == "parked":
            parked.setdefault(standing.projection, []).append(standing.ledger)
    for projection, ledgers in parked.items():
        named = ", ".join(sorted(ledgers)[:LEDGERS_NAMED_MAX])
        yield Finding(kind="parked_ledgers", subject=projection, detail={"parked": len(ledgers), "first": named})


def _breakers(look: Look) -> Iterator[Finding]:
    for process in look.processes:
        for dependency in process.open_breakers:
            subject = f"{process.url} {dependency}"
            yield Finding(kind="breaker_open", subject=subject, detail={"url": process.url, "dependency": dependency})
